"""CW-SSIM beside values of another package's pyramid, and what it says of shifts and blur."""

import pytest
import torch
from torch.nn import functional as F

from medtrace.metrics import complex_wavelet_structural_similarity, structural_similarity
from medtrace.metrics.complex_wavelet_ssim import _around_coefficients, subbands

PYRTOOLS = (
    ((64, 96), 4, 8, 7, 1e-4, 0.9487054389841166),
    ((64, 64), 3, 4, 7, 1e-4, 0.9246444631842424),
    ((96, 64), 3, 16, 5, 0.0, 0.9466280741158656),
    ((96, 112), 4, 6, 7, 1e-4, 0.951549235752279),
)
"""Shape, scales, orientations, window, K and the value by pyrtools 1.1.1 and scipy 1.17.1, in an environment of their
own (`pip install pyrtools scipy`), of the images of `pair` as numpy arrays:

    settings = {"height": scales, "order": orientations - 1, "is_complex": True}
    pyramids = [SteerablePyramidFreq(x, **settings).pyr_coeffs for x in pair]
    for every scale and orientation, c and d of the two pyramids times c.size / image.size:
        sums = lambda v: scipy.signal.convolve2d(v, numpy.ones((window, window)), "valid")
        values.append(((2 * abs(sums(c * d.conj())) + K) / (sums(abs(c)**2 + abs(d)**2) + K)).mean())
    numpy.mean(values)

Its filters are read from tables, from which the closed forms differ by some 1e-7."""


def pair(rows, columns):
    r, c = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (rows, columns)], indexing="ij")
    waves = torch.cos(0.023 * r * c.sqrt())
    first = 0.5 + 0.3 * torch.sin(0.31 * r + 0.11 * c) * waves + 0.2 * ((r // 9 + c // 13) % 2)
    second = 0.5 + 0.3 * torch.sin(0.31 * (r - 1) + 0.11 * c + 0.2) * waves + 0.15 * ((r // 9 + (c + 1) // 13) % 2)
    return first[None, None], second[None, None]


def similarity(first, second, mask=None, **settings):
    return float(complex_wavelet_structural_similarity(first, second, mask, data_range=(0, 1), **settings)[0])


@pytest.mark.parametrize(("shape", "scales", "orientations", "window", "stability", "expected"), PYRTOOLS)
def test_it_is_that_of_pyrtools_pyramid(shape, scales, orientations, window, stability, expected):
    settings = {"scales": scales, "orientations": orientations, "window": window, "stability": stability}
    assert similarity(*pair(*shape), **settings) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(40, 44), (41, 39)])
def test_subbands_hold_each_frequency_once(shape):
    """The energies of the subbands and of what both ends leave are the image's: filters are a partition in squares."""
    image = pair(*shape)[0]
    spectrum = torch.fft.fftshift(torch.fft.fft2(image))[0, 0]
    y, x = ((torch.arange(n) - n // 2) / (n / 2) for n in shape)
    octave = torch.hypot(y[:, None], x).clamp_min(1e-12).log2()
    between = (
        torch.sin(-torch.pi / 2 * octave.clamp(-1, 0)) ** 2 * torch.cos(torch.pi / 2 * (octave + 2).clamp(-1, 0)) ** 2
    )
    expected = (spectrum.abs() ** 2 * between).sum() / image.numel()
    # Half the frequencies of a real image have all of it, with twice the amplitude.
    found = sum((band.abs() ** 2).sum() * image.numel() / band[0, 0].numel() for band in subbands(image, 2, 4)) / 2
    assert float(found) == pytest.approx(float(expected), rel=0.02)


def test_a_shift_costs_little_and_a_blur_much():
    image = pair(96, 96)[0]
    moved = image.roll(1, -1)
    blurred = F.avg_pool2d(image, 5, 1, padding=2, count_include_pad=False)
    assert float(structural_similarity(moved, image, data_range=(0, 1))) < 0.9
    assert similarity(moved, image) > 0.93
    assert similarity(blurred, image) < 0.8
    assert similarity(image, image) == pytest.approx(1)


def test_a_mask_counts_its_windows_alone_and_a_volume_its_planes():
    image, other = pair(64, 64)
    half = other.clone()
    half[..., :32] = image[..., :32]
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., :14] = True
    assert similarity(image, half, mask, scales=2) > 0.995
    assert similarity(image, half, ~mask, scales=2) < similarity(image, half, scales=2) < 0.995
    volumes = [torch.stack(planes, -1) for planes in ((image, image, other), (image, other, other))]
    expected = (2 + similarity(image, other)) / 3
    assert similarity(*volumes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("axis", [-2, -1])
def test_a_mask_of_one_side_gives_the_mirrored_mask_of_the_mirrored_images(axis):
    def mirrored(values):
        """Pixel i at place n - i, where the grids of all scales mirror onto themselves."""
        return values.flip(axis).roll(1, axis)

    image, other = pair(128, 128)
    mask = torch.zeros(1, 1, 128, 128, dtype=torch.bool)
    mask.narrow(axis, 30, 29)[...] = True
    other = torch.where(mask.roll(20, axis), image, other)
    border = torch.zeros_like(mask)
    border[..., 20:-20, 20:-20] = True
    value = similarity(image, other, mask & border)
    assert value < 0.999
    assert similarity(*(mirrored(one) for one in (image, other, mask & border))) == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("size", [28, 29, 37, 40])
def test_the_mask_is_read_around_the_coefficients(size):
    mask = torch.zeros(1, 1, size, size, dtype=torch.float64)
    mask[..., 8:, :] = 1
    for scale, band in enumerate(list(subbands(mask, 3, 2))[::2]):
        inside = _around_coefficients(mask, 2**scale)
        assert inside.shape == band.shape
        assert inside[0, 0, :, 0].tolist() == [float(2**scale * row >= 8) for row in range(band.shape[-2])]


def test_what_does_not_fit_is_refused():
    image = torch.rand(1, 1, 28, 27)
    with pytest.raises(ValueError, match=r"at least 28 pixels for 3 scales and a window of 7, received \(28, 27\)"):
        similarity(image, image)
    mask = torch.zeros(1, 1, 28, 28, dtype=torch.bool)
    mask[..., :1, :1] = True
    with pytest.raises(ValueError, match="expected voxels in the middle of a window at every scale"):
        similarity(image.new_ones(1, 1, 28, 28), image.new_ones(1, 1, 28, 28), mask)
    with pytest.raises(ValueError, match="window: expected an odd number, received 6"):
        similarity(image, image, window=6)
