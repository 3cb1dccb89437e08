"""TraceBench's task `postop`: predict the brain after a lesion is removed from the scan before.

Truth by construction, pull convention, maps from the right grid to the left:

    template <- affine∘exp(v_anatomy) - healthy <- exp(v_mass) - pre-op <- exp(-ρ·v_mass) - post-op

The last arrow is the true field, exp(+ρ·v_mass) its inverse. ρ is the share of the mass effect that relaxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import LABELS, Grid, grid_for, hard_labels, load_template
from medtrace.data.tracebench.appearance import (
    POST_OPERATIVE,
    PRE_OPERATIVE,
    acquire,
    blend,
    edge_weight,
    render_tissues,
    to_network_range,
)
from medtrace.data.tracebench.deformation import (
    anatomy_velocity,
    ellipsoidal_radius,
    mass_velocity,
    random_rotation,
    smooth_noise,
)
from medtrace.fields import exponentiate, warp

_BRAIN_MIDDLE_MM = (0.0, -17.0, 5.0)
_SQUARINGS = 8
_BLUR_VOXELS = 0.65  # the template has 1 mm; coarser grids would alias and lose thin tissue between voxels

Range = tuple[float, float]


@dataclass(frozen=True)
class PostopSettings:
    """How hard the cases are. Ranges are drawn from uniformly.

    Attributes:
        slice_mm: height of a 2D slice's plane (RAS z).
        anatomy_scales_mm, anatomy_amplitudes_mm: knots and standard deviation of the anatomy's variation.
        out_of_plane_mm: standard deviation of a 2D slice's bending out of its plane.
        rotation_degrees, scaling: bounds (±) of the head's affine variation.
        lesion_radius_mm: mean semi-axis. `lesion_elongation`: bound (±) of the logarithm of a semi-axis' ratio.
        lesion_depth_mm: least distance of the lesion's centre from the brain's surface.
        border_roughness: standard deviation of the lesion's border, as a share of its radius.
        mass_effect: peak velocity of the mass effect over the radius. It shows: the oedema's width rises with it.
        oedema_mm: width of the oedema at the least and the greatest mass effect.
        reach_mm: where the mass effect ends. skull_mm: how near the skull tissue is held.
        mass_roughness: standard deviation of the factor that the lesion's look does not tell.
        relaxation: share of the mass effect that goes away.
        margin_mm: healthy tissue taken with the lesion. margin_roughness_mm: its standard deviation.
        contrast_jitter: standard deviation of a tissue's mean (magnitude 0-1).
        source_noise, target_noise: standard deviation of either Rician channel (magnitude 0-1).
        bias: standard deviation of the logarithm of the bias field.
    """

    slice_mm: Range = (-14.0, 46.0)
    anatomy_scales_mm: tuple[float, ...] = (60.0, 28.0)
    anatomy_amplitudes_mm: tuple[float, ...] = (4.5, 2.0)
    out_of_plane_mm: float = 3.0
    rotation_degrees: float = 7.0
    scaling: float = 0.06
    lesion_radius_mm: Range = (10.0, 20.0)
    lesion_elongation: float = 0.25
    lesion_depth_mm: float = 8.0
    border_roughness: float = 0.10
    mass_effect: Range = (0.50, 0.80)
    oedema_mm: Range = (3.0, 12.0)
    reach_mm: float = 75.0
    skull_mm: float = 9.0
    mass_roughness: float = 0.08
    relaxation: Range = (0.55, 0.85)
    margin_mm: Range = (0.5, 3.0)
    margin_roughness_mm: float = 1.0
    contrast_jitter: float = 0.012
    source_noise: float = 0.02
    target_noise: float = 0.015
    bias: float = 0.045

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            numbers = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
            if not all(isinstance(n, int | float) and not isinstance(n, bool) for n in numbers):
                raise TypeError(f"settings.{field.name}: expected numbers, received {value!r}")
            if not np.isfinite(numbers).all():
                raise ValueError(f"settings.{field.name}: expected finite numbers, received {value!r}")
            if isinstance(field.default, tuple):
                object.__setattr__(self, field.name, numbers)  # YAML brings lists
                self._check_tuple(field.name, numbers, len(field.default))
            elif numbers != (value,):
                raise TypeError(f"settings.{field.name}: expected one number, received {value!r}")
            if field.name != "slice_mm" and min(numbers) < 0:
                raise ValueError(f"settings.{field.name}: expected nothing below 0, received {value!r}")
        if not (self.lesion_radius_mm[0] > 0 and self.relaxation[1] <= 1 and self.reach_mm > 0):
            raise ValueError(
                "settings: expected lesion_radius_mm and reach_mm above 0 and relaxation at most 1, received"
                f" {self.lesion_radius_mm}, {self.reach_mm}, {self.relaxation}"
            )
        if len(self.anatomy_scales_mm) != len(self.anatomy_amplitudes_mm):
            raise ValueError(
                "settings.anatomy_amplitudes_mm: expected one per anatomy_scales_mm"
                f" ({len(self.anatomy_scales_mm)}), received {len(self.anatomy_amplitudes_mm)}"
            )

    @staticmethod
    def _check_tuple(name: str, numbers: tuple[float, ...], expected: int) -> None:
        if name.startswith("anatomy_"):
            return
        if len(numbers) != expected or list(numbers) != sorted(numbers):
            raise ValueError(f"settings.{name}: expected (least, greatest), received {numbers!r}")


class Lesion(NamedTuple):
    """A lesion on the pre-op grid and what its look tells."""

    depth_mm: Tensor  # (1, *shape), positive inside
    centre: tuple[int, ...]
    oedema_mm: float
    predictable: Tensor  # (D, *shape) velocity that follows from its position, shape and oedema
    velocity: Tensor  # (D, *shape) v_mass


def make_postop(
    random: np.random.Generator, spatial_shape: tuple[int, ...], settings: PostopSettings
) -> dict[str, Tensor]:
    """One case of the task.

    Args:
        random: source of all randomness.
        spatial_shape: (H, W) for an axial slice, (H, W, D) for the whole head, in RAS axes.
        settings: how hard.

    Returns:
        source, target: (1, *shape) float32 in [-1, 1], brain-extracted, air at -1.
        ddf, inverse_ddf: (D, *shape) float32, voxels: the truth on the target's and the source's grid.
        oracle_ddf: the displacement at the mean of what chance decides (relaxation, roughness of the mass
            effect), given what the source shows (position, shape, oedema): exp of the conditional mean velocity,
            which differs from the mean displacement in second order only.
        lesion, cavity: (1, *shape) bool on the source's and the target's grid.
        source_tissues, target_tissues: (3, *shape) float32 probabilities of CSF, GM, WM, pathology left out.
        source_labels, target_labels: (1, *shape) uint8, `anatomy.LABELS`; lesion and cavity are `pathology`.
        relaxation: () float32, ρ.
        affine: (4, 4) float64, of both grids.
    """
    grid = grid_for(spatial_shape, _middle(random, len(spatial_shape), settings))
    template = load_template(round(_BLUR_VOXELS * grid.spacing, 3))
    healthy_mm = _subject_coordinates(random, grid, settings)
    depth_mm = template.at(healthy_mm)[4].double()
    lesion = _draw_lesion(random, grid, depth_mm, settings)
    relaxation = float(random.uniform(*settings.relaxation))
    mean_relaxation = sum(settings.relaxation) / 2

    velocities = [
        lesion.velocity,
        -relaxation * lesion.velocity,
        relaxation * lesion.velocity,
        -mean_relaxation * lesion.predictable,
    ]
    push, ddf, inverse_ddf, oracle_ddf = exponentiate(torch.stack(velocities), steps=_SQUARINGS)
    source_mm = warp(healthy_mm[None], push[None])[0]
    target_mm = warp(source_mm[None], ddf[None])[0]
    source_maps, target_maps = template.at(source_mm).double(), template.at(target_mm).double()

    source, lesion_mask = _render_source(random, grid, source_maps, lesion, settings)
    target, cavity_mask = _render_target(random, grid, target_maps, lesion, ddf, settings)
    return {
        "source": source,
        "target": target,
        "ddf": ddf.float(),
        "inverse_ddf": inverse_ddf.float(),
        "oracle_ddf": oracle_ddf.float(),
        "lesion": lesion_mask,
        "cavity": cavity_mask,
        "source_tissues": source_maps[:3].float(),
        "target_tissues": target_maps[:3].float(),
        "source_labels": _labels(source_maps[:3], lesion_mask),
        "target_labels": _labels(target_maps[:3], cavity_mask),
        "relaxation": torch.tensor(relaxation, dtype=torch.float32),
        "affine": torch.from_numpy(grid.affine.copy()),
    }


def _middle(random: np.random.Generator, spatial_dims: int, settings: PostopSettings) -> tuple[float, float, float]:
    x, y, z = _BRAIN_MIDDLE_MM
    return (x, y, float(random.uniform(*settings.slice_mm)) if spatial_dims == 2 else z)


def _subject_coordinates(random: np.random.Generator, grid: Grid, settings: PostopSettings) -> Tensor:
    """Template position (3, *shape), in mm, of every voxel of a subject's healthy head."""
    spatial_dims = len(grid.shape)
    velocity = anatomy_velocity(random, grid, settings.anatomy_scales_mm, settings.anatomy_amplitudes_mm)
    position = grid.millimetres()
    position[:spatial_dims] += grid.spacing * exponentiate(velocity[None], steps=_SQUARINGS)[0]
    if spatial_dims == 2:
        position[2:] += settings.out_of_plane_mm * smooth_noise(random, grid, settings.anatomy_scales_mm[0])
    angles = np.deg2rad(random.uniform(-1, 1, 3) * settings.rotation_degrees)
    scales = 1 + random.uniform(-1, 1, 3) * settings.scaling
    matrix = torch.from_numpy(_rotation(angles) * scales)
    middle = torch.from_numpy(grid.affine[:3, 3].copy())
    middle[:spatial_dims] = torch.tensor(_BRAIN_MIDDLE_MM[:spatial_dims], dtype=torch.float64)
    middle = middle.reshape(3, *[1] * spatial_dims)
    return torch.tensordot(matrix, position - middle, dims=1) + middle


