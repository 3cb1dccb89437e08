"""TraceBench's task `misaligned`: learn T2 from T1 when the pairs are misaligned.

Truth by construction, pull convention: source = T1∘S, target = T2∘T for two contrasts of one anatomy and random maps S
and T. What aligns the pair is R = S⁻¹∘T: source(R(p)) shows the point that target(p) shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.data.tracebench.anatomy import BrainGrid, grid_for, hard_labels, load_template
from medtrace.data.tracebench.appearance import TissueContrast, acquire, render_tissues, to_network_range
from medtrace.data.tracebench.settings import BrainSettings
from medtrace.data.tracebench.subject import BLUR_VOXELS, middle_of_grid, subject_coordinates
from medtrace.fields import identity_grid, inside_grid, warp
from medtrace.transforms.misalignment_draw import (
    MISALIGNMENT_LEVELS,
    MisalignmentDraw,
    misalignment_between,
)

T1 = TissueContrast(csf=0.16, gm=0.44, wm=0.64, core=0, rim=0, oedema=0, fluid=0)
T2 = TissueContrast(csf=0.86, gm=0.54, wm=0.38, core=0, rim=0, oedema=0, fluid=0)


@dataclass(frozen=True)
class MisalignedSettings(BrainSettings):
    """Settings of the pairs' misalignment and of the subjects.

    Attributes:
        level: one of `medtrace.transforms.MISALIGNMENT_LEVELS`: "0" to "5" (RegGAN, Table 2), "table1" (its Section
            4.2) or "nonrigid".
        moved: "both" images, as in the paper's Section 4.2, or the "source" or the "target" alone.
        partner: "same" subject, or "other": the target shows another subject, as in unpaired training. There is then no
            true field in the case.

    The others are those of `BrainSettings`; lesions are not drawn.
    """

    bias: float = 0.02
    level: str = "3"
    moved: str = "both"
    partner: str = "same"

    def __post_init__(self) -> None:
        object.__setattr__(self, "level", str(self.level))  # YAML gives a number
        check_choice("settings.level", self.level, MISALIGNMENT_LEVELS)
        check_choice("settings.moved", self.moved, ("both", "source", "target"))
        check_choice("settings.partner", self.partner, ("same", "other"))
        super().__post_init__()


def make_misaligned(
    random: np.random.Generator, spatial_shape: tuple[int, ...], settings: MisalignedSettings
) -> dict[str, Tensor]:
    """One case of the task.

    Args:
        random: source of all randomness.
        spatial_shape: (H, W) for an axial slice, (H, W, D) for the whole head, in RAS axes.
        settings: how misaligned.

    Returns:
        source: (1, *shape) float32 in [-1, 1], T1, brain-extracted, air at -1.
        target: the same of T2, misaligned. clean_target: T2 of the source's subject on the source's grid, with its
            own noise.
        source_head, head: (1, *shape) bool brain on the source's grid; on the target's, where the source shows it too.
        source_labels, target_labels: (1, *shape) uint8, `anatomy.LABELS`.
        ddf, inverse_ddf: (D, *shape) float32, voxels: R − Id on the target's grid and R⁻¹ − Id on the source's; not
            with another subject's target.
        affine: (4, 4) float64, of both grids.
    """
    grid = grid_for(spatial_shape, middle_of_grid(random, len(spatial_shape), settings.slice_mm))
    template = load_template(round(BLUR_VOXELS * grid.spacing, 3))
    anatomy_mm = subject_coordinates(random, grid, settings)
    other_mm = subject_coordinates(random, grid, settings) if settings.partner == "other" else anatomy_mm
    level = MISALIGNMENT_LEVELS[settings.level]
    source_move, target_move = (
        level.draw(random, len(grid.shape))
        if settings.moved in ("both", name)
        else MisalignmentDraw.identity(len(grid.shape))
        for name in ("source", "target")
    )
    source_maps = template.at(_moved(grid, anatomy_mm, source_move)).double()
    target_maps = template.at(_moved(grid, other_mm, target_move)).double()
    t1, t2 = (contrast.jittered(random, settings.contrast_jitter) for contrast in (T1, T2))
    brain = source_maps[:3].sum(0, keepdim=True)
    target_brain = target_maps[:3].sum(0, keepdim=True)

    def scan(maps: Tensor, contrast: TissueContrast, noise: float) -> Tensor:
        magnitude = render_tissues(contrast, maps[:3], maps[3:4])
        fraction = maps[:3].sum(0, keepdim=True)
        return to_network_range(acquire(random, grid, magnitude, fraction, settings.bias, noise))

    case = {
        "source": scan(source_maps, t1, settings.source_noise),
        "target": scan(target_maps, t2, settings.target_noise),
        "clean_target": scan(source_maps, t2, settings.target_noise),
        "source_head": brain > 0.5,
        "head": target_brain > 0.5,
        "source_labels": hard_labels(source_maps[:3]),
        "target_labels": hard_labels(target_maps[:3]),
        "affine": torch.from_numpy(grid.affine.copy()),
    }
    if settings.partner == "same":
        case["ddf"], case["inverse_ddf"] = misalignment_between(source_move, target_move, grid.shape)
        positions = identity_grid(grid.shape) + case["ddf"]
        case["head"] &= inside_grid(positions[None], grid.shape)[0]
    return case


def _moved(grid: BrainGrid, anatomy_mm: Tensor, move: MisalignmentDraw) -> Tensor:
    """Template positions (3, *shape) of what each voxel shows after a misalignment."""
    ddf = move.displacement(grid.shape, dtype=torch.float64)
    # The anatomy's own displacement is smooth and continues beyond the grid as at its border; positions continue
    # straight.
    position = grid.millimeters()
    own = anatomy_mm - position
    position[: len(grid.shape)] += grid.spacing * ddf
    return position + warp(own[None], ddf[None])[0]
