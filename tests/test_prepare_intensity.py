"""Intensity maps: known values, agreement with the transforms they are made of, and the way back."""

import json

import numpy as np
import pytest
import torch

from medtrace.data.preparation.intensity import (
    ContrastStandard,
    find_foreground,
    fit_contrast,
    foreground_quantiles,
)
from medtrace.data.preparation.rules import Preparation
from medtrace.trace import Contrast, IntensityMap
from medtrace.trace.contrast import Intensity
from medtrace.transforms import HistogramStandardization


def skull_stripped(seed=0, gain=1.0):
    """Skewed tissue intensities inside a box of zeros."""
    rng = np.random.default_rng(seed)
    image = np.zeros((1, 16, 16, 8), np.float32)
    image[:, 3:13, 3:13, 2:6] = gain * (100 + 40 * rng.gamma(2.0, size=(10, 10, 4)))
    return torch.from_numpy(image)


def test_map_by_hand():
    intensity = IntensityMap(((100.0, 200.0, 400.0),), ((-1.0, 0.5, 1.0),))
    image = torch.tensor([[[50.0, 100.0, 150.0], [200.0, 300.0, 900.0]]])
    expected = torch.tensor([[[-1.0, -1.0, -0.25], [0.5, 0.75, 1.0]]])
    torch.testing.assert_close(intensity.forward(image), expected)
    back = intensity.inverse(expected)
    # what was clipped comes back as the outer knots
    torch.testing.assert_close(back, image.clamp(100, 400))


def test_background_is_apart_in_both_directions():
    foreground = torch.tensor([[[True, False]]])
    intensity = IntensityMap(((10.0, 20.0),), ((-1.0, 1.0),), foreground)
    assert intensity.forward(torch.tensor([[[15.0, 15.0]]])).tolist() == [[[0.0, -1.0]]]
    assert intensity.inverse(torch.tensor([[[0.0, 0.0]]]), foreground).tolist() == [[[15.0, 0.0]]]
    assert intensity.inverse(torch.tensor([[[0.0, 0.0]]])).tolist() == [[[15.0, 15.0]]]
    with pytest.raises(ValueError, match=r"image: expected 1 channel\(s\), as the scan has, received 2"):
        intensity.inverse(torch.zeros(2, 1, 2))


def test_standardized_map_is_nyul_then_z_then_window():
    images = [skull_stripped(seed, gain) for seed, gain in ((0, 1.0), (1, 2.0), (2, 0.5))]
    quantiles = [values for image in images for values in foreground_quantiles(image)]
    standard = fit_contrast(quantiles)
    landmarks = HistogramStandardization.train(images, masks=lambda image: image != 0)
    np.testing.assert_allclose(standard.landmarks, landmarks.of(), atol=0.05)
    exact = ContrastStandard(standard.window, landmarks.percentiles, landmarks.of())
    preparation = Preparation(spatial_dims=3, intensity=Intensity.STANDARDIZED, standards={"t1": exact})
    new = skull_stripped(7, 1.7)
    normalized, _ = preparation.normalize(new)
    tissue = new != 0
    moved = HistogramStandardization(landmarks)(new, mask=tissue).as_tensor().double()[tissue]
    z = (moved - moved.mean()) / moved.std(correction=0)
    low, high = standard.window
    expected = (2 * (z - low) / (high - low) - 1).clamp(-1, 1).float()
    torch.testing.assert_close(normalized[tissue], expected, atol=1e-4, rtol=0)
    assert bool((normalized[~tissue] == -1).all())


def test_window_without_nyul_is_z_alone():
    values = np.quantile(np.random.default_rng(0).normal(50, 5, 100_000), np.linspace(0, 1, 2001))
    standard = fit_contrast([values], standardize=False)
    assert standard.percentages == ()
    np.testing.assert_allclose(standard.window, (-3.09, 3.09), atol=0.1)  # 0.1 and 99.9 % of a normal
    preparation = Preparation(spatial_dims=3, intensity=Intensity.STANDARDIZED, standards={"t1": standard})
    image = 200 + 30 * torch.randn(1, 20, 20, 20)
    normalized, _ = preparation.normalize(image)
    torch.testing.assert_close(normalized.mean(), torch.tensor(0.0), atol=0.03, rtol=0)
    assert float(normalized.std()) == pytest.approx(2 / (standard.window[1] - standard.window[0]), rel=0.02)


@pytest.mark.parametrize("intensity", list(Intensity))
def test_inverse_undoes_forward_but_for_clipping(intensity):
    image = skull_stripped(3)
    contrasts = {"t1": fit_contrast(foreground_quantiles(skull_stripped(1)))}
    known = {"t1": Contrast("t1", rule=Intensity.WINDOW, limits=(0.0, 500.0))} if intensity == "window" else {}
    preparation = Preparation(
        spatial_dims=3, intensity=intensity, standards=contrasts, contrasts=known, value_range=(0.0, 500.0)
    )
    normalized, map_ = preparation.normalize(image)
    assert normalized.dtype == torch.float32
    assert -1 <= float(normalized.min()) <= float(normalized.max()) <= 1
    tissue = (image != 0) & (normalized > -1) & (normalized < 1)
    assert int(tissue.sum()) > 380
    torch.testing.assert_close(map_.inverse(normalized)[tissue], image[tissue], rtol=1e-4, atol=1e-2)


def test_percentiles_are_the_rule_without_preparation():
    image = skull_stripped()
    preparation = Preparation(spatial_dims=2)
    _, map_ = preparation.normalize(image)
    tissue = image[image != 0].numpy()
    np.testing.assert_allclose(map_.scan[0], np.percentile(tissue, (0.5, 99.5)), rtol=1e-5)
    assert map_.network == ((-1.0, 1.0),)


def test_foreground():
    image = skull_stripped()
    assert torch.equal(find_foreground(image), image != 0)
    computed_tomography = torch.randn(1, 10, 10, 4).round()  # 0 HU is water, not background
    computed_tomography[:, 0], computed_tomography[:, -1] = -1000.0, -1000.0
    computed_tomography[:, :, 0], computed_tomography[:, :, -1] = -1000.0, -1000.0
    computed_tomography[..., 0], computed_tomography[..., -1] = -1000.0, -1000.0
    assert bool(find_foreground(computed_tomography).all())
    two = torch.cat([image, image.flip(-1)])
    assert torch.equal(find_foreground(two), (two != 0).any(dim=0, keepdim=True))


@pytest.mark.parametrize(("zeros", "background"), [(3, False), (4, True), (5, True), (20, True)])
def test_a_tenth_of_the_border_makes_zero_the_background(zeros, background):
    """The border of 11 x 11 pixels has 40 of them."""
    image = torch.ones(1, 11, 11)
    image[0, 0, :11].view(-1)[: min(zeros, 11)] = 0
    image[0, 1:, 0][: max(0, zeros - 11)] = 0
    image[0, 5, 5] = 0
    assert int((image == 0).sum()) == zeros + 1
    expected = image != 0 if background else torch.ones_like(image, dtype=torch.bool)
    assert torch.equal(find_foreground(image), expected)


def test_one_outlier_does_not_move_the_window():
    """Two levels lie one deviation off their mean; one among a hundred lies 9.95 above, its 99.9th percentile 8.95."""
    even, odd = np.array([0.0] * 50 + [1.0] * 50), np.array([0.0] * 99 + [1.0])
    assert fit_contrast([even, 3 * even + 7], standardize=False).window == pytest.approx((-1, 1))
    assert fit_contrast([odd], standardize=False).window == pytest.approx((-0.1005, 8.955), abs=1e-3)
    assert fit_contrast([even, odd, even], standardize=False).window == pytest.approx((-1, 1))


def test_channels_have_maps_of_their_own():
    image = torch.cat([skull_stripped(), 10 * skull_stripped(1)])
    normalized, map_ = Preparation(spatial_dims=3).normalize(image)
    assert map_.scan[1][0] > 5 * map_.scan[0][0]
    torch.testing.assert_close(map_.inverse(normalized)[:, 8, 8, 3], image[:, 8, 8, 3], rtol=1e-3, atol=0.1)


def test_contrast_is_chosen_by_name():
    contrasts = {"t1": ContrastStandard((-3.0, 3.0)), "t2": ContrastStandard((-1.0, 5.0))}
    preparation = Preparation(spatial_dims=2, intensity="standardized", standards=contrasts)
    image = skull_stripped()
    first, second = (preparation.normalize(image, name)[0] for name in ("t1", "t2"))
    assert not torch.equal(first, second)
    for name in (None, "flair"):
        with pytest.raises(ValueError, match=f"contrast: expected one of 't1', 't2', received {name!r}"):
            preparation.normalize(image, name)


def test_saved_and_loaded(tmp_path):
    preparation = Preparation(
        spatial_dims=2,
        intensity=Intensity.STANDARDIZED,
        standards={"t1": fit_contrast(foreground_quantiles(skull_stripped()))},
        axis="coronal",
        spacing=(1.0, 1.0, 3.0),
        spatial_shape=(96, 96),
        channels=1,
    )
    preparation.save(tmp_path / "p.json")
    loaded = Preparation.load(tmp_path / "p.json")
    assert loaded == preparation
    assert torch.equal(loaded.normalize(skull_stripped(4))[0], preparation.normalize(skull_stripped(4))[0])
    content = json.loads((tmp_path / "p.json").read_text())
    content["unheard_of"] = 1
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"p.json: is not a valid preparation \(.*unheard_of"):
        Preparation.load(tmp_path / "p.json")
    with pytest.raises(FileNotFoundError, match=r"q.json: no such file"):
        Preparation.load(tmp_path / "q.json")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Preparation(spatial_dims=1), "spatial_dims: expected 2 or 3"),
        (lambda: Preparation(spatial_dims=2, intensity="range"), "value_range: expected"),
        (lambda: Preparation(spatial_dims=2, intensity="standardized"), "standards: expected at least one"),
        (lambda: Preparation(spatial_dims=2, intensity="guess"), "guess"),
        (lambda: Preparation(spatial_dims=2).normalize(torch.full((1, 4, 4, 4), torch.nan)), "that are NaN"),
        (lambda: Preparation(spatial_dims=2).normalize(torch.ones(1, 4, 4, 4)), "is constant"),
        (lambda: Preparation(spatial_dims=2, channels=3).normalize(torch.rand(1, 4, 4)), r"expected 3 channel\(s\)"),
        (lambda: fit_contrast([]), "at least one training image"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
