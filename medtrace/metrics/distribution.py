"""Distance between the intensities of two sets of images: the Bhattacharyya distance of their histograms."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_batched, check_choice, check_finite, check_floating, check_whole
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import ComparingMetric, range_width

NUM_BINS = 64
"""Bins over the data range; for images in [-1, 1] one is 1/32 wide."""


class BhattacharyyaForm(StrEnum):
    """Forms of the distance, from the Bhattacharyya coefficient BC = Σ √(p·q) of two histograms.

    DISTANCE: −ln BC, from 0 to infinity (Bhattacharyya 1943).
    HELLINGER: √(1 − BC), from 0 to 1. Image libraries, OpenCV's `compareHist` among them, call this one Bhattacharyya.
    """

    DISTANCE = "distance"
    HELLINGER = "hellinger"


def intensity_histogram(
    images: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    num_bins: int = NUM_BINS,
) -> Tensor:
    """How often each intensity occurs, per image.

    Args:
        images: (B, C, H, W[, D]); channels are counted together. Values outside `data_range` count in the outermost
            bins: a histogram of translated images that leave the range must not lose them.
        mask: (B, 1, H, W[, D]) bool or weights of the voxels counted.
        data_range: (low, high), the outer edges of the bins.
        num_bins: bins of equal width.

    Returns:
        (B, num_bins) float64 counts, or sums of weights.

    Raises:
        TypeError, ValueError: on wrong types, shapes, ranges, non-finite numbers or an empty mask.

    Example:
        >>> intensity_histogram(torch.tensor([[[[0.1, 0.2, 0.9, 0.8]]]]), data_range=(0, 1), num_bins=2)
        tensor([[2., 2.]], dtype=torch.float64)
    """
    check_batched("images", images)
    check_finite("images", images)
    width = range_width(data_range)
    check_whole("num_bins", num_bins, 2)
    values = images.detach().as_subclass(Tensor).double()
    weights = torch.ones_like(values) if mask is None else mask_weights(mask, values).expand_as(values)
    bins = ((values - float(data_range[0])) / width * num_bins).floor().clamp(0, num_bins - 1).long().flatten(1)
    empty = values.new_zeros(len(values), num_bins)
    return empty.scatter_add_(1, bins, weights.flatten(1))


def bhattacharyya_from_histograms(
    first: Tensor, second: Tensor, form: BhattacharyyaForm | str = BhattacharyyaForm.DISTANCE
) -> Tensor:
    """Bhattacharyya distance of two histograms.

    Args:
        first: (..., num_bins) counts, at least 0.
        second: the same shape; the totals may differ.
        form: see `BhattacharyyaForm`.

    Returns:
        (...) float64, 0 for equal distributions; DISTANCE is infinite if no bin is shared.

    Raises:
        TypeError: if a histogram is not a floating tensor.
        ValueError: if the shapes differ, or a histogram is empty or has a negative count.

    Example:
        >>> first, second = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 0.5, 0.5]])
        >>> round(float(bhattacharyya_from_histograms(first, second)), 4)  # log 2
        0.6931
    """
    check_choice("form", form, [str(choice) for choice in BhattacharyyaForm])
    for name, counts in (("first", first), ("second", second)):
        check_floating(name, counts)
        if counts.ndim == 0 or not bool((counts >= 0).all()):
            raise ValueError(f"{name}: expected counts (..., bins) of at least 0, received negatives, NaN or a scalar")
        check_finite(name, counts)
    if first.shape != second.shape:
        raise ValueError(f"second: expected the shape of first {tuple(first.shape)}, received {tuple(second.shape)}")
    fractions = []
    for name, counts in (("first", first.double()), ("second", second.double())):
        total = counts.sum(-1, keepdim=True)
        if not bool((total > 0).all()):
            raise ValueError(f"{name}: expected a histogram that counts something, received an empty one")
        fractions.append(counts / total)
    coefficient = (fractions[0] * fractions[1]).sqrt().sum(-1).clamp(max=1.0)
    return (1 - coefficient).sqrt() if form == BhattacharyyaForm.HELLINGER else (1 / coefficient).log()


def bhattacharyya_distance(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    target_mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    num_bins: int = NUM_BINS,
    form: BhattacharyyaForm | str = BhattacharyyaForm.DISTANCE,
) -> Tensor:
    """Bhattacharyya distance between the intensities of two sets of images, each set pooled into one histogram.

    D = −ln Σ √(p·q) (Bhattacharyya 1943; Plasticine, Table III, which does not say which range, bins, voxels or
    pooling it uses: these are arguments here). With p and q estimated from n and m voxels, equal distributions give
    about (num_bins − 1)/8 · (1/n + 1/m), not 0. The printed values, .059 to .386, are possible under both forms.

    Args:
        pred: (N, C, H, W[, D]), the translations.
        target: (M, C, ...), images of the target domain; their number and grid may differ from those of `pred`.
        mask: (N, 1, ...) of the voxels of `pred` that count; None counts all, air included.
        target_mask: (M, 1, ...) likewise.
        data_range: (low, high), the outer edges of the bins.
        num_bins: bins of equal width.
        form: see `BhattacharyyaForm`.

    Returns:
        () float64.

    Example:
        >>> dark, bright = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
        >>> bhattacharyya_distance(dark, bright, data_range=(0, 1), form="hellinger")
        tensor(1., dtype=torch.float64)
    """
    counts: dict[str, Any] = {"data_range": data_range, "num_bins": num_bins}
    first = intensity_histogram(pred, mask, **counts).sum(0)
    return bhattacharyya_from_histograms(first, intensity_histogram(target, target_mask, **counts).sum(0), form)


class BhattacharyyaDistanceMetric(ComparingMetric):
    """`bhattacharyya_distance` of all images that were shown.

    `metric(y_pred, y, mask=..., target_mask=...)` takes batches of equal length and keeps their histograms;
    `aggregate()` pools them and gives one number ().

    Example:
        >>> metric = BhattacharyyaDistanceMetric(data_range=(0, 1))
        >>> image = torch.rand(1, 1, 16, 16)
        >>> _ = metric(image, image.flip(2))
        >>> round(float(metric.aggregate()), 4)  # the same intensities, elsewhere
        0.0
    """

    def __init__(
        self,
        data_range: tuple[float, float],
        num_bins: int = NUM_BINS,
        form: BhattacharyyaForm | str = BhattacharyyaForm.DISTANCE,
    ) -> None:
        super().__init__()
        range_width(data_range)
        check_whole("num_bins", num_bins, 2)
        check_choice("form", form, [str(choice) for choice in BhattacharyyaForm])
        self.data_range = data_range
        self.num_bins = num_bins
        self.form = form

    def _compute_tensor(
        self,
        y_pred: Tensor,
        y: Tensor | None = None,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        if y is None or len(y) != len(y_pred):
            raise ValueError(
                f"y: expected as many images as y_pred has, {len(y_pred)}, received {0 if y is None else len(y)}"
            )
        counts: dict[str, Any] = {"data_range": self.data_range, "num_bins": self.num_bins}
        histograms = intensity_histogram(y_pred, mask, **counts), intensity_histogram(y, target_mask, **counts)
        return torch.stack(histograms, dim=1)

    def aggregate(self) -> Tensor:
        """The distance (), NaN before the first batch."""
        buffer = self.get_buffer()
        if buffer is None:
            return torch.tensor(math.nan, dtype=torch.float64)
        first, second = buffer.sum(0)
        return bhattacharyya_from_histograms(first, second, self.form)
