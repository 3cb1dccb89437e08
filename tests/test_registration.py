"""Deformable registration of pairs on one grid: known motions, masks, regularity, settings."""

import pytest
import torch

from medtrace import kernels
from medtrace.fields import compose, exponentiate, non_diffeomorphic_fraction, warp
from medtrace.registration import Deformable, deform, thorough, weak_likeness
from medtrace.registration.contrast import choose_similarity, contrast_of
from medtrace.registration.deformable import ScaledImages, _Level
from medtrace.registration.pyramid import Step, enlarge, pyramid, shrink
from medtrace.registration.scaling import GAP, scaled
from medtrace.registration.unfolding import unfold


def smooth(values, sigma=2.0):
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(values.numpy(), [0] + [sigma] * (values.ndim - 1))).float()


def pair(shape, amplitude=2.0, seed=0):
    """A textured image, itself deformed, and the true displacement."""
    generator = torch.Generator().manual_seed(seed)
    moving = smooth(torch.rand(1, *shape, generator=generator), 1.5)
    velocity = smooth(torch.randn(len(shape), *shape, generator=generator), 6.0)
    ddf = exponentiate(velocity[None] * (amplitude / velocity.norm(dim=0).max()))[0]
    return moving, warp(moving[None], ddf[None])[0], ddf


def error(ddf, truth, margin=4):
    inner = (slice(None), *(slice(margin, -margin),) * (truth.ndim - 1))
    return float((ddf - truth)[inner].norm(dim=0).mean()), float(truth[inner].norm(dim=0).mean())


@pytest.mark.parametrize("shape", [(48, 52), (24, 26, 22)], ids=["2d", "3d"])
@pytest.mark.parametrize("similarity", ["lncc", "mse", "mi", "nmi", "mind"])
def test_finds_a_known_deformation(shape, similarity):
    moving, fixed, truth = pair(shape)
    result = deform(moving, fixed, settings=Deformable(similarity))
    missed, moved = error(result.ddf, truth)
    assert missed < (0.5 if similarity in ("mi", "nmi", "mind") else 0.3) * moved
    assert result.folds == 0
    assert result.inverse_residual < 0.01
    assert float(compose(result.ddf[None], result.inverse[None])[0].norm(dim=0).mean()) < 0.05


def test_inverted_contrast_is_the_same_to_local_correlation():
    moving, fixed, _ = pair((40, 40))
    straight, inverted = deform(moving, fixed).ddf, deform(1 - moving, fixed).ddf
    assert float((straight - inverted).norm(dim=0).mean()) < 0.05


@pytest.mark.parametrize("shape", [(40, 44), (16, 18, 20)], ids=["2d", "3d"])
def test_plain_torch_gives_the_same(shape):
    moving, fixed, _ = pair(shape)
    settings = Deformable(iterations=(8, 8))
    ours = deform(moving, fixed, settings=settings).ddf
    with kernels.use("torch"):
        theirs = deform(moving, fixed, settings=settings).ddf
    assert float((ours - theirs).abs().max()) < 0.02


def test_a_masked_lesion_has_no_influence():
    moving, fixed, _ = pair((48, 48))
    mask = torch.zeros(1, 48, 48)
    mask[:, 18:28, 20:30] = 1
    corrupted = torch.where(mask > 0, torch.rand(1, 48, 48) * 3, fixed)
    settings = Deformable(symmetry=0.0, iterations=(100, 100, 50, 25))
    masked = deform(moving, corrupted, mask=mask, settings=settings).ddf
    clean = deform(moving, fixed, mask=mask, settings=settings).ddf
    plain = deform(moving, corrupted, settings=settings).ddf
    assert float((masked - clean).norm(dim=0).mean()) < 0.02
    assert float((plain - clean).norm(dim=0).mean()) > 5 * float((masked - clean).norm(dim=0).mean())


