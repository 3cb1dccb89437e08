"""Figures of traces and results, drawn without matplotlib's global state.

Anatomy is gray and oriented as `View` describes. Amounts are drawn in cividis, signed changes in a diverging map
that is white at 0 and symmetric about it, categories in colors that color-blind readers distinguish (Okabe and
Ito).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.fields import identity_grid, sample, voxel_to_mm
from medtrace.metrics import sobel_magnitude
from medtrace.report.drawing import (
    AMOUNT,
    TEXT,
    anatomy,
    color_bar,
    difference_scale,
    grid_lines,
    limit_of,
    panel_axes,
    show_anatomy,
    show_change,
    show_letters,
    show_lines,
    show_nothing,
    show_row_label,
    window_of,
)
from medtrace.report.view import PlaneName, View, view_of
from medtrace.storage.files import atomic_file
from medtrace.trace import Trace
from medtrace.trace.contrast import unit_label

COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#B3A100")
"""Okabe and Ito's colors; the yellow is darkened to be read on white."""
EDGES_WARPED = np.array([0.0, 0.5, 1.0])
EDGES_IMAGE = np.array([1.0, 0.5, 0.0])
SUFFIXES = (".png", ".pdf", ".svg")
_PANEL_INCHES = 1.9
_LONGEST_TITLE = 27
"""Characters that are as wide as a panel."""


class Panel(NamedTuple):
    """One picture of a figure: its title, its pixels (rows, columns[, 3]) and how to draw them."""

    title: str
    pixels: np.ndarray
    kind: str = "image"
    lines: tuple[np.ndarray, np.ndarray] | None = None
    unit: str = ""
    """Images of one unit share a window."""


