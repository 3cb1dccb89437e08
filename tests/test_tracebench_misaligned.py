"""TraceBench `misaligned`: the true field brings the pair together, by measurement, at every level."""

import numpy as np
import pytest
import torch
import yaml
from monai.data import DataLoader, MetaTensor

from medtrace.data import TraceBench
from medtrace.data.tracebench import LABELS
from medtrace.data.tracebench.misaligned import MisalignedSettings
from medtrace.fields import compose, identity_grid, inside_grid, non_diffeomorphic_fraction, warp
from medtrace.transforms import MISALIGNMENT_LEVELS

SHAPE = (48, 48)
QUIET = {"source_noise": 0.0, "target_noise": 0.0, "bias": 0.0, "contrast_jitter": 0.0}
KEYS = {
    "source",
    "target",
    "clean_target",
    "source_head",
    "head",
    "source_labels",
    "target_labels",
    "ddf",
    "inverse_ddf",
    "case",
    "subject",
}


def plain(value):
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def bench(cases=1, shape=SHAPE, split="training", seed=0, **settings):
    return TraceBench("misaligned", shape, cases=cases, seed=seed, split=split, settings=settings)


@pytest.fixture(scope="module")
def quiet():
    """Three noiseless cases of every level; of one seed, so that levels are paired draws."""
    return {level: [*bench(3, level=level, **QUIET)] for level in MISALIGNMENT_LEVELS}


def errors(case):
    """Mean difference inside the head of the pulled clean target from the target, with the true field and without."""
    head = plain(case["head"])
    pulled = warp(plain(case["clean_target"])[None], case["ddf"][None])[0]
    target = plain(case["target"])
    return [float((image - target).abs()[head].mean()) for image in (pulled, plain(case["clean_target"]))]


def length(field, region):
    return float(torch.linalg.vector_norm(field, dim=0)[plain(region)[0]].mean())


@pytest.mark.parametrize("level", [level for level in MISALIGNMENT_LEVELS if level != "0"])
def test_true_field_pulls_the_clean_target_onto_the_target(level, quiet):
    with_truth, without = np.array([errors(case) for case in quiet[level]]).T
    assert (with_truth < 0.03).all()  # one interpolation, of images in [-1, 1]
    assert (with_truth < (0.5 if level == "1" else 0.3) * without).all()


def test_level_0_moves_nothing(quiet):
    for case in quiet["0"]:
        assert torch.count_nonzero(case["ddf"]) == torch.count_nonzero(case["inverse_ddf"]) == 0
        assert torch.equal(plain(case["target"]), plain(case["clean_target"]))
        assert torch.equal(plain(case["head"]), plain(case["source_head"]))
        assert torch.equal(plain(case["target_labels"]), plain(case["source_labels"]))


@pytest.mark.parametrize("level", ["3", pytest.param("nonrigid", marks=pytest.mark.slow)])
def test_true_field_in_3d(level):
    case = bench(shape=(28, 32, 28), level=level, **QUIET)[0]
    assert case["ddf"].shape == (3, 28, 32, 28)
    with_truth, without = errors(case)
    assert with_truth < 0.6 * without
    assert length(case["ddf"], case["head"]) > 0.5


def test_true_field_carries_labels(quiet):
    for case in quiet["5"]:
        moved = warp(plain(case["source_labels"])[None].float(), case["ddf"][None], mode="nearest")[0]
        head, target = plain(case["head"]), plain(case["target_labels"])
        assert (moved == target)[head].float().mean() > 0.85
        assert (plain(case["source_labels"]) == target)[head].float().mean() < 0.75


@pytest.mark.parametrize("level", list(MISALIGNMENT_LEVELS))
def test_inverse_undoes_the_truth_and_nothing_folds(level, quiet):
    for case in quiet[level]:
        for one, another, region in (("ddf", "inverse_ddf", "head"), ("inverse_ddf", "ddf", "source_head")):
            # Where the pulled point is on the grid; beyond it `compose` knows no field.
            inside = inside_grid((identity_grid(SHAPE) + case[one])[None], SHAPE)[0] & plain(case[region])
            there_and_back = compose(case[another][None], case[one][None])[0]
            assert torch.linalg.vector_norm(there_and_back, dim=0)[inside[0]].max() < 0.05
            assert float(non_diffeomorphic_fraction(case[one][None]).max()) == 0


def test_levels_grow(quiet):
    sizes = [np.mean([length(case["ddf"], case["head"]) for case in quiet[str(level)]]) for level in range(6)]
    assert sizes[0] == 0
    assert sizes[5] > 2  # voxels of 48
    # Paired draws of linearly growing bounds.
    assert np.allclose(np.array(sizes[1:]) / np.arange(1, 6), sizes[3] / 3, rtol=0.2)


@pytest.mark.parametrize("moved", ["both", "source", "target"])
def test_moved_says_which_images_are_moved(moved, quiet):
    still = quiet["0"][0]
    case = bench(level="4", moved=moved, **QUIET)[0]
    assert torch.equal(plain(case["source"]), plain(still["source"])) == (moved == "target")
    assert torch.equal(plain(case["clean_target"]), plain(still["target"])) == (moved == "target")
    assert torch.equal(plain(case["target"]), plain(still["target"])) == (moved == "source")
    with_truth, without = errors(case)
    assert with_truth < 0.03 < 0.3 * without


