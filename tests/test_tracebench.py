"""TraceBench `postop`: the truth holds by measurement, on every case."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor

from medtrace.data import PostopSettings, TraceBench
from medtrace.data.tracebench import LABELS
from medtrace.data.tracebench.anatomy import grid_for, hard_labels
from medtrace.data.tracebench.deformation import random_rotation, smooth_noise
from medtrace.fields import compose, inverse_consistency, non_diffeomorphic_fraction, warp

CASES = 12


def plain(value):
    return value.as_tensor() if isinstance(value, MetaTensor) else value


@pytest.fixture(scope="module")
def slices():
    return list(TraceBench(spatial_shape=(96, 96), cases=CASES, seed=0, split="test").generate())


@pytest.fixture(scope="module")
def head():
    return TraceBench(spatial_shape=(48, 48, 48), cases=1, seed=0)[0]


def tissue_dice(case):
    """Dice of every tissue: source soft maps pulled by the truth, against the target's labels."""
    moved = hard_labels(warp(plain(case["source_tissues"])[None], case["ddf"][None])[0])
    lesion = warp(plain(case["lesion"])[None].float(), case["ddf"][None])[0] > 0
    assessed = ~(plain(case["cavity"]) | lesion)
    scores = []
    for label in (LABELS["csf"], LABELS["gm"], LABELS["wm"]):
        a, b = (moved == label) & assessed, (plain(case["target_labels"]) == label) & assessed
        scores.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return scores


def magnitude(field):
    return torch.linalg.vector_norm(field, dim=0)


def test_true_field_carries_labels_in_2d(slices):
    dice = np.array([tissue_dice(case) for case in slices])
    assert dice.mean(0).min() > 0.97
    assert dice[:, 1:].min() > 0.97
    # A slice may hold a hundred voxels of CSF; four at its edge are then 2 %.
    assert dice[:, 0].min() > 0.94


def test_zero_field_does_not_carry_labels(slices):
    """The test above can fail: without the field, tissue near the lesion is misplaced."""
    still = [{**case, "ddf": torch.zeros_like(case["ddf"])} for case in slices]
    with_truth = np.array([tissue_dice(case) for case in slices])
    without = np.array([tissue_dice(case) for case in still])
    assert (with_truth.mean(0) - without.mean(0) > 0.02).all()


def test_true_field_carries_labels_in_3d(head):
    assert min(tissue_dice(head)) > 0.97


@pytest.mark.parametrize("name", ["slices", "head"])
def test_inverse_undoes_the_truth_and_nothing_folds(name, request):
    cases = request.getfixturevalue(name)
    for case in [cases] if isinstance(cases, dict) else cases:
        for ddf, inverse in (("ddf", "inverse_ddf"), ("inverse_ddf", "ddf")):
            error = inverse_consistency(case[ddf][None], case[inverse][None])
            assert error.mean() < 0.01
            assert error.max() < 0.5  # interpolation at the lesion's center, where the flow converges
        for key in ("ddf", "inverse_ddf", "oracle_ddf"):
            assert float(non_diffeomorphic_fraction(case[key][None]).max()) == 0.0


def test_oracle_leaves_at_most_a_fifth_of_the_zero_fields_error(slices):
    zero = oracle = 0.0
    for case in slices:
        deformed = magnitude(case["ddf"]) > 0.3
        zero += float(magnitude(case["ddf"])[deformed].mean())
        oracle += float(magnitude(case["oracle_ddf"] - case["ddf"])[deformed].mean())
    assert 0.05 < oracle / zero < 0.2
    assert zero / len(slices) > 0.8  # voxels: clearly visible at 96 x 96


def test_oracle_is_the_truth_where_chance_decides_nothing():
    settings = PostopSettings(relaxation=(0.7, 0.7), mass_roughness=0.0)
    case = TraceBench(spatial_shape=(48, 48), cases=1, settings=settings)[0]
    assert torch.equal(case["oracle_ddf"], case["ddf"])


def test_truth_composes_to_the_whole_mass_effect():
    """exp(-.5 v) after exp(-.5 v) is exp(-v): the relaxation is a time on one flow."""
    half = TraceBench(
        spatial_shape=(64, 64), cases=1, settings={"relaxation": (0.5, 0.5), "lesion_radius_mm": (12, 12)}
    )[0]
    whole = TraceBench(
        spatial_shape=(64, 64), cases=1, settings={"relaxation": (1.0, 1.0), "lesion_radius_mm": (12, 12)}
    )[0]
    twice = compose(half["ddf"][None], half["ddf"][None])[0]
    assert magnitude(whole["ddf"]).max() > 1.5
    assert magnitude(twice - whole["ddf"]).max() < 0.1