def trace_figure(
    trace: Trace,
    target: Tensor | None = None,
    title: str | None = None,
    *,
    plane: PlaneName = "axial",
    index: int | None = None,
    window: tuple[float, float] | None = None,
    grid_step: float | None = None,
    columns: int = 5,
    edges: bool = True,
    image_name: str = "prediction",
) -> Figure:
    """Draw a trace: what the image becomes, and the account of it.

    Panels, in this order: source; predicted image; target; source warped by the field; Sobel edges of the warped
    source (blue) and of the prediction (orange), white where both agree; the warped source under a grid of
    straight lines that was drawn on the source and deformed with it; length of the displacement in mm; appearance
    change; residual; error (target − prediction). Panels for which the trace or the caller has no data are left
    out.

    Args:
        trace: what to draw.
        target: (C', *spatial), the true image.
        title: above the figure.
        plane: plane of a volume; see `View` for how it is turned.
        index: slice along the array axis that `plane` cuts; by default the one of the largest mean displacement,
            every voxel weighted with its brightness above the image's darkest.
        window: intensities that are black and white; by default the .5 and 99.5 percentiles of all the anatomical
            panels together.
        grid_step: spacing of the grid's lines in mm; by default a twentieth of the longer side.
        columns: panels per row.
        edges: whether to draw the edges.
        image_name: what the translated image is called, if it is not a prediction.

    Returns:
        A figure for `save_figure`.

    Raises:
        TypeError: if it is not a Trace.
        ValueError: if the target's shape is not the image's, or a choice is out of range.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see Trace.build")
    if columns < 1:
        raise ValueError(f"columns: expected at least 1, received {columns}")
    ledger = trace.ledger(target)
    length = torch.linalg.vector_norm(voxel_to_mm(trace.ddf[None], trace.affine)[0], dim=0)
    brightness = (trace.image - trace.image.min()).mean(0)
    view = view_of(trace.affine, trace.image.shape[1:], plane, index, length * brightness)
    warped = anatomy(view, trace.warped)
    before, after = ("", "") if trace.same_unit else map(unit_label, (trace.source_contrasts, trace.contrasts))
    panels = [
        Panel("source", anatomy(view, _source_on_target_grid(trace)), unit=before),
        Panel(image_name, anatomy(view, trace.image), unit=after),
    ]
    if target is not None:
        panels.append(Panel("target", anatomy(view, target), unit=after))
    panels.append(Panel("warped source", warped, unit=before))
    if edges:
        panels.append(Panel("edges", _edge_overlay(view, trace.warped, trace.image), "edges"))
    panels.append(Panel("deformation", warped, lines=grid_lines(view, trace), unit=before))
    panels.append(Panel("displacement (mm)", view.page(length[None])[..., 0], "amount"))
    for name, column in (
        ("appearance change" if trace.same_unit else "expected image", ledger.appearance),
        ("residual", ledger.residual),
        (f"error (target − {image_name})", ledger.error),
    ):
        if column is not None:
            panels.append(Panel(name, view.page(column).mean(-1), "change"))
    return _draw_panels(panels, view, window, columns, grid_step, title, image_name)


def comparison_figure(
    rows: Mapping[str, Mapping[str, Tensor]],
    *,
    reference: str | None = None,
    affine: Tensor | None = None,
    plane: PlaneName = "axial",
    index: int | None = None,
    window: tuple[float, float] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw cases (rows) by methods (columns).

    Args:
        rows: case name → column name → image (C, *spatial), all of one grid.
        reference: a column, such as "target": under every other image its difference from this one is drawn, and under
            the reference the scale of the differences.
        affine: (4, 4) voxel to RAS mm of the grid; None is a photograph's, diag(-1, -1, 1, 1).
        plane: plane of volumes.
        index: slice; by default the middle one.
        window: intensities that are black and white; by default the percentiles of `trace_figure`, over all.
        title: above the figure.

    Returns:
        A figure for `save_figure`. A dash stands for what a case does not have.

    Raises:
        ValueError: if there is nothing to draw, the grids differ or a case lacks the reference.
    """
    names = list(dict.fromkeys(name for images in rows.values() for name in images))
    shapes = {tuple(image.shape[1:]) for images in rows.values() for image in images.values()}
    if not names:
        raise ValueError("rows: expected at least one case with one image, received none")
    if len(shapes) > 1:
        raise ValueError(f"rows: expected images of one grid, received {sorted(shapes)}; draw a figure for each")
    for case, images in rows.items():
        if reference is not None and reference not in images:
            raise ValueError(f"reference: case {case!r} has no {reference!r}, only {', '.join(images)}")
    affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0])) if affine is None else affine
    view = view_of(affine, shapes.pop(), plane, index)
    shown = {case: {name: anatomy(view, image) for name, image in images.items()} for case, images in rows.items()}
    differences = {
        case: {
            name: view.page(image - images[reference]).mean(-1) for name, image in images.items() if name != reference
        }
        for case, images in rows.items()
        if reference is not None
    }
    low, high = window or window_of([pixels for images in shown.values() for pixels in images.values()])
    limit = limit_of([pixels for images in differences.values() for pixels in images.values()])

    height, width = next(iter(next(iter(shown.values())).values())).shape[:2]
    ratio = height * view.aspect / width
    lines = len(rows) * (2 if reference is not None else 1)
    figure = Figure(
        figsize=(
            _PANEL_INCHES * len(names) + 0.3,
            _PANEL_INCHES * ratio * lines + (0.7 if title else 0.4),
        ),
        layout="constrained",
    )
    axes = figure.subplots(lines, len(names), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (case, pictures) in enumerate(shown.items()):
        top = row * (2 if reference is not None else 1)
        for column, name in enumerate(names):
            if row == 0:
                axes[0, column].set_title(name, **TEXT)
            if name in pictures:
                show_anatomy(axes[top, column], pictures[name], view, low, high)
            else:
                show_nothing(axes[top, column])
            if name in differences.get(case, {}):
                show_change(axes[top + 1, column], differences[case][name], view, limit)
            elif name == reference:
                difference_scale(axes[top + 1, column], limit)
            elif reference is not None:
                show_nothing(axes[top + 1, column])
        show_row_label(axes[top, 0], case)
        if reference is not None:
            show_row_label(axes[top + 1, 0], f"minus {reference}")
    show_letters(axes[0, list(names).index(next(iter(next(iter(shown.values())))))], view)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 200) -> Path:
    """Write a figure as PNG, PDF or SVG, by the path's suffix.

    Args:
        figure: what to write.
        path: its folder is created if missing; the file appears complete or not at all.
        dpi: pixels per inch of a PNG and of the pictures inside the others.

    Returns:
        The path. The same figure gives the same bytes: no date is written.

    Raises:
        ValueError: if the suffix is not one of these.
    """
    target = Path(path)
    check_choice("path's suffix", target.suffix, SUFFIXES)
    undated: dict[str, dict[str, Any]] = {
        ".png": {"Software": None},
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
    }
    with atomic_file(target, make_parents=True) as temporary:
        figure.savefig(temporary, dpi=dpi, facecolor="white", metadata=undated[target.suffix])
    return target


