"""TraceBench as a torch dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import Dataset

from medtrace.checks import check_choice
from medtrace.data.tracebench.domain import DomainSettings, make_domain
from medtrace.data.tracebench.metamorphic import MetamorphicSettings, make_metamorphic
from medtrace.data.tracebench.misaligned import MisalignedSettings, make_misaligned
from medtrace.data.tracebench.postop import PostopSettings, make_postop

SPLITS = ("training", "validation", "test")
"""Parts of the dataset, which share no subject."""
_SMALLEST_AXIS = 16


@dataclass(frozen=True)
class Task:
    """A task: its number in the seed, its settings, and the function that makes one case."""

    number: int
    settings: type[Any]
    make: Callable[[np.random.Generator, tuple[int, ...], Any], dict[str, Tensor]]


TASKS: dict[str, Task] = {
    "postop": Task(0, PostopSettings, make_postop),
    "metamorphic": Task(1, MetamorphicSettings, make_metamorphic),
    "misaligned": Task(2, MisalignedSettings, make_misaligned),
    "domain": Task(3, DomainSettings, make_domain),
}
"""Tasks by name."""

# Voxel data; everything else of a case (fields, numbers) has no affine of its own.
_IMAGES = frozenset(
    {
        "source",
        "target",
        "clean_target",
        "translation",
        "source_head",
        "target_head",
        "head",
        "lesion",
        "cavity",
        "mask",
        "source_mask",
        "pathology",
        "near_lesion",
        "source_tissues",
        "target_tissues",
        "source_labels",
        "target_labels",
        "translation_labels",
        "source_ventricles",
        "target_ventricles",
        "translation_ventricles",
    }
)


_SHARED: dict[str, tuple[str, dict[int, dict[str, Any]]]] | None = None
"""Split → the origin and the cases of the data set that was opened last."""


@contextmanager
def sharing_cases() -> Iterator[None]:
    """Let data sets that are opened within, one after the other, keep the cases that they make for each other.

    Trainings that differ only in their method or its settings make the same cases; in this context, only the first
    makes them. For every split, those of the last data set are kept until others replace them or the context ends.

    Example:
        >>> with sharing_cases():
        ...     first = TraceBench(spatial_shape=(32, 32), cases=1).generate()
        ...     second = TraceBench(spatial_shape=(32, 32), cases=2)
        >>> second[0]["ddf"].equal(first[0]["ddf"])
        True
    """
    global _SHARED
    before = _SHARED
    if before is None:
        _SHARED = {}
    try:
        yield
    finally:
        _SHARED = before


class TraceBench(Dataset):
    """Paired cases whose true correspondence is known by construction.

    A case is made when it is first requested, from a generator seeded by (seed, task, split, index) alone: case 7
    is the same whatever the number of cases, and the splits share no subject.

    Args:
        task: one of `TASKS`.
        spatial_shape: (H, W) or (H, W, D), at least 16 voxels an axis; the spacing follows, so that the head fits.
        cases: how many, 0 or more.
        seed: 0 or more.
        split: "training", "validation" or "test".
        settings: the task's settings, as its dataclass or as a mapping of some of its fields.
        cache: keep made cases in memory.
        progress: whether `generate` shows a bar.
        keys: which of the task's entries are returned, such as ["source", "target"] for a training that reads no other;
            None returns all. "case" and "subject" always are.
        transform: applied to every item on its way out, after the cache.

    Items are dictionaries of the task's entries (for `postop`, see `make_postop`) with "case" and "subject", both
    names; images, masks and labels are MetaTensors with the grid's affine, fields are tensors in voxels.

    Raises:
        TypeError, ValueError: for an unknown task or split, or a wrong shape, count, seed or setting.
    """

    def __init__(
        self,
        task: str = "postop",
        spatial_shape: Sequence[int] = (96, 96),
        cases: int = 256,
        seed: int = 0,
        split: str = "training",
        *,
        settings: Any | Mapping[str, Any] | None = None,
        cache: bool = True,
        progress: bool = False,
        keys: Sequence[str] | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        check_choice("task", task, TASKS)
        check_choice("split", split, SPLITS)
        self.task = task
        self.spatial_shape = _checked_shape(spatial_shape)
        self.cases = _checked_count("cases", cases)
        self.seed = _checked_count("seed", seed)
        self.split = split
        self.settings = _settings(TASKS[task].settings, settings)
        self.progress = progress
        self.keys = None if keys is None else ("case", "subject", *keys)
        self.transform = transform
        self._cache = self._made_cases() if cache else None

    def __len__(self) -> int:
        return self.cases

    def __getitem__(self, index: int) -> Any:
        if not -self.cases <= index < self.cases:
            raise IndexError(f"index: expected a case below {self.cases}, received {index}")
        index = int(index) % self.cases
        case = self._case(index)
        for key in self.keys or ():
            check_choice("keys", key, case)
        # Copies: what a transform does in place must not change the benchmark.
        item = {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in case.items()
            if self.keys is None or key in self.keys
        }
        return item if self.transform is None else self.transform(item)

    def generate(self, progress: bool | None = None) -> TraceBench:
        """Make every case now (needs `cache=True`), so that loaders with workers share them; returns itself.

        Args:
            progress: show a bar; by default as the constructor.
        """
        if self._cache is None:
            raise ValueError("generate: expected cache=True, received a TraceBench without cache")
        indices: Any = range(self.cases)
        if self.progress if progress is None else progress:
            from rich.progress import track

            indices = track(indices, description=f"TraceBench {self.task} {self.split}", total=self.cases)
        for index in indices:
            self._case(index)
        return self

    def _made_cases(self) -> dict[int, dict[str, Any]]:
        """The cache of these cases: its own, or that of all data sets of these cases while they share."""
        if _SHARED is None:
            return {}
        origin = repr((self.task, self.spatial_shape, self.seed, self.settings))
        known, made = _SHARED.get(self.split, ("", {}))
        if known != origin:
            made = {}
            _SHARED[self.split] = origin, made
        return made

    def _case(self, index: int) -> dict[str, Any]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        task = TASKS[self.task]
        random = np.random.default_rng([self.seed, task.number, SPLITS.index(self.split), index])
        made = task.make(random, self.spatial_shape, self.settings)
        affine = made.pop("affine")
        target_affine = made.pop("target_affine", affine)
        item: dict[str, Any] = {}
        for key, value in made.items():
            grid = target_affine if key.startswith("target") else affine
            item[key] = MetaTensor(value, affine=grid.clone()) if key in _IMAGES else value
        item["subject"] = item["case"] = f"{self.task}-{self.split}-{index:04d}"
        if self._cache is not None:
            self._cache[index] = item
        return item


def _checked_shape(spatial_shape: Sequence[int]) -> tuple[int, ...]:
    remedy = "pass (H, W) or (H, W, D)"
    if isinstance(spatial_shape, str) or not isinstance(spatial_shape, Sequence):
        raise TypeError(f"spatial_shape: expected a sequence of integers, received {spatial_shape!r}; {remedy}")
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in spatial_shape):
        raise TypeError(f"spatial_shape: expected integers, received {spatial_shape!r}; {remedy}")
    if len(spatial_shape) not in (2, 3) or min(spatial_shape) < _SMALLEST_AXIS:
        raise ValueError(
            f"spatial_shape: expected 2 or 3 axes of at least {_SMALLEST_AXIS} voxels, received"
            f" {tuple(spatial_shape)}; {remedy}"
        )
    return tuple(spatial_shape)


def _checked_count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, received {value!r}")
    if value < 0:
        raise ValueError(f"{name}: expected 0 or more, received {value}")
    return value


def _settings(kind: type[Any], given: Any) -> Any:
    if given is None:
        return kind()
    if isinstance(given, kind):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"settings: expected {kind.__name__} or a mapping, received {type(given).__name__}")
    known = [field.name for field in fields(kind)]
    for name in given:
        check_choice("settings", name, known)
    return kind(**given)
