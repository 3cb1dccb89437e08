"""TraceBench's task `domain`: translate between two domains that differ in contrast and in anatomy.

Truth by construction, pull convention, maps from the right grid to the left:

    template <- pose∘exp(v_anatomy) - source <- exp(v_ventricles) - . <- scaling - translation

The source's domain is T1-like. Seen in the target's domain, which is FLAIR-like, the same head is smaller and its
ventricles are wider: φ = exp(v_ventricles)∘scaling is the true field, and scaling⁻¹∘exp(−v_ventricles) its inverse. The
target is another subject of that domain, or the same one. In 2D φ stays in the slice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.data.tracebench.anatomy import BrainGrid, Template, grid_for, hard_labels, load_template
from medtrace.data.tracebench.appearance import FLAIR, T1, TissueContrast, acquire, render_tissues, to_network_range
from medtrace.data.tracebench.deformation import anatomy_velocity, smooth_noise
from medtrace.data.tracebench.settings import BrainSettings, Range
from medtrace.data.tracebench.subject import BLUR_VOXELS, SQUARINGS, middle_of_grid, random_pose, turned
from medtrace.fields import compose, exponentiate, warp

PAIRINGS = ("random", "subject")


@dataclass(frozen=True)
class DomainSettings(BrainSettings):
    """Settings of the difference between the domains. Ranges are sampled uniformly, once per subject.

    Attributes:
        slice_mm: as in `BrainSettings`; heights at which the template shows its lateral ventricles.
        head_scale: size of a head in the target's domain over its size in the source's. Above 1.05 some heads reach
            beyond the grid.
        ventricle_mm: peak of the velocity that widens the ventricles. Reached at a straight border of a ventricle that
            is much wider than the reach; real ones reach about half of it.
        ventricle_reach_mm: standard deviation of the Gaussian with which that velocity falls off.
        target_bias: as `bias`, which is the source's.
        pairing: "random", where the target is another subject in another plane, or "subject", where it is the true
            translation itself.

    The others are those of `BrainSettings`; lesions are not drawn.
    """

    slice_mm: Range = (2.0, 26.0)
    source_noise: float = 0.015
    target_noise: float = 0.02
    bias: float = 0.03
    target_bias: float = 0.06
    head_scale: Range = (0.86, 0.92)
    ventricle_mm: Range = (8.0, 12.0)
    ventricle_reach_mm: float = 10.0
    pairing: str = PAIRINGS[0]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("settings.pairing", self.pairing, PAIRINGS)
        for name, value in (("head_scale", self.head_scale[0]), ("ventricle_reach_mm", self.ventricle_reach_mm)):
            if not value > 0:
                raise ValueError(f"settings.{name}: expected more than 0, received {getattr(self, name)}")


class Subject(NamedTuple):
    """A subject of the template, as the source's domain shows it."""

    grid: BrainGrid
    anatomy_mm: Tensor  # (3, *shape) its own displacement
    pose: Tensor  # (3, 3)

    def positions(self, ddf: Tensor | None = None) -> Tensor:
        """Template positions (3, *shape) in mm of every voxel, or of what a displacement in voxels pulls there."""
        position = self.grid.millimeters()
        own = self.anatomy_mm
        if ddf is not None:
            # Beyond the grid the anatomy's displacement continues as at the border; positions continue straight.
            own = warp(own[None], ddf[None])[0]
            position[: len(ddf)] += self.grid.spacing * ddf
        return turned(self.grid, position + own, self.pose)


class Shift(NamedTuple):
    """The target domain's change of one subject's anatomy: pull displacements (D, *shape) in voxels."""

    ddf: Tensor
    inverse_ddf: Tensor
    oracle_ddf: Tensor


class Scan(NamedTuple):
    """One image of a subject, (1, *shape) each."""

    image: Tensor
    labels: Tensor
    head: Tensor
    ventricles: Tensor


