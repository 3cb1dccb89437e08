"""Traceability by segmentation: the segmenter, what is scored of a tracer, and the command's tables."""

import json

import pytest
import torch
from monai.data import list_data_collate

from medtrace import metrics
from medtrace.data import TraceBench
from medtrace.evaluation import segmenter as segmenters
from medtrace.evaluation.segmenter import SegmenterSettings, load_segmenter, segmenter_in, train_segmenter
from medtrace.evaluation.traceability import (
    NO_TRANSLATION,
    TRUE_TRANSLATION,
    score_traceability,
    segmentation_of,
    true_translation,
)
from medtrace.evaluation.tracers import identity
from medtrace.fields import invert
from medtrace.trace import Trace
from medtrace.workflows.traceability import traceability

CLASSES = {"dark": 5, "bright": 9}
TINY = {"channels": (4, 4, 4, 8, 8, 4), "iterations": 60, "batch_size": 8, "learning_rate": 2e-2}


def square(size, row, column, edge=32):
    """An image of a bright square on a dark disc on air, and its labels."""
    rows, columns = torch.meshgrid(torch.arange(edge), torch.arange(edge), indexing="ij")
    labels = torch.zeros(1, edge, edge, dtype=torch.uint8)
    labels[0, (rows - 16) ** 2 + (columns - 16) ** 2 < 11**2] = 5
    labels[0, row : row + size, column : column + size] = 9
    image = torch.full((1, edge, edge), -1.0)
    image[labels == 5], image[labels == 9] = -0.2, 0.8
    return image, labels


