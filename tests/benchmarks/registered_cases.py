"""What the benchmarks of registration register: real heads, as they are and spoiled on purpose, and TraceBench."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.fields import identity_grid
from medtrace.geometry.resampling import resize, resized_affine
from tests.real_heads import Head


def coarser(one: Head, spacing: float) -> Head:
    """The same head on larger voxels."""
    shape = [round(size / spacing) for size in one.image.shape[1:]]
    affine = resized_affine(one.affine, one.image.shape[1:], shape)
    return one._replace(image=resize(one.image, shape), affine=affine)


SPOILS: dict[str, dict[str, Any]] = {
    "as it is": {},
    **{
        f"turned {degrees}° about {'xyz'[axis]}": {"axis": axis, "degrees": degrees}
        for degrees in (20, 45, 90, 180)
        for axis in range(3)
    },
    **{
        f"shifted {count} voxels along {'xyz'[axis]}": {"axis": axis, "shift": count}
        for count in (5, 15, 30)
        for axis in range(3)
    },
    "scaled by 1.25": {"scale": 1.25},
    "scaled by 1/1.25": {"scale": 0.8},
    "header 60 mm off": {"axis": 0, "shift": 20},
    "inverted": {"inverted": True},
    "inverted, turned 90° about z": {"inverted": True, "axis": 2, "degrees": 90},
    "header 1 m off": {"axis": 0, "shift": 1000 / 3},
}
"""What is done to the moving head at 3 mm."""


def corrupted(
    one: Head, axis: int = 0, degrees: float = 0, shift: float = 0, scale: float = 1, inverted: bool = False
) -> Head:
    """A head whose header lies, or whose contrast is turned over."""
    angle, rest = np.deg2rad(degrees), [k for k in range(3) if k != axis]
    turn = np.eye(4)
    turn[np.ix_(rest, rest)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    turn[:3, :3] *= scale
    turn[axis, 3] += shift * float(one.affine[:3, 0].norm())
    middle = np.eye(4)
    middle[:3, 3] = (one.affine @ torch.tensor([*((size - 1) / 2 for size in one.image.shape[1:]), 1.0]).double())[:3]
    affine = torch.from_numpy(middle @ turn @ np.linalg.inv(middle)) @ one.affine
    image = one.image.max() - one.image if inverted else one.image
    return one._replace(image=torch.where(one.image > 0, image, 0.0) if inverted else image, affine=affine)


def places(ddf: Tensor, moving_affine: Tensor, fixed_affine: Tensor) -> Tensor:
    """(D, *fixed spatial) float64: the moving voxels that a field leads to."""
    dims = ddf.shape[0]
    axes = [*range(dims), 3]
    matrix = (torch.linalg.inv(moving_affine) @ fixed_affine)[axes][:, axes]
    points = identity_grid(ddf.shape[1:], dtype=torch.float64) + ddf
    return torch.tensordot(matrix[:dims, :dims], points, 1) + matrix[:dims, dims].reshape(-1, *[1] * dims)


def bench_cases(count: int, seed: int, split: str) -> list[dict[str, Any]]:
    from medtrace.data.tracebench import TraceBench

    bench = TraceBench("metamorphic", (64, 64), count, seed, split).generate()
    cases = [bench[number] for number in range(count)]
    return [
        {
            "affine": case["source"].affine.double(),
            **{k: v.as_tensor() if hasattr(v, "as_tensor") else v for k, v in case.items()},
        }
        for case in cases
    ]
