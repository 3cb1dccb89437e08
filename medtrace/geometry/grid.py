"""A sampling grid in space, and the one test of whether an affine has an inverse."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

SINGULAR = 1e-6
"""Volume of a voxel over the product of its edges at and below which its axes are taken to lie in one plane."""
ROUNDING = 1e-6
"""Difference of an affine's last row from 0 0 0 1 that counts as rounding."""


def is_singular(affine: Any) -> bool:
    """Whether a matrix from voxels to mm has no usable inverse, whatever the size of the voxels.

    The volume that the axes span is compared with the product of their lengths: 1 for a box of any size, 0 where two
    axes coincide, one has no length, or a number is not finite.

    Args:
        affine: (..., 3, 3) or (..., 4, 4) numbers, of which the linear part is tested.

    Returns:
        True if any of the matrices is singular.

    Example:
        >>> is_singular([[1e-5, 0.0, 0.0], [0.0, 1e-5, 0.0], [0.0, 0.0, 3e-5]])
        False
    """
    matrix = affine.detach() if isinstance(affine, Tensor) else torch.as_tensor(affine)
    linear = matrix.as_subclass(Tensor)[..., :3, :3].to(device="cpu", dtype=torch.float64)
    lengths = linear.norm(dim=-2, keepdim=True)
    if not bool(torch.isfinite(lengths).all()) or bool((lengths == 0).any()):
        return True
    return bool((torch.linalg.det(linear / lengths).abs() <= SINGULAR).any())


def with_exact_last_row(name: str, affine: Tensor) -> Tensor:
    """Set the last row of an affine to 0 0 0 1, from which products and inverses of matrices differ by rounding.

    Args:
        name: name in the error message.
        affine: (4, 4).

    Raises:
        ValueError: if the row differs by more than rounding.

    Example:
        >>> rounded = torch.eye(4, dtype=torch.float64)
        >>> rounded[3] = torch.tensor([0, -1e-17, 0, 1 + 4e-16], dtype=torch.float64)
        >>> with_exact_last_row("affine", rounded)[3].tolist()
        [0.0, 0.0, 0.0, 1.0]
    """
    last = affine.new_tensor([0.0, 0.0, 0.0, 1.0])
    if not torch.allclose(affine[3], last, rtol=0.0, atol=ROUNDING):
        raise ValueError(f"{name}: expected the last row 0 0 0 1, received {affine[3].tolist()}")
    return affine if torch.equal(affine[3], last) else torch.cat((affine[:3], last[None]))


def check_invertible(name: str, affine: Any, remedy: str = "check the image's header") -> None:
    """Check that an affine has an inverse (see `is_singular`).

    Raises:
        ValueError: if not; the message begins with `name` and ends with `remedy`.

    Example:
        >>> affine = torch.eye(4, dtype=torch.float64)
        >>> check_invertible("affine", affine)  # silent
        >>> is_singular(0 * affine[:3, :3])
        True
    """
    if is_singular(affine):
        raise ValueError(f"{name}: expected an invertible matrix, received a singular one; {remedy}")


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of an image's voxels.

    Args:
        shape: number of voxels along the two or three array axes.
        affine: (4, 4) from voxels to RAS mm, kept in float64 on the CPU; pixel (i, j) of a 2D grid is voxel (i, j, 0).

    Raises:
        ValueError: if the shape does not have two or three positive sizes, or the affine has another shape, another
            last row than 0 0 0 1, or no inverse.

    Example:
        >>> grid = Grid((4, 5, 6), torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0])))
        >>> grid.spacing
        (2.0, 2.0, 3.0)
        >>> grid.to_mm([[1, 1, 1]]).tolist()
        [[2.0, 2.0, 3.0]]
    """

    shape: tuple[int, ...]
    affine: Tensor

    def __post_init__(self) -> None:
        shape = tuple(int(size) for size in self.shape)
        if len(shape) not in (2, 3) or min(shape) < 1:
            raise ValueError(f"shape: expected two or three positive sizes, received {shape}; give the spatial shape")
        affine = torch.as_tensor(self.affine).detach().as_subclass(Tensor).to(device="cpu", dtype=torch.float64)
        if affine.shape != (4, 4):
            raise ValueError(f"affine: expected shape (4, 4), also in 2D, received {tuple(affine.shape)}")
        affine = with_exact_last_row("affine", affine)
        check_invertible("affine", affine)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine.clone())

    @classmethod
    def of(cls, image: Tensor, affine: Any = None) -> Grid:
        """The grid of an image (C, *spatial).

        Args:
            image: a `MetaTensor`, or any tensor beside its affine.
            affine: (4, 4); by default the image's own.

        Raises:
            TypeError: if there is no affine.
            ValueError: as for the constructor.
        """
        own = getattr(image, "affine", None) if affine is None else affine
        if own is None:
            raise TypeError(f"image: expected a MetaTensor or an affine beside it, received {type(image).__name__}")
        return cls(tuple(image.shape[1:]), own)

    @property
    def spatial_dims(self) -> int:
        return len(self.shape)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along the array axes."""
        return tuple(self.affine[:3, : self.spatial_dims].norm(dim=0).tolist())

    @property
    def corners(self) -> Tensor:
        """The outermost voxel centers (2**spatial_dims, 3) in RAS mm."""
        return self.to_mm(list(product(*((0, size - 1) for size in self.shape))))

    def to_mm(self, voxels: Any) -> Tensor:
        """RAS mm (N, 3), float64, of voxel coordinates (N, 2) or (N, 3)."""
        points = torch.as_tensor(voxels, dtype=torch.float64)
        return points @ self.affine[:3, : points.shape[-1]].T + self.affine[:3, 3]

    def to_voxels(self, points: Any) -> Tensor:
        """Voxel coordinates (N, 3), float64, of points (N, 3) in RAS mm."""
        inverse = torch.linalg.inv(self.affine)
        result: Tensor = torch.as_tensor(points, dtype=torch.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return result

    def distance(self, other: Grid) -> float:
        """Maximum distance in mm between the positions of the same voxel in two grids of one shape.

        Raises:
            ValueError: if the shapes differ.
        """
        if self.shape != other.shape:
            raise ValueError(
                f"other: expected the shape {self.shape}, received {other.shape}; compare the shapes first"
            )
        return float((self.corners - other.corners).norm(dim=-1).max())

    def coincides(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether two grids hold the same voxels at the same places.

        Args:
            other: the other grid.
            tolerance: in units of the smallest voxel edge, so that it means the same at 1 mm and at 10 nm.

        Example:
            >>> fine = torch.diag(torch.tensor([1e-5, 1e-5, 1e-5, 1.0], dtype=torch.float64))
            >>> moved = fine.clone()
            >>> moved[0, 3] = 1e-5
            >>> Grid((4, 4, 4), fine).coincides(Grid((4, 4, 4), moved))
            False
        """
        if self.shape != other.shape:
            return False
        return self.distance(other) <= tolerance * min(*self.spacing, *other.spacing)
