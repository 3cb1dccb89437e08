"""Transforms that do something before and after another one, and draw nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from monai.transforms import Compose, MapTransform, Randomizable


class Around(Randomizable, MapTransform):
    """Something around a transform; a seed is that transform's.

    Args:
        keys: as for every dictionary transform; they may be missing.
        around: the transform.
    """

    def __init__(self, keys: Sequence[str], around: Compose) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.around = around

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> Self:
        """Seed the transform."""
        super().set_random_state(seed, state)
        self.around.set_random_state(seed, state)
        return self

    def randomize(self, data: Any) -> None:
        """Everything is drawn by the transform."""
