"""Steps whose loss or gradient is not finite, or has grown beyond all measure: found, undone, counted, an error."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medtrace.checks import check_positive

LOGGER = logging.getLogger("medtrace.training")


DIVERGED = 1e12
"""A loss beyond which no training recovers."""
DIVERGED_BY = 1e6
"""Likewise, as a multiple of the first step's loss (or of 1, if that is smaller)."""
DOUBTFUL_BY = 1e3
"""Multiple of the first step's loss from which a checkpoint no longer replaces an earlier one."""


class DivergedError(ValueError):
    """A loss has grown so much that the training cannot come back."""


class SkipLimit:
    """When skipped steps end a training.

    Args:
        in_a_row: this many skipped steps in a row; infinity means no limit.
        in_all: this many in the entire training; likewise.
    """

    def __init__(self, in_a_row: float = 5, in_all: float = 50) -> None:
        check_positive("in_a_row", in_a_row, finite=False)
        check_positive("in_all", in_all, finite=False)
        self.in_a_row = in_a_row
        self.in_all = in_all

    def check(self, in_a_row: int, in_all: int, reason: str) -> None:
        """Raise a ValueError with `reason` when a limit is reached."""
        if in_a_row < self.in_a_row and in_all < self.in_all:
            return
        counted = f"{in_a_row} steps in a row" if in_a_row >= self.in_a_row else f"{in_all} steps of this training"
        raise ValueError(too_many(counted, reason))


def too_many(counted: str, reason: str) -> str:
    """The message of a training that skipped too many steps, of which the last is described by `reason`."""
    return (
        f"loss: expected finite numbers, but {counted} had to be skipped; the last: {reason}; look for NaN in the"
        " images, or lower the learning rate"
    )


class ModuleMemory:
    """The state that a forward pass changes in a module, saved beforehand: buffers, and the snapshots of sub-modules
    with `snapshot`.

    Weights need not be saved, since a skipped step never changes them.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._buffers: list[Tensor] = []
        self._snapshots: list[tuple[Any, Any]] = []

    @torch.no_grad()
    def remember(self) -> None:
        """Copy the buffers, all in one operation where they are on one device, and take the snapshots."""
        buffers = list(self._module.buffers())
        if [_kind(buffer) for buffer in buffers] != [_kind(kept) for kept in self._buffers]:
            self._buffers = [buffer.clone() for buffer in buffers]
        elif buffers:
            torch._foreach_copy_(self._buffers, buffers)
        keepers: list[Any] = [module for module in self._module.modules() if hasattr(module, "snapshot")]
        self._snapshots = [(module, module.snapshot()) for module in keepers]

    @torch.no_grad()
    def recall(self) -> None:
        """Put everything back."""
        for buffer, kept in zip(self._module.buffers(), self._buffers):
            buffer.copy_(kept)
        for module, snapshot in self._snapshots:
            module.restore(snapshot)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device


def all_finite(values: Sequence[Tensor]) -> bool:
    """Whether every scalar is finite, on every process of a group.

    The device is read once for all of them.
    """
    return finite_and_bounded(values, (), math.inf)[0]


def finite_and_bounded(values: Sequence[Tensor], losses: Sequence[Tensor], limit: float) -> tuple[bool, bool]:
    """Whether every scalar is finite, and every loss below a limit, on every process of a group; one look at all."""
    finite = torch.isfinite(torch.stack([value.float() for value in values])).all()
    bounded = torch.stack([loss.float().abs() < limit for loss in losses]).all() if losses else finite
    agreed = torch.stack([finite, bounded]).to(torch.int32)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
    is_finite, is_bounded = agreed.tolist()
    return bool(is_finite), bool(is_bounded)


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """L2 norm of the gradients of some parameters, a scalar on their device; 0 without gradients."""
    parameters = list(parameters)
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    return nn.utils.get_total_norm(gradients)


def batch_names(batch: Mapping[str, Any]) -> str:
    """The origin of a batch: its cases and the files that its images were read from."""
    names: list[str] = []
    cases = batch.get("case", ())
    names += [cases] if isinstance(cases, str) else [str(case) for case in cases]
    for value in batch.values():
        if isinstance(value, MetaTensor):
            files = value.meta.get("filename_or_obj", ())
            names += [files] if isinstance(files, str) else [str(file) for file in files]
    return ", ".join(dict.fromkeys(names)) or "cases without names"
