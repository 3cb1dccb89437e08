"""Exact chains of affines and displacement fields: images and points are mapped through all of them at once."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from medtrace.checks import check_choice, check_finite
from medtrace.fields import identity_grid, invert, mm_to_voxel
from medtrace.geometry.grid import Grid, check_invertible, with_exact_last_row
from medtrace.trace.geometry import INVERSION_WARNING, layers

OUTSIDE = ("border", "zero")
"""A field's displacement beyond its grid: that of the nearest border voxel, or zero, as in ITK."""
_HALF = 0.5 + 1e-6
_TOLERANCE = 1e-7
_ITERATIONS = 100


class Part(Protocol):
    """A map of points."""

    def move(self, points: Tensor) -> Tensor:
        """Points (N, 3) of the source for points (N, 3) of the target, both float64 in RAS mm."""
        ...

    def inverse(self) -> Part:
        """The way back."""
        ...


@dataclass(frozen=True, eq=False)
class AffinePart:
    """An affine map.

    Args:
        matrix: (4, 4) on points in RAS mm, from the target to the source.

    Raises:
        ValueError: if it is singular, of another shape or not affine.
    """

    matrix: Tensor

    def __post_init__(self) -> None:
        matrix = torch.as_tensor(self.matrix).detach().to(device="cpu", dtype=torch.float64)
        if matrix.shape != (4, 4):
            raise ValueError(f"matrix: expected (4, 4) with the last row 0 0 0 1, received {matrix.tolist()}")
        matrix = with_exact_last_row("matrix", matrix)
        check_invertible("matrix", matrix, "check the transform")
        object.__setattr__(self, "matrix", matrix)

    def move(self, points: Tensor) -> Tensor:
        result: Tensor = points @ self.matrix[:3, :3].T + self.matrix[:3, 3]
        return result

    def inverse(self) -> AffinePart:
        return AffinePart(torch.linalg.inv(self.matrix))


@dataclass(frozen=True, eq=False)
class FieldPart:
    """A displacement field on a grid.

    Args:
        ddf: (2, H, W) or (3, H, W, D), pull displacement in voxels of its grid; read linearly.
        affine: (4, 4) from its voxels to RAS mm.
        outside: one of `OUTSIDE`.
        known_inverse: the inverse as its own field, if there is one; otherwise `inverse` is solved for at the requested
            points.

    Raises:
        ValueError: if a shape is wrong, the affine is singular or a number is not finite.
    """

    ddf: Tensor
    affine: Tensor
    outside: str = "border"
    known_inverse: FieldPart | None = None

    def __post_init__(self) -> None:
        ddf = torch.as_tensor(self.ddf).detach().cpu()
        if ddf.ndim not in (3, 4) or ddf.shape[0] != ddf.ndim - 1:
            raise ValueError(f"ddf: expected (2, H, W) or (3, H, W, D), unbatched, received {tuple(ddf.shape)}")
        check_finite("ddf", ddf)
        check_choice("outside", self.outside, OUTSIDE)
        object.__setattr__(self, "ddf", ddf)
        object.__setattr__(self, "affine", self.grid.affine)

    @property
    def grid(self) -> Grid:
        """The grid on which the field is defined."""
        return Grid(tuple(self.ddf.shape[1:]), self.affine)

    def move(self, points: Tensor) -> Tensor:
        dims = self.ddf.shape[0]
        voxels = self.grid.to_voxels(points)[:, :dims]
        where = voxels.T.numpy()
        read = [
            map_coordinates(component.numpy(), where, output=np.float64, order=1, mode="nearest")
            for component in self.ddf
        ]
        moved = torch.from_numpy(np.stack(read, axis=1)) @ self.affine[:3, :dims].T
        if self.outside == "zero":
            moved[~_within(voxels, self.ddf.shape[1:])] = 0.0
        return points + moved

    def inverse(self) -> Part:
        if self.known_inverse is not None:
            return replace(self.known_inverse, known_inverse=replace(self, known_inverse=None))
        return SolvedInverse(self)


