"""The facts about a prepared data set that a training needs."""

from __future__ import annotations

import math
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from medtrace.data.dataset import read_index
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.geometry.volume import read_volume_grid
from medtrace.guard.declared_size import inside


@dataclass(frozen=True)
class DatasetFacts:
    """Facts about a prepared data set.

    Attributes:
        preparation: how its images were prepared.
        counts: items per split.
        subjects: people per split.
        sizes: size of a training item, for unpaired domains of a source → how many.
        lesions: whether items have masks of lesions.
        spacing: voxel size in mm, if all share one.
        unpaired: whether it holds two domains, without pairs.
        scans: number of scans that the training items were cut from.
        target_sizes: sizes of the training targets of unpaired domains.
    """

    preparation: Preparation
    counts: dict[str, int]
    subjects: dict[str, int]
    sizes: Counter[tuple[int, ...]]
    lesions: bool
    spacing: tuple[float, ...] | None
    unpaired: bool = False
    scans: int = 0
    target_sizes: frozenset[tuple[int, ...]] = frozenset()

    @classmethod
    def of(cls, dataset: str | os.PathLike) -> DatasetFacts:
        """Read headers and the index; no voxel is read.

        Raises:
            FileNotFoundError, ValueError: if it is not a prepared data set.
        """
        folder = Path(dataset)
        index, preparation = read_index(folder), Preparation.load(folder / FILE)
        splits = ("training", "validation", "test")
        sizes: Counter[tuple[int, ...]] = Counter()
        partners: set[tuple[int, ...]] = set()
        for entry in index["training"]:
            side = "source" if "source" in entry else "target"  # for unpaired domains, with targets drawn at random
            file = inside(folder, entry[side], f"{side} of case {entry['case']!r}")
            size = tuple(read_volume_grid(file)[0][: preparation.spatial_dims])
            if side == "source":
                sizes[size] += 1
            else:
                partners.add(size)
        return cls(
            preparation,
            {name: len(index[name]) for name in splits},
            {name: len({entry["subject"] for entry in index[name]}) for name in splits},
            sizes,
            any("mask" in entry for entry in index["training"]),
            preparation.spacing,
            bool(index.get("unpaired")),
            len({entry.get("volume", entry["case"]) for entry in index["training"]}),
            frozenset(partners),
        )

    @property
    def largest(self) -> tuple[int, ...]:
        """Size of the largest training item."""
        return max(self.sizes, key=lambda size: (math.prod(size), size), default=())

    @property
    def stacked(self) -> bool:
        """Whether items are slices, several of them from one scan."""
        return self.preparation.spatial_dims == 2 and self.scans < self.counts["training"]

    @property
    def crossed(self) -> bool:
        """Whether a target's contrast differs from its source's."""
        known = self.preparation
        return any(before != after for before, after in known.targets.items()) or known.sources != known.outputs

    @property
    def contrasts(self) -> str:
        """Such as "T1 (a.u.) to CT (HU)"."""
        known, result = self.preparation.contrasts, []
        if self.preparation.sources:
            sides = (self.preparation.sources, self.preparation.outputs)
            return " to ".join(", ".join(str(known.get(name, name)) for name in names) for names in sides)
        for before, after in self.preparation.targets.items():
            names = [str(known.get(name, name)) for name in (before, after)]
            result.append(" to ".join(names))
        return ", ".join(result) or ("natural images" if self.preparation.natural_image else "one contrast, not named")

    def lines(self) -> list[str]:
        """What it is, for people."""
        kind = "slices" if self.preparation.spatial_dims == 2 else "volumes"
        parts = [
            f"{count} {split} of {self.subjects[split]} subject(s)" for split, count in self.counts.items() if count
        ]
        smaller = f" and {len(self.sizes) - 1} smaller" if len(self.sizes) > 1 else ""
        sizes = " x ".join(map(str, self.largest)) + smaller
        spacing = "" if self.spacing is None else f", {' x '.join(f'{value:g}' for value in self.spacing)} mm"
        return [f"{kind}: {', '.join(parts)}; {sizes}{spacing}", f"contrasts: {self.contrasts}"]
