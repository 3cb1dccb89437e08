"""Traces on awkward grids, shared by the tests of the field formats."""

import math
import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from medtrace.fields import exponentiate
from medtrace.io import write_image
from medtrace.trace import Trace

MIRROR = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))


def smooth(channels, *shape, seed=0):
    """Seeded smooth noise (channels, *shape) in [-1, 1]."""
    noise = torch.randn(1, channels, *shape, generator=torch.Generator().manual_seed(seed))
    sizes = [5 if size > 4 else 1 for size in shape]
    pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
    for _ in range(2):
        noise = pool(noise, sizes, 1, [size // 2 for size in sizes])
    return noise[0] / noise.abs().max()


def affine_of(spacing, angles=(0.0, 0.0, 0.0), origin=(0.0, 0.0, 0.0), flip=(1, 1, 1), order=(0, 1, 2)):
    """Voxel to RAS mm: axes reordered, flipped and scaled, then turned by angles about x, y and z in degrees."""
    turned = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        turned = turn @ turned
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turned[:, list(order)] * np.asarray(flip) * np.asarray(spacing), origin
    return torch.from_numpy(affine)


SHAPES = {"3d": (14, 16, 12), "single": (18, 16, 1), "2d": (18, 16)}
AFFINES = {
    "plain": affine_of((1, 1, 1)),
    "oblique": affine_of((1.0, 1.0, 1.0), (10, -20, 35), (-80.0, 60, 12)),
    "anisotropic": affine_of((0.7, 1.9, 5.0), origin=(30.0, -40, 5)),
    "flipped": affine_of((1.2, 0.8, 2.0), (3, 4, 5), (100.0, -50, 20), flip=(-1, 1, 1)),
    "permuted": affine_of((1.5, 1.0, 2.5), (170, 5, -80), (10.0, 20, 30), flip=(1, -1, 1), order=(2, 0, 1)),
}
CASES = {
    "oblique": ("3d", "oblique", False),
    "oblique, two grids": ("3d", "oblique", True),
    "anisotropic": ("3d", "anisotropic", False),
    "flipped": ("3d", "flipped", False),
    "flipped, two grids": ("3d", "flipped", True),
    "permuted, two grids": ("3d", "permuted", True),
    "single slice, oblique, two grids": ("single", "oblique", True),
    "single slice, flipped": ("single", "flipped", False),
    "2d, anisotropic": ("2d", "anisotropic", False),
    "2d, permuted, two grids": ("2d", "permuted", True),
}
"""Kind and affine of the target's grid, and whether the source is on another."""
cases = pytest.mark.parametrize(("kind", "name", "elsewhere"), CASES.values(), ids=CASES.keys())


def other_grid(affine, shape):
    """Another grid in the same plane about the same center: turned, finer, its first axis reversed, larger."""
    other_shape = (shape[0] + 8, shape[1] + 4, *shape[2:])
    length = affine[:3, :3].norm(dim=0)
    first, second, third = (affine[:3, :3] / length).T
    c, s = math.cos(0.15), math.sin(0.15)
    other = torch.eye(4, dtype=torch.float64)
    axes = torch.stack([-(c * first + s * second), c * second - s * first, third], dim=1)
    other[:3, :3] = axes * length * torch.tensor([0.9, 0.8, 1.0])
    middle, other_middle = (
        torch.tensor([(size - 1) / 2 for size in (*grid, 1)[:3]], dtype=torch.float64) for grid in (shape, other_shape)
    )
    other[:3, 3] = affine[:3, :3] @ middle + affine[:3, 3] - other[:3, :3] @ other_middle
    return other, other_shape


def flow(*shape, amplitude=3.0, seed=1):
    """A diffeomorphic displacement (spatial_dims, *shape) that stays within single slices."""
    velocity = smooth(len(shape), *shape, seed=seed) * amplitude
    for axis, size in enumerate(shape):
        if size == 1:
            velocity[axis] = 0
    return exponentiate(velocity[None])[0]


@lru_cache
def make_trace(kind, name, elsewhere=False):
    """A trace whose target is on the named grid; `elsewhere` puts the source on another."""
    shape, affine = SHAPES[kind], AFFINES[name]
    source_affine, source_shape = other_grid(affine, shape) if elsewhere else (affine, shape)
    return Trace.build(
        smooth(1, *source_shape),
        smooth(1, *shape, seed=2),
        flow(*shape),
        affine=affine,
        source_affine=source_affine,
    )


def points_within(shape, affine, count=40, seed=3, margin=2.0):
    """Points (count, 3), RAS mm, in a grid; on the plane of a single slice."""
    size = torch.tensor([*shape, 1][:3], dtype=torch.float64) - 1
    unit = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    low = torch.where(size > 2 * margin, margin, 0.0)
    voxels = low + unit * (size - 2 * low)
    return voxels @ affine[:3, :3].T + affine[:3, 3]


def inside_source(trace):
    """Boolean (*spatial): target voxels read strictly within the source's voxel centers, where no border counts."""
    points = trace._source_coordinates()[0]
    size = torch.tensor(trace.source.shape[1:]).reshape(-1, *[1] * (points.ndim - 1))
    inside = ((points >= 1e-3) & (points <= size - 1 - 1e-3)) | ((size == 1) & (points.abs() < 1e-3))
    return inside.all(dim=0)


def largest(format_name, what, difference):
    """The largest absolute difference; collected in a file where the environment asks for it."""
    value = float(torch.as_tensor(difference).abs().max())
    if path := os.environ.get("PASSPORT_REPORT"):
        with Path(path).open("a") as file:
            file.write(f"{format_name}\t{what}\t{value:.3g}\n")
    return value


def bidirectional(trace):
    """Field, its affine, its grid and the method of the trace that moves points as it does."""
    return {
        "ddf": (trace.ddf, trace.affine, trace.image.shape[1:], trace.origin),
        "inverse_ddf": (trace.inverse_ddf, trace.source_affine, trace.source.shape[1:], trace.locate),
    }


def apply(matrix, points):
    """A 4x4 matrix on points (N, 3)."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def mapped(transform, points):
    """A SimpleITK transform on points (N, 3) in RAS mm."""
    moved = [transform.TransformPoint(point) for point in apply(MIRROR, points).tolist()]
    return apply(MIRROR, torch.tensor(moved, dtype=torch.float64))


def itk_image(path, image, affine):
    """SimpleITK's image of a file that we wrote."""
    write_image(path, image, affine, dtype="float64")
    return sitk.ReadImage(str(path))
