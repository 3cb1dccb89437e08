"""The studies of the task domain: rows that share a training, the table of the paper, and what is derived from it."""

import dataclasses
import json

import pytest

from medtrace.data import sources
from medtrace.engines.runs import load_method
from medtrace.evaluation.bench import SETTINGS, STUDIES, domain
from medtrace.evaluation.traceability import NO_TRANSLATION, TRUE_TRANSLATION, TraceabilityTable
from medtrace.methods import method_class, resolve
from medtrace.metrics import CaseTable
from medtrace.workflows.bench import bench, run_study
from medtrace.workflows.traceability import traceability

DOMAIN = STUDIES["domain"]


def configuration(training, setting):
    """The settings that a row is trained with, without training it."""
    own = training.by_setting.get(setting)
    presets = ["tracebench", *training.presets, *(SETTINGS[setting] if own is None else ())]
    chosen = {"training.seed": 0, "data.seed": 0, **(own or {}), **training.settings}
    return resolve(method_class(training.method).settings_type, presets, chosen)


def data_of(training, setting):
    kind = method_class(training.method)
    settings = configuration(training, setting)
    return sources(settings, None, kind.case_transform(settings))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", DOMAIN)
def test_all_rows_of_a_study_are_scored_on_the_same_cases(name, setting):
    seen = set()
    for method in DOMAIN[name].rows.values():
        test = data_of(method, setting).test()
        seen.add((test.task, test.spatial_shape, test.cases, test.seed, test.split, test.settings))
    ((task, *_, split, settings),) = seen
    assert (task, split, settings.pairing) == ("domain", "test", "subject")


@pytest.mark.parametrize("setting", SETTINGS)
def test_diffusion_after_surgery_is_scored_on_the_cases_of_tracetrans(setting):
    rows = STUDIES["postop"]["diffusion"].rows
    tests = [data_of(training, setting).test() for training in rows.values()]
    assert len({(test.task, test.spatial_shape, test.cases, test.seed, test.settings) for test in tests}) == 1
    assert {test.task for test in tests} == {"postop"}
    assert len({configuration(training, setting).data.train_cases for training in rows.values()}) == 1
    assert {training.method for training in rows.values()} == {"tracetrans", "plasticine", "palette", "ddib"}


@pytest.mark.slow
def test_rivals_see_other_subjects_only():
    for row, method in DOMAIN["rivals"].rows.items():
        item = data_of(method, "smoke").training()[0]
        assert item["subject"] != item["partner"], row
        assert item["source"].shape == item["target"].shape == (1, 32, 32)
        assert "ddf" not in item
        assert "translation" not in item


def test_rows_without_a_training_of_their_own():
    (run,) = {method.run for method in DOMAIN["sampling"].rows.values()}
    assert run == DOMAIN["rivals"].rows["Plasticine"].run == DOMAIN["start"].rows["start 1"].run
    combination = DOMAIN["ablation"].rows["Combination (Table IV)"]
    assert (combination.run, combination.sampling) == (run, {"mode": "combination"})
    trained = [method for method in DOMAIN["ablation"].rows.values() if method.run != run]
    assert all(len(method.settings) == 1 for method in trained)
    assert len({method.run for method in trained}) == len(trained) == 2
    rows = [method for study in DOMAIN.values() for method in study.rows.values()]
    for method in rows:  # one run folder is one training
        same = [other for other in rows if other.run == method.run]
        assert all(
            (other.method, other.settings, other.presets) == (method.method, method.settings, method.presets)
            for other in same
        )


def test_the_reference_of_the_samplers():
    assert domain.REFERENCE in DOMAIN["sampling"].rows
    tables = {}
    for row, dice, distance in ((domain.REFERENCE, 0.8, 0.10), ("DDIM, 10 steps", 0.79, 0.104)):
        tables[row] = TraceabilityTable()
        tables[row].add("case", {"dice": dice})
        tables[row].distances = {"bhattacharyya": distance}
    result = domain.compared_with_reference(tables)
    assert result["bhattacharyya"] == {domain.REFERENCE: 0.10, "DDIM, 10 steps": 0.104}
    assert result["dice_minus_reference"]["DDIM, 10 steps"] == pytest.approx(-0.01)
    assert result["bhattacharyya_of_reference"]["DDIM, 10 steps"] == pytest.approx(1.04)
    assert domain.distances({"row": CaseTable()}) == {}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domain")
    rows = {
        "Plasticine": domain.PLASTICINE,
        "two steps": domain.plasticine(sampling={"steps": 2, "sampler": "ancestral"}),
        "CycleGAN": DOMAIN["rivals"].rows["CycleGAN"],
    }
    small = dataclasses.replace(DOMAIN["ablation"], name="small", rows=rows)
    return folder, run_study(small, "smoke", folder, device="cpu", progress=False)


