"""The history of generated images that a discriminator assesses (Shrivastava et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class ImagePool(nn.Module):
    """Keep up to `size` generated images; half the time assess an old one in place of the new one.

    The kept images are part of the state dict, so that a resumed training continues with them; choices are drawn from
    torch's global generator on the CPU.

    Args:
        size: how many; 0 passes every image on.

    Raises:
        ValueError: if `size` is below 0.
    """

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        if size < 0:
            raise ValueError(f"size: expected 0 or more images, received {size!r}")
        self.size = size
        self.images: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        """Exchange a batch (B, C, *spatial) against a batch of the same shape, detached.

        Until the pool is full every image is kept and returned; then each is returned as it is, or, with probability
        1/2, swapped with a random one of the pool. Images of another shape than the kept ones start a new pool.
        """
        images = images.detach()
        if self.size == 0:
            return images
        if self.images and self.images[0].shape != images.shape[1:]:
            self.images = []
        chosen = []
        for image in images:
            if len(self.images) < self.size:
                self.images.append(image.clone())
                chosen.append(image)
            elif torch.rand(()) < 0.5:
                index = int(torch.randint(self.size, ()))
                chosen.append(self.images[index].to(image))
                self.images[index] = image.clone()
            else:
                chosen.append(image)
        return torch.stack(chosen)

    def snapshot(self) -> list[Tensor]:
        """The kept images as they are now, for `restore`; no image is copied, because none is ever changed."""
        return list(self.images)

    def restore(self, snapshot: list[Tensor]) -> None:
        """Forget what was exchanged since `snapshot`."""
        self.images = list(snapshot)

    def get_extra_state(self) -> dict[str, Any]:
        """The kept images, for a checkpoint."""
        return {"images": torch.stack(self.images) if self.images else None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put the kept images back, as many as there is memory for."""
        images = state["images"]
        self.images = [] if images is None else list(images[: self.size])
