"""Items whose random transforms depend on seed, epoch and index alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, cast

import torch
from monai.transforms import Randomizable
from torch import Tensor
from torch.utils.data import Dataset

from medtrace.engines.randomness import (
    ITEMS,
    derived_seed,
    generator_states,
    restore_generators,
    seed_host_generators,
)


class DeterministicDataset(Dataset):
    """Draw whatever is random in an item from (seed, epoch, index).

    An item of an epoch is then the same whether the training ran without a break or was resumed, whatever the number of
    loader workers and processes, and in whatever order items are requested. Before an item is read, MONAI's random
    transforms anywhere in the dataset and the global generators of torch (CPU), NumPy and Python are seeded; the
    states of the generators are restored afterwards.

    Args:
        data: any map-style dataset, or a list of items.
        seed: 0 or more.
        transform: transform of an item of `data`.

    `medtrace.engines.Trainer` calls `set_epoch` on the dataset of its loader; it also reaches the workers of a
    loader, including persistent ones.
    """

    def __init__(
        self, data: Dataset | Sequence[Any], seed: int = 0, transform: Callable[[Any], Any] | None = None
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed: expected 0 or more, received {seed!r}")
        self.data = cast(Any, data)  # torch's Dataset declares no length
        self.seed = seed
        self.transform = transform
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()
        self._random: list[Randomizable] | None = None

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that the items are sampled for."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def given(self, index: int) -> Any:
        """An item, with what is random in it as the generators happen to be."""
        item = self.data[index]
        return item if self.transform is None else self.transform(item)

    def __getitem__(self, index: int) -> Any:
        if self._random is None:
            self._random = list(_randomizables(self.data, set()))
        seed = derived_seed(self.seed, ITEMS, int(self._epoch), int(index) % len(self))
        states = generator_states()
        seed_host_generators(seed)
        for place, transform in enumerate(self._random):
            transform.set_random_state(seed=(seed + place) % 2**32)
        try:
            return self.given(index)
        finally:
            restore_generators(states)


def _randomizables(value: Any, seen: set[int]) -> Iterator[Randomizable]:
    """MONAI's random transforms in an object, its attributes and lists; one that holds others seeds them itself."""
    if id(value) in seen or isinstance(value, (str, bytes, type, Tensor, ModuleType)):
        return
    seen.add(id(value))
    if isinstance(value, Randomizable):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _randomizables(part, seen)
    elif hasattr(value, "__dict__"):
        for name in sorted(vars(value)):
            yield from _randomizables(vars(value)[name], seen)
