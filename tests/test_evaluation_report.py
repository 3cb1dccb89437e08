"""The report of an evaluation begins with what failed, and is one file: HTML or PDF."""

import io
import json
import re
import shutil
from contextlib import redirect_stdout

import numpy as np
import pytest

from medtrace.cli import main
from medtrace.data import TraceBench
from medtrace.io import load_trace
from medtrace.metrics import CaseTable
from medtrace.report.distributions import distribution_figure
from medtrace.report.document import (
    CellTable,
    Document,
    Grade,
    Heading,
    Items,
    Picture,
    Text,
    document_html,
    document_pdf,
)
from medtrace.report.samples import png_of
from medtrace.workflows.compare import compare
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.reporting.evaluation import report_evaluation
from medtrace.workflows.reporting.failures import failure_lines, worse_than
from medtrace.workflows.reporting.measures import measure_of
from medtrace.workflows.reporting.reading import evaluation_folder, read_evaluation
from medtrace.workflows.reporting.scores import interval_text
from medtrace.workflows.scoring.worst import worst_of


@pytest.fixture(scope="module")
def evaluated(smoke_run, tmp_path_factory):
    """A copy of a short run with its evaluation on five cases."""
    run = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(smoke_run, run)
    cases = TraceBench("postop", (32, 32), cases=5, split="test")
    evaluate(run, cases, device="cpu", progress=False)
    return run


@pytest.fixture(scope="module")
def told(evaluated):
    """What the command prints; it writes HTML and PDF beside the tables."""
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as ended:
        main(["report", str(evaluated)])
    assert ended.value.code == 0
    return out.getvalue()


@pytest.fixture(scope="module")
def page(evaluated, told):  # noqa: ARG001 - which writes it
    return (evaluated / "evaluation" / "test" / "evaluation.html").read_text(encoding="utf-8")


def test_the_worst_cases_are_left_as_traces_with_their_targets(evaluated):
    folder = evaluated / "evaluation" / "test"
    entries = json.loads((folder / "worst" / "worst.json").read_text())["cases"]
    table = read_evaluation(folder).tables["run"]
    assert [entry["case"] for entry in entries] == worst_of(table)
    errors = [table.rows[entry["case"]]["mae"] for entry in entries]
    assert errors == sorted(table.values("mae"), reverse=True)[:4]
    for entry in entries:
        trace = load_trace(folder / "worst" / entry["trace"])
        assert (folder / "worst" / f"{entry['trace']}.target.nii.gz").is_file()
        assert trace.image.shape == (1, 32, 32)


def test_failures_come_first_then_worst_cases_then_scores(page):
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", page)
    assert headings == ["Failures", "Worst cases", "Scores", "Compared by subject", "Cases", "Settings"]
    assert "Not for clinical use" in page
    assert page.count("<img ") == 5  # four cases and a chart
    assert "<script" not in page
    assert "://" not in re.sub(r'data:image/png;base64,[^"]*', "", page)


def test_settings_command_versions_and_intervals_are_there(page, evaluated):
    record = json.loads((evaluated / "evaluation" / "test" / "evaluation.json").read_text())
    assert record["made_with"]["commit"] is None or record["made_with"]["commit"] in page
    assert "called from Python" in page
    assert "max_epochs" in page
    assert re.search(r"mean absolute error ↓</td><td>0–255</td><td class=\"number\">[\d.]+ \[[\d.]+, [\d.]+\]", page)


def test_both_files_are_written_and_named(told, evaluated):
    assert re.findall(r"evaluation\.(?:html|pdf) \(", told) == ["evaluation.html (", "evaluation.pdf ("]
    assert (evaluated / "evaluation" / "test" / "evaluation.pdf").read_bytes().startswith(b"%PDF-")


def test_cases_worse_than_the_source_as_it_is_are_named(evaluated):
    evaluation = read_evaluation(evaluation_folder(evaluated))
    worse = worse_than(evaluation.tables["run"], evaluation.tables["identity"])
    lines = failure_lines(evaluation)
    assert any(f"in {len(worse)} of 5 cases the error is larger" in line for line in lines) == bool(worse)


def test_what_is_not_a_number_is_a_failure_and_worse_than_any():
    table = CaseTable()
    for case, value in (("a", 3.0), ("b", float("nan")), ("c", 5.0)):
        table.add(case, {"mae": value})
    assert worst_of(table, 3) == ["b", "c", "a"]
    assert interval_text(table, "mae", {}) == "4 [3, 5] (n=2)"
    assert interval_text(table, "mae", {"a": "x", "b": "x", "c": "x"}) == "4 (n=2)"  # one subject has no interval
    assert interval_text(table, "ssim", {}) == "–"


