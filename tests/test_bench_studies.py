"""The bench: its studies are sound, and running one trains, scores, writes and draws."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.engines.runs import load_method
from medtrace.evaluation.bench import SETTINGS, STUDIES, Training
from medtrace.evaluation.bench.cases import Cases
from medtrace.evaluation.bench.drawing import file_name
from medtrace.evaluation.bench.parameters import parameters_run_through
from medtrace.evaluation.bench.postop import COLUMNS, INDEPENDENT_COLUMNS
from medtrace.methods import method_class, resolve
from medtrace.metrics import CaseTable
from medtrace.workflows.bench import bench, run_study
from medtrace.workflows.scoring.side_by_side import threads_for, trained_rows

ALL = [study for studies in STUDIES.values() for study in studies.values()]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.mark.slow
@pytest.mark.parametrize(
    "study", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("alpha", "gamma", "ablation"))]
)
def test_bench_trains_scores_and_draws(study, out):
    shared = out / "runs" / "smoke-0" / "tracetrans" / "checkpoints" / "final.pt"
    written = shared.stat().st_mtime_ns if shared.exists() else None
    results = bench(setting="smoke", study=study, out=out, device="cpu", progress=False)
    assert written in (None, shared.stat().st_mtime_ns), "a run that studies share is trained once"
    folder = out / (study or "rivals")
    saved = json.loads((folder / "results.json").read_text())
    rows = STUDIES["postop"][study or "rivals"].rows
    assert saved["rows"].keys() == results["rows"].keys() == {"identity (zero field)", "oracle field", *rows}
    assert saved["share_of_zero_field_epe"]["identity (zero field)"] == 1
    assert saved["share_of_identity_mae"]["identity (zero field)"] == 1
    table = (folder / "table.md").read_text()
    assert all(heading in table for heading in COLUMNS.values())
    first = next(iter(rows))
    assert f"| mae | {first} | oracle field |" in table.split("By subject", 1)[1]
    assert (folder / "comparison.csv").is_file()
    assert (INDEPENDENT_COLUMNS["independent_edge_dice"] in table) == (study == "alpha")
    assert (folder / "figures" / "comparison.png").stat().st_size > 10_000
    assert (folder / "figures" / "training.png").stat().st_size > 5_000
    assert list((folder / "traces").glob("*/*/trace.json"))
    assert saved["rows"]["oracle field"]["mae"]["n"] == 2


@pytest.fixture(scope="module")
def rivals(out):
    """The smoke runs of the rivals, trained and scored unless an earlier test did."""
    if not (out / "rivals" / "results.json").is_file():
        bench(setting="smoke", out=out, device="cpu", progress=False)
    return out / "runs" / "smoke-0"


@pytest.mark.usefixtures("rivals")
def test_the_four_studies_of_tracetrans_keep_what_they_write(out):
    assert {path.name for path in (out / "rivals").iterdir()} == {
        "cases", "comparison.csv", "figures", "report.html", "results.json", "table.md", "traces",
    }  # fmt: skip
    saved = json.loads((out / "rivals" / "results.json").read_text())
    assert list(saved) == [
        "command", "medtrace", "commit", "torch", "device", "threads", "seconds", "rows", "share_of_zero_field_epe",
        "share_of_identity_mae",
    ]  # fmt: skip
    assert set(saved["rows"]["TraceTrans"]) >= {*COLUMNS, "parameters_million", "training_seconds", "trained_at_commit"}
    heading = (out / "rivals" / "table.md").read_text().splitlines()[0]
    assert [cell.strip() for cell in heading.strip("|").split("|")] == [
        "", *COLUMNS.values(), "EPE / zero field", "MAE / identity", "generator (M)", "training (s)",
        "training (processor s)", "n",
    ]  # fmt: skip
    assert {path.name for path in (out / "rivals" / "cases").iterdir()} == {
        "identity-zero-field.csv", "oracle-field.csv", "pix2pix.csv", "tracetrans.csv",
        "tracetrans-composed.csv",
    }  # fmt: skip


def test_an_interrupted_training_is_done_again_and_leaves_the_others(rivals, tmp_path):
    shutil.copytree(rivals, tmp_path / "runs" / "smoke-0")
    study = STUDIES["postop"]["rivals"]
    study = replace(study, rows={"other": Training("other"), "TraceTrans": study.rows["TraceTrans"]}, show=())
    left = tmp_path / "runs" / "smoke-0" / "other" / "checkpoints" / "half.pt"
    left.parent.mkdir(parents=True)
    left.touch()
    results = run_study(study, "smoke", tmp_path, device="cpu", progress=False)
    assert not left.exists()
    assert (tmp_path / "runs" / "smoke-0" / "other" / "training.json").is_file()
    before = json.loads((rivals / "tracetrans" / "training.json").read_text())
    assert results["rows"]["TraceTrans"]["training_seconds"] == before["seconds"]
    trained = torch.load(tmp_path / "runs" / "smoke-0" / "other" / "checkpoints" / "final.pt", weights_only=True)
    same = torch.load(rivals / "tracetrans" / "checkpoints" / "final.pt", weights_only=True)
    for name, value in trained["method"].items():
        torch.testing.assert_close(value, same["method"][name])


@pytest.mark.slow
def test_trainings_side_by_side_are_those_of_one_after_the_other(rivals, tmp_path, monkeypatch):
    monkeypatch.setattr("medtrace.workflows.bench.processes_for", lambda rows, _: min(rows, 2))
    study = STUDIES["postop"]["rivals"]
    twice = replace(study, rows={**study.rows, "again": study.rows["Pix2Pix"]})
    run_study(twice, "smoke", tmp_path, device="cpu", progress=False)
    for run in ("pix2pix", "tracetrans", "composed"):
        weights = [
            torch.load(folder / run / "checkpoints" / "final.pt", weights_only=True)["method"]
            for folder in (rivals, tmp_path / "runs" / "smoke-0")
        ]
        for name, value in weights[0].items():
            torch.testing.assert_close(weights[1][name], value)
    broken = replace(study, rows={**study.rows, "broken": Training("broken", {"alpha": 7.0})})
    with pytest.raises(ValueError, match=r"broken: .*alpha.*the rest is kept"):
        run_study(replace(broken, rows={"other": Training("other"), **broken.rows}), "smoke", tmp_path, device="cpu")
    assert (tmp_path / "runs" / "smoke-0" / "other" / "training.json").is_file()


@pytest.mark.parametrize(("threads", "trainings", "expected"), [(8, 5, 2), (8, 1, 8), (2, 3, 1), (1, 3, 1)])
def test_a_training_has_as_many_threads_however_many_are_left(threads, trainings, expected, monkeypatch):
    monkeypatch.setattr("medtrace.workflows.scoring.side_by_side.torch.get_num_threads", lambda: threads)
    assert threads_for(trainings, "cpu") == expected


def test_threads_of_trainings_one_after_the_other_are_those_asked_for():
    torch.set_num_threads(2)
    seen = trained_rows(lambda *_: torch.get_num_threads(), {"a": None, "b": None}, Console(quiet=True), threads=1)
    assert seen == {"a": 1, "b": 1}
    assert torch.get_num_threads() == 2


def test_trainings_of_a_study_share_the_cases_that_they_make(tmp_path, monkeypatch):
    import medtrace.data.tracebench.dataset as module

    made, make = [], module.TASKS["postop"].make
    task = replace(module.TASKS["postop"], make=lambda *args: made.append(0) or make(*args))
    monkeypatch.setitem(module.TASKS, "postop", task)
    rows = {name: Training(name, {"data.test_cases": 1, "training.max_epochs": 1}, "unet") for name in ("a", "b")}
    run_study(replace(STUDIES["postop"]["rivals"], rows=rows, show=()), "smoke", tmp_path, device="cpu", progress=False)
    done = json.loads((tmp_path / "runs" / "smoke-0" / "a" / "training.json").read_text())
    assert done["threads"] >= 1
    assert len(made) == 4 + 2 + 1, "training and validation cases are made once for both, and a test case"


def test_a_row_with_other_test_cases_is_refused(rivals, tmp_path):
    shutil.copytree(rivals, tmp_path / "runs" / "smoke-0")
    rows = {**STUDIES["postop"]["rivals"].rows, "more": Training("more", {"data.test_cases": 3})}
    study = replace(STUDIES["postop"]["rivals"], rows=rows)
    with pytest.raises(ValueError, match="same test cases everywhere, received others in 'more'"):
        run_study(study, "smoke", tmp_path, device="cpu", progress=False)


def test_a_study_of_another_kind_needs_its_scores_only(rivals, tmp_path):
    """Scores of its own, totals, a layout and writers: everything that a task may bring."""
    shutil.copytree(rivals, tmp_path / "runs" / "smoke-0")
    drawn = []

    def scores(row):
        table = CaseTable()
        for index, case in enumerate(row.cases(row.run)):
            table.add(case["case"], {"brightness": float(case["target"].mean()) + index})
        return table

    study = replace(
        STUDIES["postop"]["rivals"],
        name="other",
        task="other",
        scores=scores,
        totals=lambda tables: {"sum": {row: sum(table.values("brightness")) for row, table in tables.items()}},
        columns={"brightness": "Brightness", "sum": "Sum", "all_parameters_million": "all (M)"},
        printed={"sum": "Sum"},
        show_row=(lambda row, folder: drawn.append((row.name, row.method is None, folder)),),
        show=(lambda outcome: drawn.append([len(traces) for traces in outcome.traces.values()]),),
        shown_cases=1,
    )
    results = run_study(study, "smoke", tmp_path, device="cpu", progress=False)
    folder = tmp_path / "other" / "other"
    assert drawn == [
        ("identity (zero field)", True, folder), ("oracle field", True, folder), ("Pix2Pix", False, folder),
        ("TraceTrans", False, folder), ("TraceTrans composed", False, folder), [1, 1, 1, 1, 1],
    ]  # fmt: skip
    first, second = (case["target"].mean() for case in Cases()(rivals / "pix2pix"))
    assert results["sum"]["Pix2Pix"] == pytest.approx(float(first + second) + 1)
    assert "| Brightness | Sum | all (M) |" in (folder / "table.md").read_text()


def test_cases_are_made_once_and_others_replace_them(rivals):
    cases = Cases()
    test = cases(rivals / "pix2pix")
    assert cases(rivals / "tracetrans") is test
    assert len(cases(rivals / "tracetrans", "training")) == 4
    assert cases(rivals / "pix2pix") is test


def test_parameters_are_those_that_a_prediction_runs_through(rivals):
    method = load_method(rivals / "tracetrans", "cpu")
    batch = {"source": torch.zeros(1, 1, 32, 32)}
    with parameters_run_through(method) as counts:
        method.trace(batch)
        method.trace(batch)

    def million(module):
        return sum(parameter.numel() for parameter in module.parameters()) / 1e6

    assert counts["parameters_million"] == pytest.approx(million(method.networks.generator), rel=1e-9)
    assert counts["all_parameters_million"] == pytest.approx(million(method), rel=1e-9)
    assert counts["parameters_million"] < counts["all_parameters_million"]
    alone = load_method(rivals / "pix2pix", "cpu")
    with parameters_run_through(alone) as counts:
        alone.trace(batch)
    assert counts["parameters_million"] < million(alone.networks.generator), "Pix2Pix predicts without a field"
    with parameters_run_through(None) as counts:
        pass
    assert counts == {}


@pytest.mark.parametrize("choice", [{"task": "other"}, {"setting": "long"}, {"study": "beta"}])
def test_bench_refuses_unknown_choices(tmp_path, choice):
    with pytest.raises(ValueError, match="expected one of"):
        bench(out=tmp_path, **choice)
    assert not list(tmp_path.iterdir())


def test_the_command_says_in_one_line_what_there_is(tmp_path):
    for arguments, expected in (
        (["nothing"], "task: expected one of 'postop', 'misaligned'"),
        (["misaligned", "--study", "rivals"], "study of misaligned: expected one of 'noise', 'modes', 'generators'"),
        (
            ["--study", "noise"],
            "study of postop: expected one of 'rivals', 'alpha', 'gamma', 'ablation', 'translators'",
        ),
    ):
        result = CliRunner().invoke(app, ["bench", *arguments, "--out", str(tmp_path / "out")])
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert expected in result.stderr


def test_the_help_names_every_task_and_study():
    text = CliRunner().invoke(app, ["bench", "--help"], terminal_width=200).stdout
    for task, studies in STUDIES.items():
        assert all(word in text for word in (task, *studies))


@pytest.mark.parametrize("study", ALL, ids=lambda study: f"{study.task}-{study.name}")
def test_every_study_is_sound(study):
    assert STUDIES[study.task][study.name] is study
    assert set(study.better) & set(study.columns), "some shown column says which way is better"
    assert set(study.places) in (set(), set(study.rows))
    assert len(set(study.places.values())) == len(study.places)
    files = [file_name(row) for row in (*study.controls, *study.rows)]
    assert len(set(files)) == len(files)


def test_every_shown_measure_says_which_way_is_better():
    for study in STUDIES["postop"].values():
        assert set(study.better) == {name for name in (*COLUMNS, *INDEPENDENT_COLUMNS) if not name.endswith("_field")}


def test_one_run_folder_is_one_training():
    """Of whatever study and task, since they may share an output folder; so may the folders of the studies."""
    trainings = {}
    for study in ALL:
        for method in study.rows.values():
            training = replace(method, sampling={})
            assert trainings.setdefault(method.run, training) == training
    folders = [study.folder for study in ALL]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize("study", ALL, ids=lambda study: f"{study.task}-{study.name}")
def test_presets_and_settings_of_every_row_exist(study):
    for row in study.rows.values():
        kind = method_class(row.method).settings_type
        for setting, presets in SETTINGS.items():
            own = row.by_setting.get(setting)
            chosen = ("tracebench", *row.presets, *(presets if own is None else ()))
            settings = resolve(kind, chosen, {**(own or {}), **row.settings})
            assert settings.data.task == study.task, (row.run, setting)


def test_file_names_tell_rows_apart():
    assert file_name("α = 1 (Pix2Pix)") == "alpha-1-pix2pix"
    assert file_name("NC+R, NICE-GAN") != file_name("NC, NICE-GAN")
