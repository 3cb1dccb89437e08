"""Agreement of edges: Sobel maps of the warped source and the prediction (TraceTrans, Tables 3, 5 and 6)."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from skimage.filters import threshold_otsu
from torch import Tensor

from medtrace.checks import check_batched, check_choice, check_finite, check_floating, check_number, check_same_grid
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import CaseMetric, range_width
from medtrace.metrics.image import (
    NMIConvention,
    normalized_mutual_information_score,
    peak_signal_to_noise_ratio,
)
from medtrace.metrics.ssim import structural_similarity

EdgeScale = Literal["range", "maximum"]
EdgeThreshold = Literal["otsu", "quantile"]
OTSU_BINS = 256


def sobel_magnitude(image: Tensor) -> Tensor:
    """Length of the intensity gradient by Sobel's masks, in intensity per voxel.

    Along each axis the mask is (−1, 0, 1)/2, smoothed along every other axis with (1, 2, 1)/4, so that a ramp of
    slope s has the value s; borders repeat the outermost voxel. With several channels the root of the mean over
    channels of the squared lengths is taken.

    Args:
        image: (B, C, H, W) or (B, C, H, W, D), finite.

    Returns:
        (B, 1, H, W[, D]) >= 0, float64.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 1, 4, 4)
        >>> float(sobel_magnitude(ramp)[0, 0, 1, 1])
        1.0
    """
    check_batched("image", image)
    check_finite("image", image)
    values = image.detach().as_subclass(Tensor).double()
    axes = range(2, values.ndim)
    squared = torch.zeros_like(values)
    for axis in axes:
        slope = _three_taps(values, axis, (-0.5, 0.0, 0.5))
        for other in axes:
            if other != axis:
                slope = _three_taps(slope, other, (0.25, 0.5, 0.25))
        squared += slope.square()
    return squared.mean(1, keepdim=True).sqrt()


def _three_taps(values: Tensor, axis: int, taps: tuple[float, float, float]) -> Tensor:
    size = values.shape[axis]
    before = torch.cat([values.narrow(axis, 0, 1), values.narrow(axis, 0, size - 1)], axis)
    after = torch.cat([values.narrow(axis, 1, size - 1), values.narrow(axis, size - 1, 1)], axis)
    return taps[0] * before + taps[1] * values + taps[2] * after


def edge_map(image: Tensor, *, data_range: tuple[float, float], scale: EdgeScale | str = "range") -> Tensor:
    """Sobel magnitude on a scale of 0 to 1.

    Args:
        image: (B, C, H, W[, D]).
        data_range: (low, high) that the intensities can take.
        scale: "range" divides by the bound √spatial_dims · (high − low) / 2 of the magnitude, the same for every case;
            "maximum" by the case's own largest magnitude, which removes contrast (a flat image stays 0).

    Returns:
        (B, 1, H, W[, D]) in [0, 1] (for an image inside `data_range`), float64.

    Example:
        >>> edge_map(torch.rand(1, 1, 8, 8), data_range=(0, 1)).shape
        torch.Size([1, 1, 8, 8])
    """
    check_choice("scale", scale, ["range", "maximum"])
    width = range_width(data_range)
    magnitude = sobel_magnitude(image)
    if scale == "range":
        return magnitude / (0.5 * width * math.sqrt(magnitude.ndim - 2))
    most = magnitude.flatten(1).amax(1).view(-1, *[1] * (magnitude.ndim - 1))
    return magnitude / torch.where(most > 0, most, torch.ones_like(most))


def _edge_maps(first: Tensor, second: Tensor, data_range: tuple[float, float], scale: str) -> tuple[Tensor, Tensor]:
    check_batched("first", first)
    check_batched("second", second)
    check_same_grid("first", first, "second", second)
    return (
        edge_map(first, data_range=data_range, scale=scale),
        edge_map(second, data_range=data_range, scale=scale),
    )


def edge_ssim(
    first: Tensor,
    second: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    scale: EdgeScale | str = "range",
    window: int = 11,
    sigma: float = 1.5,
) -> Tensor:
    """SSIM per case of two images' edge maps on their scale of 0 to 1.

    Args:
        first: (B, C, H, W[, D]), for instance the warped source.
        second: (B, C', H, W[, D]), for instance the prediction.
        mask: (B, 1, H, W[, D]) region to average over; edges are found on the whole image first.
        data_range: (low, high) of the images.
        scale: scale of the edge maps, see `edge_map`.
        window: see `structural_similarity`.
        sigma: see `structural_similarity`.

    Returns:
        (B,) in [-1, 1].

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(edge_ssim(image, image, data_range=(0, 1))), 3)
        1.0
    """
    maps = _edge_maps(first, second, data_range, scale)
    return structural_similarity(*maps, mask, data_range=(0.0, 1.0), window=window, sigma=sigma)


def edge_psnr(
    first: Tensor,
    second: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    scale: EdgeScale | str = "range",
) -> Tensor:
    """PSNR in dB per case of two images' edge maps, with a peak of 1; arguments as `edge_ssim`.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> edge_psnr(image, image, data_range=(0, 1))
        tensor([inf], dtype=torch.float64)
    """
    return peak_signal_to_noise_ratio(*_edge_maps(first, second, data_range, scale), mask, data_range=(0.0, 1.0))


def edge_nmi(
    first: Tensor,
    second: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    scale: EdgeScale | str = "range",
    num_bins: int = 64,
    convention: NMIConvention | str = NMIConvention.STUDHOLME,
) -> Tensor:
    """NMI per case of two images' edge maps, bins over [0, 1]; other arguments as `edge_ssim`.

    TraceTrans's Table 3 prints .22, which is not its own Eq. 7 (STUDHOLME, at least 1): choose and name a convention.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(edge_nmi(image, image, data_range=(0, 1), num_bins=16)), 3)
        2.0
    """
    maps = _edge_maps(first, second, data_range, scale)
    return normalized_mutual_information_score(
        *maps, mask, data_range=(0.0, 1.0), num_bins=num_bins, convention=convention
    )


def otsu_threshold(values: Tensor) -> float:
    """The threshold that best splits values into two classes (Otsu 1979), over 256 equal bins of their range.

    Args:
        values: any shape, finite.

    Returns:
        Center of the last bin of the lower class; the value itself if all are equal.

    Example:
        >>> values = torch.cat([torch.linspace(0.0, 0.2, 50), torch.linspace(0.8, 1.0, 50)])
        >>> 0.15 < otsu_threshold(values) < 0.85
        True
    """
    check_floating("values", values)
    if values.numel() == 0:
        raise ValueError(f"values: expected at least one, received shape {tuple(values.shape)}")
    check_finite("values", values)
    values = values.detach().flatten().double()
    minimum, most = torch.aminmax(values)
    if minimum == most:
        return float(minimum)
    fractions = (values - minimum) / (
        most - minimum
    )  # NumPy's histogram refuses a range of a few units in the last place
    return float(minimum + threshold_otsu(fractions.cpu().numpy(), OTSU_BINS) * (most - minimum))


def edge_dice(
    first: Tensor,
    second: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    threshold: EdgeThreshold | str | float,
    quantile: float = 0.9,
    scale: EdgeScale | str = "range",
) -> Tensor:
    """Dice overlap per case of the edge voxels of two images (TraceTrans, Tables 5 and 6, which name no threshold).

    Args:
        first: (B, C, H, W[, D]), for instance the warped source.
        second: (B, C', H, W[, D]), for instance the prediction.
        mask: (B, 1, H, W[, D]) region (voxels with a positive weight) in which voxels are counted and thresholds are
            found; edges are computed on the whole image first.
        data_range: (low, high) of the images.
        threshold: edge voxels are those above it. "otsu": found per image; "quantile": per image, the given quantile
            of its magnitudes; a number: absolute, on the edge map's scale of 0 to 1.
        quantile: for threshold="quantile", in (0, 1): .9 takes the strongest tenth of the region.
        scale: scale of the edge maps, see `edge_map`; without effect on "otsu" and "quantile".

    Returns:
        (B,) in [0, 1]; NaN where neither image has an edge voxel.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[..., 4:12, 4:12] = 1.0
        >>> edge_dice(image, image, data_range=(0, 1), threshold="otsu")
        tensor([1.], dtype=torch.float64)
    """
    check_threshold(threshold, quantile)
    maps = _edge_maps(first, second, data_range, scale)
    inside = torch.ones_like(maps[0]) if mask is None else mask_weights(mask, maps[0])
    scores = []
    for a, b, region in zip(maps[0].flatten(1), maps[1].flatten(1), inside.flatten(1) > 0):
        edges_a = _edge_voxels(a[region], threshold, quantile)
        edges_b = _edge_voxels(b[region], threshold, quantile)
        total = edges_a.sum() + edges_b.sum()
        scores.append(2 * (edges_a & edges_b).sum().double() / total.double())
    return torch.stack(scores)


def check_threshold(threshold: Any, quantile: float) -> None:
    """Check the choice of an edge threshold."""
    if isinstance(threshold, str):
        check_choice("threshold", threshold, ["otsu", "quantile"])
    elif not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
        raise TypeError(f"threshold: expected 'otsu', 'quantile' or a number, received {threshold!r}")
    elif not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number in [0, 1) of the edge map's scale, received {threshold!r}")
    check_number("quantile", quantile)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile: expected a number between 0 and 1, received {quantile!r}")


def _edge_voxels(magnitude: Tensor, threshold: str | float, quantile: float) -> Tensor:
    if threshold == "otsu":
        return magnitude > otsu_threshold(magnitude)
    if threshold == "quantile":
        rank = min(magnitude.numel(), math.ceil(quantile * magnitude.numel()))
        return magnitude > magnitude.kthvalue(max(1, rank)).values
    return magnitude > float(threshold)


class EdgeSSIMMetric(CaseMetric):
    """`edge_ssim` of every case.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(EdgeSSIMMetric(data_range=(0, 1))(image, 1 - image)), 3)
        1.0
    """

    function = staticmethod(edge_ssim)

    def __init__(
        self,
        data_range: tuple[float, float],
        scale: EdgeScale | str = "range",
        window: int = 11,
        sigma: float = 1.5,
    ) -> None:
        super().__init__(data_range=data_range, scale=scale, window=window, sigma=sigma)


class EdgePSNRMetric(CaseMetric):
    """`edge_psnr` of every case.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> bool(EdgePSNRMetric(data_range=(0, 1))(image, 1 - image) > 60)
        True
    """

    function = staticmethod(edge_psnr)

    def __init__(self, data_range: tuple[float, float], scale: EdgeScale | str = "range") -> None:
        super().__init__(data_range=data_range, scale=scale)


class EdgeNMIMetric(CaseMetric):
    """`edge_nmi` of every case.

    Example:
        >>> image = torch.rand(1, 1, 16, 16)
        >>> round(float(EdgeNMIMetric(data_range=(0, 1), num_bins=16)(image, 1 - image)), 3)
        2.0
    """

    function = staticmethod(edge_nmi)

    def __init__(
        self,
        data_range: tuple[float, float],
        scale: EdgeScale | str = "range",
        num_bins: int = 64,
        convention: NMIConvention | str = NMIConvention.STUDHOLME,
    ) -> None:
        super().__init__(data_range=data_range, scale=scale, num_bins=num_bins, convention=convention)


class EdgeDiceMetric(CaseMetric):
    """`edge_dice` of every case; `threshold` has no default, because the value depends on it.

    Example:
        >>> image = torch.zeros(1, 1, 16, 16)
        >>> image[..., 4:12, 4:12] = 1.0
        >>> float(EdgeDiceMetric(data_range=(0, 1), threshold="otsu")(image, 1 - image))  # the same edges
        1.0
    """

    function = staticmethod(edge_dice)

    def __init__(
        self,
        data_range: tuple[float, float],
        threshold: EdgeThreshold | str | float,
        quantile: float = 0.9,
        scale: EdgeScale | str = "range",
    ) -> None:
        check_threshold(threshold, quantile)
        super().__init__(data_range=data_range, threshold=threshold, quantile=quantile, scale=scale)
