"""Error of a translated image against its clean target: NMAE, PSNR and SSIM by named conventions, and drift.

RegGAN prints "NMAE, PSNR and SSIM with the background excluded" and leaves open on which scale and where. A convention
here is a range and a region:

- "unit": errors are a fraction of the intensity range, as on images in [0, 1]; "symmetric": they are in the units of
  images in [-1, 1], twice as large. PSNR (peak 1 or 2) and SSIM do not depend on it.
- "whole": every voxel; "foreground": background left out.

Which convention a printed row can have had follows from MAE <= RMSE on the same voxels: NMAE <= range · 10^(-PSNR/20),
range 1 or 2 (`highest_psnr`). RegGAN's .071 beside 26 dB cannot be a fraction of the range (22.97 dB at most) unless
the two are of different voxels; in [-1, 1] units (28.99 dB) it can. Means over cases may pass the bound by a few
tenths of a dB, as PSNR is a logarithm. The authors' public code (commit 0df4652) does take different voxels: its NMAE
is "unit" where the target is not -1, its PSNR is of image rows picked by those voxels, background included, and its
SSIM is of the whole image. Numbers of different conventions are not comparable.
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medtrace.checks import (
    check_batched,
    check_choice,
    check_finite,
    check_floating,
    check_positive,
    check_range,
    check_same_shape,
)
from medtrace.geometry.grid import check_invertible
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import CaseMetric
from medtrace.metrics.image import mean_absolute_error, peak_signal_to_noise_ratio
from medtrace.metrics.ssim import WINDOW, structural_similarity

RANGE = (-1.0, 1.0)
_TREND_VOXELS = 3.0


class Convention(NamedTuple):
    """The range and region that NMAE, PSNR and SSIM are measured on.

    Attributes:
        error_range: width of the scale of NMAE and peak of PSNR: 1 or 2.
        foreground: whether the background is left out.
    """

    error_range: float
    foreground: bool


CONVENTIONS = MappingProxyType(
    {
        f"{scale}-{region}": Convention(error_range, region == "foreground")
        for scale, error_range in (("unit", 1.0), ("symmetric", 2.0))
        for region in ("whole", "foreground")
    }
)
"""The conventions by name: "unit-whole", "unit-foreground", "symmetric-whole" and "symmetric-foreground"."""


def foreground_of(target: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Where a target is above the background's -1.

    Args:
        target: (B, C, H, W[, D]) in [-1, 1], background -1.
        tolerance: how far above -1 still counts as background; 1e-3 allows for rounding, noisy air needs more or a
            mask.

    Returns:
        (B, 1, H, W[, D]) bool: above -1 + tolerance in any channel. Dark voxels inside the body are left out too, as in
        the paper's code.

    Raises:
        TypeError, ValueError: if it is not such an image, or an item has no foreground.

    Example:
        >>> foreground_of(torch.tensor([[[[-1.0, -0.5, 1.0]]]]))
        tensor([[[[False,  True,  True]]]])
    """
    check_batched("target", target)
    check_finite("target", target)
    check_range("target", target, *RANGE)
    check_positive("tolerance", tolerance)
    found = (target.detach().as_subclass(Tensor) > RANGE[0] + tolerance).any(1, keepdim=True)
    empty = (~found.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            f"target: expected voxels above {RANGE[0] + tolerance:g}, received only background in item(s) {empty};"
            " leave these cases out or pass a mask"
        )
    return found


