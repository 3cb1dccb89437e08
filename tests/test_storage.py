"""What writes: atomic files and folders, reservations, clean-up after a kill, full disks; and nothing else does."""

import ast
import errno
import os
import signal
from pathlib import Path

import pytest

import medtrace
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, scratch_directory
from medtrace.storage.places import check_room, is_mount_point
from medtrace.storage.reservations import locked, replacing, reserve_file, reserve_folder
from medtrace.storage.workspaces import sweep
from tests.output_helpers import PROCESSES, hidden, hold

PACKAGE = Path(medtrace.__file__).parent


# Nothing outside of storage/ writes

WRITERS = {
    "write_text", "write_bytes", "mkdir", "makedirs", "rename", "renames", "unlink", "rmdir", "removedirs", "touch",
    "rmtree", "symlink_to", "hardlink_to", "copyfile", "copyfileobj", "copy2", "copytree", "mkdtemp", "mkstemp",
    "mkfifo", "chmod", "truncate", "ftruncate", "NamedTemporaryFile", "SpooledTemporaryFile", "TemporaryDirectory",
    "TemporaryFile",
}  # fmt: skip
LIBRARIES = {
    "savefig", "WriteTransform", "WriteImage", "save_as", "dcmwrite", "to_filename", "to_csv", "imwrite", "imsave",
    "savez", "savez_compressed", "save_file", "to_file", "export_config_file",
}  # fmt: skip
OWNERS = {
    "nibabel": {"save"},
    "nib": {"save"},
    "torch": {"save"},
    "np": {"save", "savetxt"},
    "nrrd": {"write"},
    "json": {"dump"},
    "pickle": {"dump"},
    "os": {"replace", "remove", "link", "symlink", "write"},
    "shutil": {"move", "copy"},
}
PILLOW = {"Image", "fromarray", "open"}
"""What a natural image that is saved comes from."""
GUARDS = {"atomic_file", "atomic_directory", "atomic_write", "atomic_case"}
ENCODERS = {
    ("data/natural_images/files.py", "save"): "a PNG into memory, which storage writes",
    ("data/natural_images/files.py", "imwrite"): "a TIFF into memory, which storage writes",
    ("data/dicom/pixels.py", "open"): "codecs' chatter to the null device",
    ("guard/probe.py", "write"): "a worker's answer, into a pipe",
    ("io/dicom.py", "save_as"): "pydicom, into a path of `atomic_file`",
    ("io/foreign/elastix_writing.py", "WriteImage"): "SimpleITK, into a path of `atomic_file`",
    ("io/nitransforms_field.py", "to_filename"): "nitransforms, into a path of `atomic_file`",
    ("io/transforms.py", "WriteTransform"): "SimpleITK, into a path of `atomic_file`",
    ("report/display.py", "savefig"): "a PNG into memory, for a notebook",
    ("report/figures.py", "savefig"): "matplotlib, into a path of `atomic_file`",
    ("report/samples.py", "save"): "a PNG into memory, which storage writes",
}
"""Every call outside of storage/ that writes at all: file and function, with the reason."""
UNGUARDED = {
    "data/natural_images/files.py",
    "data/dicom/pixels.py",
    "guard/probe.py",
    "report/display.py",
    "report/samples.py",
}
"""Of these, where nothing reaches the disk, so that no path of storage is needed."""


def writing_calls(tree):
    """What writes: line, function, and whether it stands in a `with atomic_...` or is an argument of `atomic_write`."""
    result = []

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
            value = getattr(node.func, "value", None)
            owner = getattr(value, "id", "")
            after = int(isinstance(node.func, ast.Name))  # where `open` has its mode
            given = [*node.args[after:], *(word.value for word in node.keywords if word.arg == "mode")]
            mode = next((str(one.value) for one in given if isinstance(one, ast.Constant)), "")
            opened = name == "open" and owner != "os" and set(mode) & set("wax+")
            natural_image = name == "save" and isinstance(value, ast.Call) and name_of(value.func) in PILLOW
            dumped = owner == "yaml" and "dump" in name and len(node.args) > 1
            library = natural_image or dumped or name in LIBRARIES or name in OWNERS.get(owner, ())
            if name in WRITERS or opened or library:
                result.append((node.lineno, name, guarded and bool(library)))
            guarded = guarded or name in GUARDS
        for child in ast.iter_child_nodes(node):
            visit(child, guarded)

    visit(tree, False)
    return result


def writes(tree):
    """Lines that write by themselves: a library may in a `with atomic_...` or as an argument of `atomic_write`."""
    return [line for line, _, guarded in writing_calls(tree) if not guarded]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_outside_of_storage_writes(path):
    relative = path.relative_to(PACKAGE).as_posix()
    if relative.startswith("storage/"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert {name for _, name, _ in writing_calls(tree)} == {name for file, name in ENCODERS if file == relative}
    if relative not in UNGUARDED:
        assert writes(tree) == []


def test_the_scanner_sees_what_writes():
    code = (
        "Path('a').write_text('x')\nopen('a', 'wb')\nnibabel.save(image, path)\npath.open('w')\nos.replace(a, b)\n"
        "shutil.rmtree(a)\nwith atomic_file(p) as t:\n    nibabel.save(image, t)\n    t.mkdir()\n"
        "atomic_write(p, lambda f: torch.save(x, f))\nopen('a')\npath.open('rb')\ntext.replace('w', 'a')\n"
        "Image.fromarray(x).save(p)\njson.dump(x, f)\ntempfile.mkdtemp()\nshutil.copy(a, b)\nmodel.save(p)\n"
    )
    assert writes(ast.parse(code)) == [1, 2, 3, 4, 5, 6, 9, 14, 15, 16, 17]
    assert [name for _, name, guarded in writing_calls(ast.parse(code)) if guarded] == ["save", "save"]


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


def write_pair(folder):
    with atomic_directory(folder) as made:
        (made / "parts").mkdir()
        (made / "parts" / "a.txt").write_text("a")


def test_an_earlier_output_is_replaced_where_asked_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    write_pair(out)
    with pytest.raises(FileExistsError, match="expected a new or empty folder"):
        write_pair(out)
    (out / "parts" / "a.txt").write_text("old")
    with replacing():
        write_pair(out)
        assert (out / "parts" / "a.txt").read_text() == "a"
        (out / "parts" / "notes.txt").write_text("precious")
        with pytest.raises(FileExistsError, match=r"something else, such as 'parts/notes\.txt'"):
            write_pair(out)
    assert (out / "parts" / "notes.txt").read_text() == "precious"


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