def test_a_moving_mask_moves_with_the_image():
    moving, fixed, truth = pair((48, 48))
    mask = torch.zeros(1, 48, 48)
    mask[:, 18:28, 20:30] = 1
    corrupted = torch.where(mask > 0, torch.rand(1, 48, 48) * 3, moving)
    masked = deform(corrupted, fixed, moving_mask=mask).ddf
    assert error(masked, truth)[0] < error(deform(corrupted, fixed).ddf, truth)[0]


def test_lengths_are_millimeters():
    """The same smoothing in mm on voxels of half the size is twice as many voxels."""
    moving, fixed, _ = pair((40, 40))
    coarse = deform(moving, fixed, spacing=(2.0, 2.0), settings=Deformable(update_smoothing_mm=4, field_smoothing_mm=1))
    fine = deform(moving, fixed, settings=Deformable(update_smoothing_mm=2, field_smoothing_mm=0.5))
    assert torch.equal(coarse.ddf, fine.ddf)


@pytest.mark.parametrize("shape", [(40, 48), (20, 24, 18)])
def test_a_start_is_continued(shape):
    moving, fixed, truth = pair(shape)
    settings = Deformable(iterations=(0, 0))
    kept = deform(moving, fixed, settings=settings, start=truth).ddf
    inner = (slice(None), *[slice(4, -4)] * len(shape))
    assert float((kept - truth)[inner].abs().max()) < 0.2, "coarser levels resample it, and do nothing else"
    assert not deform(moving, fixed, settings=settings).ddf.any()
    few = Deformable(iterations=(3,))
    assert (
        error(deform(moving, fixed, settings=few, start=truth).ddf, truth)[0]
        < 0.5 * (error(deform(moving, fixed, settings=few).ddf, truth)[0])
    )


def test_same_bytes_again_and_input_untouched():
    moving, fixed, _ = pair((20, 22, 24))
    before = moving.clone(), fixed.clone()
    first, second = deform(moving, fixed).ddf, deform(moving, fixed).ddf
    assert torch.equal(first, second)
    assert torch.equal(moving, before[0])
    assert torch.equal(fixed, before[1])


def test_levels_stop_when_the_similarity_ceases_to_rise():
    moving, fixed, _ = pair((48, 48))
    seen = []
    result = deform(moving, fixed, progress=lambda done, planned: seen.append((done, planned)))
    assert any(level.stopped for level in result.levels)
    assert [level.factor for level in result.levels] == [(4, 4), (2, 2), (1, 1)]
    assert seen[-1][1] == 50 + 20 + 10
    last = result.levels[-1].similarity
    assert max(last) > last[0]


def test_nothing_to_register():
    flat = torch.ones(1, 20, 20)
    assert not deform(flat, flat).ddf.any()
    moving, *_ = pair((32, 32))
    assert float(deform(moving, moving).ddf.norm(dim=0).max()) < 0.05  # of the variances' floor


