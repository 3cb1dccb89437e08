"""Neighboring slices as channels of a 2D network: reading, training, translation, evaluation, bundles."""

import json

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import load_dataset
from medtrace.data.neighbors import DropNeighborsd, TogetherWithNeighborsd, neighbors_in, with_neighbors
from medtrace.data.preparation.rules import Preparation
from medtrace.guard.notices import collecting
from medtrace.inference.scan_translation import neighbor_stride
from medtrace.io import load_trace
from medtrace.methods import build_method, method_class, settings_of
from medtrace.methods.base import NEIGHBORS
from medtrace.testing.trial import batch_of, prepared, smallest, trainer_of, untrained
from medtrace.transforms import RandDropChannelsd
from medtrace.workflows.plan import plan, planned_lines
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from medtrace.workflows.translate import translate

EDGE, DEPTH, SLICES = 24, 12, 8
TINY = {
    "channels": [8, 16],
    "training.batch_size": 2,
    "training.max_epochs": 6,
    "augmentation.on": False,
    "optimizer.learning_rate": 0.01,
    "training.val_interval": 0,
}


def volume(person):
    """Slices that tell nothing of one another, in 8 x 8 blocks."""
    blocks = np.random.default_rng(person).uniform(20, 100, (EDGE // 4, EDGE // 4, DEPTH))
    return blocks.repeat(4, 0).repeat(4, 1).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Targets whose every slice is the slice above in the source."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["subject,source,target,split"]
    for person in range(4):
        source = volume(person)
        target = np.concatenate([source[..., 1:], source[..., -1:]], axis=-1)
        for name, values in (("a", source), ("b", target)):
            nibabel.save(nibabel.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), folder / f"{name}{person}.nii.gz")
        rows.append(f"P{person},a{person}.nii.gz,b{person}.nii.gz,{'test' if person == 3 else 'training'}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")
    units = {"source_contrast": "A=raw:0:120", "target_contrast": "B=raw:0:120"}
    settings = {"slices": SLICES, "crop": None, "align": False, "progress": False}
    prepare(folder / "pairs.csv", folder / "set", **units, **settings)
    return folder


def test_neighbors_are_of_the_same_scan_and_the_last_is_repeated(data):
    cases = load_dataset(data / "set", neighbors=2)
    alone = {case["case"]: case["source"] for case in load_dataset(data / "set")}
    first = (DEPTH - SLICES) // 2
    for case in cases:
        number = int(case["case"][-3:])
        wanted = [min(max(number + offset, first), first + SLICES - 1) for offset in (-1, 1, -2, 2)]
        beside = torch.cat([alone[f"{case['volume']}_{k:03d}"].as_tensor() for k in wanted])
        assert torch.equal(case[NEIGHBORS].as_tensor(), beside)
        assert torch.equal(case["source"].as_tensor(), alone[case["case"]].as_tensor())
    assert NEIGHBORS not in load_dataset(data / "set")[0]


def test_a_gap_is_no_neighbor(data):
    index = json.loads((data / "set" / "dataset.json").read_text())["test"]
    items = [{"case": e["case"], "source": str(data / "set" / e["source"])} for e in index if e["case"][-3:] != "005"]
    beside = {item["case"][-3:]: [file[-17:-14] for file in item[NEIGHBORS]] for item in with_neighbors(items, 2)}
    assert beside["004"] == ["003", "004", "002", "004"]
    assert beside["006"] == ["006", "007", "006", "008"]
    with pytest.raises(ValueError, match="no two slices of one scan are neighbors"):
        with_neighbors(items[:1], 1)


def test_random_changes_are_those_of_the_slice():
    item = {"source": torch.rand(2, 4, 4), NEIGHBORS: torch.rand(4, 4, 4), "source_present": torch.tensor([True, True])}
    together = TogetherWithNeighborsd(lambda case: {**case, "source": 2 * case["source"]})(item)
    assert torch.equal(together["source"], 2 * item["source"])
    assert torch.equal(together[NEIGHBORS], 2 * item[NEIGHBORS])
    drop = RandDropChannelsd("source", 0.9)
    drop.set_random_state(0)
    dropped = DropNeighborsd()(drop(item))
    gone = ~dropped["source_present"]
    assert int(gone.sum()) == 1
    assert (dropped[NEIGHBORS].reshape(2, 2, 4, 4)[:, gone] == -1).all()
    assert torch.equal(dropped[NEIGHBORS].reshape(2, 2, 4, 4)[:, ~gone], item[NEIGHBORS].reshape(2, 2, 4, 4)[:, ~gone])


@pytest.fixture(scope="module")
def runs(data):
    for name, count in (("alone", 0), ("beside", 1)):
        train("unet", data / "set", data / name, settings={**TINY, "data.neighbors": count}, device="cpu")
    return data


def error(run, folder, out):
    trace = translate(folder / run, folder / "a3.nii.gz", out, progress=False, report=False, device="cpu")
    truth = nibabel.load(folder / "b3.nii.gz").get_fdata()
    inside = slice(1, -1)
    return float(np.abs(trace.image[0].numpy() - truth)[..., inside].mean()), trace


@pytest.mark.slow
def test_what_the_neighbor_alone_knows_is_learned_with_it(runs, tmp_path):
    alone, _ = error("alone", runs, tmp_path / "alone")
    beside, trace = error("beside", runs, tmp_path / "beside")
    assert alone > 15  # the mean of even numbers from 20 to 100 is 20 off
    assert beside < 0.5 * alone
    assert trace.source.shape == (1, EDGE, EDGE, DEPTH)
    np.testing.assert_array_equal(trace.source[0].numpy(), volume(3))
    metadata = json.loads((tmp_path / "beside" / "trace.json").read_text())["metadata"]
    assert metadata["neighbors"] == "1 slice(s) on either side, the last repeated at the ends"
    assert load_trace(tmp_path / "beside").ddf.abs().max() == 0


@pytest.mark.slow
def test_both_kinds_of_runs_are_evaluated_in_one_table(runs, tmp_path):
    arguments = ["evaluate", f"{runs}/beside", f"{runs}/set", "--beside", f"{runs}/alone", "-o", f"{tmp_path}/table"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    means = {
        row: float((tmp_path / "table" / f"{row}_summary.csv").read_text().split("mae,")[1].split(",")[1])
        for row in ("beside", "alone")
    }
    assert means["beside"] < 0.6 * means["alone"]
    delivered = (tmp_path / "table" / "beside_delivered_summary.csv").read_text()
    assert "delivered_mae" in delivered


def test_plans_say_what_is_read(runs):
    lines = plan(runs / "set", "unet", measure=False).lines
    assert any("--set data.neighbors=1 also reads the adjacent slices" in line for line in lines)
    lines = planned_lines("unet", runs / "set", (), {"data.neighbors": 1})
    assert any("1 slice(s) on either side of each are read too (2.5D)" in line for line in lines)


@pytest.mark.parametrize(("name", "refused"), [("voxelmorph", True), ("ddib", True), ("unet", False)])
def test_methods_of_equal_channels_refuse(name, refused):
    settings = settings_of(name, {"data": {"kind": "prepared", "neighbors": 1}})
    if refused:
        with pytest.raises(ValueError, match=r"data\.neighbors: .* expected 0, as source and target share"):
            build_method(name, settings)
    else:
        assert build_method(name, settings).neighbors == 1
    with pytest.raises(ValueError, match="expected 0 for volumes"):
        settings_of(name, {"spatial_dims": 3, "data": {"kind": "prepared", "neighbors": 1}})


@pytest.mark.parametrize("name", ["tracetrans", "plasticine", "pix2pix", "palette", "cyclegan", "reggan", "munit"])
def test_every_translator_takes_a_step_and_traces_the_slice_in_the_middle(name):
    kind = method_class(name)
    settings = smallest(kind, data={"kind": "prepared", "neighbors": 1})
    method = untrained(kind, settings)
    batch = batch_of(settings, (32, 32))
    beside = torch.cat([batch["source"].as_tensor().flip(dim) for dim in (2, 3)], dim=1)
    items = [{**item, NEIGHBORS: two} for item, two in zip(prepared(kind, settings, batch), beside)]
    trainer_of(method, settings, items, 1).run()
    trace = method.trace({"source": batch["source"], NEIGHBORS: beside})[0]
    assert trace.source.shape == trace.image.shape == (1, 32, 32)
    assert torch.equal(trace.source, batch["source"][0].as_tensor())
    other = method.trace({"source": batch["source"], NEIGHBORS: -beside})[0]
    assert not torch.equal(other.image, trace.image)
    with pytest.raises(ValueError, match=r"source_neighbors: expected 2 channels, .* received none"):
        method.trace({"source": batch["source"]})


def test_neighbors_of_a_scan_lie_as_far_apart_as_in_training():
    preparation = Preparation(2, spacing=(1.0, 1.0, 3.0))
    with collecting() as told:
        assert [neighbor_stride(preparation, apart) for apart in (1.0, 3.0, 1.5)] == [3, 1, 2]
    assert not told
    with collecting() as told:
        assert neighbor_stride(preparation, 5.0) == 1
    assert "are 5 mm apart, in training 3 mm" in told[0].text
    slices = torch.arange(10.0).reshape(10, 1, 1, 1)
    assert neighbors_in(slices, [1, 5], 1, stride=3).flatten(1).tolist() == [[0.0, 4.0], [2.0, 8.0]]
