"""Rows of a study stored one by one, and the page that is made of them."""

from dataclasses import replace

import pytest
import torch
from monai.data import MetaTensor
from rich.console import Console

from medtrace.evaluation.bench import STUDIES
from medtrace.evaluation.bench.rivals import OPTIONAL, tracer_by
from medtrace.evaluation.bench.rows_page import cell, rows_page
from medtrace.evaluation.bench.stored import StoredRow, path_of, read_row, store_row, stored_rows
from medtrace.evaluation.traceability import TraceabilityTable
from medtrace.metrics import CaseTable
from medtrace.workflows.bench import bench
from medtrace.workflows.scoring.trained import trained_row

STUDY = STUDIES["postop"]["methods"]
CONTROL = "identity (zero field)"
CPU = {"device": "cpu: some", "threads": "1", "commit": "abc"}


def stored(name, seed, maes, method="unet", **facts):
    table = CaseTable()
    for number, mae in enumerate(maes):
        table.add(f"case-{number}", {"mae": mae, "epe_deformed_mm": 1.0, "zero_field_mm": 2.0})
    known = {**CPU, **({"method": method} if method else {}), **facts}
    return StoredRow("postop", "methods", "demo", name, seed, table, known)


def test_a_stored_row_is_read_as_it_was(tmp_path):
    table = TraceabilityTable()
    table.add("first", {"mae": 1.25, "dice": float("nan")})
    table.add("second, third", {"mae": 2.0, "other": -3.5e-7})
    table.distances = {"fid": 0.5}
    row = replace(stored("a: row", 3, []), table=table, facts={**CPU, "method": "unet", "commit": "one\nline"})
    read = read_row(store_row(tmp_path, row))
    assert read.table.distances == {"fid": 0.5}
    assert read.table.rows["second, third"] == {"mae": 2.0, "other": -3.5e-7}
    assert read.table.rows["first"]["mae"] == 1.25
    assert read.table.rows["first"]["dice"] != read.table.rows["first"]["dice"]
    assert (read.name, read.seed, read.facts["commit"], read.trained) == ("a: row", 3, "one line", True)
    assert stored_rows(tmp_path, "postop", "methods", "full") == []
    (tmp_path / "postop_methods_demo_x_0.csv").write_text("case,mae\n")
    with pytest.raises(ValueError, match="expected a row that `medtrace bench --rows` stored"):
        stored_rows(tmp_path, "postop", "methods", "demo")


def test_a_gpu_stands_beside_a_cpu(tmp_path):
    row = stored("U-Net regression", 0, [1.0])
    gpu = replace(row, facts={**row.facts, "device": "cuda: H200"})
    assert path_of(tmp_path, row) != path_of(tmp_path, gpu)
    page = rows_page(STUDY, [row, gpu], "command")
    assert "| U-Net regression (GPU) |" in page


def test_what_moves_nothing_leads_in_no_measure_of_a_field():
    rows = [stored(name, 0, [mae], method="unet") for name, mae in (("Pix2Pix", 1.0), ("TraceTrans", 2.0))]
    rows.append(stored("RegGAN", 0, [3.0]))
    for row, fields, error in zip(rows, (0.0, 0.1, 0.2), (0.5, 1.0, 2.0)):
        row.table.rows["case-0"].update({"sd_log_jacobian": fields, "epe_still_mm": error})
    page = rows_page(STUDY, rows, "command")
    assert "Among the trained rows:\n\n- MAE (0-255): Pix2Pix has the lowest mean" in page
    assert "EPE still (mm): TraceTrans has the lowest mean" in page
    assert "end-point errors, edges and folds of Pix2Pix" in page
    assert "not asked" not in rows_page(STUDY, rows[1:], "command")


def test_the_interval_is_students():
    # mean 2, sd 1, t of 2 degrees 4.3027: 4.3027 / sqrt(3)
    assert cell([1.0, 2.0, 3.0]).high - 2 == pytest.approx(2.4841, abs=1e-4)


def line_of(page, start):
    return next(line for line in page.splitlines() if line.startswith(start))


def test_one_training_names_no_winner_and_several_do_where_intervals_are_apart():
    good = [stored("Pix2Pix", seed, [1.0 + 0.01 * seed] * 2) for seed in range(3)]
    bad = [stored("U-Net regression", seed, [5.0 + 0.01 * seed] * 2) for seed in range(3)]
    controls = [stored(CONTROL, seed, [10.0, 10.0], method="") for seed in range(3)]
    one = rows_page(STUDY, [*controls, good[0], bad[0]], "command")
    assert "Pix2Pix has the lowest mean, but of one training (n = 1): no winner" in one
    assert "[" not in line_of(one, "| Pix2Pix |")
    several = rows_page(STUDY, [*controls, *good, *bad], "command")
    assert "- MAE (0-255): Pix2Pix has the lowest mean, ahead of every row with an interval" in several
    assert line_of(several, "| Pix2Pix |").split("|")[2].strip() == "1.010 [0.985, 1.035]"
    assert " | 0.500 [0.500, 0.500] |" in line_of(several, f"| {CONTROL} |")
    wide = [stored("U-Net regression", seed, [value] * 2) for seed, value in enumerate((0.5, 1.5, 3.0))]
    assert "its interval overlaps that of U-Net regression: no winner" in rows_page(STUDY, [*good, *wide], "command")


