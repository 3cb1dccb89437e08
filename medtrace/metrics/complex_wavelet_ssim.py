"""Structural similarity of complex wavelet coefficients, one number per case."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_positive, check_whole
from medtrace.losses import mask_weights
from medtrace.metrics.case_metric import CaseMetric, range_width
from medtrace.metrics.image import check_pair

SCALES, ORIENTATIONS, WINDOW = 3, 8, 7
STABILITY = 1e-4
"""In squared units of a range of width 1: keeps windows without any structure at 1."""
MOST_VOXELS = 1 << 21
"""Pixels of a volume's planes that are decomposed at once; some 500 bytes each."""


def complex_wavelet_structural_similarity(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    data_range: tuple[float, float],
    scales: int = SCALES,
    orientations: int = ORIENTATIONS,
    window: int = WINDOW,
    stability: float = STABILITY,
) -> Tensor:
    """CW-SSIM per case (Wang and Simoncelli 2005; Sampat et al. 2009): 1 where structures agree, up to small shifts.

    The images, on a range of width 1, are decomposed by the complex steerable pyramid (Portilla and Simoncelli 2000).
    In every window of a subband the value is (2·|Σ c·d*| + K) / (Σ|c|² + Σ|d|² + K) of the coefficients c and d of the
    two images. The mean is over the windows of a subband, then over the subbands, each with the same weight. A shift by
    less than a wavelet rotates all phases of a window equally and costs little; a blur removes the fine scales' energy
    and is detected, as is anything without a counterpart. Windows lie on the subband's grid.

    A subband's coefficients are those of the whole grid, every second row and column of them per scale. With a mask, a
    window counts if the mask covers half or more around its middle coefficient, pixel 2^s·i of scale s. For a volume,
    the planes across its last axis are decomposed one by one, and the mean is over the windows of all planes.

    Args:
        pred: (B, C, H, W[, D]).
        target: the same shape.
        mask: (B, 1, H, W[, D]) bool or weights above 0 of the voxels that count.
        data_range: (low, high) that the intensities can take.
        scales: octaves of the pyramid, the finest first; the highest and lowest frequencies, which have no
            orientation, are left out.
        orientations: subbands of a scale, 2 or more.
        window: side of the window in coefficients, odd.
        stability: the constant K; 0 leaves windows without structure undefined (NaN).

    Returns:
        (B,) in [0, 1], float64.

    Raises:
        ValueError: also if the images are smaller than `window` at the last scale, or the mask is empty there.

    Example:
        >>> image = torch.rand(1, 1, 64, 64)
        >>> values = complex_wavelet_structural_similarity(image, image, data_range=(0, 1))
        >>> round(float(values), 6)
        1.0
    """
    pred, target = check_pair(pred, target)
    width = range_width(data_range)
    check_whole("scales", scales, 1)
    check_whole("orientations", orientations, 2)
    check_whole("window", window, 1)
    if window % 2 == 0:
        raise ValueError(f"window: expected an odd number, received {window!r}")
    if stability != 0:
        check_positive("stability", stability)
    if min(pred.shape[2:4]) < window * 2 ** (scales - 1):
        raise ValueError(
            f"pred: expected axes of at least {window * 2 ** (scales - 1)} pixels for {scales} scales and a window of"
            f" {window}, received {tuple(pred.shape[2:4])}; pass fewer scales or a smaller window"
        )
    weights = None if mask is None else (mask_weights(mask, pred) > 0).double()
    x, y = ((value - data_range[0]) / width for value in (pred, target))
    totals: list[Tensor] = []
    for planes in _runs_of_planes(pred.shape):
        region = None if weights is None else _planes(weights, planes)
        pair = [subbands(_planes(value, planes), scales, orientations) for value in (x, y)]
        for k, (first, second) in enumerate(zip(*pair, strict=True)):
            inside = None if region is None else _around_coefficients(region, 2 ** (k // orientations))
            sums = _sums(_similarity(first, second, window, stability), inside, first.shape[-2:], len(pred))
            if k < len(totals):
                totals[k] = totals[k] + sums
            else:
                totals.append(sums)
    values = torch.stack(totals)
    if not bool((values[:, 1] > 0).all()):
        raise ValueError(
            "mask: expected voxels in the middle of a window at every scale, received none; pass fewer scales or a"
            " smaller window"
        )
    return (values[:, 0] / values[:, 1]).mean(0)


def subbands(image: Tensor, scales: int, orientations: int) -> Iterator[Tensor]:
    """The oriented subbands of a complex steerable pyramid (Portilla and Simoncelli, IJCV 2000).

    Filters are products of a raised cosine in the logarithm of the frequency, one octave wide, and of a power of the
    cosine of its direction, over the half plane around it.

    Args:
        image: (N, C, H, W) float64.
        scales: octaves, the finest first.
        orientations: orientations of each.

    Yields:
        (N, C, h, w) complex128, orientation by orientation of a scale; every scale has half the rows and columns of
        the one before, rounded up.
    """
    rows, columns = image.shape[-2:]
    spectrum = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    y, x = (_frequencies(size, image) for size in (rows, columns))
    logarithm = torch.hypot(y[:, None], x).clamp_min(1e-12).log2()
    angle = torch.atan2(y[:, None].expand(rows, columns), x.expand(rows, columns))
    spectrum = spectrum * _low(logarithm)
    power = orientations - 1
    norm = 2**power * math.factorial(power) / math.sqrt(orientations * math.factorial(2 * power))
    for scale in range(1, scales + 1):
        part = spectrum * _high(logarithm + scale) / (rows * columns)
        for k in range(orientations):
            direction = torch.cos(angle - math.pi * k / orientations)
            band = part * (2 * norm * direction.clamp_min(0) ** power)
            yield torch.fft.ifft2(torch.fft.ifftshift(band, dim=(-2, -1)), norm="forward")
        cut = tuple(_middle(size) for size in logarithm.shape)
        logarithm, angle, spectrum = logarithm[cut], angle[cut], spectrum[(..., *cut)] * _low(logarithm[cut] + scale)


def _frequencies(size: int, like: Tensor) -> Tensor:
    """Of a shifted spectrum's entries, 1 at half a cycle per pixel."""
    steps = torch.arange(size, dtype=torch.float64, device=like.device)
    return (steps - size // 2) / (size / 2)


def _high(logarithm: Tensor) -> Tensor:
    """Rises from 0 an octave below 0 to 1 at 0."""
    return torch.cos(math.pi / 2 * logarithm.clamp(-1, 0))


def _low(logarithm: Tensor) -> Tensor:
    """What `_high` leaves, in squares."""
    return torch.sin(-math.pi / 2 * logarithm.clamp(-1, 0))


def _middle(size: int) -> slice:
    """The entries of a shifted spectrum that half the samples have."""
    half = (size + 1) // 2
    start = size // 2 - half // 2
    return slice(start, start + half)


def _similarity(first: Tensor, second: Tensor, window: int, stability: float) -> Tensor:
    """CW-SSIM of every window on a subband of two images (N, C, h, w)."""
    product, energy = first * second.conj(), first.abs().square() + second.abs().square()
    real, imaginary, total = (
        F.avg_pool2d(part, window, stride=1) * window**2 for part in (product.real, product.imag, energy)
    )
    return (2 * torch.hypot(real, imaginary) + stability) / (total + stability)


def _around_coefficients(region: Tensor, step: int) -> Tensor:
    """Where half or more of a region's square around pixel step·i counts, 1 or 0, for every coefficient i."""
    side = step + 1 if step > 1 else 1
    part = F.avg_pool2d(region, side, stride=step, padding=side // 2, count_include_pad=False)
    return (part >= 0.5).double()


def _sums(similarity: Tensor, inside: Tensor | None, shape: torch.Size, cases: int) -> Tensor:
    """Sum of a subband's values and of their weights, (2, cases)."""
    weights = torch.ones_like(similarity)
    if inside is not None:
        top, left = ((whole - part) // 2 for whole, part in zip(shape, similarity.shape[-2:]))
        rows, columns = similarity.shape[-2:]
        weights = weights * inside[..., top : top + rows, left : left + columns]
    kept = torch.where(weights > 0, similarity * weights, 0.0)
    return torch.stack([value.reshape(cases, -1).sum(1) for value in (kept, weights)])


def _runs_of_planes(shape: torch.Size) -> list[slice]:
    """Planes of a volume that are decomposed at once; one run of all for an image."""
    if len(shape) == 4:
        return [slice(None)]
    step = max(1, MOST_VOXELS // math.prod(shape[:-1]))
    return [slice(start, start + step) for start in range(0, shape[-1], step)]


def _planes(values: Tensor, run: slice) -> Tensor:
    """(B, C, H, W[, D]) as planes (B[·d], C, H, W)."""
    return values if values.ndim == 4 else values[..., run].permute(0, 4, 1, 2, 3).flatten(0, 1)


class ComplexWaveletSSIMMetric(CaseMetric):
    """`complex_wavelet_structural_similarity` of every case.

    Example:
        >>> image = torch.rand(1, 1, 64, 64)
        >>> round(float(ComplexWaveletSSIMMetric(data_range=(0, 1))(image, image)), 6)
        1.0
    """

    function = staticmethod(complex_wavelet_structural_similarity)

    def __init__(
        self,
        data_range: tuple[float, float],
        scales: int = SCALES,
        orientations: int = ORIENTATIONS,
        window: int = WINDOW,
        stability: float = STABILITY,
    ) -> None:
        super().__init__(
            data_range=data_range, scales=scales, orientations=orientations, window=window, stability=stability
        )
