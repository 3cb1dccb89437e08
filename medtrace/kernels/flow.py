"""Scaling and squaring: an operator with a gradient that keeps nothing but the velocity, compiled for the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.layout import plain
from medtrace.kernels.warp import read_into, write_gradients

choice.OPERATIONS["exponentiate"] = "CPU"

PART = 1 << 18
"""Numbers of a field that are worked on together, if they are of several batch items."""


def exponentiate(velocity: Tensor, steps: int) -> Tensor:
    """Displacement of a stationary velocity after `steps` squarings, of at least one.

    Args:
        velocity: (B, 2, H, W) or (B, 3, H, W, D) float32 or float64, on the CPU, in voxels.
        steps: squarings, 1 or more.

    Returns:
        Displacement of its shape. Backwards the squarings are run again: only the velocity waits for the gradient.
    """
    result: Tensor = _exponentiate(velocity, steps)
    return result


@torch.library.custom_op("medtrace::exponentiate", mutates_args=(), device_types="cpu")
def _exponentiate(velocity: Tensor, steps: int) -> Tensor:
    velocity = plain(velocity)
    result = torch.empty_like(velocity)
    for items, (flow, other) in _parts(velocity, 2):
        _scale(velocity[items], 0.5**steps, flow)
        for _ in range(steps - 1):
            _square(flow, other)
            flow, other = other, flow
        _square(flow, result[items])
    return result


@_exponentiate.register_fake
def _(velocity: Tensor, _steps: int) -> Tensor:
    return torch.empty_like(velocity, memory_format=torch.contiguous_format)


@torch.library.custom_op("medtrace::exponentiate_backward", mutates_args=(), device_types="cpu")
def _exponentiate_backward(grad: Tensor, velocity: Tensor, steps: int) -> Tensor:
    velocity, grad = plain(velocity), plain(grad)
    result = torch.empty_like(velocity)
    for items, (given, back, *flows) in _parts(velocity, steps + 2):
        _scale(velocity[items], 0.5**steps, flows[0])
        for flow, squared in itertools.pairwise(flows):
            _square(flow, squared)
        _scale(grad[items], 1.0, given)
        for flow in reversed(flows):
            _square_backward(flow, given, back)
            given, back = back, given
        _scale(given, 0.5**steps, result[items])
    return result


@_exponentiate_backward.register_fake
def _(_grad: Tensor, velocity: Tensor, _steps: int) -> Tensor:
    return torch.empty_like(velocity, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG001 - torch passes it by name
    velocity, ctx.steps = inputs
    ctx.save_for_backward(velocity)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    (velocity,) = ctx.saved_tensors
    return _exponentiate_backward(grad, velocity, ctx.steps), None


_exponentiate.register_autograd(_backward, setup_context=_setup)


def _scale(field: Tensor, factor: float, out: Tensor) -> None:
    """Write a field times a factor, on the threads that work on it afterwards.

    torch's own threads would keep spinning while they wait for more, and take time from these.
    """
    given, to = field.numpy().reshape(-1), out.numpy().reshape(-1)

    def task(begin: int, end: int) -> None:
        np.multiply(given[begin:end], given.dtype.type(factor), out=to[begin:end])

    threads.run(task, threads.pieces(given.size, given.size))


def _square(flow: Tensor, out: Tensor) -> None:
    """Write flow(p) + flow(p + flow(p)) to `out`."""
    read_into(flow, flow, out, displaced=True, add=True)


def _square_backward(flow: Tensor, grad: Tensor, out: Tensor) -> None:
    """Write the gradient of `_square` by the flow to `out`."""
    write_gradients(grad, flow, flow, out, out, displaced=True, add=True)


def _parts(velocity: Tensor, count: int) -> Iterator[tuple[slice, Tensor]]:
    """Batch items that are worked on together, few enough for the processor's caches, and `count` fields of memory."""
    size = min(max(1, PART // max(1, velocity[:1].numel())), velocity.shape[0])
    work = velocity.new_empty(count, size, *velocity.shape[1:])
    for begin in range(0, velocity.shape[0], size or 1):
        items = slice(begin, begin + size)
        yield items, work[:, : velocity[items].shape[0]]
