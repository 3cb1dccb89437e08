"""TraceBench's task `postop`: predict the brain after a lesion is removed from the scan before.

Truth by construction, pull convention, maps from the right grid to the left:

    template <- affine∘exp(v_anatomy) - healthy <- exp(v_mass) - pre-op <- exp(-ρ·v_mass) - post-op

The last arrow is the true field, exp(+ρ·v_mass) its inverse. ρ is the fraction of the mass effect that relaxes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import BrainGrid, grid_for, load_template
from medtrace.data.tracebench.appearance import (
    POST_OPERATIVE,
    PRE_OPERATIVE,
    acquire,
    blend,
    edge_weight,
    render_tissues,
    to_network_range,
)
from medtrace.data.tracebench.deformation import smooth_noise
from medtrace.data.tracebench.lesion import Lesion, draw_lesion, labels_with, oedema_share, render_scan
from medtrace.data.tracebench.settings import BrainSettings, Range
from medtrace.data.tracebench.subject import BLUR_VOXELS, SQUARINGS, middle_of_grid, subject_coordinates
from medtrace.fields import exponentiate, warp


@dataclass(frozen=True)
class PostopSettings(BrainSettings):
    """Settings of the cases' difficulty. Ranges are sampled uniformly.

    Attributes:
        relaxation: fraction of the mass effect that goes away.
        margin_mm: healthy tissue resected with the lesion. margin_roughness_mm: its standard deviation.

    The others are those of `BrainSettings`.
    """

    relaxation: Range = (0.55, 0.85)
    margin_mm: Range = (0.5, 3.0)
    margin_roughness_mm: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.relaxation[1] > 1:
            raise ValueError(f"settings.relaxation: expected relaxation at most 1, received {self.relaxation}")


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
    grid = grid_for(spatial_shape, middle_of_grid(random, len(spatial_shape), settings.slice_mm))
    template = load_template(round(BLUR_VOXELS * grid.spacing, 3))
    healthy_mm = subject_coordinates(random, grid, settings)
    depth_mm = template.at(healthy_mm)[4].double()
    lesion = draw_lesion(random, grid, depth_mm, settings)
    relaxation = float(random.uniform(*settings.relaxation))
    mean_relaxation = sum(settings.relaxation) / 2

    velocities = [
        lesion.velocity,
        -relaxation * lesion.velocity,
        relaxation * lesion.velocity,
        -mean_relaxation * lesion.predictable,
    ]
    push, ddf, inverse_ddf, oracle_ddf = exponentiate(torch.stack(velocities), steps=SQUARINGS)
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
        "source_labels": labels_with(source_maps[:3], lesion_mask),
        "target_labels": labels_with(target_maps[:3], cavity_mask),
        "relaxation": torch.tensor(relaxation, dtype=torch.float32),
        "affine": torch.from_numpy(grid.affine.copy()),
    }


def _render_source(
    random: np.random.Generator, grid: BrainGrid, maps: Tensor, lesion: Lesion, settings: PostopSettings
) -> tuple[Tensor, Tensor]:
    contrast = PRE_OPERATIVE.jittered(random, settings.contrast_jitter)
    scan = render_scan(random, grid, maps, lesion, contrast, settings.bias, settings.source_noise)
    return scan, (lesion.depth_mm > 0) & (maps[:3].sum(0, keepdim=True) > 0.5)


def _render_target(
    random: np.random.Generator,
    grid: BrainGrid,
    maps: Tensor,
    lesion: Lesion,
    ddf: Tensor,
    settings: PostopSettings,
) -> tuple[Tensor, Tensor]:
    contrast = POST_OPERATIVE.jittered(random, settings.contrast_jitter)
    brain = maps[:3].sum(0, keepdim=True)
    magnitude = render_tissues(contrast, maps[:3], maps[3:4])
    depth_mm = warp(lesion.depth_mm[None], ddf[None])[0]
    oedema = 0.5 * oedema_share(depth_mm, 0.7 * lesion.oedema_mm) * maps[2:3]
    magnitude = blend(magnitude, contrast.oedema, oedema)
    minimum = float(random.uniform(*settings.margin_mm))
    margin = minimum + settings.margin_roughness_mm * smooth_noise(random, grid, 10.0)
    depth_mm = depth_mm + margin.clamp_min(0)  # the entire lesion is always resected
    fluid = (contrast.fluid + 0.02 * smooth_noise(random, grid, 12.0)) * brain
    magnitude = blend(magnitude, fluid, edge_weight(depth_mm, grid.spacing))
    scan = acquire(random, grid, magnitude, brain, settings.bias, settings.target_noise)
    return to_network_range(scan), (depth_mm > 0) & (brain > 0.5)
