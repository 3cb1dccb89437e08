"""Sampling of images at displaced or given positions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace.checks import (
    check_batched,
    check_choice,
    check_field,
    check_floating,
    check_floating_type,
    check_same_grid,
    check_shape,
)
from medtrace.kernels.choice import takes_compiled
from medtrace.kernels.warp import read

MODES = ("bilinear", "nearest")
PADDING_MODES = ("border", "zeros", "reflection")


def identity_grid(
    shape: Sequence[int], *, device: torch.device | str | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Voxel coordinates of every voxel of a grid.

    Args:
        shape: spatial shape (H, W) or (H, W, D).
        device: the result's device.
        dtype: its floating type.

    Returns:
        (D, *shape): component d of voxel p is p[d], in voxels.

    Raises:
        TypeError, ValueError: if the shape is invalid, or dtype is not a floating type.

    Example:
        >>> identity_grid((2, 3))[1]  # position along the second axis
        tensor([[0., 1., 2.],
                [0., 1., 2.]])
    """
    check_shape("shape", shape)
    check_floating_type("dtype", dtype)
    axes = [torch.arange(size, device=device, dtype=dtype) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def warp(image: Tensor, ddf: Tensor, mode: str = "bilinear", padding_mode: str = "border") -> Tensor:
    """Pull an image through a displacement: `result(p) = image(p + ddf(p))`.

    Args:
        image: (B, C, H, W) or (B, C, H, W, D); floating, or integer or boolean labels with `mode="nearest"`.
        ddf: (B, spatial_dims, ...) on the image's grid, in voxels, array-axis order.
        mode: "bilinear" (trilinear in 3D) or "nearest" (halves go to the even neighbor).
        padding_mode: what is outside the grid: "border" (nearest voxel), "zeros" (fading over one voxel in
            bilinear mode) or "reflection" (about the border voxels' centers).

    Returns:
        Tensor of the image's shape. Labels keep their dtype; floating images are returned in float32 or, if the image
        or the field is float64, float64: half precision is computed and returned in float32, also inside autocast.

    Raises:
        TypeError: if an argument is not a tensor of the right type.
        ValueError: if shapes differ or a mode is unknown.

    Bilinear reads with border padding run compiled on the CPU, in voxel units and with identical bytes for any number
    of threads; everything else uses torch's grid_sample. A NaN position reads an arbitrary voxel.

    Example:
        >>> source = torch.zeros(1, 1, 10, 10)
        >>> source[0, 0, 3, 4] = 1.0
        >>> ddf = torch.zeros(1, 2, 10, 10)
        >>> ddf[0, :, 6, 5] = torch.tensor([-3.0, -1.0])
        >>> float(warp(source, ddf)[0, 0, 6, 5])
        1.0
    """
    check_field("ddf", ddf)
    _check_image(image, mode, padding_mode)
    check_same_grid("image", image, "ddf", ddf)
    if lacks_sampling(image):
        return warp(image.cpu(), ddf.cpu(), mode, padding_mode).to(image.device)
    with full_precision(ddf):
        values, field = common_type(image, ddf)
        if _has_loop(values, field, mode, padding_mode):
            return read(values, field, displaced=True)
        grid = displaced_grid(field, ddf.shape[2:])
        return _read(values, grid, mode, padding_mode).to(_result_type(image, values))


def sample(image: Tensor, coordinates: Tensor, mode: str = "bilinear", padding_mode: str = "border") -> Tensor:
    """Read an image at voxel coordinates.

    Args:
        image: as for `warp`.
        coordinates: (B, spatial_dims, *out) in voxels of the image, array-axis order; `out` is of any rank,
            so (B, 2, N) reads N points.
        mode: as for `warp`.
        padding_mode: as for `warp`.

    Returns:
        (B, C, *out), of the type that `warp` returns.

    Raises:
        TypeError: if an argument is not a tensor of the right type.
        ValueError: if shapes do not fit or a mode is unknown.

    Example:
        >>> image = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> sample(image, torch.tensor([0.5, 0.5]).reshape(1, 2, 1, 1)).flatten()  # the middle of four
        tensor([1.5000])
    """
    spatial_dims = _check_image(image, mode, padding_mode)
    check_coordinates("coordinates", coordinates, image)
    if lacks_sampling(image):
        return sample(image.cpu(), coordinates.cpu(), mode, padding_mode).to(image.device)
    out_shape = coordinates.shape[2:]
    with full_precision(coordinates):
        values, points = common_type(image, coordinates)
        if _has_loop(values, points, mode, padding_mode):
            return read(values, points, displaced=False)
        # grid_sample requires as many output axes as the image has
        points = points.reshape(points.shape[0], spatial_dims, -1, *(1,) * (spatial_dims - 1))
        result = _read(values, normalized_grid(points, image.shape[2:]), mode, padding_mode)
        return result.reshape(*result.shape[:2], *out_shape).to(_result_type(image, values))


def inside_grid(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """Where voxel coordinates lie between the centers of a grid's first and last voxels.

    Args:
        coordinates: (B, spatial_dims, *out) in voxels.
        shape: the grid's spatial shape.

    Returns:
        Boolean (B, 1, *out). On an axis of length 1, only 0 lies inside (to 1e-4 voxel, like every border).

    Raises:
        TypeError, ValueError: if the coordinates are not a floating tensor, or their axes do not match the shape.

    Example:
        >>> inside_grid(torch.tensor([[[0.0, 3.5]], [[1.0, 1.0]]])[None], (3, 3))
        tensor([[[[ True, False]]]])
    """
    check_floating("coordinates", coordinates)
    dims = check_shape("shape", shape)
    if coordinates.ndim < 2 or coordinates.shape[1] != dims:
        raise ValueError(
            f"coordinates: expected (batch, {dims}, ...) for the grid {tuple(shape)}, received"
            f" {tuple(coordinates.shape)}"
        )
    slack = 1e-4
    inside = torch.ones_like(coordinates[:, :1], dtype=torch.bool)
    for axis, size in enumerate(shape):
        value = coordinates[:, axis : axis + 1]
        inside = inside & (value >= -slack) & (value <= size - 1 + slack)
    return inside


def lacks_sampling(image: Tensor) -> bool:
    """Whether torch cannot sample an image on its device: volumes and labels on Apple's GPUs. A notice is given
    once."""
    if image.device.type != "mps" or (image.ndim < 5 and image.is_floating_point()):
        return False
    warnings.warn(
        "mps: torch cannot sample volumes or labels on Apple's GPUs; they are sampled on the CPU", stacklevel=2
    )
    return True


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off on a tensor's device; no effect while a program is exported, which does not support
    autocast."""
    return nullcontext() if torch.compiler.is_exporting() else torch.autocast(like.device.type, enabled=False)


def axis_scale(size: int) -> float:
    """Factor from voxels to grid_sample's [-1, 1]; any factor works for an axis of length 1."""
    return 2.0 / max(size - 1, 1)


def displaced_grid(ddf: Tensor, shape: Sequence[int]) -> Tensor:
    """grid_sample's grid of the points p + ddf(p), (B, *shape, spatial_dims)."""
    parts = []
    for axis in reversed(range(len(shape))):
        size = shape[axis]
        scale = axis_scale(size)
        line = torch.arange(size, device=ddf.device, dtype=ddf.dtype) * scale - 1.0
        line = line.reshape([-1 if other == axis else 1 for other in range(len(shape))])
        parts.append(torch.add(line, ddf[:, axis], alpha=scale))
    return torch.stack(parts, dim=-1)


def normalized_grid(coordinates: Tensor, shape: Sequence[int]) -> Tensor:
    """grid_sample's grid of the given voxel coordinates, (B, *out, spatial_dims)."""
    parts = [coordinates[:, axis] * axis_scale(shape[axis]) - 1.0 for axis in reversed(range(len(shape)))]
    return torch.stack(parts, dim=-1)


def _has_loop(values: Tensor, field: Tensor, mode: str, padding_mode: str) -> bool:
    return mode == "bilinear" and padding_mode == "border" and takes_compiled(values, field)


def _read(values: Tensor, grid: Tensor, mode: str, padding_mode: str) -> Tensor:
    result = F.grid_sample(values, grid, mode=mode, padding_mode=padding_mode, align_corners=True)
    if padding_mode != "zeros":
        return result
    # On an axis of length 1 grid_sample multiplies the coordinate by zero, so nothing ever lies outside it.
    for component, size in enumerate(reversed(values.shape[2:])):
        if size == 1:
            distance = (grid[..., component] + 1.0).abs() / axis_scale(1)
            weight = (distance <= 0.5).to(result) if mode == "nearest" else (1.0 - distance).clamp_min(0.0)
            result = result * weight.unsqueeze(1)
    return result


def _check_image(image: Tensor, mode: str, padding_mode: str) -> int:
    check_choice("mode", mode, MODES)
    check_choice("padding_mode", padding_mode, PADDING_MODES)
    if isinstance(image, Tensor) and not image.is_floating_point() and not image.is_complex():
        if mode != "nearest":
            raise TypeError(
                f"image: expected floating-point values for mode={mode!r}, received {image.dtype}; use"
                ' mode="nearest" for labels or call .float()'
            )
        return check_batched("image", torch.empty(image.shape, device="meta"))
    return check_batched("image", image)


def check_coordinates(name: str, coordinates: Tensor, image: Tensor) -> None:
    """Check that coordinates (B, spatial_dims, *out) fit an image's batch and rank."""
    check_floating(name, coordinates)
    expected = (image.shape[0], image.ndim - 2)
    if coordinates.ndim < 3 or coordinates.shape[:2] != expected:
        raise ValueError(
            f"{name}: expected {expected} and then any shape, in voxels, for an image of shape"
            f" {tuple(image.shape)}, received {tuple(coordinates.shape)}"
        )


def common_type(image: Tensor, field: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the computation type: float64 if one is, and for labels (exact to 2^53), else float32."""
    integer = not image.is_floating_point()
    double = integer or torch.float64 in (image.dtype, field.dtype)
    dtype = torch.float64 if double else torch.float32
    return image.to(dtype), field.to(dtype)


def _result_type(image: Tensor, values: Tensor) -> torch.dtype:
    return values.dtype if image.is_floating_point() else image.dtype
