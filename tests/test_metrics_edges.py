"""Edge metrics against scikit-image, SciPy and arithmetic."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.filters import sobel, threshold_otsu

from medtrace.metrics import (
    EdgeDiceMetric,
    EdgeNMIMetric,
    EdgePSNRMetric,
    EdgeSSIMMetric,
    edge_dice,
    edge_map,
    edge_nmi,
    edge_psnr,
    edge_ssim,
    normalized_mutual_information_score,
    otsu_threshold,
    peak_signal_to_noise_ratio,
    sobel_magnitude,
    structural_similarity,
)

RANGE = (-1.0, 1.0)


def noise(*shape):
    return torch.rand(shape) * 2 - 1


def square(shift=0, size=24, low=-0.5, high=0.5):
    image = torch.full((1, 1, size, size), low)
    image[..., 6 : size - 8, 6 + shift : size - 8 + shift] = high
    return image


class TestSobel:
    @pytest.mark.parametrize("shape", [(9, 8), (6, 7, 5)])
    def test_against_scikit_image_and_scipy(self, shape):
        image = noise(2, 1, *shape)
        ours = sobel_magnitude(image)[:, 0].numpy()
        dims = len(shape)
        for got, values in zip(ours, image[:, 0].double().numpy()):
            np.testing.assert_allclose(got, sobel(values) * math.sqrt(dims) / 2, atol=1e-12)
            parts = [ndimage.sobel(values, axis, mode="nearest") / (2 * 4 ** (dims - 1)) for axis in range(dims)]
            np.testing.assert_allclose(got, np.sqrt(sum(part**2 for part in parts)), atol=1e-12)

    def test_a_ramp_has_its_slope(self):
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(9.0), indexing="ij")
        ramp = (3 * rows + 4 * columns)[None, None]
        inner = sobel_magnitude(ramp)[0, 0, 1:-1, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, 5))

    def test_channels_are_combined_as_root_mean_square(self):
        image = torch.stack([3 * torch.arange(8.0), 4 * torch.arange(8.0)])[None, :, :, None].expand(1, 2, 8, 8)
        inner = sobel_magnitude(image)[0, 0, 1:-1]
        torch.testing.assert_close(inner, torch.full_like(inner, math.sqrt(25 / 2)))

    def test_single_slices_and_flat_images(self):
        image = noise(1, 1, 6, 7)
        torch.testing.assert_close(sobel_magnitude(image[..., None])[..., 0], sobel_magnitude(image))
        assert (sobel_magnitude(torch.full((1, 1, 5, 5), 3.0)) == 0).all()


class TestEdgeMap:
    def test_range_scale_is_a_bound_for_any_image(self):
        for shape in ((32, 32), (10, 10, 10)):
            image = torch.randint(0, 2, (4, 1, *shape)).float() * 2 - 1
            values = edge_map(image, data_range=RANGE)
            assert values.max() <= 1
            torch.testing.assert_close(values, sobel_magnitude(image) / math.sqrt(len(shape)))
        step = torch.full((1, 1, 6, 6), -1.0)
        step[..., 3:] = 1
        assert edge_map(step, data_range=RANGE).max().item() == pytest.approx(1 / math.sqrt(2))

    def test_maximum_scale_removes_contrast_per_case(self):
        image = torch.cat([square(), 0.1 * square()])
        values = edge_map(image, data_range=RANGE, scale="maximum")
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-6)
        assert values.amax((1, 2, 3)).tolist() == pytest.approx([1, 1])
        assert (edge_map(torch.zeros(1, 1, 5, 5), data_range=RANGE, scale="maximum") == 0).all()
        with pytest.raises(ValueError, match="scale: expected one of 'range', 'maximum'"):
            edge_map(image, data_range=RANGE, scale="max")


@pytest.mark.parametrize("shape", [(2, 1, 20, 18), (2, 1, 12, 13, 11)])
@pytest.mark.parametrize("scale", ["range", "maximum"])
def test_ssim_psnr_and_nmi_are_those_of_the_maps(shape, scale):
    first, second = noise(*shape), noise(*shape)
    mask = torch.rand(shape) > 0.4
    maps = [edge_map(image, data_range=RANGE, scale=scale) for image in (first, second)]
    options = {"data_range": RANGE, "scale": scale}
    unit = {"data_range": (0.0, 1.0)}
    expected = [
        structural_similarity(*maps, mask, **unit),
        peak_signal_to_noise_ratio(*maps, mask, **unit),
        normalized_mutual_information_score(*maps, mask, num_bins=16, convention="arithmetic", **unit),
    ]
    got = [
        edge_ssim(first, second, mask, **options),
        edge_psnr(first, second, mask, **options),
        edge_nmi(first, second, mask, num_bins=16, convention="arithmetic", **options),
    ]
    classes = [
        EdgeSSIMMetric(RANGE, scale),
        EdgePSNRMetric(RANGE, scale),
        EdgeNMIMetric(RANGE, scale, num_bins=16, convention="arithmetic"),
    ]
    for value, reference, metric in zip(got, expected, classes):
        torch.testing.assert_close(value, reference)
        torch.testing.assert_close(metric(first, second, mask=mask)[:, 0], reference)
    assert got[1][0] < edge_psnr(first, first * 0.99, mask, **options)[0]


def test_edges_do_not_see_brightness_and_images_do():
    image = square(low=-0.5, high=0.3)
    brighter = image + 0.4
    assert edge_ssim(image, brighter, data_range=RANGE).item() == pytest.approx(1)
    assert structural_similarity(image, brighter, data_range=RANGE).item() < 0.95


def test_prediction_and_source_may_differ_in_channels():
    gray = square()
    color = gray.expand(1, 3, 24, 24)
    assert edge_psnr(color, gray, data_range=RANGE).item() > 100
    assert edge_dice(color, gray, data_range=RANGE, threshold="otsu").item() == 1


class TestOtsu:
    @pytest.mark.parametrize("seed", range(4))
    def test_against_scikit_image(self, seed):
        generator = torch.Generator().manual_seed(seed)
        values = torch.cat(
            [
                torch.randn(500, generator=generator, dtype=torch.float64) * 0.3,
                4 + torch.randn(200, generator=generator, dtype=torch.float64),
            ]
        )
        assert otsu_threshold(values) == pytest.approx(threshold_otsu(values.numpy()), abs=1e-9)

    def test_two_levels_and_one(self):
        assert 0 < otsu_threshold(torch.tensor([0.0, 0.0, 1.0])) < 1
        assert otsu_threshold(torch.full((5,), 0.7)) == pytest.approx(0.7)
        high = 1 + torch.finfo(torch.float64).eps
        assert 1 <= otsu_threshold(torch.tensor([1.0, 1.0, high], dtype=torch.float64)) < high


class TestDice:
    def test_by_hand_with_an_absolute_threshold(self):
        first, second = torch.full((1, 1, 5, 8), -1.0), torch.full((1, 1, 5, 8), -1.0)
        first[..., 4:] = 1  # magnitude 1 in columns 3 and 4; on the range scale 1/√2
        second[..., 5:] = 1  # in columns 4 and 5
        for threshold, expected in ((0.5, 0.5), (0.7, 0.5)):
            assert edge_dice(first, second, data_range=RANGE, threshold=threshold).item() == pytest.approx(expected)
        assert math.isnan(edge_dice(first, second, data_range=RANGE, threshold=0.8).item())
        mask = torch.zeros(1, 1, 5, 8)
        mask[..., 4:6] = 1  # of the first column 4, of the second columns 4 and 5
        value = edge_dice(first, second, mask, data_range=RANGE, threshold=0.5)
        assert value.item() == pytest.approx(2 * 1 / (1 + 2))

    @pytest.mark.parametrize("threshold", ["otsu", "quantile", 0.1])
    def test_ranking_of_shifts(self, threshold):
        fixed = square()
        scores = [
            edge_dice(square(shift), fixed, data_range=RANGE, threshold=threshold, quantile=0.8).item()
            for shift in (0, 1, 3)
        ]
        assert scores[0] == 1
        assert scores[0] > scores[1] > scores[2]

    def test_quantile_takes_its_share_of_the_region(self):
        first = noise(1, 1, 20, 20)
        mask = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
        mask[..., :10] = True
        magnitude = sobel_magnitude(first)[mask]
        chosen = magnitude > np.sort(magnitude.numpy())[int(0.75 * 200) - 1]
        assert chosen.sum() == 50
        second = noise(1, 1, 20, 20)
        other = sobel_magnitude(second)[mask]
        also = other > np.sort(other.numpy())[149]
        expected = 2 * (chosen & also).sum().item() / 100
        value = edge_dice(first, second, mask, data_range=RANGE, threshold="quantile", quantile=0.75)
        assert value.item() == pytest.approx(expected)

    def test_quantile_rounds_its_share_up(self):
        """Slopes of a parabola are 2, 4, 6, 8, 10: half of five is two and a half, so that three lie below."""
        rising = (torch.arange(7.0) ** 2).expand(1, 1, 7, 7)
        mask = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
        mask[..., 3, 1:6] = True
        options = {"data_range": (0, 36), "threshold": "quantile", "quantile": 0.5}
        assert edge_dice(rising, rising, mask, **options).item() == 1
        # The last two columns and the first two: three each would meet in the middle, 2 * 1 / 6.
        assert edge_dice(rising, rising.flip(-1), mask, **options).item() == 0

    def test_contrast_does_not_matter_to_relative_thresholds(self):
        first, second = noise(1, 1, 20, 20), noise(1, 1, 20, 20)
        for threshold in ("otsu", "quantile"):
            plain = edge_dice(first, second, data_range=RANGE, threshold=threshold)
            faint = edge_dice(first, second * 0.25, data_range=RANGE, threshold=threshold)
            torch.testing.assert_close(plain, faint)

    def test_flat_images_are_undefined_and_counted(self):
        metric = EdgeDiceMetric(RANGE, "otsu")
        flat = torch.zeros(1, 1, 24, 24)
        metric(torch.cat([flat, square()]), torch.cat([flat, square()]))
        with pytest.warns(UserWarning, match="1 undefined"):
            assert metric.aggregate().item() == 1
        assert metric.summary().undefined == 1

    def test_in_3d(self):
        volume = torch.full((1, 1, 10, 10, 10), -1.0)
        volume[..., 3:7, 3:7, 3:7] = 1
        moved = volume.roll(1, 2)
        assert edge_dice(volume, volume, data_range=RANGE, threshold="otsu").item() == 1
        assert 0.3 < edge_dice(volume, moved, data_range=RANGE, threshold="otsu").item() < 0.95

    def test_errors(self):
        with pytest.raises(TypeError, match="threshold"):
            EdgeDiceMetric(RANGE)
        with pytest.raises(ValueError, match="threshold: expected one of 'otsu', 'quantile', received 'canny'"):
            EdgeDiceMetric(RANGE, "canny")
        with pytest.raises(ValueError, match=r"threshold: expected a number in \[0, 1\)"):
            EdgeDiceMetric(RANGE, 1.5)
        with pytest.raises(TypeError, match="threshold: expected 'otsu', 'quantile' or a number"):
            EdgeDiceMetric(RANGE, None)
        with pytest.raises(ValueError, match="quantile"):
            EdgeDiceMetric(RANGE, "quantile", quantile=1.0)
        with pytest.raises(ValueError, match="second: expected the batch and grid of first"):
            edge_dice(square(), square(size=20), data_range=RANGE, threshold="otsu")


def test_the_region_mask_changes_where_not_what():
    """Edges come from the whole image: a mask's own outline is not an edge."""
    image = square()
    other = image.clone()
    other[..., :3] = noise(1, 1, 24, 3)
    mask = torch.zeros(1, 1, 24, 24)
    mask[..., 5:] = 1
    assert edge_psnr(image, other, mask, data_range=RANGE).item() == math.inf
    assert edge_dice(image, other, mask, data_range=RANGE, threshold="otsu").item() == 1
    assert edge_psnr(image, other, data_range=RANGE).item() < 40
