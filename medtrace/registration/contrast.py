"""Choice of the similarity for a pair, measured on the aligned images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from medtrace.kernels.lncc import local_signs
from medtrace.losses.lncc import lncc
from medtrace.registration.pyramid import shrink

RADIUS = 2
FLOOR = 1e-3
ONE_SIGN = 0.6
"""Agreement of the local correlations' signs above which two images count as one contrast, or its inverse."""

ONE_CONTRAST = 0.35
"""Global correlation below which squared differences do not measure similarity."""


COARSE = 96
"""Maximum number of voxels of the longest axis when contrasts are compared: texture is uninformative there."""


WEAK_TEXTURE, WEAK_SHARE = 0.15, 0.6
"""Mean squared local correlation, alone and over that of coarse images, below which texture does not correspond."""


class ContrastRelation(NamedTuple):
    """Relation of two aligned images."""

    one_sign: float
    """|Σ ρ| / Σ |ρ| of the local correlations ρ: 1 if all have one sign, 0 if the signs balance."""
    correlation: float
    """Correlation of the intensities, over the content."""
    likeness: float
    """Mean squared local correlation, in [0, 1], of coarse images."""
    texture: float
    """Likewise for the images at full resolution."""

    @property
    def weak(self) -> bool:
        """Whether shapes are similar and texture is not, as in neighboring tissue slices of two stains."""
        return self.texture < WEAK_TEXTURE and self.texture < WEAK_SHARE * self.likeness


def contrast_of(moving: Tensor, fixed: Tensor, weight: Tensor) -> ContrastRelation:
    """Measure how two images on one grid relate.

    Args:
        moving: (C, *spatial), scaled (see `scaling.scaled`).
        fixed: likewise.
        weight: (1, *spatial) of the voxels that count.
    """
    texture = mean_correlation(moving, fixed, weight.float())
    factor = [_halvings(max(weight.shape[1:])) if size > 1 else 1 for size in weight.shape[1:]]
    moving, fixed, weight = (shrink(image, factor) for image in (moving, fixed, weight.float()))
    signed = whole = 0.0
    correlations = []
    for x, y in zip(moving, fixed):
        own = local_signs(x, y, weight[0], RADIUS, FLOOR)
        signed, whole = signed + own[0], whole + own[1]
        correlations.append(_correlation(x, y, weight[0]))
    likeness = texture if max(factor) == 1 else mean_correlation(moving, fixed, weight)
    return ContrastRelation(abs(signed) / max(whole, 1e-9), sum(correlations) / len(correlations), likeness, texture)


def mean_correlation(moving: Tensor, fixed: Tensor, weight: Tensor) -> float:
    """Mean squared local correlation, in [0, 1], of images (C, *spatial) from 0 to 1 where a weight is above 0."""
    counted = weight[None] if bool((weight > 0).any()) else None
    return float(lncc(moving[None], fixed[None], mask=counted, floor=1e-4).mean())


def _halvings(size: int) -> int:
    """Power of 2 that divides a size into at most COARSE blocks."""
    factor = 1
    while size > COARSE * factor:
        factor *= 2
    return factor


def _correlation(a: Tensor, b: Tensor, weight: Tensor) -> float:
    mass = weight.sum().clamp_min(1e-9)
    first, second = (image - (image * weight).sum() / mass for image in (a, b))
    product = (first * second * weight).sum()
    return float(product / ((first.square() * weight).sum() * (second.square() * weight).sum()).sqrt().clamp_min(1e-12))


def choose_similarity(similarity: str, contrast: ContrastRelation) -> tuple[str, str]:
    """The similarity of a deformation, and the reason for it."""
    signs = f"{100 * (0.5 + contrast.one_sign / 2):.0f} % of the local correlation is of one sign"
    if similarity != "auto":
        doubts = ""
        if similarity == "lncc" and contrast.one_sign < ONE_SIGN:
            doubts = f"; but the images look like two contrasts ({signs}), for which mutual information is safer"
        if similarity == "mse" and contrast.correlation < ONE_CONTRAST:
            doubts = f"; but the images look like two contrasts (correlation {contrast.correlation:.2f})"
        return similarity, f"as requested{doubts}"
    if contrast.one_sign >= ONE_SIGN:
        return "lncc", f"local correlation, since the images are of one contrast or its inverse: {signs}"
    return "mi", f"mutual information, since the images are of two contrasts: only {signs}"
