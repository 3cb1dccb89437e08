"""Outputs of every command: signals, places that are refused before the work, links, names."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

import medtrace
from medtrace.cli import main
from medtrace.io import save_trace
from medtrace.metrics import CaseTable
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import locked, reserve_file, reserve_folder
from tests.output_helpers import PROCESSES, hidden, hold, small_trace

PACKAGE = Path(medtrace.__file__).parent


# Signals


SLOW = """
import signal, sys, time, types
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import reserve_folder

def slow(field, format, source, target, out, **_):
    with reserve_folder(out), atomic_directory(out) as made:
        atomic_write(made / "half.txt", "half")
        print("ready", flush=True)
        time.sleep(60)

sys.modules["medtrace.workflows.import_field"] = types.SimpleNamespace(import_field=slow)
from medtrace.cli import main
main(["import", "f", "--format", "itk", "--source", "s", "--target", "t", "--out", sys.argv[1]])
"""


@pytest.fixture
def slow_command(tmp_path):
    """A command in the midst of its work, in its own process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGTERM, 143, "medtrace: ended by SIGTERM"),
        (signal.SIGINT, 130, "medtrace: interrupted"),
    ],
)
def test_a_signal_ends_a_command_with_nothing_left(tmp_path, slow_command, number, code, line):
    assert len(hidden(tmp_path)) > 0
    slow_command.send_signal(number)
    _, err = slow_command.communicate(timeout=60)
    assert (slow_command.returncode, err) == (code, f"{line}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_command_leaves_what_the_next_one_clears(tmp_path, slow_command):
    slow_command.kill()
    slow_command.wait()
    assert len(hidden(tmp_path)) > 0
    save_trace(small_trace(8), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# Every command


def trace_folder(tmp_path):
    return save_trace(small_trace(16), tmp_path / "trace")


@pytest.fixture
def refused(tmp_path, capfd):
    """Run a command that is refused: its one line on stderr; nothing is written."""

    def call(*arguments):
        before = sorted(map(str, tmp_path.rglob("*")))
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert caught.value.code == 1, captured
        assert captured.out == ""
        assert sorted(map(str, tmp_path.rglob("*"))) == before
        (line,) = captured.err.splitlines()
        return line

    return call


COMMANDS = {
    "register": ["register", "s.nii", "t.nii", "--out"],
    "translate": ["translate", "run", "s.nii", "--out"],
    "translate many": ["translate", "run", "s.nii", "u.nii", "--out"],
    "prepare": ["prepare", "pairs.csv", "--out"],
    "train": ["train", "tracetrans", "--smoke", "--out"],
    "evaluate": ["evaluate", "run", "data", "--out"],
    "evaluate beside": ["evaluate", "run", "data", "--beside", "other", "--out"],
    "traceability": ["traceability", "--out"],
    "bench": ["bench", "--setting", "smoke", "--out"],
    "export": ["export", "trace", "--format", "itk", "--out"],
    "import": ["import", "f", "--format", "itk", "--source", "s", "--target", "t", "--out"],
    "dicom": ["dicom", "trace", "series", "--out"],
    "certify several": ["certify", "trace", "two", "--out"],
}
FILES = {
    "report": ["report", "trace", "--out"],
    "certify": ["certify", "trace", "--out"],
    "certify html": ["certify", "trace", "--html"],
    "calibrate certificate": ["calibrate", "certificate", "--out"],
    "calibrate radius": ["calibrate", "radius", "--out"],
    "figure": ["register", "s.nii", "t.nii", "--out", "out", "--figure"],
}


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Files and folders that the commands name, none of which is good for anything but being there."""
    for folder in ("run", "data", "other", "series"):
        (tmp_path / folder).mkdir()
    for name in ("s.nii", "t.nii", "u.nii"):
        nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8), "f4"), np.eye(4)), tmp_path / name)
    lines = ["subject,source,target", *(f"p{number},s.nii,t.nii" for number in range(4))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_link_to_nothing_before_the_work(tmp_path, refused, command):
    (tmp_path / "place").symlink_to("missing", target_is_directory=True)
    line = refused(*COMMANDS[command], "place")
    if command not in ("evaluate", "evaluate beside", "translate many"):  # which read their inputs first
        assert "place: is a symbolic link to missing, which does not exist" in line


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_file_in_the_place_of_its_folder(tmp_path, refused, command):
    (tmp_path / "place").write_text("precious")
    refused(*COMMANDS[command], "place")
    assert (tmp_path / "place").read_text() == "precious"


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("command", FILES)
def test_every_command_refuses_a_folder_in_the_place_of_its_file(tmp_path, refused, command):
    (tmp_path / "place.html").mkdir()
    if command == "figure":
        (tmp_path / "place.html").rename(tmp_path / "place.png")
    name = "place.png" if command == "figure" else "place.html"
    assert f"{name}: expected the name of a file, received a folder" in refused(*FILES[command], name)


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("command", [*COMMANDS, *FILES])
def test_every_command_refuses_a_place_that_another_has(tmp_path, refused, command):
    arguments = {**COMMANDS, **FILES}[command]
    place = tmp_path / {"figure": "place.png"}.get(command, "place.html" if command in FILES else "place")
    kind = reserve_folder
    if command in FILES:
        kind = reserve_file
    elif command in ("evaluate", "evaluate beside", "traceability", "train", "translate many"):
        kind = locked
    elif command == "bench":
        place, kind = tmp_path / "place" / "rivals", locked
    elif command == "certify several":
        place, kind = tmp_path / "place" / "two.json", reserve_file
    place.parent.mkdir(exist_ok=True)
    hear, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=hold, args=(place, tell, kind))
    process.start()
    try:
        assert hear.recv() == "ready"
        named = place.parent if command in ("bench", "certify several") else place
        line = refused(*arguments, named)
    finally:
        process.kill()
        process.join()
    if command not in ("evaluate", "evaluate beside", "translate many"):
        assert f"is in use by process {process.pid}" in line


def test_certificates_radii_and_tables_are_not_written_through_links(tmp_path):
    from medtrace.evaluation.certificate.radius import Radius
    from medtrace.evaluation.certificate.record import Certificate

    rows = CaseTable()
    rows.add("case", {"a": 1.0})
    for number, write in enumerate(
        (Certificate("case", ()).write, Radius(1.0, 0.9, None, "mean", "x", 9, None).write, rows.write_csv)
    ):
        other = tmp_path / f"other{number}"
        for make in (lambda path, target: path.symlink_to(target), lambda path, target: os.link(target, path)):
            other.write_text("precious")
            path = tmp_path / f"written{number}"
            path.unlink(missing_ok=True)
            make(path, other)
            write(path)
            assert other.read_text() == "precious"
            assert not path.is_symlink()
            assert path.stat().st_size > 8


def test_where_nothing_can_be_beside_a_trace_its_certificate_is_in_it(tmp_path, monkeypatch):
    from medtrace.report import certificate

    folder = trace_folder(tmp_path)
    monkeypatch.setattr(certificate, "stands_alone", lambda _: True)
    with pytest.raises(SystemExit) as caught:
        main(["certify", str(folder)])
    assert caught.value.code in (None, 0, 3)
    atomic_write(folder / "report.html", "a page that came later")
    assert certificate.certificate_of(folder)["stale"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace"]
    save_trace(small_trace(16), folder, overwrite=True)  # what was reported of the earlier one goes with it
    assert not (folder / "certificate.json").exists()
    assert not (folder / "report.html").exists()


def test_a_path_behind_an_equals_sign_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    trace_folder(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["export", "~/trace", "--format=itk", "--out=~/fields"])
    assert not caught.value.code
    assert (tmp_path / "fields" / "ddf.h5").is_file()


# Names that MONAI reads otherwise

SIGNS = "a#2::b @run_dir %c $d"
SMALL = {"channels": [4, 8], "velocity_downsampling": 0, "discriminator_channels": 4, "discriminator_layers": 1}
SMALL |= {"training.max_epochs": 1}


def test_signs_in_the_folders_of_a_training_change_nothing(tmp_path, monkeypatch):
    from PIL import Image

    from medtrace.engines.runs import load_method
    from medtrace.workflows.prepare import prepare
    from medtrace.workflows.train import train

    monkeypatch.chdir(tmp_path)
    lines = ["subject,source,target"]
    for number in range(4):
        for place, name in enumerate(("before", "after")):
            pixels = np.random.default_rng(2 * number + place).integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        lines.append(f"s{number},before{number}.png,after{number}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    before = {path.name for path in tmp_path.iterdir()}
    prepare("pairs.csv", f"data {SIGNS}", resize=32, progress=False)
    train("tracetrans", f"data {SIGNS}", out=f"#run {SIGNS}", settings=SMALL, device="cpu")
    train("tracetrans", out=f"#run {SIGNS}", settings={"training.max_epochs": 2}, resume=True, device="cpu")
    run = tmp_path / f"#run {SIGNS}"
    assert {path.name for path in tmp_path.iterdir()} - before == {
        f"data {SIGNS}",
        f"data {SIGNS}.scans.json",
        run.name,
    }
    assert (run / "history.csv").read_text().count("\n") == 3
    record = json.loads((run / "run.json").read_text())
    assert record["training_data"]["dataset"] == str(tmp_path / f"data {SIGNS}")
    assert record["settings"]["training"]["max_epochs"] == 2
    assert load_method(run, "cpu") is not None
    assert hidden(tmp_path) == []


def test_a_dataset_in_a_mount_point_keeps_what_is_finished_in_it(tmp_path, monkeypatch):
    from medtrace.workflows import prepare as module
    from medtrace.workflows.many.parallel import CasesFailedError
    from tests.test_parallel_cases import prepared, write_pairs

    pairs, out = write_pairs(tmp_path / "raw"), tmp_path / "volume"
    out.mkdir()
    inode = out.stat().st_ino
    monkeypatch.setattr(module, "stands_alone", lambda _: True)
    good = (tmp_path / "raw" / "s1b.nii").read_bytes()
    (tmp_path / "raw" / "s1b.nii").write_bytes(b"broken")
    with pytest.raises(CasesFailedError, match=r"finished cases are kept in \S+/volume/volume\.partial"):
        prepared(pairs, out)
    (tmp_path / "raw" / "s1b.nii").write_bytes(good)
    whole = ["dataset.json", "images", "preparation.json", "rigid"]
    for options in ({}, {"overwrite": True}):
        prepared(pairs, out, **options)
        assert sorted(path.name for path in out.iterdir()) == whole
    (out / "notes.txt").write_text("precious")
    with pytest.raises(FileExistsError, match=r"in use by something else, such as .notes\.txt."):
        prepared(pairs, out, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "volume", "volume.scans.json"]
    assert out.stat().st_ino == inode
