"""Registration of many pairs, or of many images to one template: in parallel, and on from where it stopped."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from medtrace.data.lists.image_list import list_images
from medtrace.data.lists.pair_list import read_pair_list
from medtrace.engines.checkpoint_choice import chosen_checkpoint, using_checkpoint, weights_file
from medtrace.engines.runs import RECORD
from medtrace.io.trace_folder import INDEX
from medtrace.report.certificate import STYLE
from medtrace.storage.cases import atomic_case, case_key, is_finished, key_of
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import locked
from medtrace.storage.workspaces import sweep
from medtrace.workflows.attempts import Outcome, Task
from medtrace.workflows.parallel import run_cases
from medtrace.workflows.register import register

TRACE = "trace"
TABLE, OVERVIEW = "cases.csv", "index.html"
ORDER = ("error", "FAIL", "WARN", "PASS")
_FILES = ("source", "target", "mask", "source_mask")
_PRELOAD = (__name__,)


class RegisteredCase(NamedTuple):
    """What became of a pair."""

    name: str
    status: str
    """"PASS", "WARN" or "FAIL", or "error" of one that could not be registered."""
    reason: str
    """What speaks against it, or the error."""
    kept: bool = False
    """Whether it was finished before."""


class RegisteredCases(NamedTuple):
    """Many pairs, the worst first."""

    cases: list[RegisteredCase]
    overview: Path
    """The page that lists them."""


class _Pair(NamedTuple):
    name: str
    files: dict[str, str | None]
    series: dict[str, str | None]


def register_cases(
    pairs: str | os.PathLike,
    template: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **settings: Any,
) -> RegisteredCases:
    """Register many pairs, each into `OUT/NAME`: `trace`, its page, and what it was made from.

    What is finished is kept; a pair that fails does not stop the others. `OUT/index.html` and `OUT/cases.csv` list all
    pairs, the worst verdict first.

    Args:
        pairs: without a template a pair list (see `medtrace.data.lists.pair_list.read_pair_list`; its columns
            target_lesion and source_lesion are the masks), else images, a folder or a list of them (see
            `image_list.list_images`).
        template: the fixed image of all, or None.
        out: folder of the cases.
        workers: processes that share the pairs.
        scheduler: address of a Dask scheduler whose workers take the pairs instead (see `parallel.run_cases`).
        threads: of a pair; None for one where there are several workers.
        progress: show a bar on stderr.
        overwrite: replace results of other images or settings that have the same name.
        **settings: of `register`.

    Returns:
        The pairs and the overview.

    Raises:
        FileNotFoundError: if a file is missing.
        OSError: if another command is at work in `out`.
        ValueError: if the list cannot be read.
    """
    out = Path(out).absolute()
    listed = _to_template(Path(pairs), Path(template)) if template is not None else _listed(Path(pairs))
    several = workers > 1 or scheduler is not None
    shared = {**settings, "threads": 1 if threads is None and several else threads}
    if shared.get("run") is not None:
        shared["run"] = str(Path(shared["run"]).absolute())
    tasks = [Task(pair.name, (pair, str(out), shared, overwrite, chosen_checkpoint())) for pair in listed]
    with locked(out), Progress(console=Console(stderr=True), disable=not progress) as bar:
        row = bar.add_task("registering", total=len(tasks))
        try:
            outcomes = run_cases(
                register_case,
                tasks,
                workers=workers,
                scheduler=scheduler,
                finished=lambda _: bar.update(row, advance=1),
                preload=_PRELOAD,
            )
        finally:
            sweep(out)  # of workers that died
        cases = sorted(map(_case, outcomes), key=lambda case: (ORDER.index(case.status), case.name))
        _write_table(out / TABLE, cases)
        atomic_write(out / OVERVIEW, overview(cases, bool(settings.get("report", True))))
    return RegisteredCases(cases, out / OVERVIEW)


def register_case(
    pair: _Pair, out: str, settings: dict[str, Any], overwrite: bool, checkpoint: str | None = None
) -> RegisteredCase:
    """Register one pair into its folder, unless that holds its result; `checkpoint` is the run's, where there is one.

    Raises:
        FileExistsError: if the folder holds something else and may not be overwritten.
        FileNotFoundError, ValueError: see `register`.
    """
    known = {name: value for name, value in settings.items() if name not in ("run", "threads")}
    run = settings.get("run")
    trained: dict[str, Path | None] = {"run": None, "weights": None}
    if run is not None:
        with using_checkpoint(checkpoint):
            trained = {"run": Path(run) / RECORD, "weights": weights_file(Path(run))}
    key = case_key({**pair.files, **trained}, series=pair.series, **known)
    folder = Path(out) / pair.name
    kept = is_finished(folder, key)
    if not kept:
        there = key_of(folder)
        if folder.exists() and there != key and not (there is not None and overwrite):
            raise FileExistsError(
                f"{folder}: holds something else, or the result of other images or settings; overwrite it, or choose"
                " another folder"
            )
        with using_checkpoint(checkpoint), atomic_case(folder, key) as temporary:
            files: dict[str, Any] = {name: value for name, value in pair.files.items() if value is not None}
            files |= pair.series
            register(
                files.pop("source"), files.pop("target"), temporary / TRACE, progress=False, **files,
                **settings,
            )  # fmt: skip
    verdict = json.loads((folder / TRACE / INDEX).read_text())["metadata"]["verdict"]
    against = [check["reason"] for check in verdict["checks"] if check["status"] != "PASS"]
    reason = "; ".join(against) or "nothing speaks against it"
    return RegisteredCase(pair.name, verdict["verdict"], reason, kept)


def overview(cases: Sequence[RegisteredCase], pages: bool = True) -> str:
    """An HTML page that lists pairs.

    Args:
        cases: in the order in which to list them.
        pages: whether each has its own page, to which to lead.
    """
    rows = []
    for case in cases:
        name, status = escape(case.name), "FAIL" if case.status == "error" else case.status
        linked = f'<a href="{name}/{TRACE}.html">{name}</a>' if pages and case.status != "error" else name
        rows.append(
            f'<tr><td>{linked}</td><td><span class="status {status}">{escape(case.status)}</span></td>'
            f"<td>{escape(case.reason)}</td></tr>"
        )
    counts = ", ".join(f"{sum(case.status == one for case in cases)} {one}" for one in ORDER)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>medtrace registrations</title>'
        f"<style>:root {{ color-scheme: light dark; }} body {{ margin: 24px; }}{STYLE}</style></head><body>"
        f'<section class="certificate"><h1>Registrations</h1><p>{len(cases)} pairs: {counts}. Not for clinical use.</p>'
        "<table><thead><tr><th>Pair</th><th>Verdict</th><th>Reason</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></section></body></html>\n"
    )


def _to_template(images: Path, template: Path) -> list[_Pair]:
    if not template.exists():
        raise FileNotFoundError(f"{template}: no such file or folder; check the path")
    fixed = str(template.absolute())
    return [
        _Pair(one.name, {"source": str(one.path.absolute()), "target": fixed}, {"source_series": one.series})
        for one in list_images([images])
    ]


def _listed(path: Path) -> list[_Pair]:
    if path.suffix.lower() not in (".csv", ".json"):
        raise ValueError(f"FIXED: expected the image to register to, received none; or give a pair list, not {path}")
    return [
        _Pair(
            pair.name,
            {
                name: None if file is None else str(file.absolute())
                for name, file in zip(_FILES, (pair.source, pair.target, pair.target_lesion, pair.source_lesion))
            },
            {"source_series": pair.source_series, "target_series": pair.target_series},
        )
        for pair in read_pair_list(path)
    ]


def _case(outcome: Outcome) -> RegisteredCase:
    if outcome.failure is not None:
        return RegisteredCase(outcome.name, "error", outcome.failure)
    return RegisteredCase(*outcome.value)


def _write_table(path: Path, cases: Sequence[RegisteredCase]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["case", "status", "reason"])
    writer.writerows(case[:3] for case in cases)
    atomic_write(path, text.getvalue())
