"""The page of a training, RUN/run.html: how far it is, its curves, sample images and settings."""

from __future__ import annotations

import base64
import csv
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

from medtrace import __version__
from medtrace.report.line_chart import line_chart
from medtrace.storage.files import atomic_write

PAGE = "run.html"
SAMPLES = "samples"
SAMPLE = re.compile(r"epoch=(\d+)\.png")
_REFRESH = 15
State = Literal["running", "finished", "stopped early", "interrupted", "failed"]
_VALIDATION, _RATE = "validation_", "learning_rate"


@dataclass(frozen=True)
class Progress:
    """The progress of a training.

    Attributes:
        title: title of the method.
        state: its state.
        epoch: completed epochs.
        max_epochs: planned epochs.
        left: time left in words, while it runs.
        best: the best validation in words, if there is one.
        reason: why it ended early.
        resume: the command that continues it.
    """

    title: str
    state: State
    epoch: int
    max_epochs: int
    left: str = ""
    best: str = ""
    reason: str = ""
    resume: str = ""


def write_run_page(run: Path, progress: Progress) -> Path:
    """Write `run.html` from `history.csv`, `samples/` and `run.json` of a run folder; all of it or nothing.

    The page is self-contained. While the training runs, it reloads itself every 15 seconds, and says so if nothing has
    been written for a long time.

    Returns:
        The path.
    """
    running = progress.state == "running"
    refresh = f'<meta http-equiv="refresh" content="{_REFRESH}">' if running else ""
    body = [_header(progress), *_charts(_history(run)), _samples(run), _settings(run)]
    return atomic_write(
        run / PAGE,
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{refresh}'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{progress.epoch}/{progress.max_epochs} {escape(progress.title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}<footer>medtrace {__version__}, {escape(run.absolute().name)}</footer>"
        f"{_WATCH if running else ''}</body></html>\n",
    )


def _header(progress: Progress) -> str:
    fraction = 100 * progress.epoch / max(1, progress.max_epochs)
    facts = [f"epoch {progress.epoch} of {progress.max_epochs}"]
    if progress.left:
        facts.append(progress.left)
    if progress.best:
        facts.append(f"best validation: {progress.best}")
    now = time.time()
    facts.append(f'written <time data-seconds="{now:.0f}">{time.strftime("%Y-%m-%d %H:%M:%S")}</time>')
    notes = [progress.reason] if progress.reason else []
    if progress.resume and progress.state in ("interrupted", "failed"):
        notes.append(f"continue with: {progress.resume}")
    kind = progress.state.replace(" ", "-")
    return (
        f'<h1>{escape(progress.title)} <span class="state {kind}">{progress.state}</span></h1>'
        f'<div class="bar"><div class="{kind}" style="width:{fraction:.1f}%"></div></div>'
        f"<p>{' · '.join(part if part.startswith('written') else escape(part) for part in facts)}</p>"
        + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
        + '<p class="note" id="stale" hidden></p>'
    )


def _history(run: Path) -> dict[str, list[tuple[float, float]]]:
    """Column → points (epoch, value)."""
    lines: dict[str, list[tuple[float, float]]] = {}
    path = run / "history.csv"
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = float(row.pop("epoch"))
                for name, value in row.items():
                    if value:
                        lines.setdefault(name, []).append((epoch, float(value)))
    return lines


def _charts(lines: Mapping[str, list[tuple[float, float]]]) -> list[str]:
    rates = {name.removeprefix(f"{_RATE}_"): points for name, points in lines.items() if name.startswith(_RATE)}
    if len({tuple(points) for points in rates.values()}) == 1:
        rates = dict([next(iter(rates.items()))])
    groups: dict[str, Mapping[str, list[tuple[float, float]]]] = {}
    first = [name for name in lines if name == "loss"] + [name for name in lines if name.startswith(_VALIDATION)]
    others = [name for name in lines if name not in first and not name.startswith(_RATE)]
    for name in first:
        groups[name.replace("_", " ")] = {name: lines[name]}
    if rates:
        groups["learning rate"] = rates
    for name in others:
        groups[name.replace("_", " ")] = {name: lines[name]}
    charts = "".join(f"<figure>{line_chart(title, group)}</figure>" for title, group in groups.items())
    return [f'<div class="charts">{charts}</div>'] if groups else ["<p>No epoch has finished yet.</p>"]


def _samples(run: Path) -> str:
    result = [(int(match[1]), path) for path in (run / SAMPLES).glob("*.png") if (match := SAMPLE.fullmatch(path.name))]
    if not result:
        return ""
    pictures = [
        f'<figure><img alt="validation cases after epoch {epoch}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode("ascii")}"><figcaption>epoch {epoch}</figcaption></figure>'
        for epoch, path in sorted(result, reverse=True)
    ]
    return (
        "<h2>Validation cases</h2><p>Source, target, prediction; one case per row.</p>"
        f'<div class="samples">{"".join(pictures)}</div>'
    )


def _settings(run: Path) -> str:
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    text = json.dumps({name: record.get(name) for name in ("method", "medtrace", "settings")}, indent=1)
    return f"<details><summary>Settings</summary><pre>{escape(text)}</pre></details>"


_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; color: CanvasText; background: Canvas; max-width: 1120px; margin: 0 auto;
  padding: 16px; }
h1 { font-size: 22px; margin: 0 0 8px; } h2 { font-size: 17px; margin: 22px 0 2px; }
.state { font-size: 14px; font-weight: 600; padding: 2px 9px; border-radius: 4px; vertical-align: 3px; color: #fff;
  background: #0072b2; }
.state.interrupted, .state.failed { background: #b03000; }
.state.finished, .state.stopped-early { background: #00724f; }
.bar { height: 8px; border-radius: 4px; background: color-mix(in srgb, CanvasText 14%, transparent); overflow: hidden; }
.bar div { height: 100%; background: #0072b2; } .bar .finished, .bar .stopped-early { background: #009e73; }
.bar .interrupted, .bar .failed { background: #d55e00; }
.note { font-weight: 600; overflow-wrap: anywhere; }
.charts, .samples { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); }
figure { margin: 0; } figcaption { font-size: 13px; }
.chart { width: 100%; display: block; } .chart text { font-size: 11px; fill: CanvasText; }
.chart .title { font-size: 13px; font-weight: 600; }
.chart .grid { stroke: CanvasText; stroke-opacity: .14; }
.legend { margin: 0 0 0 40px; font-size: 12px; } .legend span { margin-right: 10px; }
.legend i { display: inline-block; width: 12px; height: 3px; vertical-align: 3px; margin-right: 4px; }
.samples img { display: block; max-width: 100%; background: #fff; }
pre { white-space: pre-wrap; font-size: 12px; } footer { margin-top: 22px; font-size: 12px; opacity: .7; }
"""
_WATCH = """<script>
const written = Number(document.querySelector("time").dataset.seconds);
function watch() {
  const minutes = Math.floor((Date.now() / 1000 - written) / 60);
  const note = document.getElementById("stale");
  note.hidden = minutes < 10;
  note.textContent = `Nothing has been written for ${minutes} minutes: a long epoch, or the training was killed.`;
}
watch();
setInterval(watch, 10000);
</script>"""
