"""MAE, PSNR, SSIM and NMI against arithmetic, scikit-image and NumPy."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler
from monai.metrics import SSIMMetric as MonaiSSIMMetric
from skimage.metrics import (
    mean_squared_error,
    normalized_mutual_information,
    peak_signal_noise_ratio,
)
from skimage.metrics import structural_similarity as skimage_ssim

from medtrace.metrics import (
    MAEMetric,
    NMIConvention,
    NMIMetric,
    PSNRMetric,
    SSIMMetric,
    mean_absolute_error,
    normalized_mutual_information_score,
    peak_signal_to_noise_ratio,
    structural_similarity,
)

RANGE = (-1.0, 1.0)
METRICS = [MAEMetric, PSNRMetric, SSIMMetric, NMIMetric]


def pair(shape, noise=0.1):
    target = torch.rand(shape) * 2 - 1
    return (target + noise * torch.randn(shape)).clamp(-1, 1), target


class TestMeanAbsoluteError:
    def test_by_hand(self):
        pred = torch.tensor([[[[0.0, 1.0], [0.5, -1.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
        target = torch.zeros_like(pred)
        value = mean_absolute_error(pred, target, data_range=RANGE)
        assert value.tolist() == [2.5 / 4, 0]
        scaled = mean_absolute_error(pred, target, data_range=RANGE, output_range=255)
        assert scaled[0].item() == pytest.approx(2.5 / 4 * 127.5)

    def test_the_mean_is_over_the_mask_only_and_over_channels(self):
        pred, target = pair((2, 3, 6, 5))
        mask = torch.zeros(2, 1, 6, 5, dtype=torch.bool)
        mask[0, :, 1:4, 2:4] = True
        mask[1, :, 0, 0] = True
        value = mean_absolute_error(pred, target, mask, data_range=RANGE)
        error = (pred - target).abs().double()
        assert value[0].item() == pytest.approx(error[0, :, 1:4, 2:4].mean().item())
        assert value[1].item() == pytest.approx(error[1, :, 0, 0].mean().item())
        weighted = mean_absolute_error(pred, target, mask * 0.5, data_range=RANGE)
        torch.testing.assert_close(weighted, value)


class TestPeakSignalToNoise:
    @pytest.mark.parametrize("shape", [(2, 1, 16, 12), (2, 2, 8, 6, 7)])
    def test_against_scikit_image(self, shape):
        pred, target = pair(shape)
        value = peak_signal_to_noise_ratio(pred, target, data_range=RANGE)
        for got, p, t in zip(value, pred.double().numpy(), target.double().numpy()):
            assert got.item() == pytest.approx(peak_signal_noise_ratio(t, p, data_range=2))

    def test_the_scale_of_intensity_does_not_matter(self):
        pred, target = pair((1, 1, 16, 16))
        on_255 = peak_signal_to_noise_ratio((pred + 1) * 127.5, (target + 1) * 127.5, data_range=(0, 255))
        torch.testing.assert_close(
            on_255, peak_signal_to_noise_ratio(pred, target, data_range=RANGE), rtol=1e-6, atol=0
        )

    def test_masked_error_only(self):
        pred, target = pair((1, 1, 8, 8))
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., :3, :] = 1
        error = mean_squared_error(pred[0, 0, :3].double().numpy(), target[0, 0, :3].double().numpy())
        value = peak_signal_to_noise_ratio(pred, target, mask, data_range=RANGE)
        assert value.item() == pytest.approx(10 * math.log10(4 / error))

    def test_a_perfect_case_is_infinite_stays_in_the_buffer_and_is_counted(self):
        pred, target = pair((3, 1, 8, 8))
        pred[1] = target[1]
        metric = PSNRMetric(RANGE)
        values = metric(pred, target)
        assert values[1].item() == math.inf
        with pytest.warns(
            UserWarning, match=r"PSNRMetric: the mean leaves out 1 infinite and 0 undefined value\(s\) of 3"
        ):
            mean = metric.aggregate()
        assert mean.item() == pytest.approx((values[0] + values[2]).item() / 2)
        assert metric.summary().infinite == 1
        assert metric.summary().n == 3
        assert torch.equal(metric.get_buffer(), values)

    def test_all_perfect_is_infinite(self):
        metric = PSNRMetric(RANGE)
        metric(torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
        assert metric.aggregate().item() == math.inf


class TestStructuralSimilarity:
    @staticmethod
    def reference(pred, target, full=False):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
        return skimage_ssim(pred.double().numpy() + 1, target.double().numpy() + 1, full=full, **options)

    @pytest.mark.parametrize("shape", [(24, 19), (12, 13, 14)])
    def test_against_scikit_image_on_intensities_that_start_at_zero(self, shape):
        pred, target = pair((2, 1, *shape), noise=0.3)
        value = structural_similarity(pred, target, data_range=RANGE)
        for got, p, t in zip(value, pred, target):
            assert got.item() == pytest.approx(self.reference(p[0], t[0]), abs=1e-10)

    @pytest.mark.parametrize(("shape", "window", "sigma"), [((24, 19), 11, 1.5), ((12, 10, 9), 7, 0.8)])
    def test_against_monai(self, shape, window, sigma):
        pred, target = pair((2, 1, *shape), noise=0.3)
        monai = MonaiSSIMMetric(len(shape), data_range=2.0, win_size=window, kernel_sigma=sigma)(pred + 1, target + 1)
        value = structural_similarity(pred, target, data_range=RANGE, window=window, sigma=sigma)
        torch.testing.assert_close(value, monai[:, 0].double(), rtol=0, atol=1e-4)

    def test_masked_mean_of_the_map(self):
        pred, target = pair((1, 1, 30, 26), noise=0.3)
        mask = torch.zeros(1, 1, 30, 26, dtype=torch.bool)
        mask[..., 2:18, 3:20] = True
        _, full = self.reference(pred[0, 0], target[0, 0], full=True)
        expected = full[5:18, 5:20].mean()  # of the mask, what has its whole window on the grid
        value = structural_similarity(pred, target, mask, data_range=RANGE)
        assert value.item() == pytest.approx(expected, abs=1e-10)

    def test_the_scale_of_intensity_does_not_matter(self):
        pred, target = pair((1, 1, 20, 20), noise=0.3)
        on_255 = structural_similarity((pred + 1) * 127.5, (target + 1) * 127.5, data_range=(0, 255))
        torch.testing.assert_close(on_255, structural_similarity(pred, target, data_range=RANGE), rtol=0, atol=1e-5)

    def test_channels_are_averaged(self):
        pred, target = pair((1, 2, 16, 16), noise=0.3)
        apart = [structural_similarity(pred[:, c : c + 1], target[:, c : c + 1], data_range=RANGE) for c in (0, 1)]
        together = structural_similarity(pred, target, data_range=RANGE)
        torch.testing.assert_close(together, sum(apart) / 2, rtol=0, atol=1e-6)

    def test_errors(self):
        small = torch.zeros(1, 1, 12, 10)
        with pytest.raises(ValueError, match=r"axes of at least 11 voxels.*received \(12, 10\); pass a smaller window"):
            structural_similarity(small, small, data_range=RANGE)
        structural_similarity(small, small, data_range=RANGE, window=7)
        with pytest.raises(ValueError, match="odd"):
            structural_similarity(small, small, data_range=RANGE, window=6)
        border = torch.zeros(1, 1, 12, 10)
        border[..., 0] = 1
        with pytest.raises(ValueError, match="at least 3 from the border"):
            structural_similarity(small, small, border, data_range=RANGE, window=7)


class TestMutualInformation:
    @pytest.mark.parametrize("shape", [(1, 1, 40, 30), (1, 1, 12, 11, 10)])
    def test_against_scikit_image(self, shape):
        # two corner voxels hold the range's ends, so that NumPy's bins are these
        pred, target = pair(shape, noise=0.2)
        for image in (pred, target):
            image.view(-1)[0], image.view(-1)[1] = -1, 1
        value = normalized_mutual_information_score(pred, target, data_range=RANGE, num_bins=20)
        expected = normalized_mutual_information(pred.double().numpy(), target.double().numpy(), bins=20)
        assert value.item() == pytest.approx(expected, abs=1e-10)

    def test_conventions_by_hand(self):
        # P(0,0) = 1/2, P(1,0) = P(1,1) = 1/4
        x = torch.tensor([[[[-1.0, -1.0], [1.0, 1.0]]]])
        y = torch.tensor([[[[-1.0, -1.0], [-1.0, 1.0]]]])
        h_x, h_y = math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
        h_xy = 1.5 * math.log(2)
        mutual = h_x + h_y - h_xy
        expected = {
            NMIConvention.STUDHOLME: (h_x + h_y) / h_xy,
            NMIConvention.ARITHMETIC: 2 * mutual / (h_x + h_y),
            NMIConvention.JOINT: mutual / h_xy,
        }
        for convention, value in expected.items():
            got = normalized_mutual_information_score(x, y, data_range=RANGE, num_bins=2, convention=convention)
            assert got.item() == pytest.approx(value)
            assert NMIMetric(RANGE, 2, str(convention))(x, y).item() == pytest.approx(value)

    def test_limits(self):
        x = torch.rand(1, 1, 256, 256) * 2 - 1
        independent = torch.rand(1, 1, 256, 256) * 2 - 1
        constant = torch.full_like(x, 0.2)
        for convention, (same, flat) in {"studholme": (2, 1), "arithmetic": (1, 0), "joint": (1, 0)}.items():

            def score(a, b, convention=convention):
                return normalized_mutual_information_score(
                    a, b, data_range=RANGE, num_bins=16, convention=convention
                ).item()

            assert score(x, x) == pytest.approx(same)
            assert score(x, -x) == pytest.approx(same)
            assert score(constant, constant) == flat
            assert score(x, constant) == pytest.approx(flat, abs=1e-12)
            assert flat < score(x, independent) < flat + 2e-3

    def test_mask_and_channels(self):
        pred, target = pair((2, 2, 16, 16), noise=0.2)
        mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
        mask[..., 3:11, 2:14] = True
        value = normalized_mutual_information_score(pred, target, mask, data_range=RANGE, num_bins=8)
        crops = [
            normalized_mutual_information_score(
                pred[:, c : c + 1, 3:11, 2:14], target[:, c : c + 1, 3:11, 2:14], data_range=RANGE, num_bins=8
            )
            for c in (0, 1)
        ]
        torch.testing.assert_close(value, sum(crops) / 2)

    def test_range_errors(self):
        x = torch.linspace(0, 255, 64).view(1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"pred: expected values in \[-1, 1\], received \[0, 255\]"):
            normalized_mutual_information_score(x, x, data_range=RANGE)
        clamped = normalized_mutual_information_score(x, x, data_range=RANGE, out_of_range="clamp", num_bins=4)
        assert clamped.item() == pytest.approx(2)
        with pytest.raises(ValueError, match="convention: expected one of 'studholme', 'arithmetic', 'joint'"):
            NMIMetric(RANGE, convention="maes")


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("shape", [(3, 1, 16, 15), (2, 2, 12, 11, 13)])
def test_cases_are_independent_and_batches_and_lists_accumulate_alike(kind, shape):
    pred, target = pair(shape)
    masks = torch.rand(shape[0], 1, *shape[2:]) > 0.3
    metric = kind(RANGE)
    together = metric(pred, target, mask=masks)
    assert together.shape == (shape[0], 1)
    metric.reset()
    as_list = metric(list(pred), list(target), mask=list(masks))
    torch.testing.assert_close(as_list, together, rtol=1e-6, atol=1e-9)
    for item in range(shape[0]):
        metric(pred[item : item + 1], target[item : item + 1], mask=masks[item : item + 1])
    torch.testing.assert_close(metric.get_buffer(), torch.cat([together, together]), rtol=1e-6, atol=1e-9)
    assert metric.aggregate().item() == pytest.approx(together.mean().item())
    assert metric.summary().n == 2 * shape[0]
    metric.reset()
    assert math.isnan(metric.aggregate().item())


@pytest.mark.parametrize("kind", METRICS)
def test_better_images_score_better(kind):
    target = torch.rand(1, 1, 32, 32) * 1.6 - 0.8
    noise = torch.randn(1, 1, 32, 32)
    scores = [kind(RANGE)((target + s * noise).clamp(-1, 1), target).item() for s in (0.02, 0.1, 0.5)]
    assert scores == sorted(scores, reverse=kind is not MAEMetric)


@pytest.mark.parametrize("kind", METRICS)
def test_metadata_gradients_and_types_stay_outside(kind):
    pred, target = pair((1, 1, 16, 16))
    plain = kind(RANGE)(pred, target)
    value = kind(RANGE)(MetaTensor(pred).requires_grad_(), MetaTensor(target))
    assert type(value) is torch.Tensor
    assert not value.requires_grad
    torch.testing.assert_close(value, plain)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(kind(RANGE)(pred, target), plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", METRICS)
def test_errors(kind):
    x = torch.zeros(2, 1, 16, 16)
    with pytest.raises(TypeError):
        kind()
    with pytest.raises(TypeError, match=r"data_range: expected \(low, high\)"):
        kind(2.0)
    with pytest.raises(ValueError, match="data_range: expected low < high"):
        kind((1, 1))
    metric = kind(RANGE)
    with pytest.raises(TypeError, match="y: expected a tensor to compare with"):
        metric(x)
    with pytest.raises(ValueError, match=r"target: expected the shape of pred \(2, 1, 16, 16\)"):
        metric(x, torch.zeros(2, 1, 16, 17))
    bad = x.clone()
    bad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="target: expected finite numbers, received 1"):
        metric(x, bad)
    empty = torch.ones(2, 1, 16, 16)
    empty[0] = 0
    with pytest.raises(ValueError, match=r"empty mask in item\(s\) \[0\]"):
        metric(x, x, mask=empty)
    with pytest.raises(ValueError, match="mask: expected shape"):
        metric(x, x, mask=torch.ones(2, 16, 16))
    with pytest.raises(ValueError, match="mask: expected 2 items"):
        metric(list(x), list(x), mask=[torch.ones(1, 16, 16)])
    with pytest.raises(ValueError, match="y: expected 2 items"):
        metric(list(x), list(x)[:1])
    assert metric.get_buffer() is None  # nothing of a failed call stays


def test_mae_never_exceeds_rmse():
    pred, target = pair((4, 1, 16, 16), noise=0.4)
    mae = mean_absolute_error(pred, target, data_range=RANGE, output_range=255)
    cap = 20 * torch.log10(255 / mae)
    assert (peak_signal_to_noise_ratio(pred, target, data_range=RANGE) <= cap).all()
    assert np.all(mae.numpy() > 0)


def test_in_monais_handler():
    pred, target = pair((4, 1, 8, 8))
    engine = Engine(lambda _, batch: batch)
    handler = IgniteMetricHandler(metric_fn=MAEMetric(RANGE), save_details=True)
    handler.attach(engine, "mae")
    engine.state.metric_details = {}
    engine.run([(list(pred[:2]), list(target[:2])), (pred[2:], target[2:])])
    expected = mean_absolute_error(pred, target, data_range=RANGE)
    assert engine.state.metrics["mae"] == pytest.approx(expected.mean().item())
    torch.testing.assert_close(engine.state.metric_details["mae"][:, 0], expected)


def test_a_list_of_items_is_compared_with_a_batch():
    """As a handler has them when predictions are decollated and labels are not."""
    first, second = torch.rand(2, 3, 1, 8, 8)
    data_range = (second.min(), second.max())
    expected = MAEMetric(data_range)(first, second)
    assert torch.equal(MAEMetric(data_range)(list(first), second), expected)
    assert torch.equal(MAEMetric(data_range)(first, list(second)), expected)
