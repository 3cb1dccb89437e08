"""Controls of edge columns: no field, the true field, and pathology left out."""

import pytest
import torch
from monai.data import list_data_collate

from medtrace.data import TraceBench
from medtrace.evaluation.bench.postop import COLUMNS
from medtrace.evaluation.edges import controlled_correspondence, correspondence, healthy_region
from medtrace.evaluation.scoring import score_case
from medtrace.evaluation.tracers import field_control
from medtrace.fields import warp
from medtrace.metrics import edge_dice
from medtrace.trace import Trace

DEFORMED = "edge_dice_deformed"


@pytest.fixture(scope="module")
def case():
    return TraceBench("postop", (48, 48), cases=1, split="test")[0]


def trace_of(case, image, ddf):
    affine = case["source"].affine
    return Trace.build(source=case["source"], image=image, ddf=ddf, affine=affine, source_affine=affine)


def moved(case):
    return warp(case["source"].as_tensor()[None], case["ddf"][None])[0]


def test_an_image_that_keeps_unmoved_edges_agrees_with_no_field(case):
    """The prediction is the source as it lay, and the field is the true one: they contradict each other."""
    row = score_case(trace_of(case, case["source"].as_tensor(), case["ddf"]), case)
    assert row[f"{DEFORMED}_no_field"] == 1 > row[DEFORMED] == row[f"{DEFORMED}_true_field"]
    assert row["edge_dice_no_field"] == row["edge_ssim_no_field"] == 1 > row["edge_ssim"]


def test_an_image_that_follows_its_field_agrees_with_it(case):
    half = 0.5 * case["ddf"]
    image = warp(case["source"].as_tensor()[None], half[None])[0]
    row = score_case(trace_of(case, image, half), case)
    assert row[DEFORMED] == row["edge_dice"] == 1
    assert max(row[f"{DEFORMED}_no_field"], row[f"{DEFORMED}_true_field"]) < 1


def test_the_control_of_a_control_without_field_is_itself(case):
    (trace,) = field_control(list_data_collate([case]), torch.zeros_like)
    row = score_case(trace, case)
    for name in ("edge_ssim", "edge_psnr", "edge_nmi", "edge_dice", DEFORMED):
        assert row[name] == row[f"{name}_no_field"]


def test_pathology_counts_on_neither_side(case):
    """What is drawn into the lesion and the cavity changes no edge column; without their masks it does."""
    image = moved(case).clone()
    healthy = healthy_region(case)
    pathology = (case["lesion"] | case["cavity"]).as_tensor()
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = torch.where(pathology, noise, image)
    blind = {name: value for name, value in case.items() if name not in ("lesion", "cavity")}
    clean, spoiled = (score_case(trace_of(case, one, case["ddf"]), case) for one in (image, drawn))
    seen = score_case(trace_of(case, drawn, case["ddf"]), blind)
    # The structural similarity and the thresholds are found in the region; SSIM's window reaches 5 voxels into it.
    for name in ("edge_psnr", "edge_nmi", "edge_dice", DEFORMED):
        assert spoiled[name] == pytest.approx(clean[name], nan_ok=True), name
        assert seen[name] != pytest.approx(clean[name]), name
    assert not healthy[pathology].any()


def test_a_case_without_masks_is_taken_whole():
    assert healthy_region({"source": torch.zeros(1, 8, 8)}) is None
    assert healthy_region({"mask": torch.zeros(1, 8, 8, 8)}).all()
    assert not healthy_region({"mask": torch.zeros(1, 9, 9), "source_mask": torch.ones(1, 9, 9)}).any()


def test_an_empty_region_is_undefined_not_an_error():
    image = torch.rand(1, 1, 16, 16)
    values = correspondence(image, image, torch.zeros(1, 1, 16, 16, dtype=torch.bool))
    assert len(values) == 4
    assert all(value.isnan().all() for value in values.values())


def test_controls_are_the_metric_of_the_source():
    source, warped, image = torch.rand(3, 1, 1, 16, 16) * 2 - 1
    values = controlled_correspondence(source, warped, image)
    for name, first in (("edge_dice", warped), ("edge_dice_no_field", source)):
        expected = edge_dice(first, image, data_range=(-1, 1), threshold="otsu")
        torch.testing.assert_close(values[name], expected)


def test_every_table_of_the_bench_with_edges_has_their_control():
    fields = [name for name in COLUMNS if name.startswith("edge_") and not name.endswith("_field")]
    assert fields
    assert all(f"{name}_no_field" in COLUMNS for name in fields)
