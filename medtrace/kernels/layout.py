"""Tensors as compiled loops want them."""

from __future__ import annotations

import torch
from torch import Tensor


def plain(tensor: Tensor) -> Tensor:
    """A tensor without gradient and without a subclass's ways, contiguous in rows."""
    return tensor.detach().as_subclass(torch.Tensor).contiguous()  # type: ignore[arg-type]