@pytest.mark.parametrize("shape", [(12, 13), (10, 11, 12), (9, 1, 10)])
def test_unfolding_mends_folds_and_leaves_the_rest(shape):
    ddf = torch.zeros(len(shape), *shape)
    place = tuple(size // 2 for size in shape)
    ddf[(0, *place)] = 1.6
    mended, before, after = unfold(ddf)
    assert before > 0
    assert after == 0
    assert float(non_diffeomorphic_fraction(mended[None])) == 0
    assert not mended[(slice(None), 0)].any()
    assert torch.equal(unfold(torch.zeros_like(ddf))[0], torch.zeros_like(ddf))


def test_pyramid_of_long_voxels_and_short_axes():
    assert [step.factor for step in pyramid((64, 64, 20), (1.0, 1.0, 4.0), (1, 1, 1))] == [
        (4, 4, 1),
        (2, 2, 1),
        (1, 1, 1),
    ]
    assert [step.factor for step in pyramid((16, 16), (1.0, 1.0), (1, 1, 1))] == [(1, 1)]


def test_fields_and_images_share_their_blocks():
    field = torch.arange(7.0).reshape(1, 7, 1).expand(2, 7, 9).clone()
    coarse = shrink(field, (2, 2))
    assert coarse.shape == (2, 4, 5)
    wide = enlarge(coarse, (2, 2), (1, 1), (7, 9))
    torch.testing.assert_close(wide[0, 1:5, 3], 2 * field[0, 1:5, 3])


def framed(shape=(20, 24)):
    """Tissue from 100 to 200 before a background of 0."""
    image = torch.zeros(1, *shape)
    image[:, 4:-4, 4:-4] = torch.linspace(100, 200, (shape[0] - 8) * (shape[1] - 8)).reshape(shape[0] - 8, -1)
    return image


def test_a_bright_background_mirrors_a_dark_one():
    image = framed()
    torch.testing.assert_close(scaled(1000 - image), 1 - scaled(image), atol=1e-5, rtol=0)


@pytest.mark.parametrize("background", [0.0, -3000.0, 95.0])
def test_a_background_stays_apart_and_leaves_the_tissue_its_range(background):
    image = framed()
    image[image == 0] = background
    values = scaled(image)
    assert float(values[0, 0, 0]) == 0
    tissue = values[:, 4:-4, 4:-4]
    width = tissue.max() - tissue.min()
    assert width > 1 / (1 + GAP)
    assert float(tissue.min()) > 0, "not the background's value"


def test_contrasts_choose_the_similarity():
    moving, fixed, _ = pair((48, 48), amplitude=0.3)
    weight = torch.ones(1, 48, 48)
    assert choose_similarity("auto", contrast_of(scaled(moving), scaled(fixed), weight))[0] == "lncc"
    assert choose_similarity("auto", contrast_of(scaled(-moving), scaled(fixed), weight))[0] == "lncc"
    folded = (moving - moving.mean()).abs()
    name, reason = choose_similarity("auto", contrast_of(scaled(folded), scaled(fixed), weight))
    assert name == "mi"
    assert "two contrasts" in reason
    relation = contrast_of(scaled(folded), scaled(fixed), weight)
    assert "but the images look like two contrasts" in choose_similarity("mse", relation)[1]


def test_a_level_begins_without_a_field_that_makes_the_images_less_alike():
    moving, fixed, ddf = pair((48, 48))
    images = ScaledImages(moving, fixed, torch.ones(1, 48, 48), None)
    for given, kept in ((torch.full_like(ddf, 6.0), torch.zeros_like(ddf)), (ddf, ddf)):
        fields = []
        for start, doubt in ((given, True), (kept, False)):
            level = _Level(images, Step((1, 1), 1), (1.0, 1.0), Deformable(), start)
            level.run(None, doubt)
            fields.append(level.field)
        assert torch.equal(*fields)


def test_presets_follow_the_voxel():
    assert thorough((2.0, 2.0)).update_smoothing_mm == pytest.approx(8.0)
    assert weak_likeness((1.0, 8.0, 1.0)).field_smoothing_mm == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"moving": torch.rand(1, 9, 8)}, "moving: expected the shape of fixed"),
        ({"fixed": torch.full((1, 8, 8), torch.inf)}, "fixed: expected finite numbers"),
        ({"spacing": (1.0,)}, "spacing: expected 2 numbers above 0"),
        ({"mask": torch.ones(1, 8, 8)}, "mask: expected voxels outside it"),
        ({"mask": torch.zeros(1, 8, 9)}, "mask: expected shape"),
        ({"start": torch.zeros(2, 8, 9)}, "start: expected a displacement"),
        ({"start": torch.full((2, 8, 8), torch.nan)}, "start: expected finite numbers"),
    ],
)
def test_wrong_images(change, message):
    with pytest.raises(ValueError, match=message):
        deform(**{"moving": torch.rand(1, 8, 8), "fixed": torch.rand(1, 8, 8), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"similarity": "ncc"}, "similarity"),
        ({"radius": 0}, "radius: expected at least 1"),
        ({"symmetry": 1.0}, "symmetry: expected a fraction in"),
        ({"iterations": ()}, "iterations: expected one number per level"),
        ({"update_smoothing_mm": -1.0}, "update_smoothing_mm: expected a finite number of at least 0"),
        ({"step": 0.0}, "step: expected a number above 0"),
    ],
)
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message):
        Deformable(**change)
