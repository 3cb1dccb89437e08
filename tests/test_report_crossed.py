"""Tables and charts of two factors."""

import io

import pytest
from rich.console import Console

from medtrace.metrics import Summary
from medtrace.report import crossed_table, print_crossed_table, sensitivity_figure

CELLS = {
    "A": {"low": {"x": Summary(3, 1.0, 0.1, 1.0), "size": 2.5}, "high": {"x": Summary(3, 2.0, 0.1, 2.0), "size": 2.5}},
    "B": {"high": {"x": Summary(3, 3.0, 0.1, 3.0)}},
}
MEASURES = {"x": "X", "size": "Size"}


def lines(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]


def test_blocks_of_lines_and_of_measures():
    by_line = lines(crossed_table(CELLS, MEASURES))
    assert by_line[0] == ["", "", "low", "high", "n"]
    assert by_line[2:] == [
        ["A", "X", "1.00 ± 0.10", "2.00 ± 0.10", "3"],
        ["A", "Size", "2.50", "2.50", "3"],
        ["B", "X", "–", "3.00 ± 0.10", "3"],
        ["B", "Size", "–", "–", "3"],
    ]
    by_measure = lines(crossed_table(CELLS, MEASURES, blocks="measure", decimals={"x": 0}))
    assert [line[:2] for line in by_measure[2:]] == [["X", "A"], ["X", "B"], ["Size", "A"], ["Size", "B"]]
    assert by_measure[2][3] == "2 ± 1.0e-01"


def test_counts_that_differ_surrogate_the_cells():
    cells = {"A": {"low": {"x": Summary(3, 1.0, 0.1, 1.0)}, "high": {"x": Summary(4, 1.0, 0.1, 1.0)}}}
    table = lines(crossed_table(cells, {"x": "X"}))
    assert table[0] == ["", "", "low", "high"]
    assert table[2] == ["A", "X", "1.00 ± 0.10 (n=3)", "1.00 ± 0.10 (n=4)"]


def test_printed_are_means():
    text = io.StringIO()
    print_crossed_table(CELLS, MEASURES, title="Title", console=Console(file=text, width=80))
    assert "Title" in text.getvalue()
    assert "3.00" in text.getvalue()
    assert "±" not in text.getvalue()


@pytest.mark.parametrize(("cells", "measures"), [({}, MEASURES), ({"A": {}}, MEASURES), (CELLS, {})])
def test_nothing_to_write_is_refused(cells, measures):
    with pytest.raises(ValueError, match="expected at least one of each"):
        crossed_table(cells, measures)
    with pytest.raises(ValueError, match="blocks: expected one of"):
        crossed_table(CELLS, MEASURES, blocks="column")


def test_a_series_has_a_line_of_its_own():
    rows = [
        {"method": method, "level": level, "psnr": Summary(4, base - level, 1.0, base)}
        for method, base in (("A", 20.0), ("B", 30.0))
        for level in (1, 0)
    ]
    figure = sensitivity_figure(rows, "level", ["psnr"], series="method", better={"psnr": "max"}, spread="sd")
    (axis,) = figure.axes
    drawn = [line.get_xydata().tolist() for line in axis.get_lines() if line.get_linestyle() == "-"]
    drawn = [line for line in drawn if len(line) == 2]  # not the rings around the best
    assert drawn == [[[0, 20], [1, 19]], [[0, 30], [1, 29]]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["A", "B"]
    with pytest.raises(ValueError, match="'method'"):
        sensitivity_figure([{"level": 1, "psnr": 1}], "level", ["psnr"], series="method")
