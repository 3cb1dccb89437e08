"""The TraceBench cases that a run is scored on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medtrace.data import TraceBench
from medtrace.guard.configurations import check_code, parsable_paths, read_config
from medtrace.workflows.runs import CONFIG


class Cases:
    """Makes the data sets that the configurations of runs name.

    Rows that follow each other mostly name the same cases, so the last data set of every entry is kept.

    Args:
        progress: show a bar while cases are made.
    """

    def __init__(self, progress: bool = False) -> None:
        self.progress = progress
        self._kept: dict[str, TraceBench] = {}

    def __call__(self, run: Path, entry: str = "test") -> TraceBench:
        """Make, or find again, the cases that a run's configuration calls `data#<entry>`.

        Raises:
            KeyError: if it has no such entry.
            ValueError: if it would run code that medtrace does not ship and that is not allowed.
            TypeError: if the entry is no TraceBench.
        """
        from monai.bundle import ConfigParser

        parser = ConfigParser()
        config = read_config(run / CONFIG)
        check_code(config, run / CONFIG)
        parser.read_config(parsable_paths(config))
        named = parser.get_parsed_content(f"data#{entry}")
        if not isinstance(named, TraceBench):
            raise TypeError(
                f"data#{entry} of {run}: expected a TraceBench, received {type(named).__name__}; train with the"
                " overlay tracebench"
            )
        kept = self._kept.get(entry)
        if kept is None or _origin(kept) != _origin(named):
            self._kept[entry] = kept = named.generate(progress=self.progress)
        return kept


def _origin(cases: TraceBench) -> tuple[Any, ...]:
    return cases.task, cases.spatial_shape, cases.cases, cases.seed, cases.split, cases.settings, cases.transform
