"""The dates of a subject: which comes first, and how one is asked for."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

from medtrace.data.lists.tables import read_text

SESSION = "ses-"
"""BIDS's name for the entity of a date: `ses-pre_T1w`."""
_NUMBERED = re.compile(r"(\D*)(\d+)")


def in_order(visits: Sequence[str], times: Sequence[float | None], origin: str) -> list[int]:
    """Positions of a subject's dates from the first to the last.

    Args:
        visits: what each is called, such as "01" or "pre".
        times: when each was, where that is on record.
        origin: origin of the subject, for messages.

    Raises:
        ValueError: if neither times nor numbers determine the order.

    Example:
        >>> in_order(["m12", "m6"], [None, None], "sub-01")
        [1, 0]
    """
    positions = list(range(len(visits)))
    known = [time for time in times if time is not None]
    if len(known) == len(visits) == len(set(known)):
        return sorted(positions, key=known.__getitem__)
    numbered = [match for visit in visits if (match := _NUMBERED.fullmatch(visit))]
    numbers = [int(match[2]) for match in numbered]
    if len({match[1] for match in numbered}) == 1 and len(set(numbers)) == len(visits):
        return sorted(positions, key=numbers.__getitem__)
    first, second = visits[:2]
    raise ValueError(
        f"{origin}: expected dates whose order is known, received {', '.join(visits)}; specify which becomes which, as"
        f" with --select {SESSION}{first}_T1w:{SESSION}{second}_T1w, or give their acq_time in sessions.tsv"
    )


def session_of(name: str) -> tuple[str, str]:
    """The date that an image is asked for at, empty where none is said, and its name without it.

    Example:
        >>> session_of("ses-pre_run-01_T1w")
        ('pre', 'run-01_T1w')
    """
    parts = name.split("_")
    dates = [part.removeprefix(SESSION) for part in parts if part.startswith(SESSION)]
    return (dates[0] if dates else ""), "_".join(part for part in parts if not part.startswith(SESSION))


def session_of_all(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """Likewise for the images of one side, which share a date.

    Raises:
        ValueError: if they are from several dates.
    """
    parts = [session_of(name) for name in names]
    dates = dict.fromkeys(date for date, _ in parts)
    if len(dates) > 1:
        raise ValueError(
            f"select: expected images of one side at one date, received {', '.join(dates) or 'none'}; write the same"
            f" {SESSION}NAME before each"
        )
    return next(iter(dates), ""), tuple(name for _, name in parts)


def times_of_sessions(path: Path) -> dict[str, float]:
    """Session → seconds of its `acq_time`, as BIDS's `sub-01_sessions.tsv` has it; nothing where there is no file.

    Raises:
        ValueError: if a time is not a date.
    """
    if not path.is_file():
        return {}
    result = {}
    for row in csv.DictReader(read_text(path).splitlines(), delimiter="\t"):
        name, time = (row.get("session_id") or "").removeprefix(SESSION), row.get("acq_time") or "n/a"
        if name and time != "n/a":
            try:
                result[name] = (datetime.fromisoformat(time).replace(tzinfo=None) - datetime.min).total_seconds()
            except ValueError:
                told = f"expected a date such as 2009-06-15T13:45:30, received {time!r}"
                raise ValueError(f"{path}: acq_time: {told}; correct it, or write n/a") from None
    return result
