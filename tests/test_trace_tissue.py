"""The contrast account of a trace counts tissue: what is tissue, and what a curve of its intensities explains."""

import pytest
import torch

from medtrace.data import TraceBench
from medtrace.fields import warp
from medtrace.io.nifti import read_nifti_image
from medtrace.trace import Trace, contrast_change, find_tissue
from medtrace.trace.tissue import find_background

BACKGROUNDS = {"zero": 0.0, "hounsfield": -1024.0, "network": -1.0, "bright": 300.0}


def rectangle(shape=(12, 12), margin=3):
    inside = torch.zeros(1, *shape, dtype=torch.bool)
    inside[(0, *(slice(margin, size - margin) for size in shape))] = True
    return inside


def by_hand(background):
    """12 x 12 pixels, 36 of tissue: 18 lie 10 over the background, 16 lie 20 over it, 2 are as dark but for .001."""
    inside = rectangle()
    warped = torch.full((1, 12, 12), background)
    image = torch.full((1, 12, 12), background)
    warped[0, 3:9, 3:6], image[0, 3:9, 3:6] = background + 10, background + 50
    warped[0, 3:9, 6:9], image[0, 3:9, 6:9] = background + 20, background + 26
    image[0, 3:6, 6:9] += 8  # half of the second is brighter: the expectation lies between
    warped[0, 8, 7:9], image[0, 8, 7:9] = background + 0.001, background + 70
    return warped, image, inside


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_expectation_by_hand(name):
    warped, image, inside = by_hand(BACKGROUNDS[name])
    assert torch.equal(find_tissue(warped, image), inside)
    change = contrast_change(warped, image)
    assert torch.equal(change[~inside], torch.zeros(108)), "air counts nowhere, and has its own expectation"
    torch.testing.assert_close(change[0, 3:9, 3:6], torch.full((6, 3), 40.0))
    bright = torch.full((5, 3), (9 * 14.0 + 7 * 6.0) / 16)
    torch.testing.assert_close(change[0, 3:8, 6:9], bright)
    torch.testing.assert_close(change[0, 8, 7:9], torch.full((2,), 69.999), atol=1e-3, rtol=0)
    trace = Trace.build(warped, image, torch.zeros(2, 12, 12))
    ledger = trace.ledger()
    torch.testing.assert_close(trace.warped + ledger.appearance + ledger.residual, image, atol=1e-4, rtol=0)
    unexplained = 9 * (14 - 10.5) ** 2 + 7 * (6 - 10.5) ** 2
    total = 18 * 40**2 + 9 * 14**2 + 7 * 6**2 + 2 * 69.999**2
    assert ledger.summary.explained_fraction == pytest.approx(1 - unexplained / total, rel=1e-5)


def test_without_tissue_told_apart_air_would_take_dark_tissue_along():
    """What was wrong: the two dark pixels share a bin with 108 of air."""
    warped, image, _ = by_hand(0.0)
    everything = contrast_change(warped, image, tissue=torch.ones(1, 12, 12))
    assert float(everything[0, 8, 7]) == pytest.approx(2 * 70 / 110, abs=0.01)


def test_a_given_mask_is_the_tissue():
    warped, image, inside = by_hand(0.0)
    half = inside.clone()
    half[0, :, 6:] = False
    change = contrast_change(warped, image, tissue=half)
    torch.testing.assert_close(change[0, 3:9, 3:6], torch.full((6, 3), 40.0))
    assert float(change[0, 8, 7]) == pytest.approx(2 * 70 / 110, abs=0.01), "there it is background now"
    trace = Trace.build(warped, image, torch.zeros(2, 12, 12), tissue=half)
    assert torch.equal(trace.appearance, change)
    with pytest.raises(ValueError, match=r"tissue: expected shape \(1, 12, 12\), received \(12, 12\)"):
        contrast_change(warped, image, tissue=half[0])
    with pytest.raises(TypeError, match="tissue: expected a torch tensor"):
        contrast_change(warped, image, tissue=[1])