def _rotation(angles: np.ndarray) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        first, second = [other for other in range(3) if other != axis]
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return matrix


def _draw_lesion(random: np.random.Generator, grid: Grid, depth_mm: Tensor, settings: PostopSettings) -> Lesion:
    spatial_dims = len(grid.shape)
    # The deepest voxel stays a candidate, so that a slice through a thin end of the brain still has one.
    least_depth = min(settings.lesion_depth_mm, float(depth_mm.max()))
    candidates = torch.nonzero(depth_mm >= least_depth)
    centre = tuple(int(n) for n in candidates[int(random.integers(len(candidates)))])
    size_mm = float(random.uniform(*settings.lesion_radius_mm))
    axes_mm = size_mm * np.exp(random.uniform(-1, 1, spatial_dims) * settings.lesion_elongation)
    radius = ellipsoidal_radius(grid, centre, axes_mm.tolist(), random_rotation(random, spatial_dims))
    roughness = smooth_noise(random, grid, 0.7 * size_mm)
    border_mm = size_mm * (1 - radius[None] * (1 + settings.border_roughness * roughness))

    pressure = float(random.uniform())  # between the least and the greatest mass effect
    low, high = settings.mass_effect
    freedom = 1 - torch.exp(-(depth_mm.clamp_min(0) / max(settings.skull_mm, 1e-6)).square())
    peak_mm = size_mm * (low + pressure * (high - low))
    predictable = mass_velocity(grid, centre, radius, size_mm, peak_mm, settings.reach_mm, freedom)
    factor = 1 + settings.mass_roughness * smooth_noise(random, grid, 40.0)
    narrow, wide = settings.oedema_mm
    return Lesion(border_mm, centre, narrow + pressure * (wide - narrow), predictable, factor * predictable)


