"""The certificate: checks with their figures, reasons and verdict, as JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.storage.files import atomic_write

FORMAT, VERSION = "medtrace certificate", 1


class Status(StrEnum):
    """The result of a check."""

    PASS = "PASS"
    WARN = "WARN"
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"
    """Could not be done; the reason says why. Does not count in the verdict."""


@dataclass(frozen=True)
class Check:
    """One check: what was measured, what is allowed, and what follows."""

    name: str
    status: Status
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Certificate:
    """All checks of one trace."""

    case: str
    checks: tuple[Check, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Status:
        """FAIL if any check fails, else WARN if any warns, else PASS."""
        result = {check.status for check in self.checks}
        return next((status for status in (Status.FAIL, Status.WARN) if status in result), Status.PASS)

    def check(self, name: str) -> Check:
        """The check called `name`."""
        for check in self.checks:
            if check.name == name:
                return check
        raise ValueError(f"name: expected one of {[check.name for check in self.checks]}, received {name!r}")

    def as_dict(self) -> dict[str, Any]:
        """The content that `write` stores in the file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "case": self.case,
            "verdict": str(self.verdict),
            "checks": [
                {
                    "name": check.name,
                    "status": str(check.status),
                    "reason": check.reason,
                    "figures": {name: _finite(value) for name, value in check.figures.items()},
                    "limits": {
                        name: {key: _finite(value) for key, value in limit.items()}
                        for name, limit in check.limits.items()
                    },
                }
                for check in self.checks
            ],
            "provenance": dict(self.provenance),
        }

    def write(self, path: str | os.PathLike) -> None:
        """Write it as JSON; infinite limits and figures that do not exist are null."""
        atomic_write(path, json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")


def assessed(name: str, figures: Mapping[str, float], thresholds: Thresholds, well: str) -> Check:
    """A check of figures against their limits.

    Args:
        name: name of the check.
        figures: all of them are upper-bounded where `thresholds` has a limit of that name; the others are only
            reported.
        thresholds: the limits.
        well: the reason if nothing is exceeded.
    """
    status, reasons, limits = Status.PASS, [], {}
    for figure, value in figures.items():
        limit = thresholds.limit(figure)
        if limit is None:
            continue
        limits[figure] = limit._asdict()
        if value <= limit.warn:
            continue
        bad = not value <= limit.fail  # NaN fails
        status = Status.FAIL if bad or status is Status.FAIL else Status.WARN
        reasons.append(f"{figure} is {value:.4g}, above {limit.fail if bad else limit.warn:.4g}")
    return Check(name, status, "; ".join(reasons) or well, dict(figures), limits)


def skipped(name: str, reason: str) -> Check:
    """A check that could not be done."""
    return Check(name, Status.SKIPPED, reason)


def _finite(value: float) -> float | None:
    return None if not math.isfinite(value) else value