def make_domain(
    random: np.random.Generator, spatial_shape: tuple[int, ...], settings: DomainSettings
) -> dict[str, Tensor]:
    """One case of the task.

    Args:
        random: source of all randomness.
        spatial_shape: (H, W) for an axial slice, (H, W, D) for the whole head, in RAS axes.
        settings: how far apart the domains are, and whom the target shows.

    Returns:
        source: (1, *shape) float32 in [-1, 1], T1-like, brain-extracted, air at -1.
        target: the same, FLAIR-like, of a subject of the target's domain.
        translation: the source's subject in the target's domain.
        ddf, inverse_ddf: (D, *shape) float32, voxels: translation(p) shows what source(p + ddf(p)) shows, and back.
        oracle_ddf: the displacement at the mean of what chance decides of the domains' difference.
        source_head, target_head, head: (1, *shape) bool, the brain in source, target and translation.
        source_labels, target_labels, translation_labels: (1, *shape) uint8, `anatomy.LABELS`.
        source_ventricles, target_ventricles, translation_ventricles: (1, *shape) bool, the lateral ventricles.
        affine: (4, 4) float64, of all grids; target_affine: that of another subject's slice.
    """
    source, source_shift = _draw_subject(random, spatial_shape, settings)
    t1, flair = (contrast.jittered(random, settings.contrast_jitter) for contrast in (T1, FLAIR))
    first = _scan(random, source, None, t1, settings.bias, settings.source_noise)
    second = _scan(random, source, source_shift.ddf, flair, settings.target_bias, settings.target_noise)
    target, third = source, Scan(*(part.clone() for part in second))
    if settings.pairing == "random":
        target, target_shift = _draw_subject(random, spatial_shape, settings)
        flair = FLAIR.jittered(random, settings.contrast_jitter)
        third = _scan(random, target, target_shift.ddf, flair, settings.target_bias, settings.target_noise)
    case = {
        f"{name}_ddf" if name else "ddf": field.float() for name, field in zip(("", "inverse", "oracle"), source_shift)
    }
    for name, scan in (("source", first), ("target", third), ("translation", second)):
        case[name] = scan.image
        case[f"{name}_labels"] = scan.labels
        case[f"{name}_ventricles"] = scan.ventricles
        case["head" if name == "translation" else f"{name}_head"] = scan.head
    case["affine"] = torch.from_numpy(source.grid.affine.copy())
    case["target_affine"] = torch.from_numpy(target.grid.affine.copy())
    return case


def _draw_subject(
    random: np.random.Generator, spatial_shape: tuple[int, ...], settings: DomainSettings
) -> tuple[Subject, Shift]:
    spatial_dims = len(spatial_shape)
    grid = grid_for(spatial_shape, middle_of_grid(random, spatial_dims, settings.slice_mm))
    velocity = anatomy_velocity(random, grid, settings.anatomy_scales_mm, settings.anatomy_amplitudes_mm)
    anatomy_mm = torch.zeros(3, *spatial_shape, dtype=torch.float64)
    anatomy_mm[:spatial_dims] = grid.spacing * exponentiate(velocity[None], steps=SQUARINGS)[0]
    if spatial_dims == 2:
        anatomy_mm[2:] = settings.out_of_plane_mm * smooth_noise(random, grid, settings.anatomy_scales_mm[0])
    subject = Subject(grid, anatomy_mm, random_pose(random, settings))
    return subject, _draw_shift(random, subject, settings)


