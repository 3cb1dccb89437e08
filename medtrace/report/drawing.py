"""Drawing helpers for figures of traces: images of a slice, and their placement on matplotlib axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from medtrace.fields import identity_grid
from medtrace.report.view import View
from medtrace.trace import Trace

AMOUNT, CHANGE = "cividis", "PuOr_r"
GRID_COLOR = "#F0B429"
LONGEST = 0.3
"""Maximum fraction of a panel's width that a scale bar takes."""
TEXT: dict[str, Any] = {"fontsize": 9}


def panel_axes(figure: Figure, count: int, columns: int, *, share_x: bool = False) -> list[Axes]:
    """Axes row by row, the last row in the middle of the page where it is shorter: no cell stays empty.

    Args:
        figure: the figure to which they are added.
        count: number of panels.
        columns: panels per row at most; rows are filled evenly.
        share_x: whether they share their horizontal axis.

    Example:
        >>> axes = panel_axes(Figure(), 7, 5)
        >>> len(axes), axes[0].get_subplotspec().get_gridspec().ncols // 2
        (7, 4)
    """
    rows = -(-count // columns)
    columns = -(-count // rows)
    grid = figure.add_gridspec(rows, 2 * columns)  # half a panel wide, so that a shorter row can be moved by halves
    axes: list[Axes] = []
    for row in range(rows):
        own = min(columns, count - row * columns)
        for place in range(own):
            start = columns - own + 2 * place
            shared = axes[0] if share_x and axes else None
            axes.append(figure.add_subplot(grid[row, start : start + 2], sharex=shared))
    return axes


def anatomy(view: View, image: Tensor) -> np.ndarray:
    """Pixels of three channels as color, else of the first channel."""
    pixels = view.page(image)
    return pixels if pixels.shape[-1] == 3 else pixels[..., 0]


def grid_lines(view: View, trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """The position of every pixel's pulled point along the page's two axes, in mm from the grid's center."""
    dims = trace.spatial_dims
    shape = trace.image.shape[1:]
    place = identity_grid(shape, device=trace.ddf.device) + trace.ddf
    spacing = torch.linalg.vector_norm(trace.affine[:3, :dims], dim=0)
    lines = []
    for axis in (view.horizontal, view.vertical):
        lines.append(view.page(((place[axis] - (shape[axis] - 1) / 2) * float(spacing[axis]))[None])[..., 0])
    return lines[0], lines[1]


def window_of(pictures: Sequence[np.ndarray]) -> tuple[float, float]:
    """Black and white: the .5 and 99.5 percentiles of pictures together."""
    values = np.concatenate([picture.ravel() for picture in pictures])
    low, high = np.percentile(values, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def limit_of(pictures: Sequence[np.ndarray]) -> float:
    """The value at the ends of a diverging color map: the 99.5 percentile of all absolute changes; 0 without any."""
    if not pictures:
        return 0.0
    sizes = np.abs(np.concatenate([picture.ravel() for picture in pictures]))
    return float(np.percentile(sizes, 99.5)) or float(sizes.max()) or 1.0


def show_anatomy(axis: Axes, pixels: np.ndarray, view: View, low: float, high: float) -> None:
    """Draw gray or color between black and white of a window."""
    if pixels.ndim == 3:
        axis.imshow(np.clip((pixels - low) / (high - low), 0, 1), aspect=view.aspect)
    else:
        axis.imshow(pixels, cmap="gray", vmin=low, vmax=high, aspect=view.aspect)


def show_change(axis: Axes, pixels: np.ndarray, view: View, limit: float) -> ScalarMappable:
    """Draw a signed change, white at 0."""
    return axis.imshow(pixels, cmap=CHANGE, vmin=-limit, vmax=limit, aspect=view.aspect)


def show_lines(axis: Axes, lines: tuple[np.ndarray, np.ndarray], step: float | None) -> None:
    """Draw the lines of `grid_lines` every `step` mm, by default a twentieth of the longer side."""
    spans = [float(place.max() - place.min()) for place in lines]
    step = max(spans) / 20 if step is None else step
    for place in lines:
        first, last = np.ceil(place.min() / step), np.floor(place.max() / step)
        levels = np.arange(first, last + 1) * step
        if min(place.shape) > 1 and len(levels):
            axis.contour(place, levels=levels, colors=GRID_COLOR, linewidths=0.6, linestyles="solid")


def color_bar(axis: Axes, picture: ScalarMappable) -> None:
    """A color bar below the panel that takes nothing of its size."""
    place = axis.inset_axes((0.08, -0.09, 0.84, 0.045))
    bar = axis.figure.colorbar(picture, cax=place, orientation="horizontal")
    bar.ax.tick_params(labelsize=7, length=2, pad=1)
    bar.locator = MaxNLocator(nbins=4, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.outline.set_linewidth(0.4)


def difference_scale(axis: Axes, limit: float) -> None:
    """The scale of signed differences, in a panel that would be empty."""
    if limit <= 0:
        show_nothing(axis)
        return
    bar = axis.figure.colorbar(
        ScalarMappable(Normalize(-limit, limit), CHANGE),
        cax=axis.inset_axes((0.1, 0.46, 0.8, 0.08)),
        orientation="horizontal",
        extend="both",
    )
    bar.ax.tick_params(labelsize=7, length=2, pad=1)
    bar.locator = MaxNLocator(nbins=4, steps=[1, 2, 5, 10])
    bar.update_ticks()
    bar.outline.set_linewidth(0.4)
    axis.text(0.5, 0.6, "difference", ha="center", va="bottom", transform=axis.transAxes, fontsize=8)


def show_nothing(axis: Axes) -> None:
    """A dash for a picture that there is not."""
    axis.text(0.5, 0.5, "–", ha="center", va="center", color="0.5", fontsize=12, transform=axis.transAxes)


def show_letters(axis: Axes, view: View, color: str = "white") -> None:
    """Body directions at the four edges of a panel, and a scale bar; of photographs the bar alone, in pixels."""
    around = "white" if color == "black" else "black"
    outline = [withStroke(linewidth=1.5, foreground=around)]
    style: dict[str, Any] = {"color": color, "fontsize": 8, "fontweight": "bold", "path_effects": outline}
    style["transform"] = axis.transAxes
    if not view.photograph:
        left, right, top, bottom = view.letters
        axis.text(0.03, 0.5, left, ha="left", va="center", **style)
        axis.text(0.97, 0.5, right, ha="right", va="center", **style)
        axis.text(0.5, 0.97, top, ha="center", va="top", **style)
        axis.text(0.5, 0.03, bottom, ha="center", va="bottom", **style)
    first, last = sorted(axis.get_xlim())
    pixels = last - first
    size = round_length(LONGEST * pixels * view.pixel_width)
    fraction = size / view.pixel_width / pixels
    axis.plot(
        [0.96 - fraction, 0.96],
        [0.04, 0.04],
        color=color,
        linewidth=2,
        transform=axis.transAxes,
        path_effects=outline,
    )
    axis.text(
        0.96 - fraction / 2, 0.055, f"{size:g} {'px' if view.photograph else 'mm'}", ha="center", va="bottom", **style
    )
    axis.set_xlim(first, last)


def round_length(limit: float) -> float:
    """The longest of 1, 2, 5, 10, 20, ... (or .5, .2, .1, ...) that is at most `limit`.

    Example:
        >>> round_length(72.0), round_length(0.3)
        (50.0, 0.2)
    """
    power = 10.0 ** np.floor(np.log10(limit))
    return float(power * max(step for step in (1, 2, 5) if step * power <= limit * (1 + 1e-9)))


def show_row_label(axis: Axes, text: str) -> None:
    """Write at the left of a row."""
    axis.text(-0.04, 0.5, text, rotation=90, ha="right", va="center", transform=axis.transAxes, **TEXT)