def _source_on_target_grid(trace: Trace) -> Tensor:
    """The source as it is, read where the target's voxels lie."""
    if trace.same_grid:
        return trace.source
    grid = identity_grid(trace.image.shape[1:], device=trace.source.device, dtype=torch.float64)
    to_source = torch.linalg.solve(trace.source_affine, trace.affine)
    dims = trace.spatial_dims
    points = torch.einsum("ij,j...->i...", to_source[:dims, :dims], grid)
    points = points + to_source[:dims, 3].reshape(dims, *(1,) * dims)
    return sample(trace.source[None], points[None].float(), padding_mode="zeros")[0]


def _edge_overlay(view: View, warped: Tensor, image: Tensor) -> np.ndarray:
    """Edges as light: blue for the warped source, orange for the prediction, together white."""
    page = 0.0
    for picture, color in ((warped, EDGES_WARPED), (image, EDGES_IMAGE)):
        strength = view.page(sobel_magnitude(picture[None])[0])[..., 0]
        bright = float(np.percentile(strength, 99))
        strength = np.clip(strength / bright, 0, 1) if bright > 0 else strength
        page = page + strength[..., None] * color
    return np.clip(page, 0, 1)


def _draw_panels(
    panels: Sequence[Panel],
    view: View,
    window: tuple[float, float] | None,
    columns: int,
    grid_step: float | None,
    title: str | None,
    image_name: str,
) -> Figure:
    images = [panel for panel in panels if panel.kind == "image"]
    windows = {
        unit: window or window_of([panel.pixels for panel in images if panel.unit == unit])
        for unit in {panel.unit for panel in images}
    }
    limit = limit_of([panel.pixels for panel in panels if panel.kind == "change"])
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    columns = -(-len(panels) // rows)
    height, width = panels[0].pixels.shape[:2]
    ratio = height * view.aspect / width
    figure = Figure(
        figsize=(_PANEL_INCHES * columns, (_PANEL_INCHES * ratio + 0.32) * rows + (0.65 if title else 0.35)),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.02),
    )
    axes = panel_axes(figure, len(panels), columns)
    for axis, panel in zip(axes, panels):
        axis.set_axis_off()
        name = panel.title + (panel.unit and f", {panel.unit}")
        axis.set_title(name if len(name) <= _LONGEST_TITLE else name.replace(", ", ",\n", 1), **TEXT, pad=3)
        if panel.kind == "image":
            show_anatomy(axis, panel.pixels, view, *windows[panel.unit])
            if panel.lines is not None:
                show_lines(axis, panel.lines, grid_step)
        elif panel.kind == "edges":
            _show_edges(axis, panel.pixels, view, image_name)
        elif panel.kind == "amount":
            most = float(panel.pixels.max())
            picture: ScalarMappable = axis.imshow(
                panel.pixels, cmap=AMOUNT, vmin=0.0, vmax=most or 1.0, aspect=view.aspect
            )
            color_bar(axis, picture)
        else:
            picture = show_change(axis, panel.pixels, view, limit)
            color_bar(axis, picture)
    show_letters(axes[0], view)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _show_edges(axis: Axes, pixels: np.ndarray, view: View, image_name: str) -> None:
    axis.imshow(pixels, aspect=view.aspect)
    for text, color, x, side in (("warped", EDGES_WARPED, 0.03, "left"), (image_name, EDGES_IMAGE, 0.97, "right")):
        box = {"facecolor": "black", "edgecolor": "none", "alpha": 0.7, "pad": 0.8}
        style: dict[str, Any] = {"fontsize": 7, "va": "bottom", "transform": axis.transAxes, "bbox": box}
        axis.text(x, 0.02, text, color=tuple(color), ha=side, **style)
