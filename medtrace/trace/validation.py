"""Checks of a trace's members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_finite
from medtrace.geometry.grid import Grid, check_invertible, with_exact_last_row
from medtrace.trace.contrast import Contrast

_ON_GRID = 0.02
"""Maximum offset of a mask or label map, as a fraction of the smallest voxel edge."""


def as_tensor(value: Tensor) -> Tensor:
    """Without MONAI's metadata: networks and losses then run as plain torch."""
    return value.as_tensor() if hasattr(value, "as_tensor") else value


def checked_tensor(name: str, value: Any, dtype: torch.dtype = torch.float32) -> Tensor:
    """The value as a detached plain tensor of one type; masks may come as integers or booleans."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(value).__name__}; convert it first")
    if name != "mask" and not value.is_floating_point():
        raise TypeError(f"{name}: expected floating-point values, received {value.dtype}; call .float() first")
    return as_tensor(value).detach().to(dtype)


def affine_or_identity(name: str, affine: Tensor | None, device: torch.device) -> Tensor:
    """The affine, checked, on a device; identity for None."""
    if affine is None:
        return torch.eye(4, dtype=torch.float64, device=device)
    return check_affine(name, checked_tensor(name, affine, torch.float64).to(device))


def check_own_grid(name: str, value: Any, affine: Tensor) -> None:
    """Check that an image (C, *spatial) that carries an affine is on the grid that its shape fits.

    The identity, which MONAI assigns to an image without geometry, is not checked.

    Raises:
        ValueError: if not; it states the distance.
    """
    own = getattr(value, "affine", None)
    if own is None or value.ndim not in (3, 4) or own.shape != (4, 4):
        return
    if torch.equal(own.detach().as_subclass(Tensor).cpu().double(), torch.eye(4, dtype=torch.float64)):
        return
    grid, expected = Grid.of(value), Grid.of(value, affine)
    if not grid.coincides(expected, _ON_GRID):
        raise ValueError(
            f"{name}: lies up to {grid.distance(expected):.3g} mm off the grid that it should share; resample it"
        )


def check_unbatched(name: str, value: Tensor, spatial_dims: int | None = None) -> int:
    if value.ndim not in (3, 4) or value.numel() == 0:
        raise ValueError(
            f"{name}: expected (channel, H, W) or (channel, H, W, D), unbatched and not empty, received shape"
            f" {tuple(value.shape)}"
        )
    if spatial_dims is not None and value.ndim - 1 != spatial_dims:
        raise ValueError(f"{name}: expected {spatial_dims} spatial axes as the source has, received {value.ndim - 1}")
    return value.ndim - 1


def check_contrasts(name: str, contrasts: Any, image: Tensor) -> None:
    """Check that there is one contrast per channel of an image, or none is known."""
    if contrasts is None:
        return
    if not isinstance(contrasts, tuple) or not all(isinstance(contrast, Contrast) for contrast in contrasts):
        raise TypeError(f"{name}: expected a tuple of Contrast, received {contrasts!r:.80}; name one per channel")
    if len(contrasts) != image.shape[0]:
        raise ValueError(f"{name}: expected one per channel ({image.shape[0]}), received {len(contrasts)}")


def share_unit(before: tuple[Contrast, ...] | None, after: tuple[Contrast, ...] | None) -> bool:
    """Whether the channels of two images are in the same units, as far as these are known."""
    if before is None or after is None:
        return True
    return len(before) == len(after) and all(first.shares_unit(second) for first, second in zip(before, after))


def check_affine(name: str, affine: Tensor) -> Tensor:
    """An affine, its last row exact (see `with_exact_last_row`), if it is one."""
    if affine.shape != (4, 4):
        raise ValueError(f"{name}: expected shape (4, 4), also in 2D, received {tuple(affine.shape)}")
    check_finite(name, affine)
    affine = with_exact_last_row(name, affine)
    check_invertible(name, affine)
    return affine


def check_one_plane(affine: Tensor, source_affine: Tensor, shape: Sequence[int]) -> None:
    """Check that the slices of a 2D trace lie in one plane: an in-plane field cannot lead out of it."""
    to_source = torch.linalg.solve(source_affine, affine)
    height, width = shape
    corners = to_source.new_tensor([[i, j, 0, 1] for i in (0, height - 1) for j in (0, width - 1)])
    distance = float((corners @ to_source[2]).abs().max())
    if distance > 0.5:
        raise ValueError(
            f"affine: expected the target slice in the source's plane, received one up to {distance:.2f} source"
            " slices away; resample to one plane, or make a 3D trace"
        )
