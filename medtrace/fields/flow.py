"""Make and join displacements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace.checks import check_field, check_same_shape, sizes_are_symbols
from medtrace.fields.resample import axis_scale, common_type, displaced_grid, full_precision, lacks_sampling, warp
from medtrace.kernels import flow
from medtrace.kernels.choice import takes_compiled
from medtrace.kernels.warp import read


def exponentiate(velocity: Tensor, steps: int = 7) -> Tensor:
    """Displacement at time 1 of the flow of a stationary velocity, by scaling and squaring.

    Args:
        velocity: (B, 2, H, W) or (B, 3, H, W, D), in voxels per unit time, array-axis order.
        steps: squarings; the flow starts as velocity / 2**steps. 0 returns the velocity itself.

    Returns:
        Displacement of the same shape, in voxels, float32 (float64 for float64), also inside autocast.

    Raises:
        TypeError: if the velocity is not a floating tensor or steps is not an integer.
        ValueError: if the shape is wrong or steps is negative.

    Equation: u_0 = v / 2^n, u_{k+1}(p) = u_k(p) + u_k(p + u_k(p)); Arsigny et al., MICCAI 2006. Outside the
    grid the velocity continues as at the border, so that a constant velocity is exactly a translation (MONAI's
    DVF2DDF continues with zeros by default). On the CPU the squarings run compiled, and are recomputed in the backward
    pass, so that only the velocity is stored for the gradient.

    Example:
        >>> velocity = torch.zeros(1, 2, 16, 16)
        >>> velocity[:, 0] = 1.0
        >>> exponentiate(velocity).shape, float(exponentiate(velocity)[0, 0, 8, 8])
        (torch.Size([1, 2, 16, 16]), 1.0)
    """
    spatial_dims = check_field("velocity", velocity)
    if not isinstance(steps, int) or isinstance(steps, bool):
        raise TypeError(f"steps: expected an integer, received {type(steps).__name__}")
    if steps < 0:
        raise ValueError(f"steps: expected 0 or more squarings, received {steps}")
    if lacks_sampling(velocity):
        return exponentiate(velocity.cpu(), steps).to(velocity.device)
    with full_precision(velocity):
        field = velocity if velocity.dtype == torch.float64 else velocity.float()
        if steps == 0:
            return field
        if takes_compiled(field):
            return flow.exponentiate(field, steps)
        shape = velocity.shape[2:]
        # The loop runs in grid_sample's own units and component order: one add and one read per squaring.
        scale = _scale(field)
        base = displaced_grid(field.new_zeros(1, spatial_dims, *shape), shape)
        moved = field.flip(1) * (scale / 2**steps)
        for _ in range(steps):
            grid = base + moved.movedim(1, -1)
            moved = moved + F.grid_sample(moved, grid, mode="bilinear", padding_mode="border", align_corners=True)
        result: Tensor = (moved / scale).flip(1)
        return result


def _scale(field: Tensor) -> Tensor:
    """From voxels to grid_sample's units, in its order of components, for a field of size (B, spatial_dims, ...)."""
    shape = field.shape[2:]
    if sizes_are_symbols():  # numbers made from them would be constants of the program
        parts = [field.new_ones(1, 1, *(1,) * len(shape)) * axis_scale(size) for size in reversed(shape)]
        return torch.cat(parts, dim=1)
    return field.new_tensor([axis_scale(size) for size in reversed(shape)]).reshape(1, -1, *(1,) * len(shape))


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Displacement of the map p -> outer_map(inner_map(p)).

    `warp(image, compose(outer, inner))` is `warp(warp(image, outer), inner)` up to interpolation.

    Args:
        outer: (B, spatial_dims, ...) in voxels; read at p + inner(p), beyond the grid as at its border.
        inner: of the same shape.

    Returns:
        inner(p) + outer(p + inner(p)), of the same shape.

    Raises:
        TypeError: if a field is not a floating tensor.
        ValueError: if the shapes are wrong or differ.

    Example:
        >>> first, second = torch.full((1, 2, 4, 4), 1.0), torch.full((1, 2, 4, 4), 0.5)
        >>> float(compose(first, second).mean())
        1.5
    """
    check_field("outer", outer)
    check_field("inner", inner)
    check_same_shape("outer", outer, "inner", inner)
    with full_precision(inner):
        far, near = common_type(outer, inner)
        if takes_compiled(far, near):
            return read(far, near, displaced=True, add=True)
    moved = warp(outer, inner)
    return moved + inner.to(moved.dtype)


def inverse_consistency(ddf: Tensor, inverse_ddf: Tensor) -> Tensor:
    """Inverse-consistency error of a displacement and its claimed inverse, per voxel.

    Args:
        ddf: (B, spatial_dims, ...) in voxels.
        inverse_ddf: of the same shape. Exchange the two to measure on the other grid.

    Returns:
        (B, 1, ...): |inverse_ddf(p) + ddf(p + inverse_ddf(p))| in voxels; 0 where one inverts the other.
        Points that leave the grid read the border's displacement; `inside_grid` reports which.

    Raises:
        TypeError: if a field is not a floating tensor.
        ValueError: if the shapes are wrong or differ.

    Example:
        >>> ddf = torch.full((1, 2, 4, 4), 0.5)
        >>> float(inverse_consistency(ddf, -ddf).max())
        0.0
    """
    check_field("ddf", ddf)
    check_field("inverse_ddf", inverse_ddf)
    check_same_shape("ddf", ddf, "inverse_ddf", inverse_ddf)
    result: Tensor = torch.linalg.vector_norm(compose(ddf, inverse_ddf), dim=1, keepdim=True)
    return result
