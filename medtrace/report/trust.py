"""A figure of what to believe of a translation: its intervals, and the change that nothing explains."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from medtrace.report.drawing import AMOUNT, color_bar, limit_of, show_anatomy, show_change, show_letters, window_of
from medtrace.report.view import PlaneName, view_of
from medtrace.trace import Trace


def trust_figure(trace: Trace, *, plane: PlaneName = "axial", index: int | None = None) -> Figure:
    """Warped source, translation, half width of its interval, and the trust map with marked change outlined.

    The trust map is the residual of the trace's ledger: the translation minus what field and contrast explain.

    Args:
        trace: with `interval` and `unexplained` (see `medtrace calibrate intensity`).
        plane: plane of a volume.
        index: index of the slice; None takes the one where most is marked.

    Raises:
        ValueError: if the trace has no interval.

    Example:
        >>> from dataclasses import replace
        >>> import torch
        >>> image = torch.rand(1, 16, 16)
        >>> trace = Trace.build(image, 1 - image, torch.zeros(2, 16, 16))
        >>> told = replace(trace, interval=torch.full_like(image, 0.1), unexplained=torch.zeros_like(image))
        >>> len(trust_figure(told).axes) > 3
        True
    """
    residual = trace.ledger().residual
    if trace.interval is None or trace.unexplained is None or residual is None:
        raise ValueError(
            "trace: expected an interval, marks and a residual, received a trace without them; calibrate its run with"
            " `medtrace calibrate intensity` and translate again"
        )
    view = view_of(trace.affine, tuple(trace.image.shape[1:]), plane, index, trace.unexplained[0])
    shape = trace.image.shape[1:]
    height = 3.2 * shape[view.vertical] * view.aspect / shape[view.horizontal] + 0.8
    figure = Figure(figsize=(13, height), layout="constrained")
    axes = figure.subplots(1, 4)
    for axis, image, title in zip(axes, (trace.warped, trace.image), ("warped source", "translation")):
        pixels = view.page(image)[..., 0]
        show_anatomy(axis, pixels, view, *window_of([pixels]))
        axis.set_title(title, fontsize=9)
    half = view.page(trace.interval)[..., 0]
    drawn = axes[2].imshow(half, cmap=AMOUNT, vmin=0, vmax=float(np.percentile(half, 99.5)), aspect=view.aspect)
    color_bar(axes[2], drawn)
    axes[2].set_title("half width of the interval", fontsize=9)
    change = view.page(residual)[..., 0]
    limit = limit_of([change]) or 1.0
    color_bar(axes[3], show_change(axes[3], change, view, limit))
    marks = view.page(trace.unexplained)[..., 0]
    if marks.max() > 0.5:
        axes[3].contour(marks, [0.5], colors="#D00000", linewidths=1.2)
    axes[3].set_title("trust map; red: marked", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    show_letters(axes[0], view)
    return figure
