"""Scores of a run's output scans against the true scans, on the scan's own grid and in the target's units."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from medtrace import metrics
from medtrace.data.contrasts import body_of
from medtrace.data.preparation.rules import Preparation
from medtrace.evaluation.true_scans import TrueScans
from medtrace.inference.delivery import Delivered
from medtrace.metrics.ssim import WINDOW
from medtrace.trace.contrast import HU, Contrast

MAE, PSNR, SSIM = "delivered_mae", "delivered_psnr", "delivered_ssim"
SYNTHRAD = {"mae_hu": "synthrad_mae_hu", "psnr": "synthrad_psnr", "ms_ssim": "synthrad_ms_ssim"}
"""Columns of a CT by the conventions of SynthRAD."""
MOST_VOXELS = 1 << 25
"""Of a volume whose structural similarity in several scales is computed, which takes some 100 bytes a voxel."""
PART_VOXELS = 1 << 23
"""Of a volume whose structural similarity is computed at once."""


@dataclass(frozen=True)
class Truth:
    """The expected content of a channel of a delivered image.

    Attributes:
        image: (1, *spatial), in the unit of the contrast.
        region: (1, *spatial) boolean, where errors count.
        contrast: contrast of the image.
        where: name of the region, for people.
    """

    image: Tensor
    region: Tensor
    contrast: Contrast
    where: str

    @property
    def limits(self) -> tuple[float, float]:
        """The range of PSNR and SSIM, in the unit."""
        knots = self.contrast.limits or (self.contrast.curve or ((0.0, 1.0),))[0]
        return float(knots[0]), float(knots[-1])


def truths(true: TrueScans, preparation: Preparation, contrasts: Sequence[Contrast]) -> list[Truth]:
    """The truth of every channel of a delivered image.

    A channel with its own unit (HU, values of natural images) is the scan as it was read. A channel in arbitrary units
    is brought to the scale of the mean training scan, which is also that of a translation.

    Args:
        true: the scans.
        preparation: preparation of the run.
        contrasts: contrasts of the image's channels.

    Raises:
        ValueError: if a contrast is not among the targets, or cannot be converted to units without a scan.
    """
    names = preparation.outputs or [next(iter(true.targets))]
    result: list[Truth] = []
    for name in names:
        if name not in true.targets:
            known = ", ".join(true.targets)
            raise ValueError(f"target: expected one named {name!r}, which the run makes, received {known}")
        values, tissue = true.targets[name], true.tissue[name]
        contrast = contrasts[len(result)]
        inside = tissue if true.mask is None else true.mask
        where = "mask" if true.mask is not None else "whole image" if bool(inside.all()) else "foreground"
        if contrast.fixed:
            if contrast.unit == HU and true.mask is None:
                inside, where = body_of(values), "body"
        else:
            back = contrast.intensity_map(values.shape[0], inside)
            normalized, _ = preparation.normalize(values, contrast.name, inside)
            values = back.inverse(normalized, inside)
        result += [Truth(channel[None], inside, contrast, where) for channel in values]
    if len(result) != len(contrasts):
        raise ValueError(f"target: expected {len(contrasts)} channel(s), as the run makes, received {len(result)}")
    return result


def in_common_units(delivered: Delivered) -> Tensor:
    """A delivered image (C, *spatial) in the units of its truth: what is in arbitrary units and of the scan's own
    contrast, which comes in the scan's units, is brought to the scale of the mean training scan."""
    contrasts = delivered.contrasts or ()
    if all(contrast.fixed for contrast in contrasts):
        return delivered.image
    channels = [
        delivered.image[k : k + 1]
        if contrast.fixed
        else contrast.intensity_map(1).inverse(delivered.parts.image[k : k + 1], delivered.foreground)
        for k, contrast in enumerate(contrasts)
    ]
    return torch.cat(channels)


def delivered_scores(image: Tensor, truth: Truth) -> dict[str, float]:
    """Mean absolute error (in the unit), PSNR (dB) and SSIM of a channel over the truth's region.

    PSNR and SSIM use the range `truth.limits`, to which SSIM's images are clipped. SSIM's window is 3D if every axis
    has 11 voxels, else 2D in the planes across the shortest axis; NaN if these are smaller too. Channels in HU also
    have the columns `SYNTHRAD` (see `medtrace.metrics.synthrad_scores`), with MS-SSIM NaN above `MOST_VOXELS`.

    Args:
        image: (1, *spatial), in the unit of the truth.
        truth: its expected content.
    """
    pair, region = (image[None].double(), truth.image[None].double()), truth.region[None]
    hounsfield = truth.contrast.unit == HU
    if not bool(region.any()):
        return dict.fromkeys((MAE, PSNR, SSIM, *(SYNTHRAD.values() if hounsfield else ())), float("nan"))
    error = (pair[0] - pair[1])[region]
    low, high = truth.limits
    square = float(error.square().mean())
    return {
        MAE: float(error.abs().mean()),
        PSNR: 10 * float(torch.log10(torch.tensor((high - low) ** 2 / square))) if square else float("inf"),
        SSIM: _similarity(pair[0].clamp(low, high), pair[1].clamp(low, high), region, (low, high)),
        **(_synthrad(*pair, region) if hounsfield else {}),
    }


def _synthrad(image: Tensor, target: Tensor, region: Tensor) -> dict[str, float]:
    scores: dict[str, Tensor] = {}
    if image.numel() <= MOST_VOXELS:
        with suppress(ValueError):  # a region that vanishes at a coarse scale
            scores = metrics.synthrad_scores(image, target, region)
    if not scores:
        limits = metrics.HU_RANGE
        scores = {
            "mae_hu": metrics.mean_absolute_error(image, target, region, data_range=limits),
            "psnr": metrics.peak_signal_to_noise_ratio(image, target, region, data_range=limits),
            "ms_ssim": torch.full((1,), torch.nan),
        }
    return {column: float(scores[name]) for name, column in SYNTHRAD.items()}


def _similarity(image: Tensor, target: Tensor, region: Tensor, limits: tuple[float, float]) -> float:
    """Masked SSIM of (1, 1, *spatial), of a large volume part by part."""
    shape = image.shape[2:]
    if len(shape) == 3 and min(shape) < WINDOW:
        axis = min(range(3), key=lambda k: shape[k])
        planes = [[value.select(2 + axis, k) for value in (image, target, region)] for k in range(shape[axis])]
        return _mean_similarity(planes, limits)
    step = max(1, PART_VOXELS // max(1, shape[0] * shape[1])) if len(shape) == 3 else shape[-1]
    margin = WINDOW // 2
    parts = []
    for start in range(margin, shape[-1] - margin, step):  # of windows' middles, which no two parts share
        first, last = start - margin, min(start + step, shape[-1] - margin) + margin
        parts.append([value[..., first:last] for value in (image, target, region)])
    return _mean_similarity(parts, limits)


def _mean_similarity(parts: Sequence[Sequence[Tensor]], limits: tuple[float, float]) -> float:
    total = count = 0.0
    margin = WINDOW // 2
    for image, target, region in parts:
        shape = image.shape[2:]
        if min(shape) < WINDOW:
            continue
        inner = region
        for axis, size in enumerate(shape, start=2):
            inner = inner.narrow(axis, margin, size - 2 * margin)
        voxels = float(inner.sum())
        if voxels:
            value = metrics.structural_similarity(image, target, region, data_range=limits)
            total, count = total + voxels * float(value), count + voxels
    return total / count if count else float("nan")
