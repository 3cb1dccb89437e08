"""Figures of one trace for a publication."""

import pytest
import torch

from medtrace import report
from medtrace.fields import folded_voxels, identity_grid
from medtrace.trace import Trace


def folded_trace() -> Trace:
    grid = identity_grid((32, 40))
    image = torch.sin(grid[:1] / 4) + torch.cos(grid[1:] / 5)
    ddf = torch.stack([2 * torch.sin(grid[1] / 8), torch.zeros(32, 40)])
    ddf[0, 20, 15] += 1.5
    return Trace.build(image, image + 0.1, ddf, inverse_ddf=-ddf)


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
@pytest.mark.parametrize("name", ["grid", "field", "jacobian", "ledger"])
def test_every_figure_in_every_format(tmp_path, name, suffix):
    figure = getattr(report, f"{name}_figure")(folded_trace())
    assert report.save_figure(figure, tmp_path / f"{name}{suffix}").stat().st_size > 2000


def test_jacobian_marks_every_fold_where_it_is():
    trace = folded_trace()
    axis = report.jacobian_figure(trace).axes[0]
    view = report.view_of(trace.affine, trace.image.shape[1:])
    expected = view.page(folded_voxels(trace.ddf[None])[0])[..., 0].nonzero()
    marks = axis.collections[-1].get_offsets()
    assert len(marks) > 0
    assert sorted(map(tuple, marks.tolist())) == sorted(zip(*(values.tolist() for values in reversed(expected))))


def test_ledger_tells_mean_sizes():
    trace = folded_trace()
    titles = [axis.get_title() for axis in report.ledger_figure(trace).axes]
    assert f"residual ({float(trace.ledger().residual.abs().mean()):.3g})" in titles


def test_arrows_lead_from_origin_to_voxel():
    ddf = torch.zeros(2, 48, 48)
    ddf[0] = 3.0  # tissue comes from 3 voxels further along the first axis
    image = torch.rand(1, 48, 48)
    trace = Trace.build(image, image, ddf, affine=torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])))
    arrows = report.field_figure(trace).axes[0].collections[-1]
    assert (arrows.U == -3).all()
    assert (arrows.V == 0).all()


def test_row_has_five_columns_per_trace():
    figure = report.row_figure({"a": folded_trace(), "b": folded_trace()})
    assert [axis.get_title() for axis in figure.axes[:5]][:2] == ["source", "translation"]
    with pytest.raises(ValueError, match="at least one"):
        report.row_figure({})