class Squares(torch.utils.data.Dataset):
    """Cases whose translation is the source moved down by three rows; the contrast is inverted in the source."""

    def __init__(self, count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.places = torch.randint(9, 16, (count, 2), generator=generator).tolist()

    def __len__(self):
        return len(self.places)

    def __getitem__(self, index):
        image, labels = square(6, *self.places[index])
        ddf = torch.zeros(2, 32, 32)
        ddf[0] = 3
        source, source_labels = (torch.roll(value, 3, 1) for value in (-image, labels))
        head = labels > 0
        return {
            "case": f"square-{index}",
            "source": source,
            "source_labels": source_labels,
            "source_head": source_labels > 0,
            "target": image,
            "target_labels": labels,
            "target_head": head,
            "translation": image,
            "head": head,
            "ddf": ddf,
        }


@pytest.fixture(scope="module")
def segmenter():
    return train_segmenter(Squares(16), SegmenterSettings(CLASSES, **TINY), device="cpu", progress=False)


def test_it_learns_the_target_domain(segmenter):
    dice = segmenters.mean_dice(segmenter, Squares(4, seed=1))
    assert dice.keys() == {"dark", "bright", "mean"}
    assert dice["mean"] > 0.9
    image, labels = square(6, 10, 12)
    result = segmenter.segment(image)
    assert result.shape == (1, 32, 32)
    assert set(result.unique().tolist()) == {0, 1, 2}
    assert set(segmenter.truth(labels).unique().tolist()) == {0, 1, 2}


def test_the_seed_decides_all(segmenter):
    state = torch.random.get_rng_state()
    again = train_segmenter(Squares(16), SegmenterSettings(CLASSES, **TINY), device="cpu", progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in segmenter.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[name])


def moved(batch, *, field=True):
    """A fake method: the true image, with the true field or with none."""
    ddf = batch["ddf"] if field else torch.zeros_like(batch["ddf"])
    return [
        Trace.build(source=source, image=image, ddf=one, inverse_ddf=invert(one[None]).ddf[0])
        for source, image, one in zip(batch["source"], batch["translation"], ddf)
    ]


def test_labels_are_brought_back_by_the_methods_own_field(segmenter):
    cases = Squares(4, seed=2)
    table = score_traceability(moved, cases, segmenter)
    still = score_traceability(lambda batch: moved(batch, field=False), cases, segmenter)
    means = {name: summary.mean for name, summary in table.summary().items()}
    assert means["dice"] > 0.9
    assert means["dice"] > means["zero_dice"] + 0.2
    assert means["epe_head_mm"] == means["mae"] == 0
    assert means["zero_epe_head_mm"] == pytest.approx(3)
    # Without a field what the segmenter finds is the same, and lies where the control takes it to lie.
    assert still.values("dice") == still.values("zero_dice") == table.values("zero_dice")
    assert still.summary()["epe_head_mm"].mean == pytest.approx(3)


def test_scores_are_those_of_the_metrics(segmenter):
    case = Squares(1)[0]
    (trace,) = moved(list_data_collate([case]))
    values = segmentation_of(trace, case, segmenter)
    back = metrics.warp_to_source(trace, segmenter.segment(trace.image), 3)
    expected = metrics.segmentation_scores(back, segmenter.truth(case["source_labels"]), {"dark": 1, "bright": 2})
    assert expected.items() <= values.items()
    assert {"accuracy", "dice", "miou", "dice_dark", "zero_accuracy", "zero_dice", "zero_miou"} <= values.keys()


def test_distances_are_of_all_cases_together(segmenter):
    cases = Squares(5, seed=3)
    untranslated = score_traceability(identity, cases, segmenter).distances
    translated = score_traceability(moved, cases, segmenter, batch_size=2).distances
    assert translated["bhattacharyya"] == translated["bhattacharyya_head"] == pytest.approx(0, abs=1e-9)
    assert untranslated["bhattacharyya"] > 0.5
    sources, targets = (torch.stack([cases[index][name] for index in range(5)]) for name in ("source", "target"))
    pooled = metrics.bhattacharyya_distance(sources, targets, data_range=(-1, 1))
    assert untranslated["bhattacharyya"] == pytest.approx(float(pooled))
    assert "fid" not in untranslated  # no network was named, so there is no number
    assert untranslated["seconds_per_case"] > 0


def test_the_segmenters_features_serve_fid(segmenter, tmp_path):
    network = metrics.load_feature_network(segmenters.export_features(segmenter, tmp_path / "features.ts"))
    images = torch.stack([Squares(3)[index]["target"] for index in range(3)])
    unet = segmenter.network
    with torch.no_grad():
        deepest = unet.down_4(unet.down_3(unet.down_2(unet.down_1(unet.conv_0(images)))))
    assert torch.allclose(network(images), deepest.flatten(2).mean(2), atol=1e-6)
    near, far = (
        score_traceability(tracer, Squares(4), segmenter, feature_network=network).distances
        for tracer in (moved, identity)
    )
    assert near["fid"] == pytest.approx(0, abs=1e-6)
    assert far["fid"] >= far["sfd"] > near["sfd"]


def test_a_folder_keeps_its_segmenter(tmp_path, segmenter):
    settings = SegmenterSettings(CLASSES, **TINY)
    arguments = {"origin": {"squares": 16}, "device": "cpu", "progress": False}
    first = segmenter_in(tmp_path / "s", lambda: Squares(16), settings, unseen=Squares(2, seed=1), **arguments)
    record = json.loads((tmp_path / "s" / "segmenter.json").read_text())
    assert record["dice_on_unseen_images"]["mean"] > 0.9
    assert record["settings"]["classes"] == CLASSES

    def never():
        raise AssertionError("trained again")

    second = segmenter_in(tmp_path / "s", never, settings, **arguments)
    image = Squares(1, seed=5)[0]["target"]
    assert torch.equal(first.segment(image), second.segment(image))
    assert torch.equal(first.segment(image), segmenter.segment(image))
    with pytest.raises(ValueError, match="holds one of other origin"):
        segmenter_in(tmp_path / "s", never, settings, **{**arguments, "origin": {"squares": 17}})
    (tmp_path / "s" / "weights.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="does not fit"):
        load_segmenter(tmp_path / "s")
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_segmenter(tmp_path / "none")


def test_volumes_and_odd_grids_are_segmented():
    case = {"target": torch.rand(1, 9, 10, 11), "target_labels": (torch.rand(1, 9, 10, 11) > 0.5).to(torch.uint8)}
    settings = SegmenterSettings({"a": 1}, **{**TINY, "iterations": 1})
    trained = train_segmenter([case], settings, device="cpu", progress=False)
    assert trained.segment(case["target"]).shape == (1, 9, 10, 11)


def test_settings_and_cases_are_checked():
    with pytest.raises(ValueError, match="other than the background"):
        SegmenterSettings({"air": 0})
    with pytest.raises(ValueError, match="different labels"):
        SegmenterSettings({"a": 1, "b": 1})
    with pytest.raises(ValueError, match="expected at least one"):
        train_segmenter([], SegmenterSettings({"a": 1}), device="cpu", progress=False)
    with pytest.raises(ValueError, match="expected the entry 'target_labels'"):
        train_segmenter([{"target": torch.zeros(1, 32, 32)}], SegmenterSettings({"a": 1}), device="cpu", progress=False)


def test_the_true_translation_of_tracebench_is_on_the_mark():
    case = TraceBench("domain", (48, 48), cases=1, split="test")[0]
    (trace,) = true_translation(list_data_collate([case]))
    assert torch.equal(trace.image, case["translation"].as_tensor())
    labels = case["translation_labels"].as_tensor().long()
    back = metrics.warp_to_source(trace, labels, 4)
    truth = case["source_labels"].as_tensor().long()
    assert float(metrics.label_overlap(back[None], truth[None], 4).dice[0, 1:].mean()) > 0.85


def test_a_table_of_the_controls(tmp_path, monkeypatch):
    few = TraceBench("domain", (32, 32), cases=3, split="test")
    monkeypatch.setattr("medtrace.workflows.traceability._tracebench", lambda *_: few)
    monkeypatch.setattr("medtrace.evaluation.traceability.TRAINING_CASES", 3)
    tables = traceability([], tmp_path, settings=TINY, feature_network="segmenter", device="cpu", progress=False)
    assert tables.keys() == {NO_TRANSLATION, TRUE_TRANSLATION}
    text = (tmp_path / "table.md").read_text()
    for heading in ("Acc", "Dice", "mIoU", "FID", "SFD", "Bhattacharyya", "not of Inception"):
        assert heading in text
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert rows[TRUE_TRANSLATION]["dice"]["mean"] > rows[NO_TRANSLATION]["dice"]["mean"]
    assert rows[TRUE_TRANSLATION]["bhattacharyya"] < rows[NO_TRANSLATION]["bhattacharyya"]
    again = traceability([], tmp_path, settings=TINY, device="cpu", progress=False)
    assert "fid" not in again[NO_TRANSLATION].distances
    assert "FID and SFD: not computed" in (tmp_path / "table.md").read_text()
    with pytest.raises(FileNotFoundError, match="none is downloaded"):
        traceability([], tmp_path, feature_network=tmp_path / "none.ts", device="cpu", progress=False)
