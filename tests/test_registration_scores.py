"""Scores of a registration against the truth, and the classical row that they assess."""

import math

import pytest
import torch
from monai.data import list_data_collate

from medtrace.data import TraceBench
from medtrace.data.tracebench import LABELS
from medtrace.evaluation.classical_registration import simpleitk_registration, simpleitk_tracer
from medtrace.evaluation.registration_scores import NEEDED, score_registration
from medtrace.evaluation.scoring import score_cases
from medtrace.fields import warp
from medtrace.trace import Trace

SHAPE = (64, 64)


@pytest.fixture(scope="module")
def bench():
    return TraceBench("metamorphic", SHAPE, cases=3, split="test").generate()


@pytest.fixture(scope="module")
def case(bench):
    return bench[0]


def tensor(value):
    return value.as_subclass(torch.Tensor)


def trace_of(case, ddf, image=None):
    source, affine = tensor(case["source"]), case["source"].affine
    image = warp(source[None], ddf[None])[0] if image is None else image
    return Trace.build(source=source, image=image, ddf=ddf, mask=tensor(case["mask"]), affine=affine)


def zero(case):
    return torch.zeros_like(case["ddf"])


def drawn_case(shape=(16, 16)):
    """A case small enough to count by hand: white matter, a square of it lesion, a true shift of 2 voxels of 1 mm."""
    flags = torch.zeros(1, *shape, dtype=torch.bool)
    lesion, head = flags.clone(), flags.clone()
    head[:, 2:14, 2:14] = True
    lesion[:, 6:10, 6:10] = True
    near = head & ~lesion
    near[:, :5] = False
    labels = torch.where(head, LABELS["wm"], 0).to(torch.uint8)
    ddf = torch.zeros(2, *shape)
    ddf[0] = 2.0
    image = torch.zeros(1, *shape)
    return {
        "source": image,
        "target": torch.where(lesion, 1.0, image + 0.2),
        "ddf": ddf,
        "mask": lesion,
        "pathology": lesion,
        "near_lesion": near,
        "head": head,
        "source_labels": labels,
        "target_labels": torch.where(lesion, LABELS["pathology"], labels.long()).to(torch.uint8),
    }


def drawn_trace(case, ddf, image=None):
    image = case["source"] if image is None else image
    return Trace.build(source=case["source"], image=image, ddf=ddf, mask=case["mask"])


def test_mean_squared_differences_by_hand():
    case = drawn_case()
    scores = score_registration(drawn_trace(case, zero(case)), case)
    # Between [0, 1] images the difference is 0.5 in the 16 voxels of the lesion and 0.1 in the other 240.
    assert scores["ssd_total"] == pytest.approx((16 * 0.25 + 240 * 0.01) / 256)
    assert scores["ssd_healthy"] == pytest.approx(0.01)
    assert scores["ssd_warped_total"] == pytest.approx(scores["ssd_total"])
    painted = score_registration(drawn_trace(case, zero(case), case["target"]), case)
    assert painted["ssd_total"] == pytest.approx(0)
    assert painted["ssd_warped_total"] == pytest.approx(scores["ssd_total"])
    assert painted["ssd_warped_healthy"] == pytest.approx(0.01)


def test_a_wider_mask_leaves_more_out_of_the_healthy_difference():
    case = drawn_case()
    case["target"] = case["target"].clone()
    case["target"][0, 10, 6:10] = 1.0
    plainly = score_registration(drawn_trace(case, zero(case)), case)["ssd_healthy"]
    case["mask"] = case["mask"].clone()
    case["mask"][0, 10, 6:10] = True
    assert score_registration(drawn_trace(case, zero(case)), case)["ssd_healthy"] == pytest.approx(0.01)
    assert plainly > 0.013


def test_end_point_errors_by_hand():
    case = drawn_case()
    ddf = zero(case)
    ddf[0, :5] = 2.0  # right in the rows that are not near the lesion
    scores = score_registration(drawn_trace(case, ddf), case)
    head, lesion, right = 12 * 12, 16, 3 * 12
    assert scores["epe_head_mm"] == pytest.approx(2 * (head - right) / head)
    assert scores["epe_healthy_mm"] == pytest.approx(2 * (head - lesion - right) / (head - lesion))
    assert scores["epe_near_lesion_mm"] == pytest.approx(2)
    assert [scores[f"zero_{name}_mm"] for name in ("head", "healthy", "near_lesion")] == pytest.approx([2, 2, 2])


