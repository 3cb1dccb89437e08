"""What writes: atomic files and folders, reservations, clean-up after a kill, full disks; and nothing else does."""

import ast
import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.figure import Figure

import medtrace
from medtrace.cli import main
from medtrace.io import save_trace, write_image
from medtrace.io.export import FORMATS, export_trace
from medtrace.io.transforms import write_itk
from medtrace.metrics import CaseTable
from medtrace.report import save_figure
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, scratch_directory
from medtrace.storage.places import check_room, is_mount_point
from medtrace.storage.reservations import locked, reserve_file, reserve_folder
from medtrace.storage.workspaces import sweep
from medtrace.trace import Trace
from tests.test_outputs import can_mount, hidden

PACKAGE = Path(medtrace.__file__).parent
PROCESSES = multiprocessing.get_context("fork")


# Nothing outside of storage/ writes

WRITERS = {
    "write_text", "write_bytes", "mkdir", "makedirs", "rename", "unlink", "rmdir", "touch", "rmtree", "symlink_to",
    "hardlink_to", "copyfile", "copy2", "copytree", "mkdtemp", "mkstemp", "chmod",
    "NamedTemporaryFile", "TemporaryDirectory", "TemporaryFile",
}  # fmt: skip
LIBRARIES = {
    "savefig", "WriteTransform", "WriteImage", "save_as", "to_filename", "to_csv", "imwrite", "savez",
    "savez_compressed", "to_file", "export_config_file",
}  # fmt: skip
OWNERS = {
    "nibabel": {"save"},
    "nib": {"save"},
    "torch": {"save"},
    "np": {"save", "savetxt"},
    "os": {"replace", "remove", "link", "symlink"},
    "shutil": {"move"},
}
GUARDS = {"atomic_file", "atomic_directory", "atomic_write", "atomic_case"}


def writes(tree):
    """Lines that write by themselves: none of them is in a `with atomic_...` or an argument of `atomic_write`."""
    found = []

    def name_of(function):
        return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")

    def visit(node, guarded):
        if isinstance(node, ast.With):
            guarded = guarded or any(
                isinstance(item.context_expr, ast.Call) and name_of(item.context_expr.func) in GUARDS
                for item in node.items
            )
        if isinstance(node, ast.Call):
            name = name_of(node.func)
            owner = getattr(getattr(node.func, "value", None), "id", "")
            after = int(isinstance(node.func, ast.Name))  # where `open` has its mode
            given = [*node.args[after:], *(word.value for word in node.keywords if word.arg == "mode")]
            mode = next((str(one.value) for one in given if isinstance(one, ast.Constant)), "")
            opened = name == "open" and owner != "os" and set(mode) & set("wax+")
            library = name in LIBRARIES or name in OWNERS.get(owner, ())
            if name in WRITERS or opened or (library and not guarded):
                found.append(node.lineno)
            guarded = guarded or name in GUARDS
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(tree, False)
    return found