def normalized_mean_absolute_error(
    image: Tensor,
    target: Tensor,
    convention: str = "unit-foreground",
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
) -> Tensor:
    """NMAE per case: the mean absolute error on a convention's range and voxels.

    Args:
        image: (B, C, H, W[, D]) on the scale [-1, 1]; values beyond it are used unchanged.
        target: the same shape, in [-1, 1].
        convention: a name of `CONVENTIONS`.
        mask: (B, 1, H, W[, D]), the foreground; None derives it from the target by `foreground_of`. Not read by the
            "whole" conventions.
        tolerance: as for `foreground_of`.

    Returns:
        (B,) >= 0, float64.

    Raises:
        TypeError, ValueError: on wrong types, shapes or ranges, an unknown convention, or an empty foreground.

    Example:
        >>> image, target = torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5)
        >>> [float(normalized_mean_absolute_error(image, target, name)) for name in ("unit-whole", "symmetric-whole")]
        [0.25, 0.5]
    """
    region = _region(target, convention, mask, tolerance)
    return mean_absolute_error(
        image, target, region, data_range=RANGE, output_range=CONVENTIONS[convention].error_range
    )


def translation_scores(
    image: Tensor,
    target: Tensor,
    convention: str = "unit-foreground",
    mask: Tensor | None = None,
    *,
    tolerance: float = 1e-3,
) -> dict[str, Tensor]:
    """NMAE, PSNR and SSIM per case, all on one convention's voxels.

    Args:
        image: as for `normalized_mean_absolute_error`, as are target, convention, mask and tolerance.
        target: the clean target.
        convention: a name of `CONVENTIONS`.
        mask: the foreground, or None.
        tolerance: how far above -1 still counts as background.

    Returns:
        "nmae", "psnr" (dB, infinite without any error) and "ssim" (11-voxel Gaussian window, see
        `structural_similarity`; the foreground weights its map; NaN for images smaller than the window), each (B,)
        float64.

    Raises:
        TypeError, ValueError: as for `normalized_mean_absolute_error` and the metrics.

    Example:
        >>> scores = translation_scores(torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.5))
        >>> {name: round(float(value), 3) for name, value in scores.items()}
        {'nmae': 0.25, 'psnr': 12.041, 'ssim': 0.923}
    """
    region = _region(target, convention, mask, tolerance)
    width = CONVENTIONS[convention].error_range
    return {
        "nmae": mean_absolute_error(image, target, region, data_range=RANGE, output_range=width),
        "psnr": peak_signal_to_noise_ratio(image, target, region, data_range=RANGE),
        "ssim": structural_similarity(image, target, region, data_range=RANGE)
        if min(image.shape[2:]) >= WINDOW
        else torch.full((len(image),), torch.nan, dtype=torch.float64),
    }


def highest_psnr(nmae: float, convention: str) -> float:
    """The PSNR in dB that no image with this NMAE on the same voxels can pass: 20·log10(range / NMAE).

    Example:
        >>> round(highest_psnr(0.071, "unit-whole"), 2)
        22.97
    """
    check_choice("convention", convention, CONVENTIONS)
    check_positive("nmae", nmae)
    return 20 * math.log10(CONVENTIONS[convention].error_range / nmae)