def test_errors_are_in_millimeters():
    case = drawn_case()
    affine = torch.diag(torch.tensor([3.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    trace = Trace.build(source=case["source"], image=case["source"], ddf=zero(case), affine=affine)
    assert score_registration(trace, case)["epe_head_mm"] == pytest.approx(6)


def test_label_dice_by_hand():
    case = drawn_case()
    scores = score_registration(drawn_trace(case, case["ddf"]), case)
    # The head of 12 x 12 comes from 2 rows further on: 10 of its rows meet the target's, less the lesion's 16 voxels,
    # which were white matter in the source, but are not assessed.
    assert scores["dice_wm"] == pytest.approx(2 * (120 - 16) / (2 * (144 - 16)))
    assert math.isnan(scores["dice_csf"])
    assert scores["dice"] == pytest.approx(scores["dice_wm"])


def test_folds_are_counted():
    case = drawn_case()
    ddf = zero(case)
    ddf[0, 8] = -3.0  # the determinant is 1 - 1.5 in row 7 and 1 + 1.5 in row 9
    scores = score_registration(drawn_trace(case, ddf), case)
    assert scores["folds"] == 16
    assert scores["non_diffeomorphic_fraction"] > 0


def test_truth_is_without_error_and_zero_field_is_the_yardstick(bench):
    def truth(batch):
        return [trace_of(case, case["ddf"]) for case in bench if case["case"] in batch["case"]]

    table = score_cases(truth, bench, scores=score_registration, batch_size=2)
    still = [score_registration(trace_of(case, zero(case)), case) for case in bench]
    for index, scores in enumerate(still):
        for region in ("head", "healthy", "near_lesion"):
            assert table.values(f"epe_{region}_mm")[index] == 0
            assert scores[f"epe_{region}_mm"] == pytest.approx(scores[f"zero_{region}_mm"])
            assert scores[f"zero_{region}_mm"] > 1
        assert table.values("dice")[index] > scores["dice"] + 0.15
        assert table.values("ssd_healthy")[index] < 0.3 * scores["ssd_healthy"]
        assert table.values("folds")[index] == 0
        assert table.values("inverse_consistency_mm")[index] < 0.1


def test_empty_regions_are_undefined_not_wrong():
    case = drawn_case()
    case["near_lesion"] = torch.zeros_like(case["near_lesion"])
    scores = score_registration(drawn_trace(case, zero(case)), case)
    assert math.isnan(scores["epe_near_lesion_mm"])
    assert scores["epe_head_mm"] == pytest.approx(2)


@pytest.mark.parametrize("name", NEEDED)
def test_missing_entries_are_named(name):
    case = drawn_case()
    trace = drawn_trace(case, zero(case))
    case.pop(name)
    with pytest.raises(ValueError, match=f"received none called '{name}'"):
        score_registration(trace, case)


def test_a_trace_of_another_case_is_refused(bench):
    with pytest.raises(ValueError, match="expected the trace of the case's source"):
        score_registration(trace_of(bench[0], zero(bench[0])), bench[1])
    small = drawn_case()
    with pytest.raises(ValueError, match="expected the case's source, of shape"):
        score_registration(drawn_trace(small, zero(small)), bench[0])


def test_demons_find_most_of_the_truth_and_trace_it(bench):
    pairs = [bench[0], bench[1]]
    traces = simpleitk_tracer(list_data_collate(pairs))
    for case, trace in zip(pairs, traces, strict=True):
        assert torch.equal(trace.image, trace.warped)
        assert torch.allclose(trace.affine, case["source"].affine.to(trace.affine))
        assert torch.equal(trace.mask > 0, tensor(case["mask"]))
        scores = score_registration(trace, case)
        assert scores["epe_head_mm"] < 0.5 * scores["zero_head_mm"]
        assert scores["folds"] == 0
    again = simpleitk_registration(*(pairs[0][name] for name in ("source", "target", "mask")))
    assert torch.equal(again, traces[0].ddf)


def test_demons_leave_equal_images_alone(case):
    bare = simpleitk_tracer({"source": tensor(case["source"])[None], "target": tensor(case["source"])[None]})
    assert bare[0].ddf.abs().max() < 1e-3


def test_demons_follow_a_known_warp_in_3d():
    axis = torch.linspace(-1, 1, 24)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    source = (2 * torch.exp(-4 * (x**2 + 2 * y**2 + z**2)) - 1)[None]
    target = torch.roll(source, 2, dims=2)  # target(p) = source(p - 2)
    ddf = simpleitk_registration(source, target)
    inside = target[0] > -0.5
    assert ddf.shape == (3, 24, 24, 24)
    assert ddf[1][inside].mean() == pytest.approx(-2, abs=0.25)
    assert ddf[[0, 2]][:, inside].abs().mean() < 0.1


@pytest.mark.parametrize("side", ["target", "source"])
def test_masked_lesion_moves_nothing(case, side):
    """The pair differs by a piece of the brain's edge alone, so every displacement is that piece's doing."""
    healthy = tensor(case["source"])
    ill, mask = healthy.clone(), torch.zeros_like(healthy)
    ill[:, 24:40, :20] = -1.0
    mask[:, 22:42, :22] = 1.0  # wider than the piece by its blur at the coarse resolutions
    pair = (healthy, ill) if side == "target" else (ill, healthy)
    masks = (mask, None) if side == "target" else (None, mask)
    assert simpleitk_registration(*pair).abs().max() > 1
    assert simpleitk_registration(*pair, *masks).abs().max() < 0.05


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        ({"target": torch.zeros(1, 16, 20)}, ValueError, "target: expected the shape of source"),
        ({"mask": torch.zeros(1, 8, 8)}, ValueError, "mask: expected the shape of source"),
        ({"source": torch.zeros(2, 16, 16), "target": torch.zeros(2, 16, 16)}, ValueError, "expected 1 channel"),
        ({"source": torch.full((1, 16, 16), torch.nan)}, ValueError, "source: expected finite numbers"),
        ({"rounds": 0}, ValueError, "rounds: expected a number above 0"),
        ({"field_smoothing": -1.0}, ValueError, "field_smoothing: expected a number above 0"),
    ],
)
def test_wrong_arguments_say_so(arguments, kind, text):
    given = {"source": torch.zeros(1, 16, 16), "target": torch.zeros(1, 16, 16)} | arguments
    with pytest.raises(kind, match=text):
        simpleitk_registration(**given)
