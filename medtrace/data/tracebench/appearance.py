"""Simulated appearance of anatomy in a scan: tissue contrast, texture, pathology, bias field and noise.

Rendering works on magnitudes, 0 (air) to 1 (saturation); `to_network_range` brings them to [-1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medtrace.data.tracebench.anatomy import BrainGrid
from medtrace.data.tracebench.deformation import smooth_noise


@dataclass(frozen=True)
class TissueContrast:
    """Mean magnitudes of a scanner, between 0 (air) and 1 (saturation).

    Attributes:
        csf, gm, wm: the tissues.
        core, rim, oedema: the lesion's core, its enhancing rim, and the oedema around it.
        fluid: what fills a cavity.
        texture: how much of the template's own detail shows, in units of the WM-GM difference.
    """

    csf: float
    gm: float
    wm: float
    core: float
    rim: float
    oedema: float
    fluid: float
    texture: float = 1.0

    def jittered(self, random: np.random.Generator, amount: float) -> TissueContrast:
        """The same scanner on another day: every mean moves by a normal of standard deviation `amount`."""
        names = ("csf", "gm", "wm", "core", "rim", "oedema", "fluid")
        shifts = np.clip(random.standard_normal(len(names)), -2, 2) * amount
        means = {name: getattr(self, name) + float(shift) for name, shift in zip(names, shifts)}
        return TissueContrast(**means, texture=self.texture)


PRE_OPERATIVE = TissueContrast(csf=0.16, gm=0.44, wm=0.64, core=0.28, rim=0.74, oedema=0.40, fluid=0.14)
# Not a linear function of the first scanner's means: gray matter rises most, the white-gray contrast shrinks.
POST_OPERATIVE = TissueContrast(csf=0.28, gm=0.58, wm=0.70, core=0.38, rim=0.78, oedema=0.52, fluid=0.22)
# Of healthy heads. The detail is that of the template's T1; FLAIR, brighter in gray matter, shows it inverted.
T1 = TissueContrast(csf=0.16, gm=0.44, wm=0.64, core=0, rim=0, oedema=0, fluid=0)
FLAIR = TissueContrast(csf=0.14, gm=0.80, wm=0.45, core=0, rim=0, oedema=0, fluid=0, texture=0.7)


def render_tissues(contrast: TissueContrast, tissues: Tensor, detail: Tensor) -> Tensor:
    """Magnitudes of healthy tissue.

    Args:
        contrast: the scanner.
        tissues: (3, *shape) probabilities of CSF, GM and WM; air is the rest.
        detail: (1, *shape) the part of the template's T1 that they do not explain, in WM-GM differences.

    Returns:
        (1, *shape) magnitudes.
    """
    means = tissues.new_tensor([contrast.csf, contrast.gm, contrast.wm])
    magnitude = torch.tensordot(means, tissues, dims=1)[None]
    return (magnitude + contrast.texture * (contrast.wm - contrast.gm) * detail).clamp_min(0)


def blend(magnitude: Tensor, other: Tensor | float, weight: Tensor) -> Tensor:
    """Replace a fraction `weight` in [0, 1] of one magnitude by another."""
    return magnitude + weight * (other - magnitude)


def edge_weight(depth_mm: Tensor, spacing: float) -> Tensor:
    """Fraction of a voxel that lies inside, from the depth of its center: a logistic a voxel wide."""
    return torch.sigmoid(depth_mm * (4.0 / spacing))


def acquire(
    random: np.random.Generator, grid: BrainGrid, magnitude: Tensor, brain: Tensor, bias: float, noise: float
) -> Tensor:
    """A scan of brain-extracted magnitudes: smooth multiplicative bias, then Rician noise inside the brain.

    Args:
        random: source of randomness.
        grid: the case's grid.
        magnitude: (1, *shape), 0 to 1.
        brain: (1, *shape) fraction of brain in a voxel, 0 to 1.
        bias: standard deviation of the bias field's logarithm (80 mm between knots).
        noise: standard deviation of either channel.

    Returns:
        (1, *shape) magnitudes.
    """
    biased = magnitude * torch.exp(bias * smooth_noise(random, grid, 80.0))
    real, imaginary = noise * torch.from_numpy(random.standard_normal((2, 1, *grid.shape))) * brain
    return torch.sqrt((biased + real).square() + imaginary.square())


def to_network_range(magnitude: Tensor) -> Tensor:
    """Magnitudes to float32 in [-1, 1]; what exceeds 1 saturates, as in a detector."""
    return (2 * magnitude.clamp_max(1) - 1).to(torch.float32)
