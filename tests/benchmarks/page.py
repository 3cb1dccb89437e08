"""The page of results: the tables between the markers of docs/performance.md, and the plots of scaling."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
IMAGE = "images/performance_scaling.png"
COLORS = ("#c0392b", "#2c3e50", "#2980b9", "#27ae60", "#8e44ad", "#d68910", "#7f8c8d")


def update_page(page: Path, results: dict[str, Any]) -> None:
    """Write the results between the page's markers, and the plot beside it.

    Raises:
        ValueError: if the page has not one pair of markers.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{page}: expected the markers {BEGIN} and {END} once each, in this order; put them back")
    head, rest = text.split(BEGIN)
    parts = [sections(entries, device) for device, entries in results.items() if device != "runs"]
    curves = scaling_curves(results)
    if curves:
        draw_scaling(curves, page.parent / IMAGE)
    body = "\n\n".join([*parts, runs_table(results.get("runs", []))])
    page.write_text(f"{head}{BEGIN}\n\n{body}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def sections(entries: dict[str, Any], device: str) -> str:
    """The parts measured on one kind of device, a section each."""
    where = "" if device == "cpu" else f", {device.upper()}"
    blocks = []
    for entry in entries.values():
        blocks.append(f"## {entry['title']}{where}")
        if entry["text"]:
            blocks.append(entry["text"].strip())
        if any("x" in record for record in entry["records"]):
            blocks.append(f"![Time and memory against size, batch and bins]({IMAGE})")
        blocks.append(table(entry["records"]))
        blocks.append(f"*{described(entry['conditions'])}*")
    return "\n\n".join(blocks)


def described(where: dict[str, Any]) -> str:
    """The conditions of a part in a sentence or two."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items() if number is not None)
    clock = "wall clock" if where["clock"] == "wall" else "processor time of the process"
    quick = " Quick run: sizes and rounds are too small for the figures to mean anything." if where["quick"] else ""
    return (
        f"Commit {where['commit']}; {where['device']}, {where['capability']}, {counted(where['threads'], 'thread')} on"
        f" {where['cores']} cores, load average {where['load']} at the end; {clock}; Python {where['python']};"
        f" {versions}.{quick}"
    )


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(records: list[dict[str, Any]]) -> str:
    """A Markdown table, one row for each measurement; the words of a group stand in its first row."""
    targets = any(name in record for record in records for name in ("target", "target_bytes", "target_seconds"))
    notes = any("note" in record for record in records)
    header = ["operation", "implementation", "median", "middle half", "times as quick", "memory"]
    rates = any("items" in record for record in records)
    header += ["per second"] * rates + ["asked"] * targets + ["note"] * notes
    rules = ["---", "---", "---:", "---:", "---:", "---:", *["---:"] * rates, *["---"] * (targets + notes)]
    rows = [header, rules]
    for (operation, size), group in groupby(records, key=lambda record: (record["operation"], record["size"])):
        words = f"{operation}, {size}"
        for record in group:
            cells = [words, *_cells(record)]
            cells += [significant(record["items"] / record["median_s"]) if "items" in record else ""] * rates
            cells += [asked(record)] * targets + [record.get("note", "")] * notes
            rows.append(cells)
            words = ""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(record: dict[str, Any]) -> list[str]:
    name = f"**{record['peer']}**" if record["ours"] else record["peer"]
    low, high = record["quartiles_s"]
    ratio = f"{significant(record['ratio'])} ×" if "ratio" in record else ""
    return [name, seconds(record["median_s"]), f"{seconds(low)} to {seconds(high)}", ratio, size(record["peak_bytes"])]


def asked(record: dict[str, Any]) -> str:
    """The least speed, the greatest memory and the longest time asked of a row, and whether it keeps them."""
    words = []
    if "target_seconds" in record:
        kept = record["median_s"] <= record["target_seconds"]
        words.append(f"≤ {record['target_seconds'] * 1e3:g} ms: {'yes' if kept else 'no'}")
    if "target" in record:
        words.append(f"≥ {record['target']:g} ×: {'yes' if record['ratio'] >= record['target'] else 'no'}")
    if "target_bytes" in record and record["peak_bytes"] is not None:
        kept = record["peak_bytes"] <= record["target_bytes"]
        words.append(f"≤ {size(record['target_bytes'])}: {'yes' if kept else 'no'}")
    return ", ".join(words)


def seconds(value: float) -> str:
    """A time with three significant digits in the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale or unit == "µs":
            return f"{significant(value / scale)} {unit}"
    raise AssertionError("unreachable")


def size(value: int | None) -> str:
    """Bytes in MiB, or GiB from 1000 MiB."""
    if value is None:
        return ""
    mebibytes = value / 2**20
    return f"{mebibytes / 1024:.1f} GiB" if mebibytes >= 1000 else f"{mebibytes:.0f} MiB"


def significant(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def runs_table(runs: list[dict[str, Any]]) -> str:
    """Whole commands, commit by commit."""
    if not runs:
        return ""
    rows = ["| command | commit | wall | processor | threads | load | machine |", "|---|---|---:|---:|---:|---:|---|"]
    for run in sorted(runs, key=lambda run: str(run["command"])):
        rows.append(
            f"| `{run['command']}` | {run['commit']} | {seconds(run['wall_s'])} | {seconds(run['processor_s'])} |"
            f" {run['threads']} | {run['load']} | {run['device']}, torch {run['torch']} |"
        )
    return "## Whole commands\n\n" + "\n".join(rows)


def scaling_curves(results: dict[str, Any]) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Records with an x, by operation and peer, in the order of x."""
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for entry in results.get("cpu", {}).values():
        for record in entry["records"]:
            if "x" in record:
                curves.setdefault(record["operation"], {}).setdefault(record["peer"], []).append(record)
    for peers in curves.values():
        for points in peers.values():
            points.sort(key=lambda record: record["x"])
    return curves


def draw_scaling(curves: dict[str, dict[str, list[dict[str, Any]]]], path: Path) -> None:
    """Four operations side by side, time above and memory below, both axes logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = sorted(
        {peer for peers in curves.values() for peer in peers}, key=lambda peer: ("medtrace" not in peer, peer)
    )
    color = {name: COLORS[number % len(COLORS)] for number, name in enumerate(names)}
    across = min(4, len(curves))
    blocks = -(-len(curves) // across)
    figure, axes = plt.subplots(2 * blocks, across, figsize=(3.1 * across + 0.4, 4.9 * blocks + 0.5), squeeze=False)
    for number, (operation, peers) in enumerate(curves.items()):
        above, below = axes[2 * (number // across) :, number % across][:2]
        for peer, points in peers.items():
            at = [point["x"] for point in points]
            style = {"color": color[peer], "marker": "o", "markersize": 3.5, "label": peer}
            above.loglog(at, [1e3 * point["median_s"] for point in points], **style)
            if all(point["peak_bytes"] for point in points):
                below.loglog(at, [point["peak_bytes"] / 2**20 for point in points], **style)
        title, _, unit = operation.partition(", by ")
        above.set_title(title, fontsize=9)
        below.set_xlabel(unit or "size", fontsize=8)
        ticks = sorted({point["x"] for points in peers.values() for point in points})
        for axis in (above, below):
            axis.set_xticks(ticks, [re.sub(r"\.0$", "", str(tick)) for tick in ticks], fontsize=7)
            axis.minorticks_off()
            axis.tick_params(axis="y", labelsize=7)
            axis.grid(alpha=0.25)
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    for block in range(blocks):
        axes[2 * block, 0].set_ylabel("time (ms)", fontsize=8)
        axes[2 * block + 1, 0].set_ylabel("memory (MiB)", fontsize=8)
    handles = {name: plt.Line2D([], [], color=color[name], marker="o", markersize=3.5) for name in names}
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=min(len(names), 5), fontsize=8, frameon=False
    )
    figure.tight_layout(rect=(0, 0.07 / blocks, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