def test_an_empty_or_full_mask_is_everything():
    warped, image, _ = by_hand(0.0)
    full = contrast_change(warped, image, tissue=torch.ones(1, 12, 12))
    assert torch.equal(contrast_change(warped, image, tissue=torch.zeros(1, 12, 12)), full)


def test_what_is_dark_in_one_contrast_is_tissue_by_the_other():
    """A liquid at the surface, as dark as air in the source."""
    warped, image = torch.zeros(1, 20, 20), torch.zeros(1, 20, 20)
    warped[0, 5:15, 5:15], image[0, 5:15, 5:15] = 100.0, 60.0
    warped[0, 5:15, 5:7], image[0, 5:15, 5:7] = 0.0, 150.0
    assert torch.equal(find_tissue(warped, image), rectangle((20, 20), 5))
    change = contrast_change(warped, image)
    torch.testing.assert_close(change[0, 5:15, 5:7], torch.full((10, 2), 150.0))
    torch.testing.assert_close(change[0, 5:15, 7:15], torch.full((10, 8), -40.0))


def test_what_is_put_into_air_stays_unexplained():
    warped, image = torch.zeros(1, 40, 40), torch.zeros(1, 40, 40)
    warped[0, 5:20, 5:20], image[0, 5:20, 5:20] = 100.0, 60.0
    image[0, 30:33, 30:33] = 500.0
    trace = Trace.build(warped, image, torch.zeros(2, 40, 40))
    assert not find_tissue(warped, image)[0, 30:33, 30:33].any()
    assert float(trace.ledger().residual[0, 31, 31]) > 490
    assert float(trace.appearance[0, 10, 10]) == -40.0


def test_enclosed_darkness_is_tissue_and_open_darkness_is_not():
    image = torch.zeros(1, 20, 20, 20)
    image[0, 4:16, 4:16, 4:16] = 50.0
    image[0, 8:11, 8:11, 8:11] = 0.0  # a cavity
    image[0, 13:16, 9:11, :] = 0.0  # a channel to the outside
    tissue = find_tissue(image, image)
    assert tissue[0, 8:11, 8:11, 8:11].all()
    assert not tissue[0, 13:16, 9:11].any()


def test_images_without_a_background_are_tissue():
    generator = torch.Generator().manual_seed(0)
    for image in (
        torch.rand(1, 40, 40, generator=generator),
        torch.randn(3, 30, 20, 10, generator=generator),
        torch.linspace(0, 1, 900).reshape(1, 30, 30),
        torch.full((1, 8, 9), 3.0),
        torch.rand(1, 5, 1, generator=generator),
        torch.rand(1, 1, 1, generator=generator),
    ):
        assert find_tissue(image, image).all()
        assert find_tissue(image, image).shape == (1, *image.shape[1:])


def noisy(values, deviation, generator):
    """Magnitudes of complex signals, as a scanner makes them: Rayleigh noise in air."""
    real = values + deviation * torch.randn(values.shape, generator=generator)
    return (real.square() + (deviation * torch.randn(values.shape, generator=generator)).square()).sqrt()


