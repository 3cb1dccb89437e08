"""A run is not measured on what it was trained on, and says where an image is unlike it."""

import csv
import json
import shutil
import warnings

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.fingerprint import fingerprint
from medtrace.data.population import ImageRecord, unlike
from medtrace.data.reading import read_image
from medtrace.data.scan_statistics import scan_statistics
from medtrace.engines.runs import read_run
from medtrace.evaluation.certificate.provenance import provenance
from medtrace.evaluation.certificate.record import Status
from medtrace.guard.notices import Caution
from medtrace.io import load_trace
from medtrace.workflows.certify import certify, training_check
from medtrace.workflows.compare import compare
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.prepare import prepare
from medtrace.workflows.register import register
from medtrace.workflows.traceability import traceability
from medtrace.workflows.train import train
from medtrace.workflows.translate import translate

SHAPE = (24, 28, 12)
AFFINE = np.diag([6.0, 6.0, 9.0, 1.0])
SMALL = {"channels": [4, 8], "training.max_epochs": 1, "training.batch_size": 4, "training.val_interval": 0}


def head(seed, gain=1.0):
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in SHAPE], indexing="ij")
    tissue = gain * (300 + 120 * np.cos(4 * x) * np.cos(3 * y) + 60 * z + 10 * rng.standard_normal(SHAPE))
    return np.where(x**2 + y**2 + z**2 < 0.9, tissue, 0).astype(np.float32)


def save(path, data, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(data, affine), path)
    return path