def test_columns_have_words_and_units():
    assert measure_of("epe_deformed_mm").title == "end-point error where tissue moves (mm)"
    assert measure_of("psnr_unit_foreground").unit == "dB"
    assert measure_of("delivered_mae", {"CT": {"unit": "HU"}}).unit == "HU"
    assert (measure_of("ssim").arrow, measure_of("sd_log_jacobian").arrow) == ("↑", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "x.docx"], "expected one of '.html', '.pdf'"),
        (["--split", "training"], "expected one of test, received 'training'"),
        (["--labels", "x.nii.gz"], "expected with traces"),
    ],
)
def test_what_does_not_go_with_a_run_is_refused(evaluated, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        main(["report", str(evaluated), *arguments])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_a_run_that_was_not_evaluated_is_refused_with_the_command(smoke_run):
    with pytest.raises(FileNotFoundError, match="medtrace evaluate RUN DATASET"):
        report_evaluation(smoke_run)


def test_an_evaluation_of_an_earlier_version_is_refused(evaluated, tmp_path):
    shutil.copytree(evaluated / "evaluation" / "test", tmp_path / "old")
    record = json.loads((tmp_path / "old" / "evaluation.json").read_text())
    del record["files"]
    (tmp_path / "old" / "evaluation.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="evaluate again"):
        report_evaluation(tmp_path / "old")


@pytest.mark.slow
def test_several_runs_are_one_report(evaluated, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(evaluated, other)
    cases = TraceBench("postop", (32, 32), cases=5, split="test")
    compare([evaluated, other], cases, tmp_path / "table", device="cpu", progress=False)
    (path,) = report_evaluation(tmp_path / "table", tmp_path / "table.html")
    text = path.read_text(encoding="utf-8")
    assert "TraceTrans (run)" in text
    assert "TraceTrans (other)" in text
    assert text.count("number 1 of 5 by error") == 2


def document():
    picture = Picture(png_of(np.full((40, 60, 3), 127, np.uint8)), "A caption.", "what it shows", 0.5)
    rows = tuple((f"row {number}", f"{number}.5 [1, 2]") for number in range(90))
    blocks = (
        Heading("First & foremost"),
        Text("A <b>warning</b>.", "warning"),
        Items(("one", "two")),
        Grade("FAIL", "reason"),
        picture,
        CellTable(("name", "value"), rows, frozenset({1}), "Of many pages."),
        Text("medtrace evaluate run dataset", "code"),
    )
    return Document("Title", blocks, "footer")


def test_text_is_never_markup():
    text = document_html(document())
    assert "A &lt;b&gt;warning&lt;/b&gt;." in text
    assert "First &amp; foremost" in text
    assert "✗ FAIL" in text


def test_tables_of_many_pages_repeat_their_headings():
    content = document_pdf(document())
    assert content.count(b"/Type /Page\n") >= 3
    assert document_pdf(document()) == content


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="expected 2 cells"):
        CellTable(("a", "b"), (("c",),))


def test_distribution_has_no_empty_cell():
    panels = {name: {"run": [1.0, 2.0], "identity": [3.0]} for name in ("a", "b", "c")}
    figure = distribution_figure(panels)
    assert len(figure.axes) == 3
    last = figure.axes[-1].get_subplotspec()
    assert (last.colspan.start, last.colspan.stop) == (0, 2)
    with pytest.raises(ValueError, match="received none"):
        distribution_figure({"a": {"run": []}})


def test_tables_have_names_and_no_empty_headings():
    rows = CellTable(("", "SSIM"), (("run", "0.9"),))
    text = document_html(Document("Scores", (Heading("Scores"), rows, rows)))
    assert re.findall(r'role="region" aria-label="([^"]+)"', text) == ["table 1", "table 2"]
    assert "<td></td><th scope" in text.replace("\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(evaluated, page, browser, scheme):  # noqa: ARG001 - the page is written
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core; pip install '.[test]'")
    shown = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    shown.goto((evaluated / "evaluation" / "test" / "evaluation.html").as_uri(), wait_until="commit")
    shown.wait_for_selector("footer")
    assert shown.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    result = axe.Axe().run(shown)
    shown.close()
    assert result.response["violations"] == [], result.generate_report()
    assert len(result.response["passes"]) > 10
