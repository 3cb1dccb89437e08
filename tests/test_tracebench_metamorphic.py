"""TraceBench `metamorphic`: the truth holds by measurement, whichever scan has the lesion.

The shapes make few spacings, since every spacing smooths the template anew, which takes seconds.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MetaTensor
from scipy.spatial.distance import cdist

from medtrace.data import TraceBench
from medtrace.data.tracebench import LABELS, MetamorphicSettings, metamorphic
from medtrace.data.tracebench.metamorphic import DIRECTIONS, NEAR_MM
from medtrace.fields import inverse_consistency, non_diffeomorphic_fraction, warp

TISSUES = (LABELS["csf"], LABELS["gm"], LABELS["wm"])
STILL = {"anatomy_amplitudes_mm": (0, 0), "subject_rotation_degrees": 0, "subject_scaling": 0, "subject_shift_mm": 0}


def plain(value):
    return value.as_tensor() if isinstance(value, MetaTensor) else value


def cases_of(direction, shape=(64, 64), count=6):
    settings = {"direction": direction}
    data = TraceBench("metamorphic", shape, cases=count, seed=0, split="test", settings=settings)
    return [{key: plain(value) for key, value in case.items()} for case in data]


@pytest.fixture(scope="module", params=DIRECTIONS)
def cases(request):
    return request.param, cases_of(request.param)


@pytest.fixture(scope="module")
def slices():
    return cases_of(DIRECTIONS[0], (96, 96))


@pytest.fixture(scope="module")
def head():
    return cases_of("pathological_to_pathological", (40, 40, 40), 1)


def length(field):
    return torch.linalg.vector_norm(field, dim=0)


@pytest.mark.parametrize("shape", [(64, 64), (40, 40, 40)])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_truth_joins_the_same_points_of_the_template(direction, shape, monkeypatch):
    """Template positions that both scans are rendered from agree through the fields, to 0.05 voxel."""
    scans, planes = [], []
    scan, draw_plane = metamorphic._scan, metamorphic._draw_plane
    monkeypatch.setattr(metamorphic, "_scan", lambda *given: scans.append(scan(*given)) or scans[-1])
    monkeypatch.setattr(metamorphic, "_draw_plane", lambda *given: planes.append(draw_plane(*given)) or planes[-1])
    case = TraceBench("metamorphic", shape, cases=1, settings={"direction": direction})[0]
    spacing = float(case["source"].affine[0, 0])
    source, target = (planes[0](side.to_plane) for side in scans)
    for moving, fixed, field, inside in (
        (source, target, case["ddf"], case["head"]),
        (target, source, case["inverse_ddf"], case["source_head"]),
    ):
        error = length(warp(moving[None], field[None].double())[0] - fixed)[plain(inside)[0]] / spacing
        still = length(moving - fixed)[plain(inside)[0]] / spacing
        assert error.max() < 0.05
        assert still.mean() > 1  # the field is needed


def carried_dice(case, ddf):
    outside = ~case["pathology"]
    moved = warp(case["source_labels"][None], ddf[None], mode="nearest")[0]
    scores = []
    for label in TISSUES:
        a, b = (moved == label) & outside, (case["target_labels"] == label) & outside
        scores.append(float(2 * (a & b).sum() / (a.sum() + b.sum())))
    return np.mean(scores)


def test_truth_carries_labels_and_intensities(cases):
    _, items = cases
    for case in items:
        zero = torch.zeros_like(case["ddf"])
        assert carried_dice(case, case["ddf"]) > carried_dice(case, zero) + 0.15
        moved = warp(case["source"][None], case["ddf"][None])[0]
        region = case["head"] & ~case["pathology"]
        error, still = ((image - case["target"])[region].square().mean() for image in (moved, case["source"]))
        assert error < 0.25 * still


def test_truth_carries_labels_in_3d(head):
    assert carried_dice(head[0], head[0]["ddf"]) > 0.8
    assert carried_dice(head[0], torch.zeros_like(head[0]["ddf"])) < 0.7


def test_fields_undo_each_other_and_do_not_fold(cases, head):
    for case in [*cases[1], *head]:
        for outer, inner, inside in (("ddf", "inverse_ddf", "source_head"), ("inverse_ddf", "ddf", "head")):
            error = inverse_consistency(case[outer][None], case[inner][None])[0][case[inside]]
            assert error.mean() < 0.05
            assert error.max() < 0.7  # interpolation at a lesion's center, where the flow converges
            assert float(non_diffeomorphic_fraction(case[inner][None])) == 0


def test_lesions_are_where_the_direction_says(cases):
    direction, items = cases
    source_is, target_is = direction.split("_to_")
    for case in items:
        for mask, labels, state in (("source_mask", "source_labels", source_is), ("mask", "target_labels", target_is)):
            assert case[mask].any() == (state == "pathological")
            assert torch.equal(case[mask], case[labels] == LABELS["pathology"])
        from_source = warp(case["source_mask"][None].double(), case["ddf"][None].double())[0] > 0.5
        assert torch.equal(case["pathology"], case["mask"] | from_source)
        assert case["pathology"].any()


def test_near_lesion_is_healthy_head_within_ten_millimeters(cases):
    _, items = cases
    spacing = 206 / 64
    for case in items:
        lesion, near = case["pathology"][0], case["near_lesion"][0]
        distance = cdist(torch.nonzero(torch.ones_like(lesion)), torch.nonzero(lesion)).min(1).reshape(lesion.shape)
        expected = torch.from_numpy(distance * spacing <= NEAR_MM) & case["head"][0] & ~lesion
        assert torch.equal(near, expected)
        assert near.sum() > 20


def test_without_variation_only_the_mass_effect_is_left():
    calm = TraceBench("metamorphic", (64, 64), cases=1, settings={**STILL, "mass_effect": (0, 0)})[0]
    assert length(calm["ddf"]).max() < 2e-3
    assert length(calm["inverse_ddf"]).max() < 2e-3
    pushed = TraceBench("metamorphic", (64, 64), cases=1, settings=STILL)[0]
    mask = plain(pushed["mask"])[0]
    offset = torch.nonzero(mask).float() - torch.nonzero(mask).float().mean(0)
    # The mass has pushed tissue outwards, so the target pulls from nearer to its center.
    assert (offset * pushed["ddf"][:, mask].T).sum(1).mean() < 0
    far = length(pushed["ddf"])[[0, -1]]
    assert far.max() < 0.3


def test_shift_alone_is_one_translation():
    settings = {**STILL, "mass_effect": (0, 0), "subject_shift_mm": 8}
    ddf = TraceBench("metamorphic", (64, 64), cases=1, settings=settings)[0]["ddf"]
    assert length(ddf).mean() > 0.3
    assert (ddf - ddf.mean((1, 2), keepdim=True)).abs().max() < 2e-3


def test_oedema_enters_the_mask_but_not_the_labels():
    plainly, widely = (
        TraceBench("metamorphic", (64, 64), cases=1, settings={"mask_oedema_above": above, "oedema_mm": (9, 9)})[0]
        for above in (1.0, 0.3)
    )
    assert plain(widely["mask"]).sum() > 1.15 * plain(plainly["mask"]).sum()
    assert bool((plain(widely["mask"]) | ~plain(plainly["mask"])).all())
    for name in ("source", "target", "target_labels", "pathology", "near_lesion", "ddf"):
        assert torch.equal(plain(widely[name]), plain(plainly[name])), name


def test_same_seed_same_bytes_whatever_the_count():
    one = TraceBench("metamorphic", (60, 64), cases=3, seed=5)[2]
    two = TraceBench("metamorphic", (60, 64), cases=9, seed=5, cache=False)[2]
    for key, value in one.items():
        if isinstance(value, torch.Tensor):
            assert plain(value).numpy().tobytes() == plain(two[key]).numpy().tobytes(), key
        else:
            assert value == two[key]
    other = TraceBench("metamorphic", (60, 64), cases=3, seed=6)[2]
    assert not torch.equal(one["ddf"], other["ddf"])


def test_splits_share_no_subject():
    splits = ("training", "validation", "test")
    data = [TraceBench("metamorphic", (64, 64), cases=3, split=split) for split in splits]
    assert len({case["subject"] for split in data for case in split}) == 9
    heads = [plain(case[side]) for split in data for case in split for side in ("source", "target")]
    assert not any(torch.equal(heads[a], heads[b]) for a in range(len(heads)) for b in range(a))


@pytest.mark.parametrize("shape", [(60, 64), (36, 40, 40)])
def test_entries_and_collation(shape):
    data = TraceBench("metamorphic", shape, cases=2)
    case = data[0]
    flags = {"mask", "source_mask", "pathology", "near_lesion", "head", "source_head"}
    labels = {"source_labels", "target_labels"}
    assert set(case) == {"source", "target", "ddf", "inverse_ddf", "case", "subject"} | flags | labels
    for name in flags | labels | {"source", "target"}:
        assert isinstance(case[name], MetaTensor)
        assert case[name].shape == (1, *shape)
        assert case[name].dtype == (torch.bool if name in flags else torch.uint8 if name in labels else torch.float32)
    for name in ("ddf", "inverse_ddf"):
        assert case[name].shape == (len(shape), *shape)
        assert case[name].dtype == torch.float32
    batch = next(iter(DataLoader(data, batch_size=2)))
    assert batch["mask"].shape == (2, 1, *shape)


def test_settings_from_yaml_and_defaults():
    data = TraceBench("metamorphic", (64, 64), cases=0, settings={"anatomy_amplitudes_mm": [1, 1]})
    assert data.settings == replace(MetamorphicSettings(), anatomy_amplitudes_mm=(1, 1))


@pytest.mark.parametrize(
    ("settings", "kind", "text"),
    [
        ({"direction": "sick"}, ValueError, "settings.direction: expected one of 'healthy_to_pathological'"),
        ({"direction": 3}, ValueError, "settings.direction: expected one of"),
        ({"mask_oedema_above": 1.5}, ValueError, r"mask_oedema_above: expected a fraction in \[0, 1\]"),
        ({"subject_scaling": -0.1}, ValueError, "settings.subject_scaling: expected nothing below 0"),
        ({"subject_shift_mm": "far"}, TypeError, "settings.subject_shift_mm: expected numbers"),
        ({"lesion_radius_mm": (0, 3)}, ValueError, "settings.lesion_radius_mm: expected more than 0"),
        ({"relaxation": (0, 1)}, ValueError, "settings: expected one of .*'relaxation'"),
    ],
)
def test_wrong_settings_say_so(settings, kind, text):
    with pytest.raises(kind, match=text):
        TraceBench("metamorphic", settings=settings)


def test_subjects_differ_by_a_few_voxels_and_the_mass_effect_shows(slices):
    everywhere = torch.stack([length(case["ddf"])[case["head"][0]].mean() for case in slices])
    near = torch.stack([length(case["ddf"])[case["near_lesion"][0]].mean() for case in slices])
    assert 1.5 < everywhere.mean() < 4.5
    assert near.mean() > everywhere.mean() + 0.5
    for case in slices:
        assert length(case["ddf"])[case["head"][0]].max() < 15


def test_one_contrast(slices):
    """Means of the tissues agree between the scans up to jitter and bias: mean squared difference is a similarity."""
    for case in slices:
        for label in TISSUES[1:]:
            first, second = (case[side][case[f"{side}_labels"] == label].mean().item() for side in ("source", "target"))
            assert abs(first - second) < 0.2
        for side in ("source", "target"):
            assert case[side].dtype == torch.float32
            assert case[side].min() == -1
            assert case[side].max() <= 1


def test_golden_numbers():
    """Case 0 of the default benchmark; a change here changes every published number."""
    case = TraceBench("metamorphic", cases=1)[0]
    for key, value in {"source": 0.68866, "target": 0.69503, "ddf": 2.29623, "inverse_ddf": 2.29120}.items():
        assert plain(case[key]).abs().mean().item() == pytest.approx(value, abs=2e-4), key
    assert plain(case["mask"]).sum().item() == pytest.approx(250, abs=2)
    assert plain(case["near_lesion"]).sum().item() == pytest.approx(302, abs=2)
