"""Scaling and squaring: an operator with a gradient that keeps nothing but the velocity, compiled for the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

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
    for squaring, items, (flow, other) in _parts(velocity, 2):
        squaring.start(velocity[items], 0.5**steps, flow)
        for _ in range(steps):
            squaring.forward(flow, other)
            flow, other = other, flow
        squaring.finish(flow, 1.0, result[items])
    return result


@_exponentiate.register_fake
def _(velocity: Tensor, _steps: int) -> Tensor:
    return torch.empty_like(velocity, memory_format=torch.contiguous_format)


@torch.library.custom_op("medtrace::exponentiate_backward", mutates_args=(), device_types="cpu")
def _exponentiate_backward(grad: Tensor, velocity: Tensor, steps: int) -> Tensor:
    velocity, grad = plain(velocity), plain(grad)
    result = torch.empty_like(velocity)
    for squaring, items, (given, back, *flows) in _parts(velocity, steps + 2):
        squaring.start(velocity[items], 0.5**steps, flows[0])
        for flow, squared in itertools.pairwise(flows):
            squaring.forward(flow, squared)
        squaring.start(grad[items], 1.0, given)
        for flow in reversed(flows):
            squaring.backward(flow, given, back)
            given, back = back, given
        squaring.finish(given, 0.5**steps, result[items])
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


class Squaring(Protocol):
    """One squaring and its gradient, on fields in the layout that suits them."""

    layout: tuple[int, ...]
    """Shape of a field in the layout."""

    def start(self, field: Tensor, factor: float, out: Tensor) -> None:
        """Write a field (B, spatial_dims, ...) times a factor to `out`, in the layout."""

    def forward(self, flow: Tensor, out: Tensor) -> None:
        """Write flow(p) + flow(p + flow(p)) to `out`."""

    def backward(self, flow: Tensor, grad: Tensor, out: Tensor) -> None:
        """Write the gradient by the flow to `out`."""

    def finish(self, flow: Tensor, factor: float, out: Tensor) -> None:
        """Write a flow times a factor to `out`, (B, spatial_dims, ...)."""


class PlanarSquaring:
    """Components apart, (B, 2, H, W)."""

    def __init__(self, velocity: Tensor) -> None:
        self.layout: tuple[int, ...] = tuple(velocity.shape)

    def start(self, field: Tensor, factor: float, out: Tensor) -> None:
        """Write a field times a factor, on the threads that work on it afterwards.

        torch's own threads would go on to wait in a loop for more, and take these ones' time.
        """
        given, to = field.numpy().reshape(-1), out.numpy().reshape(-1)

        def task(begin: int, end: int) -> None:
            np.multiply(given[begin:end], given.dtype.type(factor), out=to[begin:end])

        threads.run(task, threads.pieces(given.size, given.size))

    def forward(self, flow: Tensor, out: Tensor) -> None:
        """See `Squaring`."""
        read_into(flow, flow, out, displaced=True, add=True)

    def backward(self, flow: Tensor, grad: Tensor, out: Tensor) -> None:
        """See `Squaring`."""
        write_gradients(grad, flow, flow, out, out, displaced=True, add=True)

    def finish(self, flow: Tensor, factor: float, out: Tensor) -> None:
        """See `Squaring`."""
        self.start(flow, factor, out)


class JoinedSquaring:
    """The vector of a voxel lies together, (B, voxels, 4)."""

    def __init__(self, velocity: Tensor) -> None:
        from medtrace.kernels import flow_3d  # numba takes half a second to import

        self.loops = flow_3d
        self.shape = tuple(int(size) for size in velocity.shape[2:])
        self.batch = velocity.shape[0]
        self.voxels = velocity[0, 0].numel()
        self.layout: tuple[int, ...] = (self.batch, self.voxels, 4)
        self.real = np.float64 if velocity.dtype == torch.float64 else np.float32
        self.planes = threads.pieces(self.batch * self.shape[0], self.batch * self.voxels)

    def start(self, field: Tensor, factor: float, out: Tensor) -> None:
        """See `Squaring`."""
        arrays = field.numpy().reshape(self.batch, 3, self.voxels), self.real(factor), out.numpy()
        self._share(lambda begin, end: self.loops.pack(*arrays, begin, end))

    def forward(self, flow: Tensor, out: Tensor) -> None:
        """See `Squaring`."""
        height, arrays = self.shape[1], (flow.numpy(), self.shape, out.numpy())
        threads.run(lambda low, high: self.loops.square(*arrays, low * height, high * height), self.planes)

    def backward(self, flow: Tensor, grad: Tensor, out: Tensor) -> None:
        """See `Squaring`."""
        arrays = flow.numpy(), self.shape, grad.numpy(), out.numpy()
        threads.run(lambda low, high: self.loops.square_backward(*arrays, low, high), self.planes)

    def finish(self, flow: Tensor, factor: float, out: Tensor) -> None:
        """See `Squaring`."""
        arrays = flow.numpy(), self.real(factor), out.numpy().reshape(self.batch, 3, self.voxels)
        self._share(lambda begin, end: self.loops.unpack(*arrays, begin, end))

    def _share(self, task: Any) -> None:
        threads.run(task, threads.pieces(self.voxels, self.batch * self.voxels))


def _parts(velocity: Tensor, count: int) -> Iterator[tuple[Squaring, slice, Tensor]]:
    """Batch items that are worked on together, few enough for the processor's caches, and `count` fields of memory."""
    kind = PlanarSquaring if velocity.ndim == 4 else JoinedSquaring
    size = max(1, PART // max(1, velocity[:1].numel()))
    work = None
    for begin in range(0, velocity.shape[0], size):
        items = slice(begin, begin + size)
        squaring = kind(velocity[items])
        if work is None:
            work = velocity.new_empty(count, *squaring.layout)
        yield squaring, items, work[:, : squaring.layout[0]]
