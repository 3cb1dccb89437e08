"""Evaluation scores what a user gets: delivered scans on their own grid in the target's units, beside cheap rows."""

import csv
import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medtrace.data import Preparation
from medtrace.data.contrasts import body_of
from medtrace.data.dataset import load_dataset
from medtrace.data.scan_files import read_scan_files, scan_files_of
from medtrace.engines.runs import RunRecord, read_run, save_weights
from medtrace.evaluation.edges import correspondence
from medtrace.evaluation.scoring import as_channels
from medtrace.evaluation.true_scans import TrueScans
from medtrace.methods import method_class
from medtrace.metrics import synthrad_scores
from medtrace.workflows.compare import compare
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from medtrace.workflows.training.handlers import training_data
from medtrace.workflows.translate import translate
from tests.standins import shift_run

pytestmark = pytest.mark.usefixtures("standin_methods")

SHAPE = (24, 28, 13)
AFFINE = np.diag([-6.0, 6.0, 9.0, 1.0])  # to the left: not the orientation that networks see


def inside():
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    return x**2 + y**2 + z**2 < 0.8


def head(seed, gain=1.0):
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    tissue = gain * (300 + 120 * np.cos(4 * x) * np.cos(3 * y) + 60 * z + 10 * rng.standard_normal(SHAPE))
    return np.where(inside(), tissue, 0).astype(np.float32)


def ct(seed):
    """In HU, and by a curve from the head of that seed."""
    return np.where(inside(), 0.4 * head(seed) - 60, -1000).astype(np.float32)