@pytest.mark.parametrize("shape", [(64, 56), (40, 36, 32), (60, 50, 5)])
def test_noise_of_a_scanner_is_background(shape):
    generator = torch.Generator().manual_seed(1)
    inside = torch.zeros(1, *shape, dtype=torch.bool)
    middle = tuple(slice(size // 4, 3 * size // 4) for size in shape[:2])
    inside[(0, *middle)] = True
    image = noisy(torch.where(inside, 400.0, 0.0), 20.0, generator)
    background = find_background(image[0])
    assert background.low < 20 < 60 < background.high < 120
    tissue = find_tissue(image, image)
    assert tissue[inside].all()
    assert float(tissue[~inside].float().mean()) < 0.005


def test_air_and_table_of_a_ct():
    generator = torch.Generator().manual_seed(2)
    inside = rectangle((40, 40, 20), 5)
    image = torch.where(inside, 40.0, -1000.0) + 15 * torch.randn(1, 40, 40, 20, generator=generator)
    image[0, 10:14, 10:14, 8:12] = -850  # lung
    image[0, 1:39, 38:39, :] = 200  # table, along an edge
    background = find_background(image[0])
    assert -1090 < background.low < -1040
    assert -960 < background.high < -910
    tissue = find_tissue(image, image)
    assert tissue[inside].all()


def test_tissue_may_fill_half_of_the_edges():
    image = torch.zeros(1, 32, 32, 32)
    image[0, :, 8:24, 4:] = 80.0 + torch.rand(32, 16, 28)
    tissue = find_tissue(image, image)
    assert torch.equal(tissue, image > 0)


def test_channels_are_one_tissue_and_one_may_know_no_background():
    generator = torch.Generator().manual_seed(3)
    inside = rectangle((24, 24), 6)
    image = torch.cat([torch.where(inside, 1.0, 0.0), torch.rand(1, 24, 24, generator=generator)])
    assert torch.equal(find_tissue(image, image), inside)
    assert torch.equal(find_tissue(torch.rand(1, 24, 24, generator=generator), image), inside)


@pytest.mark.parametrize("task", ["domain", "postop", "metamorphic"])
def test_cases_of_tracebench(task):
    """With the true field: image = warped + appearance + residual, nothing happens in air, and more is explained."""
    for number in range(2):
        case = TraceBench(task, spatial_shape=(96, 96), cases=2)[number]
        source, target, ddf = (case[name].as_subclass(torch.Tensor) for name in ("source", "target", "ddf"))
        warped = warp(source[None], ddf[None])[0]
        tissue = find_tissue(warped, target)
        assert 0.3 < float(tissue.float().mean()) < 0.7
        assert not (tissue & (warped == -1) & (target == -1) & _around(tissue)).any()
        one, other = (
            Trace.build(source, target, ddf, tissue=region).ledger() for region in (tissue, torch.ones_like(tissue))
        )
        assert one.summary.explained_fraction >= other.summary.explained_fraction - 1e-4
        assert float(one.appearance[~tissue].abs().max()) < 1e-5
        torch.testing.assert_close(warped + one.appearance + one.residual, target, atol=1e-6, rtol=0)


def _around(tissue):
    """All but the pixels whose neighbors are all tissue, which may be enclosed darkness."""
    padded = torch.nn.functional.avg_pool2d(tissue.float(), 3, 1, 1)
    return padded < 0.5


@pytest.mark.real_data
def test_a_t2_of_a_t1(real_data):
    """The heads' own air took the dark tissue along: .695 of the squared change was explained, now .775."""
    t1, t2 = (
        read_nifti_image(real_data / "open_ms" / "mni" / "patient07" / f"{n}.nii.gz")[0].float() for n in ("T1", "T2")
    )
    middle = (slice(None), slice(None), slice(None), slice(80, 100))
    t1, t2 = t1[middle], t2[middle]
    ddf = torch.zeros(3, *t1.shape[1:])
    with_air = Trace.build(t1, t2, ddf, inverse_ddf=ddf, tissue=torch.ones_like(t1)).ledger().summary
    of_tissue = Trace.build(t1, t2, ddf, inverse_ddf=ddf).ledger().summary
    assert of_tissue.explained_fraction > with_air.explained_fraction + 0.03
    generator = torch.Generator().manual_seed(0)
    noisy_t1, noisy_t2 = (noisy(values.clamp_min(0), 20.0, generator) for values in (t1, t2))
    with_air = Trace.build(noisy_t1, noisy_t2, ddf, inverse_ddf=ddf, tissue=torch.ones_like(t1)).ledger().summary
    of_tissue = Trace.build(noisy_t1, noisy_t2, ddf, inverse_ddf=ddf).ledger().summary
    assert of_tissue.explained_fraction > with_air.explained_fraction + 0.15