def translation_drift(image: Tensor, target: Tensor, affine: Tensor, *, upsampling: int = 50) -> Tensor:
    """The shift of an entire image from its clean target, in mm.

    A generator that learns from misaligned pairs can absorb a common shift of them, which the identity trace does not
    show and a similarity measure does not distinguish from a wrong image. The shift is where the cross-correlation of
    the two is highest (scikit-image's `phase_cross_correlation` without normalization; Guizar-Sicairos et al. 2008),
    after the slow trend (a Gaussian mean of 3 voxels' standard deviation) is removed from both: contrast and shading
    then hardly affect it. Known shifts of TraceBench's T2 images are recovered to 0.05 voxel, to 0.06 with noise of 5 %
    of the range, and to about 0.1 where the head is cut by the grid. The mean vector over cases distinguishes a common
    shift from chance.

    Args:
        image: (B, 1, H, W) or (B, 1, H, W, D), the translated image.
        target: the clean target, of the same shape and contrast.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm; a pixel (i, j) is voxel (i, j, 0).
        upsampling: steps per voxel.

    Returns:
        (B, 3) float64 in mm, towards right, anterior and superior: from where the target shows a point to where the
        image shows it. Its length is `.norm(dim=1)`. NaN where an image is constant. Shifts are unambiguous up to half
        of the grid.

    Raises:
        TypeError, ValueError: on wrong types or shapes, numbers that are not finite, or a singular affine.

    Example:
        >>> target = torch.full((1, 1, 32, 32), -1.0)
        >>> target[..., 10:20, 12:22] = 1.0
        >>> affine = torch.diag(torch.tensor([1.5, 1.5, 1.0, 1.0], dtype=torch.float64))
        >>> translation_drift(target.roll(2, 2), target, affine)  # two voxels of 1.5 mm
        tensor([[3., 0., 0.]], dtype=torch.float64)
    """
    # Here: it takes a second to import.
    from skimage.registration import phase_cross_correlation

    dims = check_batched("image", image, channels=1)
    check_batched("target", target, channels=1)
    check_same_shape("image", image, "target", target)
    check_finite("image", image)
    check_finite("target", target)
    if isinstance(upsampling, bool) or not isinstance(upsampling, int):
        raise TypeError(f"upsampling: expected a whole number, received {upsampling!r}")
    check_positive("upsampling", upsampling)
    columns = _axis_vectors(affine, image.shape[0])[:, :, :dims]
    shifts = torch.full((image.shape[0], dims), torch.nan, dtype=torch.float64)
    for item in range(image.shape[0]):
        moved, fixed = (without_trend(tensor[item, 0]) for tensor in (image, target))
        if moved.any() and fixed.any():
            back, _, _ = phase_cross_correlation(fixed, moved, upsample_factor=upsampling, normalization=None)
            shifts[item] = -torch.as_tensor(back, dtype=torch.float64)
    return torch.einsum("bij,bj->bi", columns, shifts)


def _region(target: Any, convention: str, mask: Tensor | None, tolerance: float) -> Tensor | None:
    """The weights that a convention's mean is over, or None for every voxel."""
    check_choice("convention", convention, CONVENTIONS)
    check_batched("target", target)
    check_range("target", target, *RANGE)
    if not CONVENTIONS[convention].foreground:
        return None
    return foreground_of(target, tolerance) if mask is None else mask_weights(mask, target)


def _axis_vectors(affine: Any, batch: int) -> Tensor:
    """The affine's linear part (B, 3, 3): each axis's step in mm."""
    check_floating("affine", affine)
    if affine.shape not in ((4, 4), (batch, 4, 4)):
        raise ValueError(f"affine: expected shape (4, 4) or ({batch}, 4, 4), received {tuple(affine.shape)}")
    linear = affine[..., :3, :3].detach().as_subclass(Tensor).cpu().double()
    check_invertible("affine", linear)
    result: Tensor = linear.expand(batch, 3, 3)
    return result


def without_trend(values: Tensor) -> np.ndarray:
    """An image minus its Gaussian mean; exactly zero for a constant one."""
    array = values.detach().as_subclass(Tensor).cpu().double().numpy()
    if array.min() == array.max():
        return np.zeros_like(array)
    return np.asarray(array - gaussian_filter(array, _TREND_VOXELS, mode="nearest"))


class NMAEMetric(CaseMetric):
    """`normalized_mean_absolute_error` of every case.

    Example:
        >>> target = torch.full((1, 1, 8, 8), -1.0)
        >>> target[..., 2:6, 2:6] = 0.5  # the foreground
        >>> float(NMAEMetric()(torch.full_like(target, 0.0), target))
        0.25
    """

    function = staticmethod(normalized_mean_absolute_error)

    def __init__(self, convention: str = "unit-foreground", tolerance: float = 1e-3) -> None:
        check_choice("convention", convention, CONVENTIONS)
        check_positive("tolerance", tolerance)
        super().__init__(convention=convention, tolerance=tolerance)
