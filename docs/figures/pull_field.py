"""Draw the example of a pull field in the conventions: what `ddf` points at and what `warp` reads there.

python docs/figures/pull_field.py docs/images/pull_field.png
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure

from medtrace.fields import identity_grid, warp
from medtrace.report import save_figure

SIZE = 10
POINT = (6, 5)
BLUE, ORANGE = "#0072B2", "#D55E00"


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a source with one bright block, a pull field, and the warped source."""
    source = torch.zeros(1, 1, SIZE, SIZE)
    source[0, 0, 2:5, 3:6] = torch.tensor([[0.5, 0.7, 0.5], [0.7, 1.0, 0.7], [0.5, 0.7, 0.5]])
    grid = identity_grid((SIZE, SIZE))
    nearness = torch.exp(-((grid[0] - POINT[0]) ** 2 + (grid[1] - POINT[1]) ** 2) / 18)
    ddf = torch.stack([-3.0 * nearness, -1.0 * nearness])[None]
    return source, ddf, warp(source, ddf)


def draw() -> Figure:
    """Draw source and target side by side, array axis 0 to the right and 1 down."""
    source, ddf, warped = example()
    i, j = POINT
    u, v = (float(ddf[0, axis, i, j]) for axis in (0, 1))
    figure = Figure(figsize=(8.2, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, image in ((left, source), (right, warped)):
        axis.imshow(image[0, 0].T, cmap="Greys", vmin=0, vmax=1.6)
        axis.set_xticks(range(SIZE))
        axis.set_yticks(range(SIZE))
        axis.set_xticks([k - 0.5 for k in range(SIZE)], minor=True)
        axis.set_yticks([k - 0.5 for k in range(SIZE)], minor=True)
        axis.grid(which="minor", color="0.8", linewidth=0.6)
        axis.tick_params(which="both", length=0, labelsize=8)
        axis.set_xlabel("array axis 0", fontsize=9)
        axis.set_ylabel("array axis 1", fontsize=9)
    grid = identity_grid((SIZE, SIZE))
    right.quiver(
        grid[0], grid[1], ddf[0, 0], ddf[0, 1], angles="xy", scale_units="xy", scale=1, color=BLUE, width=0.005
    )
    right.plot(i, j, "o", color=ORANGE, markersize=8)
    arrow = {"arrowstyle": "->", "color": ORANGE, "linewidth": 1.8, "shrinkA": 4, "shrinkB": 4}
    left.annotate("", (i + u, j + v), (i, j), arrowprops=arrow)
    left.plot(i, j, "o", markerfacecolor="none", color=ORANGE, markersize=8)
    left.plot(i + u, j + v, "o", color=ORANGE, markersize=8)
    number = "{:.1f}".format
    value = f"{float(warped[0, 0, i, j]):.2f}"
    left.set_title(f"source grid\np + ddf(p) = ({number(i + u)}, {number(j + v)}), source there = {value}", fontsize=10)
    right.set_title(
        f"target grid\np = ({i}, {j}), ddf(p) = ({number(u)}, {number(v)}), warped(p) = {value}", fontsize=10
    )
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="PNG, PDF or SVG to write")
    save_figure(draw(), parser.parse_args().path, dpi=110)
