"""The change that contrast alone explains: the expected image given the warped source, and its change of intensity."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medtrace.checks import check_same_shape
from medtrace.trace.tissue import find_tissue

CONTRAST_BINS = 64
"""Equal-width bins of the warped source's range in which the change of contrast is averaged."""


def contrast_change(warped: Tensor, image: Tensor, bins: int = CONTRAST_BINS, tissue: Tensor | None = None) -> Tensor:
    """Change of intensity that contrast alone explains: E[image | warped] - warped, per channel.

    In tissue, the expectation is that of tissue; background, which fills most of many images, has a separate
    expectation and is not used elsewhere.

    Args:
        warped: (C, *spatial), any intensity range.
        image: image of the same shape.
        bins: equal-width bins between the channel's minimum and maximum warped intensity in tissue, and in background.
        tissue: (1, *spatial), non-zero in tissue; None finds it (see `find_tissue`).

    Returns:
        (C, *spatial). In every bin with voxels, image - warped is averaged and placed at the bin's mean intensity;
        between those points it is linear, beyond the outermost it is constant. A linear change of contrast is thus
        reproduced except in half of an outermost bin; a constant warped image gives the mean difference.

    Raises:
        TypeError, ValueError: if a shape differs.

    Example:
        >>> warped = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
        >>> bool(contrast_change(warped, -warped).abs().max() > 1.5)
        True
    """
    return _by_tissue(warped, image, bins, tissue, lambda x, y: y - x)


def expected_image(warped: Tensor, image: Tensor, bins: int = CONTRAST_BINS, tissue: Tensor | None = None) -> Tensor:
    """The image that contrast alone explains, E[image | warped], per channel: no difference across units is computed.

    Args:
        warped: (C, *spatial), in the source's units.
        image: (C', *spatial), in its own units.
        bins, tissue: as for `contrast_change`.

    Returns:
        (C', *spatial), in the image's units, estimated as `contrast_change` is, channel by channel where C = C'.
        Otherwise every channel of the image is estimated from all channels of the source: the least-squares combination
        of its expectations given each of them.

    Raises:
        TypeError, ValueError: if a shape differs.

    Example:
        >>> ct = torch.linspace(-1000, 1000, 64).reshape(1, 8, 8)
        >>> bool(torch.allclose(expected_image(ct / 2000, ct), ct, atol=20))
        True
    """
    if len(warped) == len(image):
        return _by_tissue(warped, image, bins, tissue, lambda _, y: y)
    if warped.shape[1:] != image.shape[1:]:
        raise ValueError(f"warped: expected the grid of the image {image.shape[1:]}, received {warped.shape[1:]}")
    inside = find_tissue(warped, image) if tissue is None else _checked(tissue, image)
    parts = [part for part in (inside[0], ~inside[0]) if bool(part.any())]
    result = torch.empty_like(image)
    for y, into in zip(image, result):
        for part in parts:
            into[part] = _combined([_regress(x[part], y[part], bins) for x in warped], y[part])
    return result


def _combined(expectations: Sequence[Tensor], values: Tensor) -> Tensor:
    """The linear combination of expectations and a constant that is nearest to values."""
    if len(expectations) == 1:
        return expectations[0]
    design = torch.stack([*expectations, torch.ones_like(values)], dim=1).double()
    # By the normal equations: for a volume, the design matrix has millions of rows.
    weights = torch.linalg.pinv(design.T @ design, hermitian=True) @ (design.T @ values.double())
    result: Tensor = (design @ weights).to(values.dtype)
    return result


def _by_tissue(
    warped: Tensor,
    image: Tensor,
    bins: int,
    tissue: Tensor | None,
    quantity: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """E[quantity(warped, image) | warped], in tissue and in background separately."""
    check_same_shape("warped", warped, "image", image)
    inside = find_tissue(warped, image) if tissue is None else _checked(tissue, image)
    if bool(inside.all()) or not bool(inside.any()):
        return torch.stack([_regress(x, quantity(x, y), bins) for x, y in zip(warped, image)])
    result = torch.empty_like(warped)
    for x, y, into in zip(warped, image, result):
        for part in (inside[0], ~inside[0]):
            into[part] = _regress(x[part], quantity(x[part], y[part]), bins)
    return result


def _checked(tissue: Tensor, image: Tensor) -> Tensor:
    if not isinstance(tissue, Tensor):
        raise TypeError(f"tissue: expected a torch tensor, received {type(tissue).__name__}; convert it first")
    if tissue.shape != (1, *image.shape[1:]):
        raise ValueError(f"tissue: expected shape {(1, *image.shape[1:])}, received {tuple(tissue.shape)}")
    return tissue.to(image.device) > 0


def _regress(values: Tensor, quantity: Tensor, bins: int) -> Tensor:
    """E[quantity | values] by a histogram of values, read at values."""
    x, y = values.flatten().double(), quantity.flatten().double()
    low, high = x.min(), x.max()
    if bool(high == low):
        return y.mean().to(values.dtype).expand(values.shape).clone()
    index = ((x - low) / (high - low) * bins).long().clamp_(max=bins - 1)
    count = torch.bincount(index, minlength=bins)
    filled = count > 0
    knots_x = (torch.bincount(index, weights=x, minlength=bins)[filled] / count[filled]).contiguous()
    knots_y = torch.bincount(index, weights=y, minlength=bins)[filled] / count[filled]
    right = torch.searchsorted(knots_x, x).clamp_(1, len(knots_x) - 1)
    width = knots_x[right] - knots_x[right - 1]
    part = ((x - knots_x[right - 1]) / width).clamp_(0.0, 1.0)
    result = torch.lerp(knots_y[right - 1], knots_y[right], part)
    return result.to(values.dtype).reshape(values.shape)
