"""Compiling the hot operations in advance, so that no later command has to."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from medtrace.fields import compose, exponentiate, identity_grid, invert, jacobian_determinant, warp
from medtrace.losses import ParzenDNMILoss
from medtrace.registration import Deformable, deform, register_images
from medtrace.registration.deformable import SIMILARITIES

_SHAPES = ((24, 22), (24, 22, 20))


def compile_operations() -> float:
    """Run each hot operation once on small images, in float32 and float64, forward and backward.

    numba compiles an operation at its first call and keeps the result beside the source or in its cache folder
    (NUMBA_CACHE_DIR), where later processes find it: worth it when a container is built, or once on a cluster. Where
    plain torch runs (`MEDTRACE_KERNELS=torch`), nothing is compiled.

    Returns:
        The seconds that it took: two minutes of one core, or one second where everything was compiled before.

    Example:
        >>> compile_operations() > 0
        True
    """
    started = time.perf_counter()
    for shape in _SHAPES:
        for dtype in (torch.float32, torch.float64):
            _flow(shape, dtype)
        _register(shape)
    return time.perf_counter() - started


def _flow(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image = _ball(shape).to(dtype)[None].requires_grad_()
    velocity = (0.1 * torch.ones(1, len(shape), *shape, dtype=dtype)).requires_grad_()
    ddf = exponentiate(velocity)
    warped = warp(image, compose(ddf, ddf))
    (warped.sum() + ParzenDNMILoss()(warped, image) + jacobian_determinant(ddf).sum()).backward()
    jacobian_determinant(ddf.detach())
    invert(ddf.detach())


def _register(shape: tuple[int, ...]) -> None:
    fixed = _ball(shape)
    moving = fixed.roll(2, 1)
    eye = torch.eye(4, dtype=torch.float64)
    register_images(moving, fixed, eye, eye)
    register_images(moving, fixed, eye, eye, mask=torch.zeros_like(fixed))
    for similarity in SIMILARITIES:
        deform(moving, fixed, settings=Deformable(similarity=similarity))


def _ball(shape: tuple[int, ...]) -> Tensor:
    """A ball with a rim, (1, *shape) in [-1, 1]."""
    center = torch.tensor(shape).reshape(-1, *[1] * len(shape)) / 2
    distance = (identity_grid(shape) - center).square().sum(0, keepdim=True)
    return torch.exp(-distance / 40) - torch.exp(-distance / 4)
