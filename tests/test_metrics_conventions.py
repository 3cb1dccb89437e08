"""Metrics under published conventions, each against an independent implementation in float64."""

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.distance import cdist

from medtrace.metrics import (
    LabelHausdorffMetric,
    folded_volume,
    gradient_magnitude_similarity_deviation,
    hausdorff_distance,
    multi_scale_structural_similarity,
    sharpness_ratio,
    structural_similarity,
    synthrad_scores,
)


def noise(*shape, seed=0, low=0.0, high=1.0):
    values = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + values * (high - low)


def pair(*shape):
    target = noise(1, 1, *shape)
    return (target + 0.3 * noise(1, 1, *shape, seed=1)).clamp(0, 1), target


def scipy_ms_ssim(x, y, mask, width, weights, window, sigma):
    """By scipy's correlation, on arrays without batch; the mask is a bool array or None."""
    middle = window // 2
    taps = np.exp(-0.5 * ((np.arange(window) - middle) / sigma) ** 2)
    taps /= taps.sum()
    inner = (slice(middle, -middle),) * x.ndim

    def blurred(values):
        for axis in range(values.ndim):
            values = ndimage.correlate1d(values, taps, axis=axis, mode="constant")
        return values[inner]

    share = None if mask is None else mask.astype(float)
    if mask is not None:
        x, y = x * mask, y * mask
    c1, c2 = (0.01 * width) ** 2, (0.03 * width) ** 2
    result = 1.0
    for scale, weight in enumerate(weights):
        mx, my = blurred(x), blurred(y)
        structure = (2 * (blurred(x * y) - mx * my) + c2) / (blurred(x * x) + blurred(y * y) - mx**2 - my**2 + c2)
        last = scale == len(weights) - 1
        values = structure * (2 * mx * my + c1) / (mx**2 + my**2 + c1) if last else structure
        result *= max(values.mean() if share is None else values[share[inner] >= 0.5].mean(), 0) ** weight
        x, y, share = (None if v is None else halved(v) for v in (x, y, share))
    return result