MEMORY = {"report/display.py": "a PNG into memory", "guard/probe.py": "writes into a pipe"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_outside_of_storage_writes(path):
    relative = path.relative_to(PACKAGE).as_posix()
    if not relative.startswith("storage/") and relative not in MEMORY:
        assert writes(ast.parse(path.read_text(encoding="utf-8"))) == []


def test_the_scanner_sees_what_writes():
    code = (
        "Path('a').write_text('x')\nopen('a', 'wb')\nnibabel.save(image, path)\npath.open('w')\nos.replace(a, b)\n"
        "shutil.rmtree(a)\nwith atomic_file(p) as t:\n    nibabel.save(image, t)\n    t.mkdir()\n"
        "atomic_write(p, lambda f: torch.save(x, f))\nopen('a')\npath.open('rb')\ntext.replace('w', 'a')\n"
    )
    assert writes(ast.parse(code)) == [1, 2, 3, 4, 5, 6, 9]


# Files and folders


def test_links_in_the_place_of_a_file_are_replaced_and_never_written_through(tmp_path):
    (tmp_path / "other.txt").write_text("precious")
    (tmp_path / "symbolic").symlink_to("other.txt")
    os.link(tmp_path / "other.txt", tmp_path / "hard")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("symbolic", "hard", "dangling"):
        atomic_write(tmp_path / name, "new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "other.txt").read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert hidden(tmp_path) == []


def test_a_planted_link_is_not_worked_in(tmp_path):
    """In a folder that others can write, someone may foresee the name of the hidden folder."""
    (tmp_path / "elsewhere").mkdir()
    with reserve_folder(tmp_path / "out") as held:
        name = held.space.folder.name
    (tmp_path / name).symlink_to("elsewhere", target_is_directory=True)
    with atomic_directory(tmp_path / "out") as made:
        atomic_write(made / "a.txt", "a")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
    assert (tmp_path / name).is_symlink()


def test_a_folder_that_appeared_meanwhile_stays(tmp_path):
    def appearing():
        with atomic_directory(tmp_path / "out") as made:
            atomic_write(made / "a.txt", "a")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "notes.txt").write_text("precious")

    with pytest.raises(OSError, match="out: is in use"):
        appearing()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert hidden(tmp_path) == []


def test_what_came_into_a_folder_meanwhile_stays(tmp_path):
    (tmp_path / "out").mkdir()

    def intruding():
        with atomic_directory(tmp_path / "out") as made:
            atomic_write(made / "a.txt", "a")
            (tmp_path / "out" / "notes.txt").write_text("precious")

    with pytest.raises(OSError, match="out: is in use"):
        intruding()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_folder_that_exists_keeps_its_rights_and_who_is_in_it(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir(mode=0o770)
    (tmp_path / "out").chmod(0o2770)
    monkeypatch.chdir(tmp_path / "out")
    before = (tmp_path / "out").stat()
    with atomic_directory(".") as made:
        atomic_write(made / "a.txt", "a")
    assert os.listdir() == ["a.txt"]
    assert ((tmp_path / "out").stat().st_ino, (tmp_path / "out").stat().st_mode) == (before.st_ino, before.st_mode)


@pytest.mark.parametrize("count", range(5))
def test_a_failing_exchange_leaves_the_old_files(tmp_path, monkeypatch, count):
    """Whatever renaming fails, in the midst of two old and two new files."""
    (tmp_path / "out").mkdir()
    for name in ("a.txt", "index"):
        (tmp_path / "out" / name).write_text("old")
    rename, calls = os.rename, []

    def failing(*paths):
        calls.append(paths)
        if len(calls) == count + 1 and count < 4:
            raise OSError(errno.EIO, "Input/output error")
        rename(*paths)

    def replace():
        with atomic_directory(tmp_path / "out", lambda *_: None, last=("index",)) as made:
            for name in ("a.txt", "index"):
                atomic_write(made / name, "new")
            monkeypatch.setattr(os, "rename", failing)

    if count < 4:
        with pytest.raises(OSError, match="out: cannot be put there"):
            replace()
    else:
        replace()
        assert [Path(path).name for path, _ in calls] == ["index", "a.txt", "a.txt", "index"]
    monkeypatch.undo()
    texts = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert texts == dict.fromkeys(("a.txt", "index"), "old" if count < 4 else "new")


def kill_in_the_midst(folder, count):
    """Replace two files and die before one of the renamings."""
    rename, calls = os.rename, []

    def fatal(*paths):
        calls.append(paths)
        if len(calls) == count + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(*paths)

    with atomic_directory(folder, lambda *_: None, last=("index",)) as made:
        for name in ("a.txt", "index"):
            atomic_write(made / name, "new")
        os.rename = fatal


@pytest.mark.parametrize("count", range(4))
def test_what_a_kill_in_the_midst_of_an_exchange_leaves_is_put_right_by_the_next_run(tmp_path, count):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.txt", "index"):
        (out / name).write_text("old")
    process = PROCESSES.Process(target=kill_in_the_midst, args=(out, count))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(hidden(tmp_path)) > 0
    with pytest.raises(FileExistsError, match="out: is in use"), reserve_folder(out):
        pass
    assert {path.name: path.read_text() for path in out.iterdir()} == dict.fromkeys(("a.txt", "index"), "old")


def hold(folder, told, kind):
    with kind(folder):
        told.send("ready")
        time.sleep(60)


@pytest.mark.parametrize("kind", [reserve_folder, reserve_file, locked])
def test_two_processes_at_once_and_what_is_left_of_a_killed_one(tmp_path, kind):
    hear, tell = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=hold, args=(tmp_path / "out", tell, kind))
    process.start()
    assert hear.recv() == "ready"
    with pytest.raises(OSError, match=rf"out: is in use by process {process.pid} on \S+ since 20"):
        kind(tmp_path / "out").__enter__()
    before = hidden(tmp_path)
    sweep(tmp_path)  # what the living one has stays
    assert hidden(tmp_path) == before != []
    process.kill()
    process.join()
    with kind(tmp_path / "out"):
        pass
    assert hidden(tmp_path) == []


def test_scratch_of_a_killed_process_goes_with_the_next_one(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def die():
        with scratch_directory() as folder:
            (folder / "a").write_text("a")
            os.kill(os.getpid(), signal.SIGKILL)

    process = PROCESSES.Process(target=die)
    process.start()
    process.join()
    assert len(list(tmp_path.iterdir())) == 1
    with scratch_directory() as folder:
        assert folder.is_relative_to(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_without_locks_nothing_is_taken_for_dead(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    with reserve_folder(tmp_path / "out") as held:
        monkeypatch.setattr(fcntl, "flock", none)
        sweep(tmp_path)
        with workspace_of_another(tmp_path / "out") as folder:
            assert folder != held.space.folder
        assert held.space.folder.is_dir()


def workspace_of_another(out):
    from contextlib import contextmanager

    from medtrace.storage.workspaces import workspace

    @contextmanager
    def opened():
        with workspace(out.parent, out.name, out) as space:
            yield space.folder

    return opened()


def test_room_is_asked_for_with_both_numbers(tmp_path):
    with pytest.raises(OSError, match=r"out: a trace needs 1e\+09 GB, and .* are free there; make room"):
        check_room(tmp_path / "missing" / "out", 10**18, "a trace")
    check_room(tmp_path, 1, "a trace")


def test_a_mount_point_is_known_by_the_table_of_mounts(tmp_path, monkeypatch):
    from medtrace.storage import places

    table = tmp_path / "mountinfo"
    table.write_text(f"36 35 98:0 /mnt {tmp_path}/a\\040volume rw - ext4 /dev/sda rw\n")
    (tmp_path / "a volume").mkdir()
    monkeypatch.setattr(places, "_MOUNTS", table)
    assert is_mount_point(tmp_path / "a volume")
    assert not is_mount_point(tmp_path)


# Full disks and limits


def small_trace(size=48):
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, size, size, size // 4, generator=generator)
    return Trace.build(source, source, torch.rand(3, *source.shape[1:], generator=generator) * 0.1)


def figure():
    drawn = Figure((8, 8))
    drawn.add_subplot().imshow(np.random.default_rng(0).normal(size=(400, 400)))
    return drawn


def field(path):
    vectors = np.random.default_rng(0).random((20, 20, 20, 3))
    write_itk(path, sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True)))


def table(path):
    rows = CaseTable()
    for number in range(5000):
        rows.add(f"case {number}", {"a": number / 7})
    rows.write_csv(path)


WRITTEN = {
    "image.nii.gz": lambda path: write_image(path, small_trace().source, torch.eye(4)),
    "image.nii": lambda path: write_image(path, small_trace().source, torch.eye(4)),
    "table.csv": table,
    "figure.png": lambda path: save_figure(figure(), path),
    "figure.pdf": lambda path: save_figure(figure(), path),
    "field.h5": field,
    "field.tfm": field,
    "weights.pt": lambda path: atomic_write(path, lambda file: torch.save(torch.zeros(100_000), file)),
}


@pytest.fixture
def full_disk(tmp_path):
    """A file system with 64 KiB."""
    if not can_mount():
        pytest.skip("needs the right to mount")
    folder = tmp_path / "full"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_ends_in_one_line_with_the_file(full_disk, name, capfd):
    with pytest.raises(OSError, match=rf"{name}: cannot be written \(No space left on device\); what was there before"):
        WRITTEN[name](full_disk / name)
    assert list(full_disk.iterdir()) == []
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", WRITTEN)
def test_a_limit_of_file_sizes_ends_in_one_line_with_the_file(tmp_path, name, capfd):
    """What `ulimit -f` sets."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OSError, match=rf"{name}: cannot be written \(File too large\); what was there before"):
            WRITTEN[name](tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_trace_on_a_full_disk_names_the_file_where_it_would_be(full_disk):
    with pytest.raises(OSError, match=rf"{full_disk}/out/\w+.nii.gz: cannot be written \(No space left on device\)"):
        save_trace(small_trace(), full_disk / "out")
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_every_export_on_a_full_disk_leaves_nothing(full_disk, form):
    if form == "nitransforms":
        pytest.importorskip("nitransforms")
    with pytest.raises(OSError, match=r"No space left on device|are free there"):
        export_trace(small_trace(), full_disk / "out", form)
    assert list(full_disk.iterdir()) == []


# Signals


SLOW = """
import sys, time, types
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
    """A command in the midst of its work, in a process of its own."""
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
    from medtrace.workflows.certify.radius import Radius
    from medtrace.workflows.certify.record import Certificate

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
    assert caught.value.code in (None, 0, 2)
    atomic_write(folder / "report.html", "a page that came later")
    assert certificate.certificate_of(folder)["stale"] is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trace"]
    save_trace(small_trace(16), folder, overwrite=True)  # what was told of the earlier one goes with it
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
SMALL = {"channels": [4, 8], "discriminator_channels": 4, "discriminator_layers": 1, "max_epochs": 1}


def test_signs_in_the_folders_of_a_training_change_nothing(tmp_path, monkeypatch):
    from PIL import Image

    from medtrace.workflows.prepare import prepare
    from medtrace.workflows.runs import load_objective
    from medtrace.workflows.train import train

    monkeypatch.chdir(tmp_path)
    lines = ["subject,source,target"]
    for number in range(4):
        for name in ("before", "after"):
            pixels = np.random.default_rng(number).integers(0, 255, (40, 40), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        lines.append(f"s{number},before{number}.png,after{number}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    before = {path.name for path in tmp_path.iterdir()}
    prepare("pairs.csv", f"data {SIGNS}", resize=32, progress=False)
    train("tracetrans", f"data {SIGNS}", out=f"#run {SIGNS}", overrides=SMALL, device="cpu")
    train("tracetrans", out=f"#run {SIGNS}", overrides={"max_epochs": 2}, resume=True, device="cpu")
    run = tmp_path / f"#run {SIGNS}"
    assert {path.name for path in tmp_path.iterdir()} - before == {f"data {SIGNS}", run.name}
    assert (run / "history.csv").read_text().count("\n") == 3
    assert f"run_dir: '#run {SIGNS}'" in (run / "config.yaml").read_text()
    assert load_objective(run, "cpu") is not None
    assert hidden(tmp_path) == []


# The cache of compiled loops


def test_a_damaged_cache_of_compiled_loops_is_told_and_made_anew(tmp_path, monkeypatch, capfd):
    from numba.core import config

    from medtrace.kernels import compiling

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiling.compiled(doubled)(2.0) == 4.0
    index, data = sorted(tmp_path.rglob("*.checked*"), key=lambda path: path.suffix != ".nbi")
    for path, damage in ((data, b""), (data, data.read_bytes()[:-40] + bytes(40)), (index, b"x"), (index, b"")):
        path.write_bytes(damage)
        compiling._told.clear()
        assert compiling.compiled(doubled)(2.0) == 4.0
        (line,) = capfd.readouterr().err.splitlines()
        assert line.startswith(f"medtrace: {path}: damaged (")
        assert compiling.compiled(doubled)(2.0) == 4.0
        assert capfd.readouterr().err == ""


def test_a_cache_of_compiled_loops_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, capfd):
    from numba.core import config
    from numba.core.caching import IndexDataCacheFile

    from medtrace.kernels import compiling

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(IndexDataCacheFile, "_save_data", full)
    compiling._told.clear()
    assert compiling.compiled(doubled)(2.0) == 4.0
    (line,) = capfd.readouterr().err.splitlines()
    assert "numba's cache cannot be written (No space left on device); compiled for this time alone" in line
    assert str(tmp_path / "cache") in line


def doubled(x):
    return 2 * x