def _draw_shift(random: np.random.Generator, subject: Subject, settings: DomainSettings) -> Shift:
    grid = subject.grid
    fraction = load_ventricles(_blur_mm(grid)).at(subject.positions())[0].double()
    unit = widening_velocity(fraction, settings.ventricle_reach_mm / grid.spacing) / grid.spacing
    scale = float(random.uniform(*settings.head_scale))
    peak_mm = float(random.uniform(*settings.ventricle_mm))
    mean_scale, mean_peak_mm = (sum(bounds) / 2 for bounds in (settings.head_scale, settings.ventricle_mm))
    velocities = torch.stack([peak_mm * unit, -peak_mm * unit, mean_peak_mm * unit])
    widening, narrowing, mean_widening = exponentiate(velocities, steps=SQUARINGS)
    position = grid.plane_mm() / grid.spacing
    return Shift(
        ddf=compose(widening[None], (position * (1 / scale - 1))[None])[0],
        inverse_ddf=position * (scale - 1) + scale * narrowing,
        oracle_ddf=compose(mean_widening[None], (position * (1 / mean_scale - 1))[None])[0],
    )


def widening_velocity(fraction: Tensor, reach: float) -> Tensor:
    """Pull velocity v that widens a region: tissue around it is pushed outwards by exp(−v).

    v = √(2π)·σ·∇(G_σ * share): towards the region everywhere, 1 at the straight border of a half-space, falling with
    the distance from it like the Gaussian G_σ.

    Args:
        fraction: (*shape) fraction of a voxel that belongs to the region, 0 to 1.
        reach: σ in voxels.

    Returns:
        (D, *shape) float64, of unit peak.
    """
    values = fraction.numpy()
    gradient = [
        ndimage.gaussian_filter(values, reach, order=[int(axis == other) for other in range(values.ndim)])
        for axis in range(values.ndim)
    ]
    return float(np.sqrt(2 * np.pi)) * reach * torch.from_numpy(np.stack(gradient))


def _scan(
    random: np.random.Generator,
    subject: Subject,
    ddf: Tensor | None,
    contrast: TissueContrast,
    bias: float,
    noise: float,
) -> Scan:
    grid = subject.grid
    position = subject.positions(ddf)
    maps = load_template(_blur_mm(grid)).at(position).double()
    brain = maps[:3].sum(0, keepdim=True)
    magnitude = render_tissues(contrast, maps[:3], maps[3:4])
    image = to_network_range(acquire(random, grid, magnitude, brain, bias, noise))
    ventricles = load_ventricles(_blur_mm(grid)).at(position) > 0.5
    return Scan(image, hard_labels(maps[:3]), brain > 0.5, ventricles)


def _blur_mm(grid: BrainGrid) -> float:
    return round(BLUR_VOXELS * grid.spacing, 3)


@lru_cache(maxsize=2)
def load_ventricles(blur_mm: float) -> Template:
    """The template's map of CSF, without what lies outside the lateral ventricles.

    Args:
        blur_mm: as for `load_template`.

    Returns:
        One map on the template's grid.
    """
    template = load_template(blur_mm)
    return Template(template.maps[:1] * _lateral_ventricles(), template.affine)


@lru_cache(maxsize=1)
def _lateral_ventricles() -> Tensor:
    """(X, Y, Z) bool: the lateral ventricles of the template with 2 mm around them.

    The largest connected part of the deep CSF between the floor of the frontal horns and the roof of the bodies,
    without a wedge along the midline behind the thalamus, where cisterns touch the ventricles. Temporal horns, third
    and fourth ventricle are not in it.
    """
    template = load_template(0.0)
    sizes, affine = template.maps.shape[1:], template.affine
    axes = [affine[axis, axis] * np.arange(size) + affine[axis, 3] for axis, size in enumerate(sizes)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    csf, depth_mm = template.maps[0].numpy() > 0.5, template.maps[4].numpy()
    box = (np.abs(x) < 38) & (y > -55) & (y < 35) & (z >= 0) & (z <= 34)
    parts, _ = ndimage.label(csf & (depth_mm > 22) & box & (np.abs(x) >= 0.55 * (-22 - y)))
    largest = np.bincount(parts.ravel())[1:].argmax() + 1
    return torch.from_numpy(ndimage.binary_dilation(parts == largest, iterations=2))
