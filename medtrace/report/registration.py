"""Figures of registrations: how intensity and space share the change, and labels carried to the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from medtrace.report.drawing import color_bar, show_change, show_letters
from medtrace.report.figures import COLORS
from medtrace.report.view import PlaneName, View, view_of
from medtrace.trace import Trace

LESION_COLOR = "#D55E00"
LABEL_COLORS = tuple(color for color in COLORS if color not in (LESION_COLOR, "#000000"))
_INCHES = 1.9
_TEXT: dict[str, Any] = {"fontsize": 9}


def metamorphosis_figure(cases: Mapping[str, tuple[Trace, Tensor]], title: str | None = None) -> Figure:
    """Draw how intensity and space share the change, one case a row (MetaRegNet, Figure 3).

    Columns: source I0, target I1, mask M, change of intensity q·M, deformed source φ·I0, the final image. Images of a
    case share one window; the change of intensity is white where there is none.

    Args:
        cases: name → trace with a mask, source and target on one grid, and the target (C, *spatial) in its units.
        title: above the figure.

    Returns:
        A figure for `save_figure`; of volumes the axial slice with the most of the mask.

    Raises:
        ValueError: if there is no case, a trace has no mask, or a target's shape is not its image's.
    """
    if not cases:
        raise ValueError("cases: expected at least one, received none")
    names = ("source I0", "target I1", "mask M", "intensity q·M", "warped φ·I0", "final")
    figure = Figure(figsize=(_INCHES * len(names), _INCHES * 1.15 * len(cases) + 0.5), layout="constrained")
    axes = figure.subplots(len(cases), len(names), squeeze=False)
    for row, (case, (trace, target)) in zip(axes, cases.items()):
        if trace.mask is None or trace.appearance is None:
            raise ValueError(f"cases: expected traces with a mask, received none in {case!r}")
        if target.shape != trace.image.shape:
            raise ValueError(
                f"cases: {case!r}: expected a target of shape {tuple(trace.image.shape)}, received"
                f" {tuple(target.shape)}"
            )
        view = view_of(trace.affine, trace.image.shape[1:], voxel_weight=trace.mask[0])
        low, high = _window(target)
        for axis, image in zip(row[[0, 1, 4, 5]], (trace.source, target, trace.warped, trace.image)):
            _show(axis, view, image, low, high)
        _show(row[2], view, trace.mask, 0.0, 1.0)
        limit = float(trace.appearance.abs().max()) or 1.0
        changed = show_change(row[3], view.page(trace.appearance)[..., 0], view, limit)
        row[0].set_ylabel(case, **_TEXT)
        show_letters(row[0], view)
        color_bar(row[3], changed)
    for axis, name in zip(axes[0], names):
        axis.set_title(name, **_TEXT)
    _bare(axes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def overlay_figure(
    trace: Trace,
    target: Tensor,
    labels: Tensor | None = None,
    lesion: Tensor | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a registration with contours: what was carried over, on target and on source.

    Columns: target, warped source, final image, and the field's grid on the warped source; rows: of volumes an axial, a
    coronal and a sagittal plane through the lesion. Each image has its own window.

    Args:
        trace: trace of the registration.
        target: (C, *spatial) on the target's grid, in its own units.
        labels: (1, *spatial) integers on the target's grid, such as `trace.transfer` gives; a contour for each but 0.
        lesion: (1, *spatial) on the target's grid, not zero inside; by default the trace's mask.
        title: above the figure.

    Returns:
        A figure for `save_figure`.

    Raises:
        ValueError: if an image is not on the target's grid.
    """
    lesion = trace.mask if lesion is None else lesion
    for name, value in (("target", target), ("labels", labels), ("lesion", lesion)):
        if value is not None and value.shape[1:] != trace.image.shape[1:]:
            raise ValueError(
                f"{name}: expected the target's grid {tuple(trace.image.shape[1:])}, received {tuple(value.shape[1:])}"
            )
    planes: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal") if trace.spatial_dims == 3 else ("axial",)
    weight = None if lesion is None or not bool((lesion != 0).any()) else (lesion[0] != 0).float()
    columns = {"target": target, "warped source": trace.warped, "final": trace.image, "deformation": trace.warped}
    figure = Figure(figsize=(2.6 * len(columns), 2.9 * len(planes) + 0.4), layout="constrained")
    axes = figure.subplots(len(planes), len(columns), squeeze=False)
    for row, plane in zip(axes, planes):
        view = view_of(trace.affine, trace.image.shape[1:], plane, voxel_weight=weight)
        for axis, (name, image) in zip(row, columns.items()):
            _show(axis, view, image, *_window(image))
            if name == "deformation":
                _grid(axis, view, trace)
                continue
            for number, color in _label_colors(labels):
                _contour(axis, view, labels == number if labels is not None else None, color)
            _contour(axis, view, lesion, LESION_COLOR)
        show_letters(row[0], view)
    for axis, name in zip(axes[0], columns):
        axis.set_title(name, **_TEXT)
    _bare(axes)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _window(image: Tensor) -> tuple[float, float]:
    values = image.detach().cpu().float().numpy()
    inside = values[values > values.min()]
    low, high = np.percentile(inside if inside.size else values, [0.5, 99.5])
    low = min(float(low), float(values.min()))
    return (low, float(high)) if high > low else (low, low + 1.0)


def _show(axis: Axes, view: View, image: Tensor, low: float, high: float) -> None:
    axis.imshow(view.page(image)[..., 0], cmap="gray", vmin=low, vmax=high, aspect=view.aspect)


def _bare(axes: np.ndarray) -> None:
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)


def _label_colors(labels: Tensor | None) -> list[tuple[int, str]]:
    if labels is None:
        return []
    numbers = [int(number) for number in torch.unique(labels) if number != 0]
    return [(number, LABEL_COLORS[index % len(LABEL_COLORS)]) for index, number in enumerate(numbers)]


def _contour(axis: Axes, view: View, region: Tensor | None, color: str) -> None:
    if region is None:
        return
    page = view.page((region != 0).float())[..., 0]
    if page.max() > page.min():
        axis.contour(page, levels=[0.5], colors=color, linewidths=0.7)


def _grid(axis: Axes, view: View, trace: Trace) -> None:
    """Lines of the source's grid where the field brings them."""
    shape = trace.image.shape[1:]
    for along in (view.horizontal, view.vertical):
        places = torch.arange(shape[along], dtype=torch.float32).reshape(
            [-1 if a == along else 1 for a in range(len(shape))]
        )
        page = view.page((places + trace.ddf[along].cpu())[None])[..., 0]
        axis.contour(
            page, levels=np.arange(0, shape[along], max(shape[along] // 24, 2)), colors="#F0B429", linewidths=0.4
        )
