"""A piecewise-linear map between the units of an image and what networks read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_PART = 1 << 20


@dataclass(frozen=True)
class IntensityMap:
    """The map from scan units to [-1, 1] and back, as knots of an increasing piecewise-linear function per channel.

    Attributes:
        scan: per channel, increasing scan intensities.
        network: per channel, the values in [-1, 1] that they become, from -1 to 1.
        foreground: (1, *spatial) boolean, where the scan has tissue, or None for everywhere; background
            becomes -1.
        background: the scan's intensity of background.
    """

    scan: tuple[tuple[float, ...], ...]
    network: tuple[tuple[float, ...], ...]
    foreground: Tensor | None = None
    background: float = 0.0

    def forward(self, image: Tensor) -> Tensor:
        """Scan units (C, *spatial) to float32 in [-1, 1]; beyond the outer knots it is clipped."""
        result = self._through(image, self.scan, self.network)
        return result if self.foreground is None else torch.where(self.foreground, result, -1.0)

    def inverse(self, image: Tensor, foreground: Tensor | None = None) -> Tensor:
        """Network intensities (C, *spatial) to scan units, float32.

        Args:
            image: in [-1, 1]. A value at the clipping limit, -1 or 1, becomes the outer knot: intensities beyond it are
                not recovered.
            foreground: (1, *spatial) boolean; elsewhere the result is the scan's background intensity. None
                maps every voxel.

        Raises:
            ValueError: if the image's channels differ from the scan's.
        """
        result = self._through(image, self.network, self.scan)
        return result if foreground is None else torch.where(foreground, result, self.background)

    def _through(self, image: Tensor, x: Sequence[Sequence[float]], y: Sequence[Sequence[float]]) -> Tensor:
        if image.shape[0] != len(x):
            raise ValueError(
                f"image: expected {len(x)} channel(s), as the scan has, received {image.shape[0]}; the output"
                " of a network with other channels cannot be converted back to the scan's units"
            )
        values = image.detach().cpu().numpy()
        mapped = np.empty(values.shape, dtype=np.float32)
        for v, a, b, into in zip(values, x, y, mapped):
            for first in range(0, len(v), max(1, _PART // max(v[0].size, 1))):  # np.interp computes in float64
                part = slice(first, first + max(1, _PART // max(v[0].size, 1)))
                into[part] = np.interp(v[part], a, b)
        return torch.from_numpy(mapped).to(image.device)
