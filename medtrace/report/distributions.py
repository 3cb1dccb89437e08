"""A chart of every case's values, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medtrace.report.figures import COLORS

_SPREAD = 0.16
"""Of the points about their row's line."""


def distribution_figure(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw the values of cases as points over a box, one panel a measure, rows from top to bottom.

    Args:
        panels: title of a measure → name of a row → finite values, one per case. Rows share their order and color in
            all panels; a panel whose measure a row does not have leaves its line empty.

    Returns:
        A figure for `save_figure`, with two panels side by side.

    Raises:
        ValueError: if there is no value.

    Example:
        >>> figure = distribution_figure({"MAE": {"run": [1.0, 2.0, 4.0], "identity": [3.0, 5.0]}})
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['run', 'identity']
    """
    rows = list(dict.fromkeys(row for panel in panels.values() for row in panel))
    if not any(len(values) for panel in panels.values() for values in panel.values()):
        raise ValueError("panels: expected values, received none")
    count = len(panels)
    across = 1 if count == 1 else 2
    down = -(-count // across)
    figure = Figure(figsize=(8.4, (0.3 * len(rows) + 0.75) * down), layout="constrained")
    grid = figure.add_gridspec(down, across)
    for number, (title, panel) in enumerate(panels.items()):
        last_alone = number == count - 1 and count % across
        axis = figure.add_subplot(grid[number // across, :] if last_alone else grid[number // across, number % across])
        for place, row in enumerate(rows):
            values = np.asarray(panel.get(row, ()), dtype=float)
            if not len(values):
                continue
            color = COLORS[place % len(COLORS)]
            axis.boxplot(
                values,
                positions=[place],
                orientation="horizontal",
                widths=0.6,
                showfliers=False,
                manage_ticks=False,
                medianprops={"color": "black", "linewidth": 1.4},
                boxprops={"color": "0.55"},
                whiskerprops={"color": "0.55"},
                capprops={"color": "0.55"},
            )
            heights = place + np.random.default_rng(place).uniform(-_SPREAD, _SPREAD, len(values))
            axis.scatter(values, heights, s=9, color=color, alpha=0.65, linewidths=0, zorder=3)
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(title, fontsize=9)
        axis.tick_params(axis="x", labelsize=8)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.grid(True, axis="x", color="0.9", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure
