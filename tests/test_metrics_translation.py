"""NMAE, PSNR and SSIM under named conventions, and the drift of a translated image."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import gaussian_filter
from torch.nn.functional import pad

from medtrace.data import TraceBench
from medtrace.fields import affine_displacement, rigid_scale_matrix, warp
from medtrace.metrics import (
    CONVENTIONS,
    NMAEMetric,
    affine_drift,
    drift_parts,
    foreground_of,
    highest_psnr,
    normalized_mean_absolute_error,
    peak_signal_to_noise_ratio,
    structural_similarity,
    translation_drift,
    translation_scores,
)

SHAPES = {"2d": (2, 1, 24, 20), "3d": (2, 1, 16, 14, 18)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def pair(shape):
    """A noisy image and a target with a background of -1."""
    target = torch.rand(shape) * 1.8 - 0.9
    target[..., :4] = -1
    image = (target + 0.2 * torch.randn(shape)).clamp(-1, 1)
    return image, target


class TestScores:
    def test_conventions(self):
        assert sorted(CONVENTIONS) == ["symmetric-foreground", "symmetric-whole", "unit-foreground", "unit-whole"]

    def test_by_hand(self):
        target = torch.full((1, 1, 12, 12), -1.0)
        target[..., 6:] = 0.5
        image = target.clone()
        image[..., 6:] += 0.2  # half of the voxels are foreground, each wrong by 0.2
        expected = {"unit-whole": 0.05, "unit-foreground": 0.1, "symmetric-whole": 0.1, "symmetric-foreground": 0.2}
        for name, nmae in expected.items():
            result = translation_scores(image, target, name)
            assert list(result) == ["nmae", "psnr", "ssim"]
            assert result["nmae"].item() == pytest.approx(nmae, abs=1e-6)
            squared = 0.04 if name.endswith("foreground") else 0.02
            assert result["psnr"].item() == pytest.approx(10 * np.log10(4 / squared), abs=1e-4)
            assert normalized_mean_absolute_error(image, target, name).item() == pytest.approx(nmae, abs=1e-6)

    @each_shape
    def test_the_range_doubles_nmae_and_leaves_psnr_and_ssim(self, shape):
        image, target = pair(shape)
        for region in ("whole", "foreground"):
            unit, symmetric = (
                translation_scores(image, target, f"{scale}-{region}") for scale in ("unit", "symmetric")
            )
            torch.testing.assert_close(symmetric["nmae"], 2 * unit["nmae"])
            assert torch.equal(symmetric["psnr"], unit["psnr"])
            assert torch.equal(symmetric["ssim"], unit["ssim"])
            # "unit" is what one gets on images in [0, 1] with a peak of 1
            mask = foreground_of(target) if region == "foreground" else None
            halves = (image + 1) / 2, (target + 1) / 2, mask
            torch.testing.assert_close(
                unit["psnr"], peak_signal_to_noise_ratio(*halves, data_range=(0, 1)), rtol=1e-5, atol=0
            )
            torch.testing.assert_close(
                unit["ssim"], structural_similarity(*halves, data_range=(0, 1)), rtol=1e-5, atol=1e-6
            )

    @each_shape
    def test_background_is_left_out_by_threshold_or_mask(self, shape):
        image, target = pair(shape)
        corrupted = image.clone()
        corrupted[..., :4] = 1
        inner = torch.zeros_like(target, dtype=torch.bool)
        inner[..., 4:] = True
        assert torch.equal(foreground_of(target), inner)
        for measure in ("nmae", "psnr"):
            clean, dirty, masked = (
                translation_scores(image, target),
                translation_scores(corrupted, target),
                translation_scores(corrupted, target, mask=inner),
            )
            assert torch.equal(clean[measure], dirty[measure])
            assert torch.equal(clean[measure], masked[measure])
        whole, with_mask = (translation_scores(corrupted, target, "unit-whole", mask) for mask in (None, inner))
        assert bool((whole["nmae"] > translation_scores(corrupted, target)["nmae"]).all())
        assert torch.equal(whole["nmae"], with_mask["nmae"])

    def test_the_tolerance_says_what_is_background(self):
        target = torch.tensor([-1.0, -0.9995, -0.98, 0.0]).reshape(1, 1, 2, 2)
        assert foreground_of(target).flatten().tolist() == [False, False, True, True]
        assert foreground_of(target, 0.05).flatten().tolist() == [False, False, False, True]
        several = torch.tensor([[-1.0, -1.0], [-1.0, 0.0]]).reshape(1, 2, 1, 2)
        assert foreground_of(several).tolist() == [[[[False, True]]]]

    @each_shape
    @pytest.mark.parametrize("convention", CONVENTIONS)
    def test_the_bound_of_psnr_by_nmae_holds_and_is_reached(self, shape, convention):
        image, target = pair(shape)
        result = translation_scores(image, target, convention)
        for nmae, psnr in zip(result["nmae"], result["psnr"]):
            assert psnr < highest_psnr(nmae.item(), convention)
        flat = translation_scores(target + 0.1, target, convention)  # one error everywhere: equality
        assert flat["psnr"][0].item() == pytest.approx(highest_psnr(flat["nmae"][0].item(), convention), abs=1e-4)

    def test_what_the_bound_says_of_the_printed_table(self):
        """RegGAN, Table 2: .071 with 26 dB can be in [-1, 1] units, not a fraction of the range."""
        assert highest_psnr(0.071, "unit-foreground") == pytest.approx(22.97, abs=0.01)
        assert highest_psnr(0.071, "symmetric-foreground") == pytest.approx(28.99, abs=0.01)

    def test_the_metric_keeps_cases(self):
        image, target = pair((3, 1, 24, 20))
        for convention in CONVENTIONS:
            metric = NMAEMetric(convention)
            metric(image[:2], target[:2])
            metric(MetaTensor(image[2:]), MetaTensor(target[2:]))
            expected = normalized_mean_absolute_error(image, target, convention)
            torch.testing.assert_close(metric.get_buffer().flatten(), expected)
            assert metric.aggregate().item() == pytest.approx(expected.mean().item())

    def test_errors(self):
        image, target = pair((1, 1, 12, 12))
        with pytest.raises(ValueError, match="convention: expected one of 'unit-whole'"):
            translation_scores(image, target, "unit")
        with pytest.raises(ValueError, match="convention: expected one of"):
            NMAEMetric("percent")
        with pytest.raises(ValueError, match=r"target: expected intensities in \[-1, 1\]"):
            translation_scores(image * 255, target * 255)
        with pytest.raises(ValueError, match="only background in item"):
            translation_scores(image, torch.full_like(target, -1.0))
        with pytest.raises(ValueError, match="tolerance: expected a number above 0"):
            foreground_of(target, 0.0)
        with pytest.raises(ValueError, match="mask: expected shape"):
            translation_scores(image, target, mask=torch.ones(1, 1, 3, 3))
        with pytest.raises(TypeError, match="y: expected a tensor"):
            NMAEMetric()(image)
        with pytest.raises(ValueError, match="nmae: expected a number above 0"):
            highest_psnr(0, "unit-whole")


SHIFTS = [(0.0, 0.0, 0.0), (0.37, -1.22, 0.6), (2.5, 0.9, -1.1), (-4.0, 3.0, 1.0)]


class TestDrift:
    def brain(self, shape):
        case = TraceBench("misaligned", shape, cases=1, seed=1)[0]
        # memory for the content to move without leaving the grid
        return pad(case["clean_target"].as_tensor()[None], [6] * 2 * len(shape), value=-1.0)

    def shifted(self, image, shift):
        """The image with its content moved by +shift voxels."""
        ddf = -torch.tensor(shift).reshape(1, -1, *(1,) * len(shift)).expand(1, -1, *image.shape[2:])
        return warp(image, ddf.contiguous())

    @pytest.mark.parametrize("shape", [(64, 64), (40, 48, 40)], ids=["2d", "3d"])
    @pytest.mark.parametrize("shift", SHIFTS)
    def test_known_shifts_to_a_twentieth_of_a_voxel(self, shape, shift):
        shift = shift[: len(shape)]
        target = self.brain(shape)
        result = translation_drift(self.shifted(target, shift), target, torch.eye(4, dtype=torch.float64))
        assert result.shape == (1, 3)
        np.testing.assert_allclose(result[0, : len(shape)], shift, atol=0.05)
        assert result[0, len(shape) :].tolist() == [0.0] * (3 - len(shape))

    @pytest.mark.parametrize(("shape", "angles"), [((64, 64), 4.0), ((40, 48, 40), (0.0, 0.0, -5.0))], ids=["2d", "3d"])
    @pytest.mark.parametrize("scale", [1.06, 0.95])
    def test_a_known_turn_and_scale_come_back(self, shape, angles, scale):
        target = self.brain(shape)
        shape = target.shape[2:]
        pull = rigid_scale_matrix(angles, (1.0, -1.5, 0.5)[: len(shape)], scale, shape)
        image = warp(target.double(), affine_displacement(pull, shape, dtype=torch.float64)[None]).float()
        affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
        (drift,) = affine_drift(image, target, affine)
        parts = drift_parts(drift)
        assert float(parts["scale_percent"]) == pytest.approx(100 / scale - 100, abs=0.3)
        expected = -(angles if len(shape) == 2 else angles[2])  # a pull turns the image the other way
        turn = parts["degrees"] if len(shape) == 2 else parts["degrees"].abs()
        assert float(turn) == pytest.approx(expected if len(shape) == 2 else abs(expected), abs=0.3)
        center = (torch.tensor(shape, dtype=torch.float64) - 1) / 2
        shown = torch.linalg.solve(pull[:-1, :-1], center - pull[:-1, -1])  # the target's center, in the image
        assert torch.allclose(drift[: len(shape), 3], 2 * (shown - center), atol=0.3)
        assert float(parts["shear_percent"]) < 1

    def test_a_constant_image_has_no_affine_drift(self):
        assert affine_drift(torch.zeros(1, 1, 76, 76), self.brain((64, 64)), torch.eye(4).double()).isnan().all()

    def test_blur_noise_contrast_and_shading_hardly_move_it(self):
        target, shift = self.brain((96, 96)), (1.3, -0.6)
        moved = self.shifted(target, shift)[0, 0].numpy()
        ramp = np.linspace(-1, 1, 108)[:, None]
        changed = {
            "blur": (gaussian_filter(moved, 1.2), 0.05),
            "noise": (moved + 0.1 * np.random.default_rng(0).standard_normal(moved.shape), 0.08),
            "contrast": ((moved + 1).clip(0) ** 0.7 * 1.1 - 1, 0.06),
            "shading": (moved + 0.3 * (moved > -0.9) * ramp, 0.25),
        }
        for name, (image, tolerance) in changed.items():
            result = translation_drift(torch.from_numpy(image)[None, None], target.double(), torch.eye(4).double())
            np.testing.assert_allclose(result[0, :2], shift, atol=tolerance, err_msg=name)

    def test_millimeters_follow_an_oblique_anisotropic_affine(self):
        target = self.brain((64, 64))
        image = self.shifted(target, (2.0, -1.0))
        affine = torch.tensor([[0.0, -3, 0, 9], [2, 0, 0, 9], [0.5, 0, 1, 9], [0, 0, 0, 1]], dtype=torch.float64)
        result = translation_drift(image, target, affine)[0]
        np.testing.assert_allclose(result, [3.0, 4.0, 1.0], atol=0.15)
        batch = translation_drift(
            torch.cat([target, image]), torch.cat([target, target]), torch.stack([torch.eye(4).double(), affine])
        )
        assert batch[0].tolist() == [0, 0, 0]
        assert torch.equal(batch[1], result)

    def test_undefined_for_a_constant_image(self):
        target = self.brain((64, 64))
        result = translation_drift(torch.full_like(target, 0.3), target, torch.eye(4).double())
        assert bool(result[0, :2].isnan().all())

    def test_a_single_slice_as_a_volume(self):
        target = self.brain((64, 64))[..., None]
        moved = self.shifted(target[..., 0], (1.5, 0.5))[..., None]
        result = translation_drift(moved, target, torch.eye(4).double())
        np.testing.assert_allclose(result[0], [1.5, 0.5, 0], atol=0.05)

    def test_errors(self):
        image = torch.rand(1, 1, 16, 16)
        eye = torch.eye(4).double()
        with pytest.raises(ValueError, match="image: expected 1 channel"):
            translation_drift(torch.rand(1, 2, 16, 16), image, eye)
        with pytest.raises(ValueError, match="expected the shape of image"):
            translation_drift(image, torch.rand(1, 1, 16, 17), eye)
        with pytest.raises(ValueError, match="target: expected finite"):
            translation_drift(image, image * torch.nan, eye)
        with pytest.raises(TypeError, match="affine: expected a floating-point tensor"):
            translation_drift(image, image, np.eye(4))
        with pytest.raises(ValueError, match=r"affine: expected shape \(4, 4\)"):
            translation_drift(image, image, torch.eye(3))
        with pytest.raises(ValueError, match="singular"):
            translation_drift(image, image, torch.zeros(4, 4))
        with pytest.raises(TypeError, match="upsampling: expected a whole number"):
            translation_drift(image, image, eye, upsampling=2.5)
