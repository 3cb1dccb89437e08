"""Charts of trainings and of series of results."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medtrace.checks import check_choice
from medtrace.metrics import Summary
from medtrace.report.drawing import panel_axes
from medtrace.report.figures import COLORS
from medtrace.report.tables import read_rows

Spread = Literal["ci", "sd", "none"]
_MARKERS = "osD^vPX*"


def curve_figure(
    histories: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]],
    terms: Sequence[str] | None = None,
    *,
    columns: int = 4,
    title: str | None = None,
) -> Figure:
    """Draw a training's loss terms over its epochs, one panel each.

    Args:
        histories: the `history.csv` of a run (its first column is "epoch"), or run name → file, drawn together.
        terms: columns to draw; by default all.
        columns: panels per row.
        title: above the figure.

    Returns:
        A figure for `save_figure`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file contains no epoch, or no file contains a term.
    """
    files = {"": histories} if isinstance(histories, (str, os.PathLike)) else dict(histories)
    tables = {name: _history(Path(path)) for name, path in files.items()}
    known = list(dict.fromkeys(key for rows in tables.values() for key in rows[0] if key != "epoch"))
    terms = known if terms is None else list(terms)
    for term in terms:
        check_choice("terms", term, known)
    columns = min(columns, len(terms))
    lines = -(-len(terms) // columns)
    figure = Figure(figsize=(2.3 * columns, 1.7 * lines + 0.4), layout="constrained")
    axes = panel_axes(figure, len(terms), columns, share_x=True)
    for axis, term in zip(axes, terms):
        for color, (name, rows) in zip(COLORS, tables.items()):
            points = [(row["epoch"], row[term]) for row in rows if row.get(term) is not None]
            if points:
                axis.plot(*zip(*points), color=color, linewidth=1.2, label=name)
        axis.set_title(term.replace("_", " "), fontsize=9, loc="right")  # a power of ten stands on the left
        _plain_axis(axis)
        axis.ticklabel_format(axis="y", useOffset=False)
        axis.yaxis.get_offset_text().set_fontsize(8)
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.set_xlabel("epoch", fontsize=8)
    if len(tables) > 1:
        handles = {str(h.get_label()): h for axis in axes for h in axis.get_lines()}
        figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside lower center",
            ncols=len(handles),
            fontsize=8,
            frameon=False,
        )
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def sensitivity_figure(
    rows: Sequence[Mapping[str, Any]],
    parameter: str,
    measures: Sequence[str] | Mapping[str, str],
    *,
    series: str | None = None,
    label: str | None = None,
    better: Mapping[str, Literal["min", "max"]] | None = None,
    spread: Spread = "ci",
    logarithmic: bool = False,
    title: str | None = None,
) -> Figure:
    """Draw measures against a parameter, such as TraceTrans's α or γ: one panel per measure.

    Args:
        rows: one mapping per value of the parameter, as `read_rows` gives them; a measure is a number or a `Summary`.
        parameter: key of the parameter.
        measures: keys of the measures, or key → label.
        series: key of a name, such as the method's: rows of one name are joined by their own line.
        label: label of the parameter's axis; by default its key.
        better: key → "min" or "max": the best value of a line gets a ring, and the label an arrow.
        spread: what the bars are: "ci" (mean ± 1.96·SD/√n), "sd", or "none".
        logarithmic: spread the parameter's axis by its logarithm, for values of several magnitudes.
        title: above the figure.

    Returns:
        A figure for `save_figure`.

    Raises:
        ValueError: if there are no rows, or one lacks the parameter, a measure or the series' name.
    """
    check_choice("spread", spread, ("ci", "sd", "none"))
    names = dict(measures) if isinstance(measures, Mapping) else {key: key.replace("_", " ") for key in measures}
    rows = _by_parameter(rows, parameter, [*names, *([] if series is None else [series])])
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        lines.setdefault("" if series is None else str(row[series]), []).append(row)
    figure = Figure(figsize=(2.6 * len(names), 2.3 if series is None else 2.7), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, (key, name) in zip(axes, names.items()):
        direction = (better or {}).get(key)
        if direction is not None:
            check_choice("better", direction, ("min", "max"))
            name += " ↓" if direction == "min" else " ↑"
        for place, (text, line) in enumerate(lines.items()):
            style = {"color": COLORS[place % len(COLORS)], "marker": _MARKERS[place % len(_MARKERS)], "label": text}
            _draw_line(axis, line, parameter, key, spread, direction, style)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel(label or parameter, fontsize=9)
        values = sorted({float(row[parameter]) for row in rows})
        if logarithmic:
            axis.set_xscale("log")
        axis.set_xticks(values, labels=[f"{value:g}" for value in values])
        axis.minorticks_off()
        _plain_axis(axis)
    if series is not None:
        handles, texts = axes[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside lower center", ncols=len(texts), fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _draw_line(
    axis: Axes,
    rows: Sequence[Mapping[str, Any]],
    parameter: str,
    key: str,
    spread: Spread,
    direction: str | None,
    style: Mapping[str, Any],
) -> None:
    x = [float(row[parameter]) for row in rows]
    means = np.array([_mean(row[key]) for row in rows])
    bars = np.array([_half_width(row[key], spread) for row in rows])
    axis.errorbar(x, means, yerr=bars if bars.any() else None, markersize=4, capsize=2, **style)
    if direction is not None:
        top = int(np.nanargmin(means) if direction == "min" else np.nanargmax(means))
        axis.plot(
            x[top], means[top], "o", markersize=9, markerfacecolor="none", markeredgecolor=COLORS[5], label="_best"
        )


def method_figure(
    rows: Sequence[Mapping[str, Any]],
    measures: Sequence[str] | Mapping[str, str],
    *,
    name: str = "method",
    better: Mapping[str, Literal["min", "max"]] | None = None,
    spread: Spread = "ci",
    title: str | None = None,
) -> Figure:
    """Draw measures of methods as points with bars, one panel per measure, methods from top to bottom.

    Args:
        rows: one mapping per method; a measure is a number, a `Summary` or None (left out).
        measures: keys of the measures, or key → label.
        name: key of the method's name.
        better: key → "min" or "max", for an arrow in the label.
        spread: as for `sensitivity_figure`.
        title: above the figure.

    Returns:
        A figure for `save_figure`.

    Raises:
        ValueError: if there are no rows, or one lacks its name.
    """
    check_choice("spread", spread, ("ci", "sd", "none"))
    names = dict(measures) if isinstance(measures, Mapping) else {key: key.replace("_", " ") for key in measures}
    for row in rows:
        if name not in row:
            raise ValueError(f"rows: expected {name!r} in every row, received {sorted(row)}")
    if not rows:
        raise ValueError("rows: expected at least one, received none")
    figure = Figure(figsize=(2.2 * len(names) + 1.2, 0.32 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    places = range(len(rows))
    for axis, (key, text) in zip(axes, names.items()):
        for place, row in zip(places, rows):
            cell = row.get(key)
            if cell is not None:
                style = {"color": COLORS[place % len(COLORS)], "marker": _MARKERS[place % len(_MARKERS)]}
                width = _half_width(cell, spread)
                axis.errorbar(_mean(cell), place, xerr=width or None, markersize=5, capsize=2, **style)
        arrow = {"min": " ↓", "max": " ↑", None: ""}[(better or {}).get(key)]
        axis.set_title(text + arrow, fontsize=9)
        axis.set_ylim(len(rows) - 0.5, -0.5)
        _plain_axis(axis)
        axis.xaxis.set_major_locator(MaxNLocator(4))
    axes[0].set_yticks(list(places), [str(row[name]) for row in rows], fontsize=9)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _plain_axis(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.grid(True, color="0.9", linewidth=0.6)
    axis.set_axisbelow(True)


def _history(path: Path) -> list[dict[str, Any]]:
    rows = read_rows(path)
    if not rows or "epoch" not in rows[0]:
        raise ValueError(f"{path}: expected a column 'epoch' and at least one row; is it a training's history.csv?")
    return rows


def _by_parameter(rows: Sequence[Mapping[str, Any]], parameter: str, measures: list[str]) -> list[Mapping[str, Any]]:
    if not rows:
        raise ValueError("rows: expected at least one, received none")
    for row in rows:
        for key in (parameter, *measures):
            if row.get(key) is None:
                raise ValueError(f"rows: expected {key!r} in every row, received {sorted(row)}")
    return sorted(rows, key=lambda row: float(row[parameter]))


def _mean(cell: Any) -> float:
    return cell.mean if isinstance(cell, Summary) else float(cell)


def _half_width(cell: Any, spread: Spread) -> float:
    if not isinstance(cell, Summary) or spread == "none" or not np.isfinite(cell.sd):
        return 0.0
    counted = cell.n - cell.infinite - cell.undefined
    return cell.sd if spread == "sd" else 1.96 * cell.sd / max(counted, 1) ** 0.5