@pytest.mark.slow
def test_a_study_fills_the_papers_tables(outcome):
    folder, results = outcome
    rows = results["rows"]
    assert list(rows) == [NO_TRANSLATION, TRUE_TRANSLATION, "Plasticine", "two steps", "CycleGAN"]
    for name in ("fid", "sfd", "bhattacharyya", "bhattacharyya_head", "seconds_per_case"):
        assert results[name].keys() == rows.keys()
    assert rows[TRUE_TRANSLATION]["epe_head_mm"]["mean"] == pytest.approx(0, abs=1e-6)
    assert results["bhattacharyya"][TRUE_TRANSLATION] == pytest.approx(0, abs=1e-6)
    untranslated = rows[NO_TRANSLATION]
    assert untranslated["dice"] == untranslated["zero_dice"]
    assert untranslated["epe_head_mm"] == untranslated["zero_epe_head_mm"]
    assert rows["CycleGAN"]["dice"] == rows["CycleGAN"]["zero_dice"]  # it deforms nothing that a trace could follow
    assert {"nmi_forward", "nmi_inverse", "pair_epe_head_mm"} <= rows["Plasticine"].keys()
    table = (folder / "domain" / "small" / "table.md").read_text()
    for heading in ("Acc", "Dice", "mIoU", "FID (segmenter's features)", "NMI(x∘φ, y)", "training (s)"):
        assert heading in table
    record = json.loads((folder / "runs" / "smoke-0" / "segmenter" / "segmenter.json").read_text())
    assert record["origin"]["task"] == "domain"
    assert (folder / "domain" / "small" / "figures" / "comparison.png").is_file()


@pytest.mark.slow
def test_rows_of_one_training_differ_in_what_they_draw(outcome):
    folder, results = outcome
    first, second = (results["rows"][row] for row in ("Plasticine", "two steps"))
    assert first["trained_at_commit"] == second["trained_at_commit"]
    assert first["training_seconds"] == second["training_seconds"]
    assert first["mae"] != second["mae"]
    assert first["epe_head_mm"] == second["epe_head_mm"]  # the same field
    run = folder / "runs" / "smoke-0" / "plasticine"
    assert load_method(run, "cpu", {"steps": 7}).sampling.steps == 7
    with pytest.raises(ValueError, match=r"sampling: expected one of .*'steps'.*received 'stepz'"):
        load_method(run, "cpu", {"stepz": 7})


@pytest.mark.slow
def test_runs_are_compared_by_the_command_too(outcome, tmp_path):
    folder, results = outcome
    runs = folder / "runs" / "smoke-0"
    settings = {"iterations": domain.segmenter_settings(_cases(runs)).iterations}
    tables = traceability(
        [runs / "plasticine", runs / "domain-cyclegan-c"],
        tmp_path,
        segmenter=runs / "segmenter",
        settings=settings,
        device="cpu",
        progress=False,
    )
    assert list(tables) == [NO_TRANSLATION, TRUE_TRANSLATION, "plasticine", "domain-cyclegan-c"]
    for name, row in (("plasticine", "Plasticine"), ("domain-cyclegan-c", "CycleGAN")):
        assert tables[name].summary()["dice"].mean == pytest.approx(results["rows"][row]["dice"]["mean"])
        assert tables[name].distances["bhattacharyya"] == pytest.approx(results["bhattacharyya"][row])
    with pytest.raises(ValueError, match="different names"):
        traceability([runs / "plasticine"] * 2, tmp_path, device="cpu", progress=False)


def _cases(runs):
    from medtrace.evaluation.bench.cases import Cases

    return Cases()(runs / "plasticine")


@pytest.mark.slow
@pytest.mark.parametrize("name", DOMAIN)
def test_every_study_runs(name, tmp_path):
    results = bench("domain", "smoke", name, out=tmp_path, device="cpu", progress=False)
    assert results["rows"].keys() == {*domain.CONTROLS, *DOMAIN[name].rows}