def save(path, data, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def made(folder, pairs, labels=None, **settings):
    """A data set of four subjects, two of them of the test, with the same labels in all."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ["source_labels", "target_labels"] if labels else []
    for column, values in zip(columns, labels or ()):
        save(folder / f"{column}.nii.gz", values)
    lines = [",".join(["subject,split,source,target", *columns])]
    for number, (source, target) in enumerate(pairs):
        save(folder / f"{number}a.nii.gz", source)
        save(folder / f"{number}b.nii.gz", target)
        files = [f"{number}a.nii.gz", f"{number}b.nii.gz", *(f"{column}.nii.gz" for column in columns)]
        lines.append(",".join([f"S{number}", "training" if number < 2 else "test", *files]))
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    settings = {"spatial_dims": 3, "align": False, "crop": None, "progress": False, **settings}
    prepare(folder / "pairs.csv", folder / "data", **settings)
    return folder / "data"


def trained(folder, dataset, displacement=(0.0, 0.0, 0.0), **settings):
    """A run of the stand-in that remembers what it was trained on."""
    run = shift_run(folder, displacement, Preparation.load(dataset / "preparation.json"), **settings)
    record = read_run(run)
    RunRecord(record.method, record.settings, training_data=training_data(dataset)).write(run)
    return run


def measured(run, dataset, out, **settings):
    return evaluate(run, dataset, out, device="cpu", progress=False, **settings)


def column(path, name):
    with path.open(newline="") as file:
        return {row["case"]: float(row[name]) for row in csv.DictReader(file)}


def record(out):
    return json.loads((out / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """From an MR to a CT in HU."""
    folder = tmp_path_factory.mktemp("crossed")
    return made(folder, [(head(k), ct(k)) for k in range(4)], source_contrast="T1", target_contrast="CT")


@pytest.fixture(scope="module")
def run(crossed, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "run", crossed)


@pytest.fixture(scope="module")
def out(run, crossed, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables")
    measured(run, crossed, out)
    return out


def test_a_ct_is_scored_in_hu_as_translate_delivers_it(run, crossed, out, tmp_path):
    errors = column(out / "method_delivered.csv", "delivered_mae")
    assert len(errors) == 2
    case = next(iter(errors))
    trace = translate(run, crossed.parent / "2a.nii.gz", tmp_path / "trace", progress=False, report=False)
    body = body_of(torch.from_numpy(ct(2))[None])[0].numpy()
    assert 0.9 < body.sum() / inside().sum() < 1.2
    error = np.abs(trace.image[0].numpy() - ct(2))[body]
    assert errors[case] == pytest.approx(float(error.mean()), rel=1e-5)
    square = np.square(trace.image[0].numpy().astype(float) - ct(2))[body].mean()
    psnr = column(out / "method_delivered.csv", "delivered_psnr")
    assert psnr[case] == pytest.approx(10 * np.log10(4095**2 / square), abs=1e-4)
    truth, image = (torch.from_numpy(values)[None, None] for values in (ct(2), trace.image[0].numpy()))
    expected = synthrad_scores(image, truth, torch.from_numpy(body)[None, None])
    for name, value in (("mae_hu", "mae_hu"), ("psnr", "psnr"), ("ms_ssim", "ms_ssim")):
        result = column(out / "method_delivered.csv", f"synthrad_{name}")[case]
        assert result == pytest.approx(float(expected[value]), rel=1e-4)
    assert "`synthrad_`: SynthRAD's conventions" in (out / "table.md").read_text()
    facts = record(out)["delivered"]["targets"]["CT"]
    assert (facts["unit"], facts["relative"], facts["region"]) == ("HU", False, "body")
    assert record(out)["delivered"]["rows"]["method"]["delivered_mae"]["n"] == 2
    assert "CT in HU, over the body" in (out / "table.md").read_text()


def test_labels_are_carried_by_the_field(tmp_path):
    """A field of two voxels of 6 mm, as the target's labels moved; the file's first axis runs against the network's."""
    before, after = (np.zeros(SHAPE, dtype=np.uint8) for _ in range(2))
    for values, start in ((before, 8), (after, 10)):
        values[start : start + 6, 8:16, 3:9] = 3
    pairs = [(head(k), ct(k)) for k in range(4)]
    dataset = made(tmp_path / "set", pairs, (before, after), source_contrast="T1", target_contrast="CT")
    run = trained(tmp_path / "run", dataset, (2.0, 0.0, 0.0))
    measured(run, dataset, tmp_path / "out", cheap_rows=False)
    for kind, prefix in (("", ""), ("_delivered", "delivered_")):
        for row, dice, apart in (("method", 1.0, 0.0), ("identity", 2 / 3, 12.0)):
            table = tmp_path / "out" / f"{row}{kind}.csv"
            assert list(column(table, f"{prefix}label_dice").values()) == pytest.approx([dice] * 2)
            assert list(column(table, f"{prefix}label_hd95_mm").values()) == pytest.approx([apart] * 2, abs=1e-4)
    assert "label_hd95_mm" in (tmp_path / "out" / "table.md").read_text()


def test_cheap_rows_stand_beside_and_a_worse_run_is_told(out):
    means = record(out)["delivered"]["rows"]
    assert means["intensity curve"]["delivered_mae"]["mean"] < 12 < 100 < means["identity"]["delivered_mae"]["mean"]
    assert means["patch ridge"]["delivered_mae"]["mean"] < 0.5 * means["method"]["delivered_mae"]["mean"]
    verdicts = record(out)["verdicts"]
    assert "run does NOT beat intensity curve: not better in mae, ssim, delivered_mae, delivered_ssim" in verdicts
    assert [line.split(":")[0] for line in verdicts][-1] == "run does NOT beat patch ridge"
    table = (out / "table.md").read_text()
    assert all(f"- {line}" in table for line in verdicts)
    with (out / "comparison.csv").open() as file:
        compared = {(row["column"], row["first"], row["second"]): row for row in csv.DictReader(file)}
    assert compared["delivered_mae", "method", "patch ridge"]["n"] == "2"


def test_a_unet_is_trained_beside_a_run_once(run, crossed, out, tmp_path, monkeypatch):
    assert "`--unet` adds it" in (out / "table.md").read_text()
    shutil.copytree(run, tmp_path / "run")
    trainings = []

    def few_steps(method, dataset, run, **settings):
        trainings.append((method, dataset))
        few = {"channels": [4, 8], "training.max_epochs": 1, "training.val_interval": 0, "data.patch": [16, 16, 8]}
        return train(method, dataset, run, settings=few, device=settings["device"])

    monkeypatch.setattr("medtrace.workflows.scoring.trained.train", few_steps)
    for again in ("first", "second"):
        tables = measured(tmp_path / "run", crossed, tmp_path / again, unet=True)
    assert trainings == [("unet", crossed)]
    assert len(tables["U-Net regression"].rows) == 2
    assert not any(name.startswith("edge_") for name in tables["U-Net regression"].columns)
    assert record(tmp_path / "second")["delivered"]["rows"]["U-Net regression"]["delivered_mae"]["n"] == 2
    assert any("U-Net regression:" in line for line in record(tmp_path / "second")["verdicts"])
    assert "`--unet` adds it" not in (tmp_path / "second" / "table.md").read_text()
    assert "--unet" in record(tmp_path / "second")["command"]
    together = compare([tmp_path / "run"], crossed, tmp_path / "third", device="cpu", progress=False, unet=True)
    assert together["U-Net regression"].rows.keys() == tables["U-Net regression"].rows.keys()
    assert len(trainings) == 1


def test_edges_are_judged_beside_the_same_image_without_its_field(crossed, tmp_path):
    run = trained(tmp_path / "run", crossed, (1.0, 0.0, 0.0))
    tables = measured(run, crossed, tmp_path / "out", delivered=False)
    assert not any(name.startswith("edge_") for row in ("identity", "patch ridge") for name in tables[row].columns)
    assert tables["no field"].columns == ["edge_ssim", "edge_psnr", "edge_nmi", "edge_dice"]
    case = load_dataset(crossed, "test")[0]
    source = case["source"].as_tensor()[None]
    expected = correspondence(as_channels(source, 1), source)  # the stand-in's image is its source
    row = tables["no field"].rows[case["case"]]
    assert row == {name: float(value) for name, value in expected.items()}
    assert row["edge_dice"] == 1 > tables["method"].rows[case["case"]]["edge_dice"]
    assert not (tmp_path / "out" / "method_delivered.csv").exists()


def test_a_scan_that_is_gone_or_another_one_now_is_left_out_and_told(run, crossed, tmp_path):
    shutil.copytree(crossed.parent, tmp_path / "copy", dirs_exist_ok=True)
    data = tmp_path / "copy" / "data"
    text = scan_files_of(data).read_text().replace(str(crossed.parent), str(tmp_path / "gone"))
    scan_files_of(data).write_text(text)  # found beside the data set, which has moved with its scans
    assert all(image.path.exists() for files in read_scan_files(data).values() for image in files.images)
    save(tmp_path / "copy" / "2b.nii.gz", ct(7))
    with pytest.warns(UserWarning, match="holds other voxels than when the data set was prepared"):
        measured(run, data, tmp_path / "out", cheap_rows=False)
    left = record(tmp_path / "out")["delivered"]["left_out"]
    assert len(left) == 1
    assert str(tmp_path) not in str(left)
    assert len(column(tmp_path / "out" / "method_delivered.csv", "delivered_mae")) == 1
    (tmp_path / "copy" / "3a.nii.gz").unlink()
    scan_files_of(data).write_text(text.replace('"relative": "../', '"relative": "nowhere/'))
    with pytest.warns(UserWarning, match="no such file, though the data set was prepared from it"):
        measured(run, data, tmp_path / "again", cheap_rows=False)
    assert len(record(tmp_path / "again")["delivered"]["left_out"]) == 2
    assert "Delivered scans are not scored" in (tmp_path / "again" / "table.md").read_text()


def test_without_the_training_cases_the_identity_is_alone_and_that_is_told(crossed, tmp_path):
    shutil.copytree(crossed, tmp_path / "other")
    run = trained(tmp_path / "run", tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    with pytest.warns(UserWarning, match="no intensity curve and no patch ridge beside it"):
        tables = measured(run, load_dataset(crossed, "test"), tmp_path / "out")
    assert list(tables) == ["method", "no field", "identity"]
    assert "intensity curve" in measured(run, crossed, tmp_path / "same", delivered=False)  # the same cases, elsewhere


def test_a_perfect_translation_in_arbitrary_units_has_no_delivered_error(tmp_path):
    """The target is the source at another gain, which standardization takes out; both are on the training's scale."""
    pairs = [(head(k), head(k, gain)) for k, gain in enumerate((3.0, 3.1, 2.5, 4.0))]
    data = made(tmp_path / "raw", pairs, source_contrast="T1", target_contrast="T2")
    run = trained(tmp_path / "run", data)
    measured(run, data, tmp_path / "out", cheap_rows=False)
    errors = column(tmp_path / "out" / "method_delivered.csv", "delivered_mae")
    facts = record(tmp_path / "out")["delivered"]["targets"]["T2"]
    assert (facts["unit"], facts["relative"], facts["region"]) == ("a.u.", True, "foreground")
    assert facts["range"][1] - facts["range"][0] > 500
    assert max(errors.values()) < 0.02 * (facts["range"][1] - facts["range"][0])
    assert "T2 in a.u., on the scale of the mean training scan" in (tmp_path / "out" / "table.md").read_text()


def test_errors_of_two_targets_are_not_averaged(tmp_path):
    """One is in arbitrary units, the other in HU: a mean of both would be in neither."""
    folder = tmp_path / "raw"
    folder.mkdir()
    columns = {"source_T1": lambda k: head(k), "source_PD": lambda k: head(k + 10), "target_T2": lambda k: head(k, 2.0)}
    columns["target_CT"] = ct
    lines = [",".join(["subject", "split", *columns])]
    for number in range(4):
        files = [save(folder / f"{number}_{name}.nii.gz", of(number)).name for name, of in columns.items()]
        lines.append(",".join([f"S{number}", "training" if number < 2 else "test", *files]))
    (folder / "pairs.csv").write_text("\n".join(lines))
    prepare(folder / "pairs.csv", tmp_path / "data", spatial_dims=3, align=False, crop=None, progress=False)
    run = trained(tmp_path / "run", tmp_path / "data", channels=2)
    measured(run, tmp_path / "data", tmp_path / "out", cheap_rows=False)
    table = tmp_path / "out" / "method_delivered.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["S2", "S3"]
    assert {"delivered_mae_T2", "delivered_mae_CT", "synthrad_mae_hu_CT"} < {*rows[0]}
    assert not {"delivered_mae", "synthrad_mae_hu", "synthrad_mae_hu_T2"} & {*rows[0]}
    assert min(column(table, "delivered_mae_CT").values()) > 10 * max(column(table, "delivered_mae_T2").values())
    compared = (tmp_path / "out" / "comparison.csv").read_text()
    assert "delivered_mae_T2,method,identity" in compared
    assert "delivered_mae_CT,method,identity" in compared
    judged = " ".join(record(tmp_path / "out")["verdicts"])
    assert "delivered_mae_T2, delivered_mae_CT" in judged
    assert "| delivered_mae_CT | " in (tmp_path / "out" / "table.md").read_text()


def test_pictures_are_scored_in_their_own_values(tmp_path):
    rng = np.random.default_rng(0)
    lines = ["subject,split,source,target"]
    values = {}
    for number in range(3):
        for side in "ab":
            values[number, side] = rng.integers(0, 256, (40, 32), dtype=np.uint8)
            Image.fromarray(values[number, side]).save(tmp_path / f"{number}{side}.png")
        lines.append(f"S{number},{'training' if number < 2 else 'test'},{number}a.png,{number}b.png")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=0, progress=False)
    run = trained(tmp_path / "run", tmp_path / "data", (0.0, 0.0))
    measured(run, tmp_path / "data", tmp_path / "out", cheap_rows=False)
    error = np.abs(values[2, "a"].astype(float) - values[2, "b"]).mean()
    (found,) = column(tmp_path / "out" / "method_delivered.csv", "delivered_mae").values()
    assert found == pytest.approx(error, rel=1e-5)
    facts = next(iter(record(tmp_path / "out")["delivered"]["targets"].values()))
    assert (facts["unit"], facts["range"]) == ("0-255", [0, 255])


def test_the_true_target_is_moved_as_it_was_prepared(tmp_path):
    moved = AFFINE.copy()
    moved[:3, 3] = (7.0, -4.0, 5.0)
    folder = tmp_path / "raw"
    made(folder, [(head(0), head(1)), (head(2), head(3))])
    save(folder / "0b.nii.gz", head(0, 2.0), moved)
    (folder / "pairs.csv").write_text("subject,split,source,target\nS0,training,0a.nii.gz,0b.nii.gz\n")
    prepare(folder / "pairs.csv", tmp_path / "data", spatial_dims=3, crop=None, progress=False)
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    ((name, files),) = read_scan_files(tmp_path / "data").items()
    true = TrueScans.read(tmp_path / "data", name, files, preparation)
    (values,), (tissue,) = true.targets.values(), true.tissue.values()
    normalized, _ = preparation.normalize(values, None, tissue)
    stored = load_dataset(tmp_path / "data")[0]["target"].as_tensor()
    expected = torch.where(tissue, normalized, -1.0).flip(1)  # the scan's first axis leads to the left
    torch.testing.assert_close(stored, expected, atol=1e-4, rtol=0)


def test_trainings_that_differ_in_their_seed_are_one_row(crossed, tmp_path):
    runs = []
    for seed in (3, 8):
        run = trained(tmp_path / f"run-{seed}", crossed, **{"training.seed": seed})
        method = method_class("shift").from_settings(read_run(run).settings)
        method.displacement.data[0] = seed / 10
        save_weights(method, run)
        runs.append(run)
    runs.append(trained(tmp_path / "other", crossed, gain=0.1))
    tables = compare(runs, crossed, tmp_path / "out", device="cpu", progress=False, cheap_rows=False)
    mean = tables["shift, 2 trainings"]
    one, two = tables["run-3"], tables["run-8"]
    for case, values in mean.rows.items():
        assert values["mae"] == pytest.approx((one.rows[case]["mae"] + two.rows[case]["mae"]) / 2)
    spread = record(tmp_path / "out")["trainings"]["shift, 2 trainings"]
    means = [table.summary()["mae"].mean for table in (one, two)]
    assert spread["mae"]["sd"] == pytest.approx(np.std(means, ddof=1))
    assert spread["delivered_mae"]["sd"] > 0
    verdicts = record(tmp_path / "out")["verdicts"]
    assert [line.split()[0] for line in verdicts] == ["shift,", "other"]
    assert "seeds 3, 8" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "shift_2_trainings_delivered.csv").exists()
