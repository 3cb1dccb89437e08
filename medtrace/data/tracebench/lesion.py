"""A lesion: where it lies, how it pushes tissue, how a scan shows it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import LABELS, BrainGrid, hard_labels
from medtrace.data.tracebench.appearance import (
    TissueContrast,
    acquire,
    blend,
    edge_weight,
    render_tissues,
    to_network_range,
)
from medtrace.data.tracebench.deformation import ellipsoidal_radius, mass_velocity, random_rotation, smooth_noise
from medtrace.data.tracebench.settings import BrainSettings


class Lesion(NamedTuple):
    """A lesion on the grid of the scan that shows it, and what its look reports."""

    depth_mm: Tensor  # (1, *shape), positive inside
    center: tuple[int, ...]
    oedema_mm: float
    predictable: Tensor  # (D, *shape) velocity that follows from its position, shape and oedema
    velocity: Tensor  # (D, *shape) v_mass


def draw_lesion(random: np.random.Generator, grid: BrainGrid, depth_mm: Tensor, settings: BrainSettings) -> Lesion:
    """A random lesion somewhere in the brain, and its mass effect.

    Args:
        random: source of randomness.
        grid: the case's grid.
        depth_mm: (*shape) depth below the brain's surface of the head without the lesion.
        settings: its size, shape and mass effect.

    Returns:
        The lesion.
    """
    spatial_dims = len(grid.shape)
    # The deepest voxel stays a candidate, so that a slice through a thin end of the brain still has one.
    least_depth = min(settings.lesion_depth_mm, float(depth_mm.max()))
    candidates = torch.nonzero(depth_mm >= least_depth)
    center = tuple(int(n) for n in candidates[int(random.integers(len(candidates)))])
    size_mm = float(random.uniform(*settings.lesion_radius_mm))
    axes_mm = size_mm * np.exp(random.uniform(-1, 1, spatial_dims) * settings.lesion_elongation)
    radius = ellipsoidal_radius(grid, center, axes_mm.tolist(), random_rotation(random, spatial_dims))
    roughness = smooth_noise(random, grid, 0.7 * size_mm)
    border_mm = size_mm * (1 - radius[None] * (1 + settings.border_roughness * roughness))

    pressure = float(random.uniform())  # between the minimum and the maximum mass effect
    low, high = settings.mass_effect
    freedom = 1 - torch.exp(-(depth_mm.clamp_min(0) / max(settings.skull_mm, 1e-6)).square())
    peak_mm = size_mm * (low + pressure * (high - low))
    predictable = mass_velocity(grid, center, radius, size_mm, peak_mm, settings.reach_mm, freedom)
    factor = 1 + settings.mass_roughness * smooth_noise(random, grid, 40.0)
    narrow, wide = settings.oedema_mm
    return Lesion(border_mm, center, narrow + pressure * (wide - narrow), predictable, factor * predictable)


def render_scan(
    random: np.random.Generator,
    grid: BrainGrid,
    maps: Tensor,
    lesion: Lesion | None,
    contrast: TissueContrast,
    bias: float,
    noise: float,
) -> Tensor:
    """A scan of a head, with a lesion or without.

    Args:
        random: source of randomness.
        grid: the case's grid.
        maps: (4 or more, *shape) probabilities of CSF, GM and WM, and T1 detail, on that grid.
        lesion: on the same grid, or None for a healthy head.
        contrast: the scanner.
        bias, noise: see `appearance.acquire`.

    Returns:
        (1, *shape) float32 in [-1, 1].
    """
    brain = maps[:3].sum(0, keepdim=True)
    magnitude = render_tissues(contrast, maps[:3], maps[3:4])
    if lesion is not None:
        fraction = 0.8 * oedema_share(lesion.depth_mm, lesion.oedema_mm)
        magnitude = blend(magnitude, contrast.oedema, fraction * maps[2:3])
        texture = 0.05 * smooth_noise(random, grid, 6.0)
        enhancing = torch.exp(-((lesion.depth_mm - 2.0) / 2.0).square())
        inside = blend(contrast.core + texture, contrast.rim + texture, enhancing)
        magnitude = blend(magnitude, inside * brain, edge_weight(lesion.depth_mm, grid.spacing))
    return to_network_range(acquire(random, grid, magnitude, brain, bias, noise))


def oedema_share(depth_mm: Tensor, width_mm: float) -> Tensor:
    """Fraction of oedema in white matter: 1 in the lesion, falling like a Gaussian of `width_mm` outside it."""
    return torch.exp(-((-depth_mm).clamp_min(0) / max(width_mm, 1e-6)).square())


def labels_with(tissues: Tensor, pathology: Tensor) -> Tensor:
    """The most probable label (1, *shape) uint8, and `LABELS["pathology"]` where `pathology` (1, *shape) says so."""
    labels = hard_labels(tissues)
    labels[pathology] = LABELS["pathology"]
    return labels