def _render_source(
    random: np.random.Generator, grid: Grid, maps: Tensor, lesion: Lesion, settings: PostopSettings
) -> tuple[Tensor, Tensor]:
    contrast = PRE_OPERATIVE.jittered(random, settings.contrast_jitter)
    brain = maps[:3].sum(0, keepdim=True)
    magnitude = render_tissues(contrast, maps[:3], maps[3:4])
    magnitude = blend(magnitude, contrast.oedema, 0.8 * _oedema(lesion.depth_mm, lesion.oedema_mm) * maps[2:3])
    texture = 0.05 * smooth_noise(random, grid, 6.0)
    enhancing = torch.exp(-((lesion.depth_mm - 2.0) / 2.0).square())
    inside = blend(contrast.core + texture, contrast.rim + texture, enhancing)
    magnitude = blend(magnitude, inside * brain, edge_weight(lesion.depth_mm, grid.spacing))
    scan = acquire(random, grid, magnitude, brain, settings.bias, settings.source_noise)
    return to_network_range(scan), (lesion.depth_mm > 0) & (brain > 0.5)


def _render_target(
    random: np.random.Generator,
    grid: Grid,
    maps: Tensor,
    lesion: Lesion,
    ddf: Tensor,
    settings: PostopSettings,
) -> tuple[Tensor, Tensor]:
    contrast = POST_OPERATIVE.jittered(random, settings.contrast_jitter)
    brain = maps[:3].sum(0, keepdim=True)
    magnitude = render_tissues(contrast, maps[:3], maps[3:4])
    depth_mm = warp(lesion.depth_mm[None], ddf[None])[0]
    oedema = 0.5 * _oedema(depth_mm, 0.7 * lesion.oedema_mm) * maps[2:3]
    magnitude = blend(magnitude, contrast.oedema, oedema)
    least = float(random.uniform(*settings.margin_mm))
    margin = least + settings.margin_roughness_mm * smooth_noise(random, grid, 10.0)
    depth_mm = depth_mm + margin.clamp_min(0)  # the whole lesion is always taken
    fluid = (contrast.fluid + 0.02 * smooth_noise(random, grid, 12.0)) * brain
    magnitude = blend(magnitude, fluid, edge_weight(depth_mm, grid.spacing))
    scan = acquire(random, grid, magnitude, brain, settings.bias, settings.target_noise)
    return to_network_range(scan), (depth_mm > 0) & (brain > 0.5)


def _oedema(depth_mm: Tensor, width_mm: float) -> Tensor:
    return torch.exp(-((-depth_mm).clamp_min(0) / max(width_mm, 1e-6)).square())


def _labels(tissues: Tensor, pathology: Tensor) -> Tensor:
    labels = hard_labels(tissues)
    labels[pathology] = LABELS["pathology"]
    return labels
