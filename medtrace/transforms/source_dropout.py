"""Images with missing contrasts, so that a network learns to work without them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms.transform import MapTransform, Randomizable
from torch import Tensor

from ..checks import check_number
from .naming import as_image, as_item, named

MISSING = -1.0
"""Value of a missing channel, equal to the background's."""


class RandDropChannelsd(MapTransform, Randomizable):
    """Replace random channels of an image by background, as if these contrasts had not been acquired.

    Each channel is dropped with the same probability; if all channels of a case would be dropped, one of them, chosen
    uniformly, is kept.

    Args:
        keys: images (C, *spatial) in [-1, 1], each with its own draw.
        prob: of each channel, in [0, 1).
        present: entry with boolean (C,), which channels the case has; one of those is kept. It is updated. Without such
            an entry a case has all channels.

    Raises:
        ValueError: if `prob` is not in [0, 1).

    Example:
        >>> import torch
        >>> drop = RandDropChannelsd("source", prob=0.99)
        >>> drop.set_random_state(seed=0)  # doctest: +ELLIPSIS
        <...>
        >>> image = drop({"source": torch.ones(2, 4, 4)})["source"]
        >>> sorted(channel.unique().item() for channel in image)
        [-1.0, 1.0]
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5, present: str = "source_present") -> None:
        check_number("prob", prob)
        if not 0 <= prob < 1:
            raise ValueError(f"prob: expected a probability of at least 0 and below 1, received {prob!r}")
        super().__init__(keys)
        self.prob = prob
        self.present = present

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with fewer channels.

        Raises:
            KeyError: if an image is absent.
            TypeError, ValueError: if an entry is not an image of real numbers, or its `present` entry does not cover
                all channels.
        """
        item = as_item(data)
        for key in self.keys:
            checked = as_image(str(key), item[key])
            image = item[key] if isinstance(item[key], Tensor) else checked
            if not image.is_floating_point():
                raise ValueError(
                    f"{named(str(key), image)}: expected floats in [-1, 1], received {image.dtype}; scale it"
                )
            have = item.get(self.present)
            there = self._present(have, image)
            kept = [c for c in there if self.R.random() >= self.prob] or [there[self.R.randint(len(there))]]
            gone = [c for c in there if c not in kept]
            if gone:
                item[key] = image.clone()
                item[key][gone] = MISSING
                if have is not None:
                    item[self.present] = have.clone()
                    item[self.present][gone] = False
        return item

    def _present(self, have: Any, image: Tensor) -> list[int]:
        """Channels that a case has."""
        if have is None:
            return list(range(len(image)))
        if not isinstance(have, Tensor) or have.dtype != torch.bool or have.shape != image.shape[:1] or not have.any():
            raise ValueError(
                f"{self.present}: expected booleans ({len(image)},), at least one of them true, received {have!r}"
            )
        return have.nonzero()[:, 0].tolist()


RandDropChannelsD = RandDropChannelsDict = RandDropChannelsd