def test_source_and_clean_target_show_one_anatomy(quiet):
    for case in quiet["5"]:
        labels, source, target = (plain(case[key])[0] for key in ("source_labels", "source", "clean_target"))
        mean = {
            name: [float(image[labels == LABELS[name]].mean()) for image in (source, target)]
            for name in ("csf", "gm", "wm")
        }
        assert mean["csf"][0] < mean["gm"][0] < mean["wm"][0]  # T1
        assert mean["csf"][1] > mean["gm"][1] > mean["wm"][1]  # T2
        air = ~plain(case["source_head"])[0]
        assert source[air].mean() < -0.9
        assert source.min() == target.min() == -1


def test_noise_is_drawn_for_each_image_of_its_own():
    case = bench(level="0")[0]
    target, clean = plain(case["target"]), plain(case["clean_target"])
    assert 0.005 < float((target - clean).abs()[plain(case["head"])].mean()) < 0.15


def test_another_subjects_target_has_no_true_field():
    data = bench(4, level="0", partner="other", **QUIET)
    for case, same in zip(data, bench(4, level="0", **QUIET)):
        assert set(case) == KEYS - {"ddf", "inverse_ddf"}
        assert torch.equal(plain(case["source"]), plain(same["source"]))
        assert (plain(case["target_labels"]) != plain(case["source_labels"])).float().mean() > 0.03
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch["target"].shape == (4, 1, *SHAPE)


@pytest.mark.parametrize(
    "shape", [(40, 56), pytest.param((18, 20, 16), marks=pytest.mark.slow)], ids=lambda shape: f"{len(shape)}D"
)
def test_shapes_affine_and_collation(shape):
    data = bench(2, shape)
    case = data[0]
    assert set(case) == KEYS
    for key in KEYS - {"ddf", "inverse_ddf", "case", "subject"}:
        assert isinstance(case[key], MetaTensor)
        assert case[key].shape == (1, *shape)
        assert torch.equal(case[key].affine, case["source"].affine)
    for key, kind in (
        ("source", torch.float32),
        ("head", torch.bool),
        ("source_head", torch.bool),
        ("target_labels", torch.uint8),
    ):
        assert case[key].dtype == kind
    for key in ("ddf", "inverse_ddf"):
        assert case[key].shape == (len(shape), *shape)
        assert case[key].dtype == torch.float32
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["ddf"].shape == (2, len(shape), *shape)
    assert batch["case"] == ["misaligned-training-0000", "misaligned-training-0001"]


def test_the_head_is_what_both_images_show():
    """Where the target's brain comes from beyond the source's grid there is nothing to align."""
    cases = bench(8, level="5", moved="source", **QUIET)
    outside = 0
    for case in cases:
        seen = inside_grid((identity_grid(SHAPE) + case["ddf"])[None], SHAPE)[0]
        assert not bool((plain(case["head"]) & ~seen).any())
        outside += int(((plain(case["target_labels"]) > 0) & ~seen).sum())
    assert outside > 0


def test_same_seed_same_bytes_whatever_the_count():
    one, two, other = bench(2, seed=5)[1], bench(9, seed=5)[1], bench(2, seed=6)[1]
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert plain(value).numpy().tobytes() == plain(two[key]).numpy().tobytes(), key
    assert not torch.equal(one["ddf"], other["ddf"])


def test_splits_share_no_subject():
    cases = [case for split in ("training", "validation", "test") for case in bench(3, split=split, level="0")]
    assert len({case["subject"] for case in cases}) == 9
    labels = [plain(case["source_labels"]) for case in cases]
    for first in range(9):
        for second in range(first):
            assert not torch.equal(labels[first], labels[second])


def test_a_level_from_yaml_is_a_number():
    settings = yaml.safe_load("{level: 3, moved: target, slice_mm: [0, 5]}")
    data = TraceBench("misaligned", SHAPE, cases=1, settings=settings)
    assert data.settings == MisalignedSettings(level="3", moved="target", slice_mm=(0, 5))
    assert torch.equal(data[0]["ddf"], bench(level="3", moved="target", slice_mm=(0, 5))[0]["ddf"])


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"level": 6}, ValueError, "settings.level: expected one of '0', .* received '6'"),
        ({"moved": "none"}, ValueError, "settings.moved: expected one of 'both', 'source', 'target', received 'none'"),
        ({"partner": "none"}, ValueError, "settings.partner: expected one of 'same', 'other', received 'none'"),
        ({"bias": -1}, ValueError, "settings.bias: expected nothing below 0"),
        ({"relaxation": 1}, ValueError, "settings: expected one of .*'relaxation'"),
    ],
)
def test_wrong_settings_are_refused(settings, kind, message):
    with pytest.raises(kind, match=message):
        bench(**settings)


def test_golden_numbers():
    """Case 0 of the default task; a change here changes every published number."""
    case = bench()[0]
    expected = {
        "source": 0.62096,
        "target": 0.58998,
        "clean_target": 0.59388,
        "ddf": 2.64087,
        "inverse_ddf": 2.57918,
        "source_labels": 0.95095,
        "target_labels": 0.94922,
    }
    for key, value in expected.items():
        assert plain(case[key]).float().abs().mean().item() == pytest.approx(value, abs=1e-3), key
