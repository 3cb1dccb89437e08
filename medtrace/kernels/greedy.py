"""The operations of compositional registration on one grid: compiled for the CPU, or plain torch on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medtrace.kernels import choice
from medtrace.kernels.greedy_interface import Operations

choice.OPERATIONS["registration (warp with slopes, windows, smoothing, composition)"] = "CPU, float32"


def operations(
    shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Operations:
    """The operations for a grid: compiled on the CPU in float32, else plain torch.

    Args:
        shape: (H, W) or (H, W, D).
        device: device of the images.
        dtype: float32 or float64.

    Returns:
        The operations.
    """
    if dtype == torch.float32 and choice.takes_compiled(torch.empty(0, device=device, dtype=dtype)):
        from medtrace.kernels.greedy_compiled import CompiledOperations

        return CompiledOperations(tuple(shape))
    from medtrace.kernels.greedy_torch import TorchOperations

    return TorchOperations(tuple(shape), torch.device(device), dtype)
