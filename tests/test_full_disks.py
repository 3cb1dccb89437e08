"""Full disks, limits of file sizes and damaged caches: one line, with the file, and nothing is left."""

import errno
import resource
import subprocess

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from matplotlib.figure import Figure

from medtrace.io import save_trace, write_image
from medtrace.io.export import EXPORT_FORMATS, export_trace
from medtrace.io.transforms import write_itk
from medtrace.metrics import CaseTable
from medtrace.report import save_figure
from medtrace.storage.files import atomic_write
from tests.output_helpers import can_mount, small_trace


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


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_every_export_on_a_full_disk_leaves_nothing(full_disk, form):
    if form == "nitransforms":
        pytest.importorskip("nitransforms")
    with pytest.raises(OSError, match=r"No space left on device|are free there"):
        export_trace(small_trace(), full_disk / "out", form)
    assert list(full_disk.iterdir()) == []


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
    assert "numba's cache cannot be written (No space left on device); compiled for this run only" in line
    assert str(tmp_path / "cache") in line


def doubled(x):
    return 2 * x