def halved(values):
    values = values[tuple(slice(0, size // 2 * 2) for size in values.shape)]
    parts = [values[tuple(slice(k, None, 2) for k in start)] for start in itertools.product((0, 1), repeat=values.ndim)]
    return np.mean(parts, axis=0)


@pytest.mark.parametrize(("shape", "window"), [((45, 52), 11), ((29, 30, 31), 7)])
def test_ms_ssim_is_scipys(shape, window):
    image, target = pair(*shape)
    weights = (0.3, 0.3, 0.4) if len(shape) == 2 else (0.4, 0.6)
    mask = noise(*shape, seed=2) < 0.9
    for region in (None, mask):
        value = multi_scale_structural_similarity(
            image,
            target,
            None if region is None else region[None, None],
            data_range=(0, 1),
            weights=weights,
            window=window,
        )
        expected = scipy_ms_ssim(
            image[0, 0].numpy(),
            target[0, 0].numpy(),
            None if region is None else region.numpy(),
            1.0,
            weights,
            window,
            1.5,
        )
        assert float(value) == pytest.approx(expected, abs=1e-9)


def test_ms_ssim_is_that_of_the_package_pytorch_msssim():
    """Values of pytorch-msssim 1.0.0 (whose window is float32): `pip install --no-deps --target DIR pytorch-msssim`,
    then of this test's images `ms_ssim(image, target, data_range=1)` and, in 3D, with `win_size=5`."""
    for shape, window, expected in MS_SSIM:
        image, target = pair(*shape)
        value = multi_scale_structural_similarity(image, target, data_range=(0, 1), window=window)
        assert float(value) == pytest.approx(expected, abs=1e-6)


def test_one_scale_is_ssim_and_what_is_too_small_is_refused():
    image, target = pair(24, 20)
    one = multi_scale_structural_similarity(image, target, data_range=(0, 1), weights=(1.0,))
    assert float(one) == pytest.approx(float(structural_similarity(image, target, data_range=(0, 1))), abs=1e-12)
    with pytest.raises(ValueError, match=r"at least 22 voxels for 2 scales and a window of 11, received \(24, 20\)"):
        multi_scale_structural_similarity(image, target, data_range=(0, 1), weights=(0.5, 0.5))


def test_synthrads_measures_by_numpy():
    target = noise(1, 1, 30, 32, 29, low=-1000, high=1500)
    image = target + noise(1, 1, 30, 32, 29, seed=3, low=-400, high=2500)
    mask = ndimage.gaussian_filter(noise(30, 32, 29, seed=4).numpy(), 2) > 0.5
    scores = synthrad_scores(image, target, torch.from_numpy(mask)[None, None])
    error = (image - target)[0, 0].numpy()[mask]
    assert float(scores["mae_hu"]) == pytest.approx(np.abs(error).mean(), abs=1e-6)
    assert float(scores["psnr"]) == pytest.approx(10 * np.log10(4095**2 / np.square(error).mean()), abs=1e-6)
    assert float(scores["ms_ssim_scales"]) == 3
    weights = np.array([0.0448, 0.2856, 0.3001])
    shifted = [np.clip(values[0, 0].numpy(), -1024, 3071) + 1024 for values in (image, target)]
    expected = scipy_ms_ssim(*shifted, mask, 4095.0, weights / weights.sum(), 7, 1.5)
    assert float(scores["ms_ssim"]) == pytest.approx(expected, abs=1e-6)


def brute_force_hd(first, second, percentile, spacing):
    surfaces = []
    for labels in (first, second):
        inner = ndimage.binary_erosion(labels)
        surfaces.append(np.argwhere(labels & ~inner) * np.array(spacing))
    apart = cdist(*surfaces)
    return max(np.percentile(apart.min(axis), percentile) for axis in (0, 1))


@pytest.mark.parametrize(("shape", "spacing"), [((24, 26), (1.5, 0.7)), ((12, 14, 11), (1.0, 2.0, 0.5))])
@pytest.mark.parametrize("percentile", [95.0, 100.0])
def test_hd95_is_the_brute_force(shape, spacing, percentile):
    maps = []
    for seed in (0, 1):
        smooth = ndimage.gaussian_filter(noise(*shape, seed=seed).numpy(), 2)
        maps.append(np.digitize(smooth, np.quantile(smooth, [0.5, 0.8])))
    pred, target = (torch.from_numpy(labels)[None, None] for labels in maps)
    found = hausdorff_distance(pred, target, 3, percentile=percentile, spacing=spacing)
    expected = [brute_force_hd(maps[0] == k, maps[1] == k, percentile, spacing) for k in (1, 2)]
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6)
    mean = LabelHausdorffMetric(3, percentile, spacing)(pred, target)
    assert float(mean) == pytest.approx(np.mean(expected), rel=1e-6)


def test_a_class_that_is_not_there_is_undefined_and_one_that_is_missed_infinite():
    pred, target = torch.zeros(2, 1, 1, 6, 6, dtype=torch.long)
    pred[..., 2, 2] = 1
    assert str(hausdorff_distance(pred, target, 3).tolist()) == "[[inf, nan]]"
    with pytest.raises(ValueError, match="percentile: expected a number above 0"):
        hausdorff_distance(pred, target, 3, percentile=0)


def test_ndv_with_its_rim_is_that_of_the_authors_package():
    """Values of digital-diffeomorphism 1.1.1 (which computes in float32): `pip install --no-deps --target DIR
    digital-diffeomorphism`, then `nda(field, is_disp=True)[:2]` in 2D and `ndv(...)[:2]` in 3D of this test's fields,
    their components moved to the last axis as float32."""
    for shape, volume, percent in (((6, 7), 13.543832, 32.24722), ((5, 6, 4), 75.01187, 62.509895)):
        generator = torch.Generator().manual_seed(0)
        ddf = torch.rand(len(shape), *shape, generator=generator, dtype=torch.float64)[None] * 3 - 1.5
        assert float(folded_volume(ddf, rim="padded")) == pytest.approx(volume, rel=1e-6)
        assert float(folded_volume(ddf, rim="padded", unit="percent")) == pytest.approx(percent, rel=1e-6)
        assert float(folded_volume(ddf)) < volume


@pytest.mark.parametrize("shape", [(20, 22), (10, 12, 9)])
def test_sharpness_and_gmsd_by_scipys_sobel(shape):
    image, target = pair(*shape)
    blurred = torch.from_numpy(ndimage.gaussian_filter(target[0, 0].numpy(), 1.0))[None, None]
    mask = noise(*shape, seed=5) < 0.7

    def strength(values):
        slopes = [ndimage.sobel(values[0, 0].numpy(), axis=axis, mode="nearest") for axis in range(len(shape))]
        return np.sqrt(np.square(slopes).sum(0)) / (2 * 4 ** (len(shape) - 1))

    for made, sharp in ((image, True), (blurred, False)):
        a, b = strength(made), strength(target)
        region = mask[None, None]
        ratio = float(sharpness_ratio(made, target, region, data_range=(0, 1)))
        assert ratio == pytest.approx(a[mask.numpy()].sum() / b[mask.numpy()].sum(), rel=1e-9)
        assert (ratio > 0.7) is sharp
        c = 170 / 255**2
        map_of = (2 * a * b + c) / (a**2 + b**2 + c)
        found = gradient_magnitude_similarity_deviation(made, target, region, data_range=(0, 1))
        assert float(found) == pytest.approx(map_of[mask.numpy()].std(), abs=1e-9)


MS_SSIM = [((176, 192), 11, 0.957996919962), ((80, 96, 80), 5, 0.968680657719)]