@dataclass(frozen=True, eq=False)
class SolvedInverse:
    """The inverse of a field, solved for at each point: exact where the field does not fold."""

    field: FieldPart

    def move(self, points: Tensor) -> Tensor:
        dims, affine = self.field.ddf.shape[0], self.field.affine
        voxels = self.field.grid.to_voxels(points)[:, :dims]
        solved = invert(self.field.ddf.double()[None], _ITERATIONS, _TOLERANCE, points=voxels.T[None].contiguous())
        moved = points + solved.ddf[0].T @ affine[:3, :dims].T
        if self.field.outside == "zero":
            beyond = ~_within(self.field.grid.to_voxels(moved)[:, :dims], self.field.ddf.shape[1:])
            moved[beyond] = points[beyond]
        error = (self.field.move(moved) - points).norm(dim=1) / min(self.field.grid.spacing)
        missed = int((error > INVERSION_WARNING).sum())
        if missed:
            warnings.warn(
                f"inverse: off by up to {float(error.max()):.2f} voxels, at {missed} of {len(points)} points; the"
                " field folds there, or ends next to them",
                stacklevel=2,
            )
        return moved

    def inverse(self) -> FieldPart:
        return self.field


@dataclass(frozen=True, eq=False)
class TransformChain:
    """A map from points of a target to their origin in a source, through successive affines and fields.

    Nothing is composed on a grid: each point is mapped through every part, so that an image is interpolated only once,
    at the end.

    Args:
        parts: a point of the target goes through the first of them first.

    Example:
        >>> shift = torch.eye(4, dtype=torch.float64)
        >>> shift[0, 3] = 5.0
        >>> chain = TransformChain((AffinePart(shift),))
        >>> both = chain.then(chain)
        >>> both.origin([[0.0, 0.0, 0.0]]).tolist(), both.locate([[10.0, 0.0, 0.0]]).tolist()
        ([[10.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]])
    """

    parts: tuple[Part, ...] = ()

    def origin(self, points_mm: Any) -> Tensor:
        """Where points of the target came from in the source.

        Args:
            points_mm: (N, 3), RAS mm.

        Returns:
            (N, 3) float64, RAS mm.

        Raises:
            ValueError: if their shape is not (N, 3) or a number is not finite.
        """
        points = torch.as_tensor(points_mm, dtype=torch.float64).cpu()
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points_mm: expected shape (N, 3), RAS mm, received {tuple(points.shape)}")
        check_finite("points_mm", points)
        for part in self.parts:
            points = part.move(points)
        return points

    def locate(self, points_mm: Any) -> Tensor:
        """Where points of the source are in the target: `origin` the other way."""
        return self.inverse().origin(points_mm)

    def then(self, second: TransformChain) -> TransformChain:
        """This chain followed by a second one, whose source is this one's target."""
        return TransformChain((*second.parts, *self.parts))

    def inverse(self) -> TransformChain:
        """The chain from the source to the target."""
        return TransformChain(tuple(part.inverse() for part in reversed(self.parts)))

    def simplified(self) -> TransformChain:
        """The same map with neighboring affines multiplied, and identities left out."""
        parts: list[Part] = []
        for part in self.parts:
            if isinstance(part, AffinePart) and parts and isinstance(parts[-1], AffinePart):
                part = AffinePart(part.matrix @ parts.pop().matrix)  # type: ignore[attr-defined]
            if not (isinstance(part, AffinePart) and torch.equal(part.matrix, torch.eye(4, dtype=torch.float64))):
                parts.append(part)
        return TransformChain(tuple(parts))

    @property
    def matrix(self) -> Tensor | None:
        """(4, 4) from target to source in RAS mm, or None if a part is not affine."""
        parts = self.simplified().parts
        if not parts:
            return torch.eye(4, dtype=torch.float64)
        return parts[0].matrix if len(parts) == 1 and isinstance(parts[0], AffinePart) else None

    def displacement(self, grid: Grid) -> Tensor:
        """The map at the voxels of a grid of the target.

        Returns:
            (spatial_dims, *shape) float64, in voxels of that grid. In 2D the out-of-plane component is left out.
        """
        dims = grid.spatial_dims
        result = torch.empty(dims, *grid.shape, dtype=torch.float64)
        for part in layers(grid.shape):
            points = _points(grid, part)
            shape = (part.stop - part.start, *grid.shape[1:])
            moved = (self.origin(points) - points).T.reshape(1, 3, *shape)
            result[:, part] = mm_to_voxel(moved, grid.affine)[0]
        return result

    def resample(
        self, image: Tensor, own: Grid, grid: Grid, interpolation: str = "linear", fill: float | Sequence[float] = 0.0
    ) -> Tensor:
        """Resample an image of the source onto a grid of the target, with one interpolation.

        Args:
            image: (C, *own.shape).
            own: the image's grid.
            grid: where it is requested.
            interpolation: "linear" (float32), "nearest" (for labels) or "partial-volume": for labels, the one that
                covers most of the voxel; each label is read linearly, at several points of a voxel where the grid is
                coarser than the image.
            fill: value beyond the image, which ends half a voxel beyond the outermost centers.

        Returns:
            (C, *grid.shape).

        Raises:
            ValueError: if a shape or the interpolation is wrong.
        """
        check_choice("interpolation", interpolation, INTERPOLATIONS)
        if tuple(image.shape[1:]) != own.shape:
            raise ValueError(f"image: expected (C, *{own.shape}), its grid, received {tuple(image.shape)}")
        values = image.detach().cpu().as_subclass(Tensor)
        if interpolation == "linear":
            values = values.float() if values.dtype != torch.float64 else values
        result = values.new_empty(values.shape[0], *grid.shape)
        offsets = _offsets(own, grid) if interpolation == "partial-volume" else torch.zeros(1, grid.spatial_dims)
        for part in layers((grid.shape[0], *grid.shape[1:-1], grid.shape[-1] * len(offsets))):
            reads = [
                own.to_voxels(self.origin(_points(grid, part, offset)))[:, : own.spatial_dims] for offset in offsets
            ]
            shape = (part.stop - part.start, *grid.shape[1:])
            for channel, into in zip(values, result):
                into[part] = _read(channel, reads, interpolation, fill).reshape(shape)
        return result