def test_displacement_pulls_outwards_peaks_at_the_lesion_and_ends(slices):
    for case in slices:
        ddf, cavity = case["ddf"], plain(case["cavity"])[0]
        assert torch.stack([ddf[:, [0, -1]].abs().max(), ddf[:, :, [0, -1]].abs().max()]).max() < 0.3
        points = torch.nonzero(plain(case["lesion"])[0]).float()
        offset = torch.nonzero(cavity).float() - points.mean(0)
        # Tissue falls back inwards, so the target pulls from further out.
        assert (offset * ddf[:, cavity].T).sum(1).mean() > 0


def test_target_is_the_warped_anatomy_under_another_contrast(slices):
    """Correlation of tissue maps rises with the truth; the scans themselves differ in contrast."""
    for case in slices:
        moved = warp(plain(case["source_tissues"])[None], case["ddf"][None])[0]
        error = (moved - plain(case["target_tissues"])).abs()
        still = (plain(case["source_tissues"]) - plain(case["target_tissues"])).abs()
        deformed = (magnitude(case["ddf"]) > 0.3).expand_as(error)
        assert error[deformed].mean() < 0.2 * still[deformed].mean()


def test_intensities(slices):
    for case in slices:
        for key in ("source", "target"):
            image = plain(case[key])
            assert image.dtype == torch.float32
            assert image.min() == -1
            assert (image >= 1).float().mean() < 1e-3  # saturation is an exception
            assert image[0, 0, 0] == -1
        brain = plain(case["target_labels"]) > 0
        assert (plain(case["source"]) - plain(case["target"])).abs()[brain].mean() > 0.05


def test_lesion_is_removed_whole(slices):
    for case in slices:
        lesion, cavity = plain(case["lesion"]), plain(case["cavity"])
        assert 20 < lesion.sum() < 900
        moved = warp(lesion[None].float(), case["ddf"][None])[0] > 0.99
        assert bool((cavity | ~moved).float().mean() > 0.999)
        assert bool((plain(case["source_labels"])[lesion] == LABELS["pathology"]).all())
        assert bool((plain(case["target_labels"])[cavity] == LABELS["pathology"]).all())


def test_lesions_lie_everywhere():
    under = []
    for case in TraceBench(spatial_shape=(48, 48), cases=40):
        tissue = hard_labels(plain(case["source_tissues"]))
        under.append(torch.bincount(tissue[plain(case["lesion"])].long(), minlength=4)[1:].argmax().item())
    assert under.count(1) >= 5  # mostly gray matter
    assert under.count(2) >= 5  # mostly white matter


def test_same_seed_same_bytes_whatever_the_count():
    one = TraceBench(spatial_shape=(48, 40), cases=3, seed=5)
    two = TraceBench(spatial_shape=(48, 40), cases=9, seed=5, cache=False)
    other_seed = TraceBench(spatial_shape=(48, 40), cases=3, seed=6)
    for key, value in one[2].items():
        if isinstance(value, torch.Tensor):
            assert plain(value).numpy().tobytes() == plain(two[2][key]).numpy().tobytes(), key
        else:
            assert value == two[2][key]
    assert not torch.equal(one[2]["ddf"], other_seed[2]["ddf"])


def test_splits_share_no_subject():
    splits = ("training", "validation", "test")
    data = [TraceBench(spatial_shape=(48, 48), cases=4, split=split) for split in splits]
    names = [case["subject"] for split in data for case in split]
    assert len(set(names)) == 12
    images = [plain(case["source"]) for split in data for case in split]
    for first in range(12):
        for second in range(first):
            assert not torch.equal(images[first], images[second])


@pytest.mark.parametrize("shape", [(40, 56), pytest.param((24, 28, 20), marks=pytest.mark.slow)])
def test_shapes_affine_and_collation(shape):
    data = TraceBench(spatial_shape=shape, cases=2)
    dims = len(shape)
    case = data[0]
    for key in ("source", "target", "lesion", "cavity", "source_labels", "target_labels"):
        assert isinstance(case[key], MetaTensor)
        assert case[key].shape == (1, *shape)
        assert case[key].affine.shape == (4, 4)
    for key in ("ddf", "inverse_ddf", "oracle_ddf"):
        assert case[key].shape == (dims, *shape)
        assert case[key].dtype == torch.float32
    affine = case["source"].affine.numpy()
    spacing = affine[0, 0]
    assert np.allclose(np.diag(affine)[:3], spacing)
    assert spacing * shape[1] >= 200  # mm: the head fits
    center = affine @ [(shape[0] - 1) / 2, (shape[1] - 1) / 2, (shape[2] - 1) / 2 if dims == 3 else 0, 1]
    assert np.allclose(center[:2], (0, -17))
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["source"].shape == (2, 1, *shape)
    assert batch["case"] == [case["case"], data[1]["case"]]


def test_slices_lie_at_their_own_height():
    heights = {float(case["source"].affine[2, 3]) for case in TraceBench(spatial_shape=(32, 32), cases=4)}
    assert len(heights) == 4
    low, high = PostopSettings().slice_mm
    assert all(low <= height <= high for height in heights)