def test_rows_are_compared_case_by_case():
    """Differences of 1 to 6 in the cases that both have: mean 3.5, of one sign, d = 3.5 / 1.871, p = 2 / 2**6."""
    good = [stored("Pix2Pix", seed, [1.0] * 3) for seed in (0, 1)]
    bad = [stored("U-Net regression", seed, [2.0 + 3 * seed + k for k in range(3)]) for seed in (0, 1)]
    page = rows_page(STUDY, [*good, *bad, stored("U-Net regression", 2, [90.0] * 3)], "command")
    cells = [one.strip() for one in line_of(page, "| MAE (0-255) | U-Net regression | Pix2Pix |").split("|")[1:-1]]
    assert cells[3].startswith("+3.5 [+")
    assert cells[4:] == ["0%", "-1.87", "0.031", "6"]
    assert "| cases |" in page
    assert "Wilcoxon" not in rows_page(STUDY, good, "command")


def test_what_took_longer_than_the_budget_is_marked():
    page = rows_page(STUDY, [stored("Pix2Pix", 0, [1.0], training_processor_seconds="400.2")], "command")
    assert line_of(page, "| Pix2Pix |").split("|")[-2].strip() == "400*"
    assert "°" not in page


@pytest.mark.parametrize(("alone", "told"), [("340.2", "340°"), ("380.2", "380°*")])
def test_the_budget_is_compared_with_the_time_on_an_idle_machine_where_it_is_known(alone, told):
    facts = {"training_processor_seconds": "400.2", "training_seconds_alone": alone}
    page = rows_page(STUDY, [stored("Pix2Pix", 0, [1.0], **facts)], "command")
    assert line_of(page, "| Pix2Pix |").split("|")[-2].strip() == told
    assert "idle machine" in page


def test_a_control_is_stored_without_a_training(tmp_path):
    result = bench(
        "postop", "smoke", "methods", tmp_path / "out", row="oracle-field", rows=tmp_path / "rows", progress=False
    )
    (row,) = stored_rows(tmp_path / "rows", "postop", "methods", "smoke")
    assert (row.name, row.trained, len(row.table.rows)) == ("oracle field", False, 2)
    assert "| oracle field |" in (tmp_path / "rows" / "postop_methods.md").read_text()
    assert result == {"page": str(tmp_path / "rows" / "postop_methods.md")}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"row": "unet"}, "rows: expected the folder that the row 'unet' is stored in"),
        ({"row": "none", "rows": "rows"}, "row of postop, methods: expected one of 'identity"),
        ({"task": "real", "rows": "rows"}, "rows: expected none with the task real"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, monkeypatch, given, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=error):
        bench(**{"task": "postop", "study": None if "task" in given else "methods", "progress": False, **given})
    assert not list(tmp_path.iterdir())


def test_an_optional_tool_that_is_absent_is_said(monkeypatch):
    study = STUDIES["metamorphic"]["methods"]
    monkeypatch.setattr("medtrace.evaluation.bench.study.find_spec", lambda _: None)
    for name, module in OPTIONAL.items():
        assert study.missing(name) == f"{name}: left out, as the optional package {module!r} is not installed"
    assert study.missing("identity") == ""
    assert set(OPTIONAL) < set(study.controls)


def test_a_classical_field_makes_a_trace_of_every_pair():
    images = torch.rand(2, 1, 8, 8) * 2 - 1
    batch = {
        name: MetaTensor(images, affine=torch.diag(torch.tensor([2.0, 2, 2, 1])).double().repeat(2, 1, 1))
        for name in ("source", "target")
    }
    batch |= {name: torch.zeros(2, 1, 8, 8) for name in ("mask", "source_mask")}
    seen = []

    def shift(case):
        seen.append(float(case["affine"][0, 0]))
        return torch.ones(2, 8, 8)

    traces = tracer_by(shift)(batch)
    assert seen == [2.0, 2.0]
    torch.testing.assert_close(traces[1].warped[:, :-1, :-1], images[1][:, 1:, 1:])


def test_a_training_of_other_settings_is_not_taken_for_the_rows(tmp_path):
    how = {"presets": ("tracebench", "smoke"), "console": Console(quiet=True), "device": "cpu"}
    run = trained_row("U-Net", "unet", tmp_path / "run", settings={"training.seed": 1}, **how)
    before = (run / "training.json").read_bytes()
    assert trained_row("U-Net", "unet", run, settings={"training.seed": 1}, **how) == run
    with pytest.raises(ValueError, match=r"trained with other settings \(training.seed=1 in place of 2\); remove it"):
        trained_row("U-Net", "unet", run, settings={"training.seed": 2}, **how)
    assert (run / "training.json").read_bytes() == before
