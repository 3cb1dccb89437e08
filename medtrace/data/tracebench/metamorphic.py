"""TraceBench's task `metamorphic`: register two subjects of which one, or both, have a lesion.

Truth by construction, pull convention, maps from the right grid to the left. Either scan is of one subject,

    template <- plane - affine∘exp(v_anatomy) - healthy <- exp(v_mass) - scan

with the last arrow for a scan with a lesion only. ψ, from a scan's grid to the plane, is all of it but the first arrow,
so the correspondence on the target's grid is ψ_source⁻¹ ∘ ψ_target, and its inverse ψ_target⁻¹ ∘ ψ_source. The plane
is both subjects': in 2D a slice of the template, tilted and bent, whose points are given by two numbers; in 3D the
whole head, tilted and scaled. So a 2D correspondence leaves no point outside the plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.data.tracebench.anatomy import BrainGrid, Template, grid_for, load_template
from medtrace.data.tracebench.appearance import PRE_OPERATIVE
from medtrace.data.tracebench.deformation import anatomy_velocity, smooth_noise
from medtrace.data.tracebench.lesion import Lesion, draw_lesion, labels_with, oedema_share, render_scan
from medtrace.data.tracebench.settings import BrainSettings
from medtrace.data.tracebench.subject import (
    BLUR_VOXELS,
    SQUARINGS,
    middle_of_grid,
    random_pose,
    rotation_matrix,
    turned,
)
from medtrace.fields import compose, exponentiate, identity_grid, invert, warp

DIRECTIONS = ("healthy_to_pathological", "pathological_to_healthy", "pathological_to_pathological")
NEAR_MM = 10.0
"""Distance from the lesion within which healthy tissue counts as near it."""
_TOLERANCE = 1e-3  # voxels, of the inversion

Plane = Callable[[Tensor], Tensor]  # displacements (D, *shape) on the grid to template positions (3, *shape) in mm


@dataclass(frozen=True)
class MetamorphicSettings(BrainSettings):
    """Settings of the cases' difficulty. Ranges are sampled uniformly.

    Attributes:
        direction: which scan has a lesion: "healthy_to_pathological" (the target), "pathological_to_healthy" (the
            source) or "pathological_to_pathological" (each has its own).
        subject_rotation_degrees, subject_scaling, subject_shift_mm: bounds (±) of what remains of a subject's affine
            misalignment. Small, as registration networks have no affine stage and expect scans aligned beforehand.
        mask_oedema_above: white matter with a greater fraction of oedema is also in the masks. At 1 the masks are
            core and rim, which have no counterpart in healthy tissue; oedema is tissue, and has one.

    The others are those of `BrainSettings`, where `rotation_degrees`, `scaling` and `out_of_plane_mm` are of the plane
    that both subjects share.
    """

    anatomy_amplitudes_mm: tuple[float, ...] = (2.5, 1.6)
    source_noise: float = 0.015
    direction: str = DIRECTIONS[0]
    subject_rotation_degrees: float = 2.0
    subject_scaling: float = 0.02
    subject_shift_mm: float = 1.0
    mask_oedema_above: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("settings.direction", self.direction, DIRECTIONS)
        if self.mask_oedema_above > 1:
            raise ValueError(
                f"settings.mask_oedema_above: expected a fraction in [0, 1], received {self.mask_oedema_above}"
            )


class Scan(NamedTuple):
    """One side of a case, on its own grid."""

    to_plane: Tensor  # (D, *shape) displacement, voxels: ψ
    image: Tensor
    labels: Tensor
    head: Tensor
    pathology: Tensor  # core and rim
    mask: Tensor


def make_metamorphic(
    random: np.random.Generator, spatial_shape: tuple[int, ...], settings: MetamorphicSettings
) -> dict[str, Tensor]:
    """One case of the task.

    Args:
        random: source of all randomness.
        spatial_shape: (H, W) for an axial slice, (H, W, D) for the whole head, in RAS axes.
        settings: how hard, and which scan has a lesion.

    Returns:
        source, target: (1, *shape) float32 in [-1, 1], brain-extracted, air at -1, one contrast up to jitter.
        ddf, inverse_ddf: (D, *shape) float32, voxels: the truth on the target's and the source's grid. Under a lesion
            it is that of the tissue pushed aside, continued.
        mask, source_mask: (1, *shape) bool, the lesion on the target's and on the source's grid (zeros where healthy).
        pathology: (1, *shape) bool, core and rim of either scan's lesion on the target's grid: what has no counterpart.
        near_lesion: (1, *shape) bool, head outside `pathology` and at most 10 mm from it.
        head, source_head: (1, *shape) bool, the brain on the target's and on the source's grid.
        source_labels, target_labels: (1, *shape) uint8, `anatomy.LABELS`; core and rim are `pathology`.
        affine: (4, 4) float64, of both grids.
    """
    grid = grid_for(spatial_shape, middle_of_grid(random, len(spatial_shape), settings.slice_mm))
    template = load_template(round(BLUR_VOXELS * grid.spacing, 3))
    plane = _draw_plane(random, grid, settings)
    source_is, target_is = settings.direction.split("_to_")
    source = _scan(random, grid, template, plane, source_is == "pathological", settings.source_noise, settings)
    target = _scan(random, grid, template, plane, target_is == "pathological", settings.target_noise, settings)
    ddf = _correspondence(source.to_plane, target.to_plane)
    pathology = target.pathology | (warp(source.pathology[None].double(), ddf[None])[0] > 0.5)
    return {
        "source": source.image,
        "target": target.image,
        "ddf": ddf.float(),
        "inverse_ddf": _correspondence(target.to_plane, source.to_plane).float(),
        "mask": target.mask,
        "source_mask": source.mask,
        "pathology": pathology,
        "near_lesion": _near(pathology, grid.spacing) & target.head & ~pathology,
        "head": target.head,
        "source_head": source.head,
        "source_labels": source.labels,
        "target_labels": target.labels,
        "affine": torch.from_numpy(grid.affine.copy()),
    }


def _draw_plane(random: np.random.Generator, grid: BrainGrid, settings: MetamorphicSettings) -> Plane:
    """The map from the plane that both subjects share into the template."""
    spatial_dims = len(grid.shape)
    pose = random_pose(random, settings)
    bending = settings.out_of_plane_mm * smooth_noise(random, grid, settings.anatomy_scales_mm[0])

    def plane(displacement: Tensor) -> Tensor:
        position = grid.millimeters()
        position[:spatial_dims] += grid.spacing * displacement
        if spatial_dims == 2:
            position[2:] += warp(bending[None], displacement[None])[0]
        return turned(grid, position, pose)

    return plane


def _scan(
    random: np.random.Generator,
    grid: BrainGrid,
    template: Template,
    plane: Plane,
    pathological: bool,
    noise: float,
    settings: MetamorphicSettings,
) -> Scan:
    to_plane = _draw_subject(random, grid, settings)
    lesion = None
    if pathological:
        depth_map = Template(template.maps[4:], template.affine)
        depth_mm = depth_map.at(plane(to_plane))[0].double()
        lesion = draw_lesion(random, grid, depth_mm, settings)
        to_plane = compose(to_plane[None], exponentiate(lesion.velocity[None], steps=SQUARINGS))[0]
    maps = template.at(plane(to_plane)).double()
    contrast = PRE_OPERATIVE.jittered(random, settings.contrast_jitter)
    image = render_scan(random, grid, maps, lesion, contrast, settings.bias, noise)
    head = maps[:3].sum(0, keepdim=True) > 0.5
    pathology = head & (lesion.depth_mm > 0) if lesion is not None else torch.zeros_like(head)
    mask = pathology | _visible_oedema(maps, lesion, settings) if lesion is not None else pathology.clone()
    return Scan(to_plane, image, labels_with(maps[:3], pathology), head, pathology, mask)


def _draw_subject(random: np.random.Generator, grid: BrainGrid, settings: MetamorphicSettings) -> Tensor:
    """Displacement (D, *shape), voxels, from a healthy subject's grid to the plane: affine∘exp(v_anatomy)."""
    spatial_dims = len(grid.shape)
    velocity = anatomy_velocity(random, grid, settings.anatomy_scales_mm, settings.anatomy_amplitudes_mm)
    angles = np.deg2rad(random.uniform(-1, 1, 3) * settings.subject_rotation_degrees)
    if spatial_dims == 2:
        angles[:2] = 0  # the others would leave the plane
    scales = 1 + random.uniform(-1, 1, spatial_dims) * settings.subject_scaling
    shift = random.uniform(-1, 1, spatial_dims) * settings.subject_shift_mm / grid.spacing
    matrix = torch.from_numpy(rotation_matrix(angles)[:spatial_dims, :spatial_dims] * scales)
    displacement = exponentiate(velocity[None], steps=SQUARINGS)[0]
    position = grid.plane_mm() / grid.spacing
    moved = torch.tensordot(matrix, position + displacement, dims=1)
    return moved - position + torch.from_numpy(shift).reshape(-1, *[1] * spatial_dims)


def _visible_oedema(maps: Tensor, lesion: Lesion, settings: MetamorphicSettings) -> Tensor:
    fraction = oedema_share(lesion.depth_mm, lesion.oedema_mm) * maps[2:3]
    return fraction > settings.mask_oedema_above


def _correspondence(source: Tensor, target: Tensor) -> Tensor:
    """Displacement of ψ_source⁻¹ ∘ ψ_target on the target's grid, from the displacements of either ψ."""
    position = identity_grid(target.shape[1:], dtype=target.dtype) + target
    return target + invert(source[None], tolerance=_TOLERANCE, points=position[None]).ddf[0]


def _near(region: Tensor, spacing: float) -> Tensor:
    """Within `NEAR_MM` of a region (1, *shape), voxel center to voxel center; nothing is near an empty one."""
    if not region.any():
        return torch.zeros_like(region)
    distance = ndimage.distance_transform_edt(~region[0].numpy(), sampling=spacing)
    return torch.from_numpy(distance <= NEAR_MM)[None]
