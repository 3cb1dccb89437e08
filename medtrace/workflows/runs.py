"""Listing, comparison of settings and scores, and removal of run folders."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from medtrace.engines.assembly import HISTORY
from medtrace.engines.checkpoint_choice import using_checkpoint
from medtrace.engines.checkpoint_files import WITHIN_EPOCH, of_epochs
from medtrace.engines.model_folder import RECORD
from medtrace.engines.runs import WEIGHTS, RunRecord, read_run
from medtrace.report.tables import Summary, markdown_table, read_summary
from medtrace.storage.files import remove
from medtrace.storage.locks import acquire
from medtrace.storage.reservations import locked
from medtrace.storage.workspaces import LOCK
from medtrace.workflows.training.resuming import flat_settings

__all__ = [
    "Comparison",
    "RunState",
    "compare_runs",
    "compare_table",
    "delete_runs",
    "find_runs",
    "run_state",
    "run_table",
    "using_checkpoint",
]

DEPTH = 3
"""Depth of subfolders in which runs are searched."""
SETTING, METRIC = "setting", "score"
COLUMNS = ("run", "method", "state", "epochs", "loss", "data", "size", "medtrace")


class RunState(NamedTuple):
    """The state of a run folder."""

    path: Path
    record: RunRecord | None
    """None if it cannot be read."""
    problem: str
    """Why not; empty if it can."""
    epochs: int
    """Trained epochs, by its history."""
    loss: float | None
    """Of the last epoch."""
    finished: bool
    in_use: bool
    size: int
    """Bytes of all files."""


def find_runs(places: Sequence[str | os.PathLike]) -> list[Path]:
    """Run folders among the given folders and up to three levels below them, by name.

    Raises:
        FileNotFoundError: if a place does not exist.
    """
    result: dict[Path, None] = {}
    for place in map(Path, places):
        if not place.is_dir():
            raise FileNotFoundError(f"{place}: no such folder; name run folders, or a folder of them")
        result |= dict.fromkeys(sorted(_below(place, DEPTH)))
    return list(result)


def _below(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / RECORD).is_file():
        yield folder
    elif depth:
        with suppress(PermissionError):
            for inner in folder.iterdir():
                if inner.is_dir() and not inner.is_symlink() and not inner.name.startswith("."):
                    yield from _below(inner, depth - 1)


def run_state(run: Path) -> RunState:
    """Look at a run folder, without reading weights."""
    record, problem = None, ""
    try:
        record = read_run(run)
    except (ValueError, OSError) as error:
        problem = str(error)
    rows = _history(run / HISTORY)
    checkpoints = run / WEIGHTS.parent
    done = max([int(rows[-1]["epoch"]) if rows else 0, *(epoch for epoch, _ in of_epochs(checkpoints))])
    loss = rows[-1].get("loss") if rows else None
    return RunState(
        run,
        record,
        problem,
        done,
        float(loss) if loss else None,
        (run / WEIGHTS).is_file() and not (checkpoints / WITHIN_EPOCH).is_file(),
        _in_use(run),
        sum(file.stat().st_size for file in run.rglob("*") if file.is_file() and not file.is_symlink()),
    )


def _history(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if (row.get("epoch") or "").isdigit()]


def _in_use(run: Path) -> bool:
    lock = run / LOCK
    if not lock.is_file():
        return False
    try:
        acquire(lock, create=False).release()
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def run_table(states: Sequence[RunState]) -> str:
    """One line for each run: method, progress and training data."""
    return markdown_table([_row(state) for state in states], {name: name for name in COLUMNS})


def _row(state: RunState) -> dict[str, Any]:
    row: dict[str, Any] = {"run": str(state.path), "size": amount(state.size)}
    if state.record is None:
        return {**row, "state": "cannot be read"}
    training = state.record.settings.training
    return {
        **row,
        "method": state.record.method,
        "state": "in use" if state.in_use else "finished" if state.finished else "unfinished",
        "epochs": f"{state.epochs} of {training.max_epochs}",
        "loss": None if state.loss is None else f"{state.loss:.4g}",
        "data": state.record.training_data.get("dataset", state.record.settings.data.kind),
        "medtrace": state.record.medtrace,
    }


def amount(size: float) -> str:
    """Bytes in words."""
    for unit in ("kB", "MB"):
        size /= 1000
        if size < 1000:
            return f"{size:.3g} {unit}"
    return f"{size / 1000:.3g} GB"


class Comparison(NamedTuple):
    """The settings in which runs differ, and the scores that their evaluations left, one column for each run."""

    names: list[str]
    """Of the columns."""
    settings: list[dict[str, Any]]
    scores: list[dict[str, Any]]

    def __str__(self) -> str:
        columns = {name: name for name in self.names}
        text = markdown_table(self.settings, {SETTING: SETTING, **columns}) if self.settings else "no setting differs"
        if self.scores:
            text += "\n" + markdown_table(self.scores, {SETTING: METRIC, **columns})
        return text

    def as_dict(self) -> dict[str, Any]:
        """For JSON: setting or score → run → value."""
        settings, scores = (
            {row[SETTING]: {name: row[name] for name in self.names} for row in rows}
            for rows in (self.settings, self.scores)
        )
        plain = {
            score: {name: one._asdict() if isinstance(one, Summary) else one for name, one in row.items()}
            for score, row in scores.items()
        }
        return {"runs": self.names, "settings": settings, "scores": plain}


def compare_runs(runs: Sequence[Path]) -> Comparison:
    """Compare runs by their settings and scores.

    Args:
        runs: two folders or more.

    Raises:
        ValueError: if there are fewer than two runs, or one cannot be read.
    """
    if len(runs) < 2:
        raise ValueError(f"runs: expected two or more to compare, received {len(runs)}; name them, or a folder of them")
    names = _column_names(runs)
    records = [read_run(run) for run in runs]
    settings = [{"method": record.method, **flat_settings(record.settings)} for record in records]
    data = [record.training_data.get("dataset") for record in records]
    rows = [_compared("dataset", data, names)] if len(set(data)) > 1 else []
    for setting in dict.fromkeys(name for values in settings for name in values):
        values = [one.get(setting) for one in settings]
        if any(value != values[0] for value in values):
            rows.append(_compared(setting, values, names))
    scores = [_scores(run) for run in runs]
    scored = [
        {SETTING: score, **{name: one.get(score) for name, one in zip(names, scores)}}
        for score in dict.fromkeys(name for one in scores for name in one)
    ]
    return Comparison(names, rows, scored)


def compare_table(runs: Sequence[Path]) -> str:
    """The result of `compare_runs` as a text table.

    Raises:
        ValueError: as there.
    """
    return str(compare_runs(runs))


def _compared(name: str, values: Sequence[Any], columns: Sequence[str]) -> dict[str, Any]:
    return {SETTING: name, **{column: str(value) for column, value in zip(columns, values)}}


def _column_names(runs: Sequence[Path]) -> list[str]:
    short = [run.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run) for run in runs]


def _scores(run: Path) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for file in sorted((run / "evaluation").glob("*/method_summary.csv")):
        result |= {f"{file.parent.name}: {name}": summary for name, summary in read_summary(file).items()}
    return result


def delete_runs(runs: Sequence[Path]) -> None:
    """Remove run folders with their contents.

    Raises:
        ValueError: if a folder is not a run.
        OSError: if one is in use; then none is removed.
    """
    for run in runs:
        if not (run / RECORD).is_file():
            raise ValueError(f"{run}: is not a run folder, as it holds no {RECORD}; remove it yourself")
        with locked(run):
            pass
    for run in runs:
        with locked(run):
            remove(run / RECORD)  # after an interruption, what is left is no longer a run
        remove(run)
