"""Traces as a data set of BIDS derivatives."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medtrace.io import load_trace
from medtrace.io.bids import BidsName, describe_derivatives, write_bids_derivatives
from medtrace.io.trace_folder import INDEX
from medtrace.storage.directories import atomic_directory
from medtrace.storage.reservations import reserve_folder, reserving

RAW = "bids:raw:"
"""The name of the raw data set in sidecars."""


class Derivatives(NamedTuple):
    """What was written."""

    folder: Path
    files: list[Path]
    notes: list[str]
    """The measurements as readable lines."""


@reserving(lambda out: reserve_folder(out, make_parents=True))
def bids_derivatives(
    traces: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    *,
    sources: Sequence[str] = (),
    suffix: str | None = None,
    space: str | None = None,
    raw: str | None = None,
    skull_stripped: bool | None = None,
) -> Derivatives:
    """Write traces as one data set of BIDS derivatives (see `medtrace.io.bids.write_bids_derivatives`).

    Args:
        traces: folders of traces. A folder named like a BIDS file, such as `sub-01_ses-pre_T1w`, as `translate` does
            for each file of a BIDS data set, identifies the subject.
        out: a new or empty folder; it appears complete or not at all.
        sources: for each trace the BIDS name of its source, or its path in the raw data set, if the folder's name does
            not give it.
        suffix: suffix of the images; by default that of their contrast.
        space: of the images; by default "target" for registrations and "predicted" for the others.
        raw: path or URL of the raw data set, for links to the sources.
        skull_stripped: whether the images are skull-stripped; None measures it.

    Returns:
        The folder, its files, and the measurements.

    Raises:
        FileExistsError: if `out` is in use, or two traces would have one name.
        FileNotFoundError: if a trace is missing.
        ValueError: if no subject or suffix is known; the message names the trace.
    """
    if not traces:
        raise ValueError("traces: expected at least one, received none")
    if sources and len(sources) != len(traces):
        raise ValueError(f"sources: expected one for each of {len(traces)} traces, received {len(sources)}")
    given = list(sources) or [Path(trace).resolve().name for trace in traces]
    files: list[Path] = []
    with atomic_directory(out) as made:
        describe_derivatives(made, raw)
        for trace, source in zip(map(Path, traces), given, strict=True):
            try:
                files += _written(trace, made, source, suffix, space, raw, skull_stripped)
            except ValueError as error:
                raise ValueError(f"{trace}: {error}") from error
        files = [Path(out) / path.relative_to(made) for path in files]
    notes = [] if skull_stripped is not None else [_MEASURED]
    return Derivatives(Path(out), files, notes)


_MEASURED = (
    "SkullStripped in the sidecars is measured (exact zeros on the border of the image); pass --skull-stripped or"
    " --with-skull if you know"
)


def _written(
    trace: Path,
    out: Path,
    source: str,
    suffix: str | None,
    space: str | None,
    raw: str | None,
    skull_stripped: bool | None,
) -> list[Path]:
    name = BidsName.of(Path(source).name)
    loaded = load_trace(trace)
    index = json.loads((trace / INDEX).read_text(encoding="utf-8"))
    registered = "alignment" in (index.get("metadata") or {})
    link = f"{RAW}{source}" if raw is not None and "/" in source else None
    return write_bids_derivatives(
        loaded,
        out,
        name,
        suffix=suffix,
        space=space or ("target" if registered else "predicted"),
        method=index.get("method"),
        source=link,
        skull_stripped=skull_stripped,
    )
