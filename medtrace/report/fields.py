"""Single figures of a trace for a publication: grid, field, Jacobian, ledger, and a row as papers print it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from torch import Tensor

from medtrace.fields import folded_voxels, jacobian_determinant, voxel_to_mm
from medtrace.report.drawing import (
    AMOUNT,
    anatomy,
    color_bar,
    grid_lines,
    limit_of,
    show_anatomy,
    show_change,
    show_letters,
    show_lines,
    show_row_label,
    window_of,
)
from medtrace.report.view import PlaneName, View, view_of
from medtrace.trace import Trace
from medtrace.trace.contrast import unit_label

ARROWS = 24
"""Arrows along the longer side."""
_INCHES = 2.4
_TITLE: dict[str, Any] = {"fontsize": 9, "pad": 3}


def grid_figure(trace: Trace, *, plane: PlaneName = "axial", index: int | None = None) -> Figure:
    """Draw the warped source under lines that were straight in the source.

    Args:
        trace: what to draw.
        plane: plane of a volume.
        index: slice; by default the one with the most displacement.

    Returns:
        A figure for `save_figure`.
    """
    view = _view(trace, plane, index)
    figure, (axis,) = _axes(view, trace, 1)
    _grid(axis, view, trace)
    show_letters(axis, view)
    return figure


def field_figure(trace: Trace, *, plane: PlaneName = "axial", index: int | None = None) -> Figure:
    """Draw arrows from where tissue was to where it is, over the length of the displacement in mm.

    Args, Returns: as for `grid_figure`. In a volume the arrows are projections into the plane, the length is not.
    """
    view = _view(trace, plane, index)
    figure, (axis,) = _axes(view, trace, 1)
    color_bar(axis, _length(axis, view, trace))
    moved = [
        -view.page(trace.ddf[axis_ : axis_ + 1])[..., 0] * (-1 if flip else 1)
        for axis_, flip in ((view.horizontal, view.flip_horizontal), (view.vertical, view.flip_vertical))
    ]
    step = max(1, round(max(moved[0].shape) / ARROWS))
    rows, columns = (np.arange(step // 2, size, step) for size in moved[0].shape)
    across, down = (part[np.ix_(rows, columns)] for part in moved)
    x, y = np.meshgrid(columns, rows)
    axis.quiver(x - across, y - down, across, down, angles="xy", scale_units="xy", scale=1, color="white", width=0.004)
    show_letters(axis, view)
    return figure


def jacobian_figure(trace: Trace, *, plane: PlaneName = "axial", index: int | None = None) -> Figure:
    """Draw the logarithm to base 2 of the Jacobian of `ddf`, folded voxels as black crosses on white.

    Args, Returns: as for `grid_figure`. Below 0, tissue has grown: a voxel of the translation reads less than one of
    the source.
    """
    view = _view(trace, plane, index)
    figure, (axis,) = _axes(view, trace, 1)
    logarithm = view.page(jacobian_determinant(trace.ddf[None])[0].clamp_min(1e-3).log2())[..., 0]
    color_bar(axis, show_change(axis, logarithm, view, limit_of([logarithm])))
    rows, columns = np.nonzero(view.page(folded_voxels(trace.ddf[None])[0])[..., 0])
    axis.scatter(columns, rows, s=22, c="white", marker="s", linewidths=0)
    axis.scatter(columns, rows, s=14, c="black", marker="x", linewidths=1)
    axis.set_title(f"log2 Jacobian, {len(rows)} folded", **_TITLE)
    show_letters(axis, view, color="black")
    return figure


def ledger_figure(
    trace: Trace, target: Tensor | None = None, *, plane: PlaneName = "axial", index: int | None = None
) -> Figure:
    """Draw the account: change = deformation + appearance + residual, with each column's mean size over the grid.

    Args:
        trace: what to draw.
        target: the true image, for the column of the error.
        plane: plane of a volume.
        index: slice; by default the one with the most displacement.

    Returns:
        A figure for `save_figure`. Columns that the trace does not have are left out; across units there is no change,
        and the deformation has the source's unit and its own colors.
    """
    ledger = trace.ledger(target)
    change = None if ledger.summary.change is None else trace.image - trace.source
    named = {
        "change": change,
        "deformation": ledger.deformation,
        "appearance": ledger.appearance,
        "residual": ledger.residual,
        "error": ledger.error,
    }
    columns = {name: column for name, column in named.items() if column is not None}
    view = _view(trace, plane, index)
    pages = {name: view.page(column).mean(-1) for name, column in columns.items()}
    figure, axes = _axes(view, trace, max(len(pages), 1))
    for axis, (name, page) in zip(axes, pages.items()):
        moved = not trace.same_unit and name == "deformation"
        like = [page] if moved else [page for key, page in pages.items() if trace.same_unit or key != "deformation"]
        color_bar(axis, show_change(axis, page, view, limit_of(like)))
        unit = unit_label(trace.source_contrasts if moved else trace.contrasts)
        axis.set_title(f"{name} ({float(columns[name].abs().mean()):.3g}){unit and f', {unit}'}", **_TITLE)
    show_letters(axes[0], view, color="black")
    return figure


def row_figure(traces: Mapping[str, Trace], *, plane: PlaneName = "axial", index: int | None = None) -> Figure:
    """Draw traces as papers print them, one a row: source, translation, warped source, grid, displacement in mm.

    Args:
        traces: name → trace; a source on its own grid is drawn in its own middle slice or `index`.
        plane: plane of volumes.
        index: slice; by default the one with the most displacement.

    Returns:
        A figure for `save_figure`.

    Raises:
        ValueError: if there is none.
    """
    if not traces:
        raise ValueError("traces: expected at least one, received none")
    views = {name: _view(trace, plane, index) for name, trace in traces.items()}
    first = next(iter(traces))
    figure, axes = _axes(views[first], traces[first], 5, len(traces))
    for place, (name, trace) in enumerate(traces.items()):
        row, view = axes[5 * place : 5 * place + 5], views[name]
        own = view if trace.same_grid else view_of(trace.source_affine, trace.source.shape[1:], plane, index)
        pictures = [anatomy(own, trace.source), anatomy(view, trace.image), anatomy(view, trace.warped)]
        for axis, picture, shown in zip(row, pictures, (own, view, view)):
            show_anatomy(axis, picture, shown, *window_of(pictures))
        _grid(row[3], view, trace)
        color_bar(row[4], _length(row[4], view, trace))
        show_row_label(row[0], name)
        show_letters(row[0], own)
    titles = ("source", "translation", "warped source", "grid", "displacement (mm)")
    for axis, title in zip(axes, titles):
        axis.set_title(title, **_TITLE)
    return figure


def _view(trace: Trace, plane: PlaneName, index: int | None) -> View:
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    weight = torch.linalg.vector_norm(trace.ddf, dim=0) * (trace.image - trace.image.min()).mean(0)
    return view_of(trace.affine, trace.image.shape[1:], plane, index, weight)


def _axes(view: View, trace: Trace, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Bare axes whose cells have the proportions of the plane."""
    shape = trace.image.shape[1:]
    ratio = shape[view.vertical] * view.aspect / shape[view.horizontal]
    figure = Figure(figsize=(_INCHES * columns, (_INCHES * ratio + 0.4) * rows + 0.1), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    return figure, axes


def _grid(axis: Axes, view: View, trace: Trace) -> None:
    picture = anatomy(view, trace.warped)
    show_anatomy(axis, picture, view, *window_of([picture]))
    show_lines(axis, grid_lines(view, trace), None)


def _length(axis: Axes, view: View, trace: Trace) -> ScalarMappable:
    length = torch.linalg.vector_norm(voxel_to_mm(trace.ddf[None], trace.affine)[0], dim=0)
    page = view.page(length[None])[..., 0]
    return axis.imshow(page, cmap=AMOUNT, vmin=0.0, vmax=float(page.max()) or 1.0, aspect=view.aspect)
