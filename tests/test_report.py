"""Figures are on the page as radiologists expect, show the right numbers; tables say mean ± SD with n."""

import csv
import importlib
import json
import math
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from medtrace.metrics import CaseTable, Summary
from medtrace.report import (
    comparison_figure,
    curve_figure,
    enable_display,
    markdown_table,
    method_figure,
    print_table,
    read_rows,
    read_summary,
    save_figure,
    sensitivity_figure,
    trace_figure,
    view_of,
)
from medtrace.trace import Trace

RAS = torch.eye(4, dtype=torch.float64)
PHOTO = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


def marked(shape, voxel):
    image = torch.zeros(1, *shape)
    image[(0, *voxel)] = 1.0
    return image


def brightest(page):
    return tuple(int(i) for i in np.unravel_index(page[..., 0].argmax(), page.shape[:2]))


def make_trace(shape=(24, 20), channels=1, displacement=2.0, affine=RAS, mask=None):
    generator = torch.Generator().manual_seed(1)
    source = torch.rand(channels, *shape, generator=generator) * 2 - 1
    ddf = torch.zeros(len(shape), *shape)
    ddf[0] = displacement
    image = (source * 0.5).flip(0)
    return Trace.build(source, image, ddf, affine=affine, mask=mask)


def axes_by_title(figure):
    return {axis.get_title() or axis.get_title(loc="right"): axis for axis in figure.axes}


class TestView:
    def test_axial_puts_right_on_the_left_and_front_on_top(self):
        page = view_of(RAS, (9, 11)).page(marked((9, 11), (8, 10)))  # rightmost, frontmost
        assert page.shape == (11, 9, 1)
        assert brightest(page) == (0, 0)

    def test_a_photograph_keeps_its_file_order(self):
        page = view_of(PHOTO, (9, 11)).page(marked((9, 11), (7, 2)))  # column 7, row 2
        assert brightest(page) == (2, 7)

    @pytest.mark.parametrize(
        ("plane", "shape", "place"),
        [("axial", (7, 5), (0, 0)), ("coronal", (9, 5), (0, 0)), ("sagittal", (9, 7), (0, 0))],
    )
    def test_planes_of_a_volume(self, plane, shape, place):
        volume = marked((5, 7, 9), (4, 6, 8))  # right, front, top
        view = view_of(RAS, (5, 7, 9), plane, index={"axial": 8, "coronal": 6, "sagittal": 4}[plane])
        page = view.page(volume)
        assert page.shape[:2] == shape
        assert brightest(page) == place

    @pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
    def test_array_order_and_flips_change_nothing(self, plane):
        volume = torch.rand(1, 5, 7, 9)
        expected = view_of(RAS, (5, 7, 9), plane).page(volume)
        turned = volume.permute(0, 3, 1, 2).flip(1)  # axes: down, right, front
        affine = torch.tensor([[0, 1, 0, 0], [0, 0, 1, 0], [-1, 0, 0, 8], [0, 0, 0, 1]], dtype=torch.float64)
        view = view_of(affine, turned.shape[1:], plane)
        np.testing.assert_array_equal(view.page(turned), expected)

    def test_letters_and_aspect(self):
        affine = torch.diag(torch.tensor([1.0, 2.0, 3.0, 1.0], dtype=torch.float64))
        assert view_of(affine, (4, 4, 4), "coronal").aspect == pytest.approx(3.0)
        assert view_of(affine, (4, 4, 4), "sagittal").letters == ("A", "P", "S", "I")
        assert view_of(affine, (4, 4)).letters == ("R", "L", "A", "P")

    def test_default_slice(self):
        weight = torch.zeros(4, 4, 6)
        assert view_of(RAS, (4, 4, 6), voxel_weight=weight).index == 3
        weight[0, 0, 5] = 1.0
        assert view_of(RAS, (4, 4, 6), voxel_weight=weight).index == 5

    def test_errors(self):
        with pytest.raises(ValueError, match="plane: expected one of 'axial', 'coronal', 'sagittal'"):
            view_of(RAS, (4, 4, 4), "frontal")
        with pytest.raises(ValueError, match="index: expected a slice from 0 to 3, received 4"):
            view_of(RAS, (4, 4, 4), index=4)


