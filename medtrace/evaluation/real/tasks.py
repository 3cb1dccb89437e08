"""Translations of the study on real heads: which contrasts are read, and which is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DROPPED = 0.3
"""Probability that a training case lacks a source, of translations from several."""


@dataclass(frozen=True)
class RealTask:
    """A translation between contrasts of one head.

    Attributes:
        sources: contrasts that are read.
        target: contrast that is made.
        methods: methods that are trained; the first is in every table.

    Example:
        >>> task = RealTask(("T1", "FLAIR"), "T2")
        >>> task.name, task.title, task.missing
        ('t1+flair-t2', 'T1 and FLAIR to T2', ('FLAIR',))
    """

    sources: tuple[str, ...]
    target: str
    methods: tuple[str, ...] = ("unet", "tracetrans", "pix2pix", "reggan", "cyclegan")

    @property
    def name(self) -> str:
        """Of its data sets, rows and figures, and on the command line."""
        return f"{'+'.join(self.sources)}-{self.target}".lower()

    @property
    def title(self) -> str:
        """In words."""
        return f"{' and '.join(self.sources)} to {self.target}"

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All that a head must have."""
        return (*self.sources, self.target)

    @property
    def missing(self) -> tuple[str, ...]:
        """Sources that a run is also scored without."""
        return self.sources[1:]

    @property
    def settings(self) -> dict[str, float]:
        """Of its trainings."""
        return {"data.drop_sources": DROPPED} if self.missing else {}


IMAGES = (
    RealTask(("T1",), "T2"),
    RealTask(("T1",), "FLAIR"),
    RealTask(("T1", "FLAIR"), "T2"),
)
"""Scored by their images."""
LABELS = (RealTask(("T2",), "T1", ("unet", "tracetrans")), RealTask(("FLAIR",), "T1", ("unet", "tracetrans")))
"""Scored by what a network that knows T1 alone sees in them, too."""
TASKS: Mapping[str, RealTask] = {task.name: task for task in (*IMAGES, *LABELS)}
