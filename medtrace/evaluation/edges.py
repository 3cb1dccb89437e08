"""Edges of a warped source against those of an image, beside the controls that say what they are worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace import metrics
from medtrace.fields import warp

RANGE = (-1.0, 1.0)
SSIM_WINDOW = 11
"""Voxels of an image's shortest axis from which on its structural similarity is defined."""
PATHOLOGY = ("mask", "source_mask", "lesion", "cavity")
"""Entries of a case that say where there is pathology, of the source or of the target."""
MARGIN = 2
"""Voxels around pathology that are left out with it: a Sobel edge is as wide."""
NO_FIELD, TRUE_FIELD = "_no_field", "_true_field"
"""Ends of the columns of controls: the source as it lay, and the source moved by the true field."""


def healthy_region(case: Mapping[str, Any]) -> Tensor | None:
    """Where a case has no pathology in either image and none nearby.

    Args:
        case: with some of the entries `PATHOLOGY`, (1, *spatial), on one grid.

    Returns:
        (1, *spatial) boolean; None where the case names no pathology.

    Example:
        >>> lesion = torch.zeros(1, 9, 9)
        >>> lesion[0, 4, 4] = 1
        >>> int(healthy_region({"lesion": lesion}).sum())  # 81 − 5 · 5
        56
    """
    masks = [torch.as_tensor(case[name]).as_subclass(Tensor) > 0 for name in PATHOLOGY if name in case]
    if not masks:
        return None
    pathology = torch.stack(masks).any(0).float()[None]
    pool = F.max_pool3d if pathology.ndim == 5 else F.max_pool2d
    return pool(pathology, 2 * MARGIN + 1, 1, MARGIN)[0] == 0


def correspondence(warped: Tensor, image: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
    """Agreement of the edges of the warped source and the image (TraceTrans, Tables 3, 5 and 6).

    Args:
        warped: (B, C, *spatial) in [-1, 1].
        image: (B, C, *spatial) in [-1, 1].
        mask: (B, 1, *spatial) region, or None for the grid; where it is empty, all is NaN.
    """
    if mask is not None and not mask.any():
        return dict.fromkeys(("edge_ssim", "edge_psnr", "edge_nmi", "edge_dice"), _undefined(image))
    return {
        "edge_ssim": if_large(metrics.edge_ssim, warped, image, mask),
        "edge_psnr": metrics.edge_psnr(warped, image, mask, data_range=RANGE),
        "edge_nmi": metrics.edge_nmi(warped, image, mask, data_range=RANGE),
        "edge_dice": edge_dice(warped, image, mask),
    }


def controlled_correspondence(
    source: Tensor, warped: Tensor, image: Tensor, mask: Tensor | None = None
) -> dict[str, Tensor]:
    """`correspondence`, and the same of the source as it lay: what the edges are worth if nothing had moved.

    Args:
        source: (B, C, *spatial) in [-1, 1].
        warped: likewise, moved by the field.
        image: likewise, the prediction.
        mask: (B, 1, *spatial) region.

    Returns:
        The columns of `correspondence`, followed by those of the control, whose names end with `NO_FIELD`.
    """
    still = correspondence(source, image, mask)
    return {**correspondence(warped, image, mask), **{f"{name}{NO_FIELD}": value for name, value in still.items()}}


def deformed_correspondence(
    source: Tensor, warped: Tensor, image: Tensor, true_ddf: Tensor, region: Tensor
) -> dict[str, Tensor]:
    """Edge Dice (Otsu) where tissue moved: by the field, and beside it by no field and by the true one.

    A prediction that keeps the edges of the source where they were agrees best with no field, whatever its own field
    says; one that follows its field agrees best with that.

    Args:
        source: (B, C, *spatial) in [-1, 1].
        warped: likewise, moved by the field.
        image: likewise, the prediction.
        true_ddf: (B, spatial_dims, *spatial) in voxels.
        region: (B, 1, *spatial) boolean.

    Returns:
        `edge_dice_deformed` and its controls; nothing where the region is empty.
    """
    if not region.any():
        return {}
    name = "edge_dice_deformed"
    return {
        name: edge_dice(warped, image, region),
        f"{name}{NO_FIELD}": edge_dice(source, image, region),
        f"{name}{TRUE_FIELD}": edge_dice(warp(source, true_ddf), image, region),
    }


def edge_dice(first: Tensor, second: Tensor, mask: Tensor | None = None) -> Tensor:
    """`metrics.edge_dice` of images in [-1, 1] by Otsu's thresholds."""
    return metrics.edge_dice(first, second, mask, data_range=RANGE, threshold="otsu")


def if_large(
    metric: Callable[..., Tensor], first: Tensor, second: Tensor, mask: Tensor | None = None, least: int = SSIM_WINDOW
) -> Tensor:
    """A metric of structural similarity; NaN for images below its windows; `least` is of rows and columns."""
    if min(first.shape[2:]) < SSIM_WINDOW or min(first.shape[2:4]) < least:
        return _undefined(first)
    return metric(first, second, mask, data_range=RANGE)


def _undefined(image: Tensor) -> Tensor:
    return torch.full((len(image),), torch.nan, dtype=torch.float64)
