"""Draws Dice against seconds and roughness, of the tables on docs/results/registration.md.

python -m tests.benchmarks.registration_figure
"""

from __future__ import annotations

import re
from typing import NamedTuple

from matplotlib.figure import Figure

from medtrace.report import save_figure
from tests.benchmarks.registration_page import PAGE

FIGURE = PAGE.parents[1] / "images" / "registration_speed.png"
PARTS = {"speed-3": "3 mm", "speed-2": "2 mm", "speed-1": "1 mm"}
COLORS = {"medtrace": "#c44e52", "greedy": "#4c72b0"}
ROW = re.compile(r"^\| (\w+), entire \| ([\d.]+) .*?\| [\d.]+ \| ([\d. /]+) \| [\d.]+ \| ([\d. /]+) \|", re.MULTILINE)


class Measured(NamedTuple):
    """A tool at a spacing: processor seconds, mean Dice and standard deviation of log J over the pairs."""

    tool: str
    spacing: str
    seconds: float
    dice: float
    roughness: float


def measured(page: str) -> list[Measured]:
    """The rows of entire calls on one thread."""
    result = []
    for part, spacing in PARTS.items():
        table = page.partition(f"<!-- measured {part} -->")[2].partition("<!-- end -->")[0]
        for tool, seconds, dice, roughness in ROW.findall(table):
            result.append(Measured(tool, spacing, float(seconds), _mean(dice), _mean(roughness)))
    return result


def _mean(cell: str) -> float:
    values = [float(value) for value in cell.split("/")]
    return sum(values) / len(values)


def draw(rows: list[Measured]) -> Figure:
    """A line per tool through its spacings."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, column, label in zip(
        figure.subplots(1, 2, sharey=True), ("seconds", "roughness"), ("processor seconds, entire call", "sd log J")
    ):
        for tool, color in COLORS.items():
            points = [(getattr(row, column), row.dice, row.spacing) for row in rows if row.tool == tool]
            axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", color=color, label=tool)
            for x, y, spacing in points:
                below = -12 if tool == "greedy" else 6
                axes.annotate(
                    spacing, (x, y), (0, below), textcoords="offset points", ha="center", fontsize=8, color=color
                )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_xscale("log")
    figure.axes[0].set_ylabel("Dice of 17 structures")
    figure.axes[0].legend(frameon=False, loc="lower right")
    figure.axes[0].margins(0.12, 0.15)
    figure.axes[1].margins(0.12)
    return figure


if __name__ == "__main__":
    save_figure(draw(measured(PAGE.read_text(encoding="utf-8"))), FIGURE)