class TestTraceFigure:
    def test_panels_and_their_pixels(self):
        affine = torch.diag(torch.tensor([1.5, 1.5, 1.0, 1.0], dtype=torch.float64))
        trace = make_trace(affine=affine)
        target = trace.image + 0.25
        figure = trace_figure(trace, target, "A case")
        assert figure.get_suptitle() == "A case"
        axes = axes_by_title(figure)
        assert [title for title in axes if title] == [
            "source",
            "prediction",
            "target",
            "warped source",
            "edges",
            "deformation",
            "displacement (mm)",
            "appearance change",
            "residual",
            "error (target − prediction)",
        ]
        view = view_of(affine, (24, 20))
        for title, value in (("source", trace.source), ("warped source", trace.warped), ("target", target)):
            np.testing.assert_array_equal(axes[title].images[0].get_array(), view.page(value)[..., 0])
        np.testing.assert_allclose(axes["displacement (mm)"].images[0].get_array(), 3.0)
        np.testing.assert_allclose(axes["error (target − prediction)"].images[0].get_array(), 0.25, atol=1e-6)

    def test_signed_maps_are_symmetric_and_share_their_scale(self):
        axes = axes_by_title(trace_figure(make_trace()))
        limits = {axes[name].images[0].get_clim() for name in ("appearance change", "residual")}
        ((low, high),) = limits
        assert low == -high
        assert high > 0

    def test_grid_lines_move_with_the_source(self):
        shape = (33, 33)
        still = Trace.build(torch.rand(1, *shape), torch.rand(1, *shape), torch.zeros(2, *shape), affine=PHOTO)
        moved = make_trace(shape, displacement=3.0, affine=PHOTO)

        def lines(trace):
            axis = axes_by_title(trace_figure(trace, grid_step=7.0))["deformation"]
            vertical, horizontal = axis.collections[:2]
            groups = ((vertical, 0), (horizontal, 1))
            return [
                np.unique(np.vstack([p.vertices for p in c.get_paths()])[:, k].round(3)).tolist() for c, k in groups
            ]

        before, after = lines(still), lines(moved)
        assert before[0] == [2.0, 9.0, 16.0, 23.0, 30.0]
        # A pull by +3 voxels along the first axis shows the source 3 columns further left.
        assert after[0] == [6.0, 13.0, 20.0, 27.0]
        assert after[1] == before[1]

    def test_edges_agree_in_white_and_differ_in_color(self):
        image = torch.zeros(1, 32, 32)
        image[:, 8:24, 8:24] = 1.0
        same = Trace.build(image, image, torch.zeros(2, 32, 32), affine=PHOTO)
        pixels = axes_by_title(trace_figure(same))["edges"].images[0].get_array()
        assert np.ptp(pixels, axis=-1).max() < 1e-9
        assert pixels.max() == 1.0
        shifted = Trace.build(image, image.roll(6, 1), torch.zeros(2, 32, 32), affine=PHOTO)
        pixels = axes_by_title(trace_figure(shifted))["edges"].images[0].get_array()
        assert pixels[16, 8, 2] > pixels[16, 8, 0]  # blue: the warped source's edge
        assert pixels[16, 14, 0] > pixels[16, 14, 2]  # orange: the prediction's edge

    def test_volumes_take_the_slice_that_moves(self):
        trace = make_trace((8, 9, 10), displacement=0.0)
        ddf = torch.zeros(3, 8, 9, 10)
        ddf[1, :, :, 7] = 0.4
        trace = Trace.build(trace.source, trace.image, ddf)
        pixels = axes_by_title(trace_figure(trace))["displacement (mm)"].images[0].get_array()
        np.testing.assert_allclose(pixels, 0.4, rtol=1e-6)

    def test_color_images_and_other_channel_counts(self):
        axes = axes_by_title(trace_figure(make_trace(channels=3)))
        assert axes["source"].images[0].get_array().shape == (20, 24, 3)
        trace = Trace.build(torch.rand(2, 8, 8), torch.rand(1, 8, 8), torch.zeros(2, 8, 8))
        titles = axes_by_title(trace_figure(trace))
        assert "appearance change" not in titles
        assert "residual" not in titles

    def test_two_grids_show_the_source_on_the_target_grid(self):
        source = torch.arange(20.0).reshape(1, 20, 1).expand(1, 20, 20).contiguous()
        shifted = RAS.clone()
        shifted[0, 3] = 5.0
        trace = Trace.build(source, torch.rand(1, 10, 10), torch.zeros(2, 10, 10), affine=shifted, source_affine=RAS)
        pixels = axes_by_title(trace_figure(trace))["source"].images[0].get_array()
        np.testing.assert_allclose(pixels[0], np.arange(14, 4, -1), atol=1e-4)  # right side first

    def test_a_constant_trace_is_drawn(self):
        trace = Trace.build(torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), torch.zeros(2, 8, 8))
        assert isinstance(trace_figure(trace), Figure)

    def test_errors(self):
        with pytest.raises(TypeError, match="trace: expected a Trace, received Tensor"):
            trace_figure(torch.zeros(1, 4, 4))
        with pytest.raises(ValueError, match="target"):
            trace_figure(make_trace(), torch.zeros(1, 5, 5))
        with pytest.raises(ValueError, match="columns: expected at least 1"):
            trace_figure(make_trace(), columns=0)


class TestComparisonFigure:
    def test_differences_from_the_reference(self):
        target = torch.rand(1, 6, 6)
        figure = comparison_figure({"case": {"A": target + 0.5, "target": target}}, reference="target")
        below = figure.axes[2].images[0]
        np.testing.assert_allclose(below.get_array(), 0.5, rtol=1e-5)
        assert below.get_clim() == (pytest.approx(-0.5), pytest.approx(0.5))
        assert not figure.axes[3].images

    def test_errors(self):
        with pytest.raises(ValueError, match="expected at least one case"):
            comparison_figure({})
        with pytest.raises(ValueError, match="expected images of one grid"):
            comparison_figure({"a": {"x": torch.zeros(1, 4, 4)}, "b": {"x": torch.zeros(1, 5, 5)}})
        with pytest.raises(ValueError, match="reference: case 'a' has no 'target', only x"):
            comparison_figure({"a": {"x": torch.zeros(1, 4, 4)}}, reference="target")


class TestCharts:
    def history(self, path, terms):
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["epoch", *terms])
            writer.writerows([epoch, *(epoch * (k + 1) for k in range(len(terms)))] for epoch in (1, 2, 3))
        return path

    def test_curves(self, tmp_path):
        first = self.history(tmp_path / "a.csv", ["l1", "loss"])
        second = self.history(tmp_path / "b.csv", ["loss"])
        axes = axes_by_title(curve_figure({"A": first, "B": second}))
        assert [line.get_label() for line in axes["loss"].get_lines()] == ["A", "B"]
        assert axes["loss"].get_lines()[0].get_ydata().tolist() == [2, 4, 6]
        assert [line.get_label() for line in axes["l1"].get_lines()] == ["A"]
        assert list(axes_by_title(curve_figure(first, terms=["loss"]))) == ["loss"]

    def test_curve_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="no such file"):
            curve_figure(tmp_path / "none.csv")
        (tmp_path / "x.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ValueError, match="expected a column 'epoch'"):
            curve_figure(tmp_path / "x.csv")
        path = self.history(tmp_path / "a.csv", ["loss"])
        with pytest.raises(ValueError, match="terms: expected one of 'loss', received 'l1'"):
            curve_figure(path, terms=["l1"])

    def test_sensitivity_sorts_and_draws_confidence(self):
        rows = [{"alpha": a, "ssim": Summary(16, 0.5 + a, 0.4, 0.5)} for a in (1, 0.25, 0.5)]
        (axis,) = sensitivity_figure(rows, "alpha", {"ssim": "SSIM"}, better={"ssim": "max"}).axes
        line = axis.get_lines()[0]
        assert line.get_xdata().tolist() == [0.25, 0.5, 1.0]
        (bars,) = (c for c in axis.collections if len(c.get_segments()) == 3)
        (low, high) = bars.get_segments()[0][:, 1]
        assert high - low == pytest.approx(2 * 1.96 * 0.4 / 4)
        assert axis.get_title() == "SSIM ↑"
        ring = axis.get_lines()[-1]
        assert float(ring.get_xdata()[0]) == 1.0

    def test_sensitivity_over_magnitudes(self):
        rows = [{"steps": steps, "dice": 0.5} for steps in (250, 5, 25)]
        (axis,) = sensitivity_figure(rows, "steps", ["dice"], logarithmic=True).axes
        assert axis.get_xscale() == "log"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["5", "25", "250"]
        assert list(axis.get_xticks(minor=True)) == []

    def test_sensitivity_errors(self):
        with pytest.raises(ValueError, match="expected 'ssim' in every row"):
            sensitivity_figure([{"alpha": 1}], "alpha", ["ssim"])
        with pytest.raises(ValueError, match="rows: expected at least one"):
            sensitivity_figure([], "alpha", ["ssim"])
        with pytest.raises(ValueError, match="spread"):
            sensitivity_figure([{"alpha": 1, "ssim": 1}], "alpha", ["ssim"], spread="iqr")

    def test_methods(self):
        rows = [{"method": "a", "mae": Summary(4, 1.0, 0.5, 1.0)}, {"method": "b", "mae": 2.0, "epe": 3.0}]
        figure = method_figure(rows, ["mae", "epe"], better={"mae": "min"}, spread="sd")
        assert [axis.get_title() for axis in figure.axes] == ["mae ↓", "epe"]
        assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b"]
        with pytest.raises(ValueError, match="expected 'method' in every row"):
            method_figure([{"mae": 1.0}], ["mae"])


class TestSaving:
    @pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".pdf", b"%PDF")])
    def test_same_bytes_twice(self, tmp_path, suffix, magic):
        paths = [save_figure(trace_figure(make_trace()), tmp_path / "new" / f"{k}{suffix}", dpi=50) for k in "ab"]
        first, second = (path.read_bytes() for path in paths)
        assert first.startswith(magic)
        assert first == second
        assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [f"a{suffix}", f"b{suffix}"]

    def test_svg(self, tmp_path):
        path = save_figure(trace_figure(make_trace()), tmp_path / "a.svg", dpi=50)
        assert ElementTree.parse(path).getroot().tag.endswith("svg")

    def test_other_suffix(self, tmp_path):
        with pytest.raises(ValueError, match=r"path's suffix: expected one of '.png', '.pdf', '.svg', received '.gif'"):
            save_figure(Figure(), tmp_path / "a.gif")

    def test_no_global_state(self):
        from matplotlib import pyplot

        trace_figure(make_trace())
        assert pyplot.get_fignums() == []


