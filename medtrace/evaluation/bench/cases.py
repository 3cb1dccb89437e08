"""The TraceBench cases that a run is scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtrace.data import TraceBench
from medtrace.data.sources import sources
from medtrace.engines.runs import read_run
from medtrace.methods.settings import MethodSettings


class Cases:
    """Makes the data sets that the settings of runs name.

    Consecutive rows mostly use the same cases, so the last data set of every entry is kept.

    Args:
        progress: show a bar while cases are made.
        settings: settings whose cases are made, whatever run is named; by default those of the run.
    """

    def __init__(self, progress: bool = False, settings: MethodSettings | None = None) -> None:
        self.progress = progress
        self.settings = settings
        self._kept: dict[str, TraceBench] = {}

    def __call__(self, run: Path, entry: str = "test") -> TraceBench:
        """Make, or find again, the cases of a run's settings: test, validation, or pairs.

        Raises:
            TypeError: if they are not cases of TraceBench.
            ValueError: if the run was trained on a data set.
        """
        settings = read_run(run).settings if self.settings is None else self.settings
        named = getattr(sources(settings), entry, None)
        made = None if named is None else named()
        if not isinstance(made, TraceBench):
            raise TypeError(
                f"{entry} of {run}: expected cases of TraceBench, received {type(made).__name__}; train with the preset"
                " tracebench"
            )
        kept = self._kept.get(entry)
        if kept is None or _origin(kept) != _origin(made):
            self._kept[entry] = kept = made.generate(progress=self.progress)
        return kept


def _origin(cases: TraceBench) -> tuple[Any, ...]:
    return cases.task, cases.spatial_shape, cases.cases, cases.seed, cases.split, cases.settings, cases.transform
