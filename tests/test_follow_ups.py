"""Maps of change between two dates: their scores, the threshold of the others, and the page."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.evaluation.real.changes import (
    THRESHOLDS,
    dice,
    grown,
    over_local_scale,
    score_map,
    seen_through_gaussian,
    threshold_without,
)
from medtrace.evaluation.real.follow_ups import MASKED, find_follow_ups, read_pair
from medtrace.workflows.bench import bench
from medtrace.workflows.real_heads.follow_ups_page import ROWS, write_follow_ups_page

SPACING = (1.0, 1.0, 2.0)


def change_and_truth(height: float = 5.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noise of standard deviation 1 in a box with a changed block."""
    truth = torch.zeros(1, 20, 20, 10, dtype=torch.bool)
    truth[0, 8:13, 8:13, 4:7] = True
    noise = torch.randn(1, 20, 20, 10, generator=torch.Generator().manual_seed(0))
    return noise + height * truth, truth, torch.ones_like(truth)


def test_scores_are_those_of_counting():
    change, truth, inside = change_and_truth()
    scored = score_map(change, truth, inside, SPACING)
    values, changed = change[inside].abs(), truth[inside]
    first, second = values[changed][:, None], values[~changed][None]
    assert scored.auc == pytest.approx(float((first > second).double().mean()), abs=1e-9)
    limit = THRESHOLDS[10] * 1.4826 * float(values.double().quantile(0.5))
    above = values > limit
    assert abs(scored.above[10] - int(above.sum())) <= 1
    overlap = 2 * float((above & changed).sum()) / float(above.sum() + changed.sum())
    assert dice(scored._asdict())[10] == pytest.approx(overlap, abs=0.01)
    assert scored.voxel_ml == pytest.approx(0.002)


def test_threshold_is_chosen_without_the_person():
    """One person's best threshold is low, the others' high: that person gets theirs, and they a compromise."""
    low, high = (
        {"above": [10 + abs(k - best) for k in range(len(THRESHOLDS))], "hit": [10] * len(THRESHOLDS), "changed": 10}
        for best in (3, 20)
    )
    scores = {"one": low, "two": high, "three": high}
    assert threshold_without("one", scores) == 20
    assert threshold_without("two", scores) in range(3, 21)
    with pytest.raises(ValueError, match="other persons"):
        threshold_without("one", {"one": low})


def test_local_map_takes_out_slow_change_and_keeps_a_lesion():
    truth = torch.zeros(1, 64, 64, 12, dtype=torch.bool)
    truth[0, 29:35, 29:35, 4:7] = True
    inside = torch.ones_like(truth)
    change = torch.randn(truth.shape, generator=torch.Generator().manual_seed(0)) + 6.0 * truth
    slope = torch.linspace(-20, 20, 64).reshape(1, 64, 1, 1)
    smooth = seen_through_gaussian(change + slope, inside, SPACING)
    local = over_local_scale(smooth, torch.rand(change.shape), inside, SPACING)
    before, after = (score_map(one, truth, inside, SPACING).auc for one in (smooth, local))
    assert before < 0.7
    assert after > before + 0.1


def test_mask_grows_and_shrinks_in_mm():
    mask = torch.zeros(1, 11, 11, 11, dtype=torch.bool)
    mask[0, 3:8, 3:8, 3:8] = True
    assert int(grown(mask, 1.0, SPACING)[0, :, 5, 5].sum()) == 7
    assert int(grown(mask, 1.0, SPACING)[0, 5, 5].sum()) == 5
    assert int(grown(mask, -1.0, SPACING)[0, :, 5, 5].sum()) == 3


def written(folder, name, values, spacing=SPACING):
    image = sitk.GetImageFromArray(np.transpose(values))
    image.SetSpacing(spacing)
    folder.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(folder / name))


def person(folder, seed):
    """Two dates of a head, a mask of change and one of the brain."""
    random = np.random.default_rng(seed)
    values = random.uniform(100, 200, (12, 12, 8)).astype(np.float32)
    for name in ("study1_FLAIR.nii.gz", "study2_FLAIR.nii.gz"):
        written(folder, name, values)
    mask = np.zeros((12, 12, 8), np.uint8)
    mask[3:9, 3:9, 2:6] = 1
    written(folder, "brainmask.nii.gz", mask)
    written(folder, "gt.nii.gz", mask)
    sitk.WriteTransform(sitk.TranslationTransform(3, (1.0, 0.0, 0.0)), str(folder / "study2_FLAIR_to_common_space.txt"))
    return values


def test_second_date_is_brought_to_the_grid_of_the_truth(tmp_path):
    values = person(tmp_path / "longitudinal" / MASKED, 0)
    (tmp_path / "longitudinal" / "patient02").mkdir()
    (one,) = find_follow_ups(tmp_path)
    pair = read_pair(one)
    torch.testing.assert_close(pair.first[0], torch.from_numpy(values))
    torch.testing.assert_close(pair.second[0, :-1], torch.from_numpy(values[1:]))
    assert pair.spacing == pytest.approx(SPACING)


def test_study_names_what_it_needs(tmp_path):
    person(tmp_path / "longitudinal" / "patient02", 1)
    with pytest.raises(FileNotFoundError, match=f"{MASKED} among them, found patient02"):
        bench("real", study="follow-ups", data=tmp_path, out=tmp_path / "out")


def test_page_has_every_row_of_every_person(tmp_path):
    change, truth, inside = change_and_truth()
    row = json.loads(json.dumps(score_map(change, truth, inside, SPACING)._asdict()))
    rows = {name: row for names in ROWS.values() for name in names}
    record = {"gt_ml": 1.5, "gt_scored": 0.9, "cpu_seconds": 3.0, "rows": rows}
    text = write_follow_ups_page(tmp_path, {"patient01": record, "patient02": record}).read_text()
    for name in rows:
        assert text.count(f"| {name} |") == 3
    assert "n = 2 persons" in text


@pytest.mark.slow
@pytest.mark.real_data
def test_trace_of_real_follow_ups_shows_change_better_than_chance(real_data, tmp_path):
    page = bench("real", study="follow-ups", data=real_data, out=tmp_path)["page"]
    text = Path(page).read_text(encoding="utf-8").splitlines()
    lines = [line for line in text if line.startswith("| trace's appearance, prepared |")]
    assert len(lines) == 4
    assert min(float(line.split("|")[2]) for line in lines) > 0.85