class TestDisplay:
    def test_registers_traces_and_figures(self):
        from IPython.core.interactiveshell import InteractiveShell

        shell = InteractiveShell()
        assert enable_display(shell)
        for value in (make_trace(), Figure()):
            data, _ = shell.display_formatter.format(value)
            assert data["image/png"].startswith(b"\x89PNG")

    def test_without_a_shell(self):
        assert enable_display() is False

    def test_in_a_notebook_the_import_is_enough(self, monkeypatch):
        shown = {}
        formatter = SimpleNamespace(for_type=shown.__setitem__)
        shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": formatter}))
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
        importlib.reload(sys.modules["medtrace.report"])
        assert shown[Trace](make_trace()).startswith(b"\x89PNG")


class TestTables:
    rows = (
        {"method": "identity", "mae": Summary(10, 20.0, 4.0, 19.0), "epe": None},
        {"method": "a|b", "mae": Summary(10, 12.34567, 2.5, 12.0), "epe": 1.23456},
    )

    def test_markdown(self):
        text = markdown_table(self.rows, {"method": "Method", "mae": "MAE ↓", "epe": "EPE"}, best={"mae": "min"})
        assert text == (
            "| Method | MAE ↓ | EPE | n |\n"
            "| --- | ---: | ---: | ---: |\n"
            "| identity | 20.0 ± 4.0 | – | 10 |\n"
            "| a\\|b | **12.3 ± 2.5** | 1.23 | 10 |\n"
        )

    def test_counts_in_cells_where_they_differ(self):
        rows = [{"x": Summary(3, 1.0, 0.1, 1.0), "y": Summary(4, 2.0, math.nan, 2.0, infinite=1, undefined=2)}]
        assert markdown_table(rows).splitlines()[2] == "| 1.00 ± 0.10 (n=3) | 2.00 (n=4, 1 infinite, 2 undefined) |"

    def test_small_numbers_are_not_nought(self):
        assert markdown_table([{"x": 3e-6}, {"x": 0.0}], decimals={"x": 2}).splitlines()[2:] == [
            "| 3.0e-06 |",
            "| 0.00 |",
        ]

    def test_printed_table_says_the_same(self):
        console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        print_table(self.rows, title="Results", console=console)
        text = console.export_text()
        for part in ("Results", "identity", "20.0 ± 4.0", "12.3 ± 2.5", "10"):
            assert part in text

    def test_reading_what_the_metrics_write(self, tmp_path):
        table = CaseTable()
        table.add("a", {"mae": 1.0, "psnr": math.inf})
        table.add("b", {"mae": 2.0, "psnr": 20.0})
        summary = read_summary(table.write_summary(tmp_path / "summary.csv"))
        assert summary == table.summary() or str(summary) == str(table.summary())
        cases = read_rows(table.write_csv(tmp_path / "cases.csv"))
        assert cases[1] == {"case": "b", "mae": 2.0, "psnr": 20.0}

    def test_reading_json(self, tmp_path):
        path = tmp_path / "r.json"
        path.write_text(json.dumps({"a": {"mae": {"mean": 1.0, "sd": None, "n": 2, "median": 1.0}, "note": "x"}}))
        (row,) = read_rows(path)
        assert row["name"] == "a"
        assert row["note"] == "x"
        assert row["mae"].n == 2
        assert math.isnan(row["mae"].sd)

    def test_errors(self, tmp_path):
        with pytest.raises(ValueError, match="rows: expected at least one"):
            markdown_table([])
        with pytest.raises(FileNotFoundError, match="no such file"):
            read_rows(tmp_path / "x.csv")
        (tmp_path / "x.json").write_text("[1")
        with pytest.raises(ValueError, match="cannot be read as JSON"):
            read_rows(tmp_path / "x.json")
        (tmp_path / "y.json").write_text("[1]")
        with pytest.raises(ValueError, match="expected a list of objects"):
            read_rows(tmp_path / "y.json")
        (tmp_path / "x.csv").write_text("a\n1\n")
        with pytest.raises(ValueError, match="expected the columns value, n, mean"):
            read_summary(tmp_path / "x.csv")
        with pytest.raises(ValueError, match="best"):
            markdown_table([{"a": 1}], best={"a": "most"})
