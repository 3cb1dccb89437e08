"""The same inputs and seed give the same bytes, command by command.

Every command runs twice under the same paths. What reports the time is left out: TensorBoard's event files (wall time,
host and process in name and content), columns and fields whose name says seconds, ms or date, and what HDF5 notes of
the time when ITK writes a transform: these are compared as they are read.
"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medtrace.cli import main
from tests.test_translate import head, save

EXEMPT_FILES = ("events.out.tfevents",)
EXEMPT_COLUMNS = ("seconds", "_ms", "peak_gib")
SMALL = (
    "--set", "training.max_epochs=1", "--set", "channels=[4, 4]", "--set", "training.batch_size=3",
    "--set", "discriminator_channels=4", "--set", "discriminator_layers=1", "--set", "velocity_downsampling=0",
)  # fmt: skip


def command(*arguments, codes=(0, None)):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code in codes


def inputs(folder):
    folder.mkdir()
    rows = ["subject,source,target"]
    for number in range(4):
        save(folder / f"{number}a.nii.gz", head(seed=0.3 * number))
        save(folder / f"{number}b.nii.gz", 1.3 * np.roll(head(seed=0.3 * number), 1, axis=0))
        rows.append(f"S{number},{number}a.nii.gz,{number}b.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(rows))


def chain(given, work):
    """Prepare, train, evaluate, translate, certify, report, export and register."""
    data, run, trace = work / "data", work / "run", work / "trace"
    command("prepare", given / "pairs.csv", "--out", data, "--slices", "3", "--split", "0.5", "0.25", "0.25")
    command("train", "tracetrans", data, "--out", run, "--device", "cpu", *SMALL)
    command("evaluate", run, data, "--device", "cpu")
    command("translate", run, given / "0a.nii.gz", "--out", trace, "--device", "cpu")
    command("report", trace, "--out", work / "report.html")
    moved = (given / "0a.nii.gz", given / "1a.nii.gz", "--out", work / "registered")
    command("register", *moved, "--refine", "2", "--no-report", "--device", "cpu")


def contents(folder):
    return {
        str(path.relative_to(folder)): _told(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(EXEMPT_FILES)
    }


def _told(path):
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return [_without_time(row) for row in csv.DictReader(file)]
    if path.suffix == ".json":
        return json.loads(path.read_text(), object_hook=_without_time)
    if path.suffix == ".h5":
        transform = sitk.ReadTransform(str(path))
        return transform.GetName(), transform.GetFixedParameters(), transform.GetParameters()
    return path.read_bytes()


def _without_time(entries):
    return {name: value for name, value in entries.items() if not any(part in name for part in EXEMPT_COLUMNS)}


def twice(make, work):
    """The contents of a folder that was made, removed and made again."""
    result = []
    for _ in range(2):
        make(work)
        result.append(contents(work))
        shutil.rmtree(work)
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    parent = tmp_path_factory.mktemp("twice")
    inputs(parent / "given")

    def make(work):
        work.mkdir()
        chain(parent / "given", work)

    return twice(make, parent / "work")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("data", "data/dataset.json"),
        ("run", "run/checkpoints/weights.safetensors"),
        ("run/evaluation", "run/evaluation/test/cases.csv"),
        ("trace", "trace/trace.json"),
        ("report.html", "report.html"),
        ("registered", "registered/trace.json"),
    ],
    ids=["prepare", "train", "evaluate", "translate", "report", "register"],
)
def test_same_bytes(name, expected, made):
    first, second = ({key: value for key, value in result.items() if key.startswith(name)} for result in made)
    assert expected in first or name == "run/evaluation"
    assert len(first) > 0
    assert sorted(first) == sorted(second)
    assert [key for key in first if first[key] != second[key]] == []


@pytest.mark.slow
def test_bench_gives_the_same_tables(tmp_path):
    def make(work):
        command("bench", "postop", "--setting", "smoke", "--out", work, "--device", "cpu")

    first, second = twice(make, tmp_path / "work")
    assert any(Path(name).suffix == ".csv" for name in first)
    assert sorted(first) == sorted(second)
    tables = [name for name in first if Path(name).suffix in (".csv", ".pt", ".json")]
    assert [name for name in tables if first[name] != second[name]] == []


@pytest.mark.slow
def test_calibration_gives_the_same_radius(tmp_path):
    def make(work):
        work.mkdir()
        command("calibrate", "radius", "--subjects", "9", "--size", "32", "--out", work / "radius.json")

    first, second = twice(make, tmp_path / "work")
    assert first == second
    assert first


@pytest.mark.slow
def test_calibration_assesses_the_same(tmp_path):
    def make(work):
        work.mkdir()
        few = ("--task", "postop", "--cases", "2", "--size", "32")
        command("calibrate", "certificate", *few, "--out", work / "table.md")

    first, second = twice(make, tmp_path / "work")
    assert first["table.md"].count(b"100 %") > 10
    assert first == second


@pytest.mark.slow
def test_traceability_gives_the_same_tables(tmp_path):
    def make(work):
        command("traceability", "--out", work, "--set", "iterations=20", "--device", "cpu")

    first, second = twice(make, tmp_path / "work")
    tables = [name for name in first if Path(name).suffix in (".csv", ".pt", ".json")]
    assert {"results.json", "true-translation.csv", "segmenter/weights.pt"} <= set(tables)
    assert [name for name in tables if first[name] != second[name]] == []


def test_training_twice_writes_the_same_checkpoint(tmp_path):
    """The archive itself, byte by byte, and the history."""
    from tests.test_training_faults import Checkpoint, LossHistory, trainer

    written = []
    for name in ("first", "second"):
        folder = tmp_path / name
        handlers = [LossHistory(folder / "history.csv"), Checkpoint(folder, interval=1)]
        trainer([1.0, 2.0], epochs=2, handlers=handlers).run()
        written.append(contents(folder))
    assert written[0] == written[1]
    assert sorted(written[0]) == ["checkpoint_epoch=1.pt", "checkpoint_epoch=2.pt", "final.pt", "history.csv"]