INTERPOLATIONS = ("linear", "nearest", "partial-volume")
"""How `TransformChain.resample` reads an image."""


def _read(channel: Tensor, reads: list[Tensor], interpolation: str, fill: Any) -> Tensor:
    """One channel at voxel coordinates (N, D), or for several such lists the label that covers most."""
    outside = ~_within(reads[0], channel.shape)
    if interpolation == "partial-volume":
        return _most(channel, reads, fill)
    order = {"linear": 1, "nearest": 0}[interpolation]
    dense = channel.numpy()
    if dense.dtype == bool:
        dense = dense.view(np.uint8)
    read = torch.from_numpy(map_coordinates(dense, reads[0].T.numpy(), order=order, mode="nearest"))
    read[outside] = fill
    return read.to(channel.dtype)


def _most(labels: Tensor, reads: list[Tensor], fill: Any) -> Tensor:
    count = len(reads[0])
    best, chosen = np.zeros(count), np.full(count, fill, dtype=labels.numpy().dtype)
    outside = [(~_within(read, labels.shape)).numpy() for read in reads]
    for label in torch.unique(labels).tolist():
        one = (labels == label).numpy().astype(np.float32)
        fraction = np.zeros(count)
        for read, beyond in zip(reads, outside):
            values = map_coordinates(one, read.T.numpy(), output=np.float64, order=1, mode="nearest")
            values[beyond] = float(label == fill)
            fraction += values
        better = fraction > best + 1e-9
        best[better], chosen[better] = fraction[better], label
    beyond = np.sum(outside, axis=0)
    chosen[beyond > best] = fill
    return torch.from_numpy(chosen)


def _offsets(own: Grid, grid: Grid) -> Tensor:
    """The positions within a voxel of a grid at which to read an image: one, or several along axes on which the grid is
    coarser."""
    finest = min(own.spacing)
    counts = [max(1, min(8, round(edge / finest))) if size > 1 else 1 for edge, size in zip(grid.spacing, grid.shape)]
    axes = [(torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5 for count in counts]
    return torch.cartesian_prod(*axes).reshape(-1, len(counts))


def _points(grid: Grid, part: slice, offset: Tensor | None = None) -> Tensor:
    """RAS mm (N, 3) of the voxels of some layers of a grid, or of points offset from their centers."""
    voxels = identity_grid((part.stop - part.start, *grid.shape[1:]), dtype=torch.float64)
    voxels[0] += part.start
    flat = voxels.reshape(grid.spatial_dims, -1).T
    return grid.to_mm(flat if offset is None else flat + offset)


def _within(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    size = torch.tensor(tuple(shape), dtype=torch.float64)
    return ((voxels >= -_HALF) & (voxels <= size - 1 + _HALF)).all(dim=1)