def write(folder, rows):
    """A pair list of (subject, split, source file, target file)."""
    lines = ["subject,split,source,target", *(",".join(map(str, row)) for row in rows)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def prepared(folder, rows, name="data", **settings):
    prepare(
        write(folder, rows), folder / name, slices=3, align=False, crop=None, progress=False, overwrite=True, **settings
    )
    return folder / name


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A data set of two training subjects and one of test, and a run."""
    folder = tmp_path_factory.mktemp("unseen")
    for number in range(4):
        save(folder / f"{number}a.nii.gz", head(number))
        save(folder / f"{number}b.nii.gz", head(number + 10, 1.5))
    rows = [(f"S{k}", "training" if k < 2 else "test", f"{k}a.nii.gz", f"{k}b.nii.gz") for k in range(3)]
    data = prepared(folder, rows)
    train("unet", data, folder / "run", settings=SMALL, device="cpu")
    return folder


def anew(work, tmp_path, rows, **settings):
    for file in work.glob("*.nii.gz"):
        if not (tmp_path / file.name).exists():
            shutil.copy(file, tmp_path / file.name)
    return prepared(tmp_path, rows, **settings)


def measure(work, data, tmp_path, **settings):
    return evaluate(work / "run", data, tmp_path / "out", device="cpu", progress=False, **settings)


def test_a_fingerprint_is_the_same_for_copies_and_differs_for_other_images(tmp_path):
    data = head(0)
    image = torch.from_numpy(data)[None]
    own = fingerprint(image)
    turned = np.ascontiguousarray(data.transpose(2, 0, 1)[::-1])
    copies = [
        read_image(save(tmp_path / "plain.nii", data)),
        read_image(save(tmp_path / "packed.nii.gz", data, np.diag([2.0, 2, 2, 1]))),
        read_image(save(tmp_path / "t.nii", turned)),
        torch.nn.functional.pad(image, (3, 0, 1, 2, 0, 5)),
        image.double(),
    ]
    assert [fingerprint(torch.as_tensor(copy)) for copy in copies] == [own] * len(copies)
    changed = image.clone()
    changed[0, 12, 14, 6] += 0.01
    others = [changed, image * 1.001, image[..., 1:-2], torch.from_numpy(head(1))[None]]
    exchanged = image.clone()
    exchanged[0, 12, 14, 6], exchanged[0, 11, 13, 5] = image[0, 11, 13, 5], image[0, 12, 14, 6]
    assert len({own, *(fingerprint(other) for other in [*others, exchanged])}) == 6


def test_the_test_split_of_its_own_data_set_is_new_to_a_run(work, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        tables = measure(work, work / "data", tmp_path)
    assert "training_subject" not in tables["method"].columns
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(record["runs"]) == ["run"]
    run = record["runs"]["run"]
    assert (run["training_subjects"], run["cautions"]) == ({}, [])
    assert (run["row"], run["method"]) == ("method", "unet")
    compared = list(csv.DictReader((tmp_path / "out/comparison.csv").open()))
    (row,) = [row for row in compared if (row["column"], row["second"]) == ("mae", "identity")]
    gap = tables["method"].summary()["mae"].mean - tables["identity"].summary()["mae"].mean
    assert (row["first"], row["second"], row["n"]) == ("method", "identity", "1")
    assert float(row["difference"]) == pytest.approx(gap)


@pytest.mark.parametrize("kind", ["same files", "repacked under another name", "turned", "other date"])
def test_a_training_subject_is_refused_in_whatever_file(work, tmp_path, kind):
    before, after = nibabel.load(work / "0a.nii.gz"), nibabel.load(work / "0b.nii.gz")
    rows = [("X", "test", "x_before.nii", "x_after.nii")]
    if kind == "turned":
        for name, image in (("before", before), ("after", after)):
            nibabel.save(image.as_reoriented(np.array([[1, -1], [0, 1], [2, -1]])), tmp_path / f"x_{name}.nii")
    elif kind == "same files":
        rows = [("S0", "test", "0a.nii.gz", "0b.nii.gz")]
    else:
        nibabel.save(before, tmp_path / "x_before.nii")
        nibabel.save(after, tmp_path / "x_after.nii")
    if kind == "other date":  # the images of training are in another split of the new data set
        rows = [("X", "test", "3a.nii.gz", "x_after.nii")]
    data = anew(work, tmp_path, [("S1", "training", "2a.nii.gz", "2b.nii.gz"), *rows], resize=16)
    with pytest.raises(
        ValueError, match=r"3 case\(s\) of split 'test' are of subjects that .*run was trained on.*'S0'"
    ):
        measure(work, data, tmp_path)
    assert not (tmp_path / "out" / "method.csv").exists()


def test_what_is_allowed_is_marked(work, tmp_path):
    data = anew(work, tmp_path, [("A", "training", "2a.nii.gz", "2b.nii.gz"), ("B", "test", "0a.nii.gz", "0b.nii.gz"),
                                 ("C", "test", "3a.nii.gz", "3b.nii.gz")])  # fmt: skip
    with pytest.warns(Caution, match="3 case.* are of subjects that it was trained on"):
        measure(work, data, tmp_path, allow_training_subjects=True)
    rows = list(csv.DictReader((tmp_path / "out" / "method.csv").open()))
    assert [float(row["training_subject"]) for row in rows] == [1, 1, 1, 0, 0, 0]
    record = json.loads((tmp_path / "out" / "evaluation.json").read_text())["runs"]["run"]
    assert len(record["training_subjects"]) == 3
    assert any(line.startswith("preparation: intensities were standardized again") for line in record["cautions"])
    with pytest.raises(ValueError, match="trained on"):
        compare([work / "run"], data, tmp_path / "table", device="cpu", progress=False)
    compare([work / "run"], data, tmp_path / "table", device="cpu", progress=False, allow_training_subjects=True)
    assert "run: 3 of the cases are of subjects that it was trained on." in (tmp_path / "table/table.md").read_text()


def test_translate_and_certify_refuse_a_training_image(work, tmp_path):
    image = tmp_path / "other name.nii"
    nibabel.save(nibabel.load(work / "1a.nii.gz"), image)
    command = ["translate", str(work / "run"), str(image), "--out", str(tmp_path / "trace"), "--no-report"]
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    (line,) = told.stderr.splitlines()
    assert "has seen in training: source of 'S1' of subject 'S1'" in line
    assert "--allow-training-subjects" in line
    assert not (tmp_path / "trace").exists()
    allowed = CliRunner().invoke(app, [*command, "--allow-training-subjects"])
    assert allowed.exit_code == 0, allowed.stderr
    assert "medtrace: warning: " in allowed.stderr
    assert any(
        "was allowed" in text for text in json.loads((tmp_path / "trace/trace.json").read_text())["metadata"]["notices"]
    )
    with pytest.raises(ValueError, match="has seen in training"):
        certify(tmp_path / "trace", run=work / "run", device="cpu")
    check = training_check(work / "run", load_trace(tmp_path / "trace"), provenance(tmp_path / "trace"), allowed=True)
    assert check.status == Status.WARN
    assert "has seen in training" in check.reason


def test_traceability_refuses_and_registration_tells_a_training_image(work, tmp_path):
    data = anew(work, tmp_path, [("A", "training", "2a.nii.gz", "2b.nii.gz"), ("B", "test", "0a.nii.gz", "0b.nii.gz")])
    with pytest.raises(ValueError, match=r"3 case\(s\) of split 'test' are of subjects that .*run was trained on"):
        traceability([work / "run"], tmp_path / "table", dataset=data, progress=False)
    settings = {**SMALL, "channels": [4, 8, 8]}
    train("voxelmorph", work / "data", tmp_path / "registering", settings=settings, device="cpu")
    how = {"run": tmp_path / "registering", "align": "none", "report": False, "progress": False, "device": "cpu"}
    prepared_files = [min((work / "data/images").glob(f"S0_*_{role}.nii.gz")) for role in ("source", "target")]
    new = [min((data / "images").glob(f"A_*_{role}.nii.gz")) for role in ("source", "target")]
    for number, ((source, target), told) in enumerate([(prepared_files, 2), (new, 0)]):
        register(source, target, tmp_path / f"trace{number}", **how)
        notices = json.loads((tmp_path / f"trace{number}/trace.json").read_text())["metadata"].get("notices", ())
        assert sum("has seen in training" in text for text in notices) == told


def test_a_new_image_passes_and_a_prepared_training_file_does_not(work, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        translate(work / "run", work / "3a.nii.gz", tmp_path / "trace", progress=False, report=False, device="cpu")
    check = training_check(work / "run", load_trace(tmp_path / "trace"), provenance(tmp_path / "trace"))
    assert check.status == Status.PASS
    file = next((work / "data" / "images").glob("S0_*_source.nii.gz"))
    with pytest.raises(ValueError, match="has seen in training: source of case 'S0_"):
        translate(work / "run", file, tmp_path / "other", progress=False, report=False, device="cpu")


def test_a_mask_that_is_missing_now_and_a_run_that_does_not_tell_are_said(work, tmp_path):
    run = shutil.copytree(work / "run", tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    assert read_run(run).training_data["scans"] == record["training_data"]["scans"]
    for scan in record["training_data"]["scans"]:
        scan["mask"] = True
    (run / "run.json").write_text(json.dumps(record))
    out = {"progress": False, "report": False, "device": "cpu"}
    with pytest.warns(Caution, match="mask: training images came with masks"):
        translate(run, work / "3a.nii.gz", tmp_path / "one", **out)
    del record["training_data"]["scans"]
    (run / "run.json").write_text(json.dumps(record))
    with pytest.warns(Caution, match="does not record its training scans"):
        translate(run, work / "3a.nii.gz", tmp_path / "two", **out)


def records(*seeds, change=lambda data: data, affine=AFFINE):
    result = []
    for seed in seeds:
        image = torch.from_numpy(change(head(seed)))[None]
        result.append(ImageRecord.of(image, torch.from_numpy(affine), "image"))
    return result


@pytest.mark.parametrize(
    ("change", "affine", "line"),
    [
        (lambda data: data.max() - data + data.min(), AFFINE, "contrast: its histogram is"),
        (lambda data: data[:, :, 4:7], AFFINE, "field of view: it shows 27 mm up-down"),
        (lambda data: data, np.diag([6.0, 6.0, 30.0, 1.0]), "voxel size: 30 mm up-down"),
    ],
)
def test_an_unlike_image_is_told(change, affine, line):
    training = records(0, 1, 2, 3)
    assert unlike(records(4)[0], training) == []
    (other,) = records(4, change=lambda data: np.ascontiguousarray(change(data)), affine=affine)
    assert any(text.startswith(line) for text in unlike(other, training)), unlike(other, training)


def test_prepare_refuses_one_image_twice(tmp_path):
    save(tmp_path / "a.nii.gz", head(0))
    save(tmp_path / "same.nii", head(0))
    turned = nibabel.load(tmp_path / "a.nii.gz").as_reoriented(np.array([[1, 1], [0, -1], [2, 1]]))
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    save(tmp_path / "turned_c.nii.gz", turned.get_fdata()[::-1].astype(np.float32) * 2, turned.affine)
    for name, seed in (("b", 1), ("c", 2), ("d", 3)):
        save(tmp_path / f"{name}.nii.gz", head(seed))
    with pytest.raises(ValueError, match="source and target hold the same voxels"):
        prepared(tmp_path, [("S0", "training", "a.nii.gz", "same.nii")])
    with pytest.raises(
        ValueError, match=r"subject 'S1': .*turned.nii.gz is the same image as .*a.nii.gz of subject 'S0'"
    ):
        prepared(
            tmp_path, [("S0", "training", "a.nii.gz", "b.nii.gz"), ("S1", "test", "turned.nii.gz", "turned_c.nii.gz")]
        )
    (tmp_path / "two.csv").write_text(
        "subject,case,split,source,target\nS0,one,training,a.nii.gz,b.nii.gz\nS0,two,test,c.nii.gz,d.nii.gz\n"
    )
    with pytest.raises(ValueError, match="subject 'S0' is in test here and in training"):
        prepare(tmp_path / "two.csv", tmp_path / "two", progress=False)


@pytest.mark.slow
def test_real_heads_without_skull_are_told_from_those_with(real_data):
    folder = real_data / "open_ms"

    def record(path):
        scan = read_image(folder / path)
        return ImageRecord("T1", "", scan_statistics(scan, scan.affine))

    heads = [record(f"longitudinal/patient{name}_T1W.nii.gz") for name in ("01/study1", "03/study2", "04/study1")]
    assert unlike(record("longitudinal/patient20/study2_T1W.nii.gz"), heads) == []
    told = unlike(record("mni/patient07/T1.nii.gz"), heads)
    assert any(line.startswith("skull: it looks skull-stripped") for line in told)
    assert any(line.startswith("contrast: ") for line in told)
    assert any(
        line.startswith("contrast: ") for line in unlike(record("longitudinal/patient01/study1_FLAIR.nii.gz"), heads)
    )
