"""Pairs with nothing to register, so that a registration network learns to leave them unchanged."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.misc import ensure_tuple

from .naming import as_item, check_probability


class RandIdenticalPaird(MapTransform, RandomizableTransform):
    """At random, replace a pair's target by its source and empty the masks of pathology.

    A network trained on pairs that all differ moves identical images too: by some tenths of a voxel in TraceBench's
    task `metamorphic`.

    Args:
        keys: (source, target): the entry to copy, and the entry that becomes its copy.
        masks: entries that become zero; absent ones are skipped.
        prob: probability.

    Raises:
        TypeError: if `prob` is not a number.
        ValueError: if `keys` are not two, or `prob` is not in [0, 1].

    Example:
        >>> item = {"source": torch.ones(1, 4, 4), "target": torch.zeros(1, 4, 4), "mask": torch.ones(1, 4, 4)}
        >>> same = RandIdenticalPaird(prob=1.0)(item)
        >>> float(same["target"].mean()), float(same["mask"].mean())
        (1.0, 0.0)
    """

    def __init__(
        self,
        keys: KeysCollection = ("source", "target"),
        masks: KeysCollection = ("mask", "source_mask"),
        prob: float = 0.2,
    ) -> None:
        check_probability(prob)
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        if len(self.keys) != 2:
            raise ValueError(f"keys: expected (source, target), received {self.keys!r}")
        self.masks = ensure_tuple(masks)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item, or the item whose target is a copy of its source."""
        item = as_item(data)
        self.randomize(None)
        if self._do_transform:
            source, target = self.keys
            for key in (source, *(mask for mask in self.masks if mask in item)):
                if not isinstance(item[key], torch.Tensor):
                    raise TypeError(f"{key}: expected a tensor, received {type(item[key]).__name__}; load it first")
            item[target] = item[source].clone()
            item.update({mask: torch.zeros_like(item[mask]) for mask in self.masks if mask in item})
        return item


RandIdenticalPairD = RandIdenticalPairDict = RandIdenticalPaird
