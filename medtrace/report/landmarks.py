"""A picture of the target registration error of landmarks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from medtrace.report.figures import COLORS

_NAMED = 40
"""Most landmarks whose names are written."""


def error_figure(names: Sequence[str], before: np.ndarray, after: np.ndarray | None) -> Figure:
    """Draw each landmark's error before and after, largest first, beside the cumulative fraction of landmarks.

    Args:
        names: names of N landmarks.
        before: (N,) mm.
        after: (N,) mm, or None.

    Returns:
        A figure for `save_figure`.
    """
    series = [("before", before, "0.6")] + ([] if after is None else [("after", after, COLORS[0])])
    order = np.argsort(before if after is None else after)
    height = min(1.6 + 0.16 * len(names), 9.0)
    figure = Figure(figsize=(7.2, height), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = np.arange(len(names))
    for name, values, color in series:
        left.plot(values[order], rows, "o", color=color, markersize=4, label=name)
        steps = np.concatenate([[0.0], np.sort(values)])
        fraction = np.arange(len(values) + 1) / len(values)
        right.step(steps, fraction, where="post", color=color, label=f"{name}, median {np.median(values):.2f} mm")
    if after is not None:
        left.hlines(rows, before[order], after[order], color="0.85", zorder=0)
    left.set_yticks(rows if len(names) <= _NAMED else [], [names[k] for k in order] if len(names) <= _NAMED else [])
    left.set_ylim(-0.6, len(names) - 0.4)
    left.set_ylabel(None if len(names) <= _NAMED else f"{len(names)} landmarks, sorted")
    right.set_ylabel("fraction of landmarks")
    right.set_ylim(0, 1.02)
    for axis in (left, right):
        axis.set_xlabel("target registration error (mm)")
        axis.set_xlim(left=0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return figure
