"""A chart of lines as SVG that stands in a page, light enough to be drawn anew at every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from matplotlib.ticker import MaxNLocator

from medtrace.report.figures import COLORS

WIDTH, HEIGHT = 340, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 26, 24
_POINTS = 500


def line_chart(title: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Draw lines over epochs.

    Args:
        title: above the chart.
        lines: name → points (epoch, value); values that are not finite are left out, and so are points of long lines
            that are too close to distinguish.

    Returns:
        An `<svg>` element.
    """
    kept = {name: _thinned([p for p in points if math.isfinite(p[1])]) for name, points in lines.items()}
    kept = {name: points for name, points in kept.items() if points}
    everything = [point for points in kept.values() for point in points]
    if not everything:
        return ""
    across = _Axis([x for x, _ in everything], _LEFT, WIDTH - _RIGHT, integer=True)
    down = _Axis([y for _, y in everything], HEIGHT - _BOTTOM, _TOP)
    parts = [
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        f'<text x="{_LEFT}" y="15" class="title">{escape(title)}</text>',
    ]
    for value in down.ticks:
        y = down.place(value)
        parts.append(f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 3.5:.1f}" text-anchor="end">{value:.5g}</text>')
    for value in across.ticks:
        parts.append(f'<text x="{across.place(value):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{value:.0f}</text>')
    for color, (name, points) in zip(COLORS * (len(kept) // len(COLORS) + 1), kept.items()):
        places = [(across.place(x), down.place(y)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        (x, y), (epoch, last) = places[-1], points[-1]
        told = escape(f"{name}: {last:.5g} at epoch {epoch:.0f}")
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="1.6"/>')
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"><title>{told}</title></circle>')
    parts.append("</svg>")
    return "".join(parts) + (_legend(list(kept)) if len(kept) > 1 else "")


class _Axis:
    """Mapping of values to positions between two points on the page, with round tick values."""

    def __init__(self, values: Sequence[float], start: float, end: float, integer: bool = False) -> None:
        low, high = min(values), max(values)
        if low == high:
            low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
        self.low, self.high, self.start, self.end = low, high, start, end
        ticks = MaxNLocator(4, integer=integer).tick_values(low, high)
        self.ticks = [float(tick) for tick in ticks if low <= tick <= high]

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _POINTS)
    return [*points[: -1 : max(1, step)], points[-1]] if points else []


def _legend(names: Sequence[str]) -> str:
    keys = zip(COLORS * (len(names) // len(COLORS) + 1), names)
    return (
        '<p class="legend">'
        + " ".join(f'<span><i style="background:{color}"></i>{escape(name)}</span>' for color, name in keys)
        + "</p>"
    )