def test_an_item_does_not_expose_the_cache_and_transform_applies():
    data = TraceBench(spatial_shape=(32, 32), cases=1)
    data[0].pop("ddf")
    assert "ddf" in data[0]
    named = TraceBench(spatial_shape=(32, 32), cases=1, transform=lambda item: item["case"])
    assert named[0] == "postop-training-0000"
    assert named[-1] == named[0]
    with pytest.raises(IndexError, match="received 1"):
        named[1]


def test_a_training_takes_the_entries_it_reads():
    chosen = TraceBench(spatial_shape=(32, 32), cases=1, keys=["source", "lesion"])
    assert set(chosen[0]) == {"source", "lesion", "case", "subject"}
    assert chosen[0]["source"].equal(TraceBench(spatial_shape=(32, 32), cases=1)[0]["source"])
    with pytest.raises(ValueError, match=r"keys: expected one of .*, received 'image'"):
        TraceBench(spatial_shape=(32, 32), cases=1, keys=["image"])[0]


def test_smooth_noise_has_unit_variance_at_every_voxel():
    grid = grid_for((24, 20), (0, 0, 0))
    random = np.random.default_rng(0)
    values = smooth_noise(random, grid, 40.0, 4000)
    assert values.shape == (4000, 24, 20)
    assert (values.var(0) - 1).abs().max() < 0.15
    assert values.mean(0).abs().max() < 0.1
    # Neighbors 8.6 mm apart on a lattice of 40 mm are nearly the same.
    assert (values[:, 1:] - values[:, :-1]).abs().mean() < 0.5


def test_random_rotation_is_a_rotation():
    for dims in (2, 3):
        matrix = random_rotation(np.random.default_rng(1), dims)
        assert torch.allclose(matrix @ matrix.T, torch.eye(dims, dtype=torch.float64))
        assert torch.linalg.det(matrix) == pytest.approx(1)


def test_settings_from_a_mapping_change_the_cases():
    calm = TraceBench(spatial_shape=(48, 48), cases=1, settings={"mass_effect": [0.0, 0.0]})
    assert calm.settings == replace(PostopSettings(), mass_effect=(0.0, 0.0))
    assert calm[0]["ddf"].abs().max() == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"task": "preop"}, ValueError, "task: expected one of 'postop'.*'preop'"),
        ({"split": "train"}, ValueError, "split: expected one of 'training'"),
        ({"spatial_shape": (96,)}, ValueError, "spatial_shape: expected 2 or 3 axes"),
        ({"spatial_shape": (96, 8)}, ValueError, "at least 16 voxels"),
        ({"spatial_shape": (96.0, 96)}, TypeError, "spatial_shape: expected integers"),
        ({"spatial_shape": 96}, TypeError, "spatial_shape: expected a sequence"),
        ({"cases": -1}, ValueError, "cases: expected 0 or more, received -1"),
        ({"cases": 2.5}, TypeError, "cases: expected an integer"),
        ({"seed": -3}, ValueError, "seed: expected 0 or more"),
        ({"settings": 3}, TypeError, "settings: expected PostopSettings or a mapping"),
        ({"settings": {"radius": 3}}, ValueError, "settings: expected one of .*'radius'"),
        ({"settings": {"bias": "much"}}, TypeError, "settings.bias: expected numbers"),
        ({"settings": {"bias": -1}}, ValueError, "settings.bias: expected nothing below 0"),
        ({"settings": {"bias": float("nan")}}, ValueError, "settings.bias: expected finite numbers"),
        ({"settings": {"bias": [1, 2]}}, TypeError, "settings.bias: expected one number"),
        ({"settings": {"relaxation": (0.9, 0.5)}}, ValueError, r"settings.relaxation: expected \(minimum"),
        ({"settings": {"relaxation": (0.9, 1.5)}}, ValueError, "relaxation at most 1"),
        ({"settings": {"anatomy_scales_mm": (9,)}}, ValueError, "anatomy_amplitudes_mm: expected one per"),
    ],
)
def test_wrong_arguments_say_so(arguments, kind, text):
    with pytest.raises(kind, match=text):
        TraceBench(**arguments)


def test_generate_needs_the_cache():
    with pytest.raises(ValueError, match="expected cache=True"):
        TraceBench(cases=1, cache=False).generate()


def test_golden_numbers():
    """Case 0 of the default benchmark; a change here changes every published number."""
    case = TraceBench(cases=1)[0]
    assert case["relaxation"].item() == pytest.approx(0.80257, abs=1e-4)
    for key, value in {"source": 0.63348, "target": 0.64805, "ddf": 0.27103, "inverse_ddf": 0.31743}.items():
        assert plain(case[key]).abs().mean().item() == pytest.approx(value, abs=2e-4), key
    assert plain(case["lesion"]).sum().item() == pytest.approx(276, abs=2)
