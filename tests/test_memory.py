"""Memory is asked for before it is taken, and does not grow with the factor of a resampling."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import Resize
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.geometry.resampling import resize, resize_labels
from medtrace.guard import memory
from medtrace.guard.memory import available_memory, check_memory
from medtrace.io.nifti import write_image

GIB = 2**30


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 8 GiB free, whose control group leaves 3 of 4 GiB (and 1 more of cached files), one above it 6."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    inner = groups / "job" / "step"
    inner.mkdir(parents=True)
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable: {8 * 2**20} kB\n")
    (proc / "self" / "cgroup").write_text("0::/job/step\n")
    for folder, limit, used in ((inner, 4 * GIB, 2 * GIB), (groups / "job", 9 * GIB, 3 * GIB)):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
    (inner / "memory.stat").write_text(f"anon 5\ninactive_file {GIB}\n")
    monkeypatch.setattr(memory, "_PROC", proc)
    monkeypatch.setattr(memory, "_CGROUPS", groups)
    monkeypatch.delenv("MEDTRACE_MAX_GIB", raising=False)
    return tmp_path


def test_the_tightest_limit_counts(machine, monkeypatch):
    assert available_memory() == 3 * GIB
    (machine / "cgroup" / "job" / "step" / "memory.max").write_text("max\n")
    assert available_memory() == 6 * GIB
    (machine / "proc" / "self" / "cgroup").write_text("")
    assert available_memory() == 8 * GIB
    monkeypatch.setenv("MEDTRACE_MAX_GIB", "0.5")
    assert available_memory() == GIB / 2


def test_the_first_version_of_control_groups(machine):
    (machine / "proc" / "self" / "cgroup").write_text("7:cpu,cpuacct:/job\n3:memory:/box\n")
    folder = machine / "cgroup" / "memory" / "box"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(2 * GIB))
    (folder / "memory.usage_in_bytes").write_text(str(GIB))
    (folder / "memory.stat").write_text(f"total_inactive_file {GIB // 4}\n")
    assert available_memory() == 1.25 * GIB


@pytest.mark.usefixtures("machine")
def test_a_refusal_names_both_numbers_and_the_way_out():
    check_memory("a grid", 3 * GIB, "crop it")
    with pytest.raises(ValueError, match=r"^a grid: needs 3.5 GiB of memory, 3 GiB available; crop it$"):
        check_memory("a grid", 3.5 * GIB, "crop it")


def test_a_number_that_is_none(monkeypatch):
    monkeypatch.setenv("MEDTRACE_MAX_GIB", "plenty")
    with pytest.raises(ValueError, match="MEDTRACE_MAX_GIB: expected a number of GiB, received 'plenty'"):
        available_memory()


@pytest.mark.parametrize("call", [resize, resize_labels])
def test_an_absurd_grid_is_refused_before_it_is_made(call):
    with pytest.raises(ValueError, match=r"4x4x4 brought to 100000x100000x100000 voxels: needs .* GiB"):
        call(torch.ones(1, 4, 4, 4), (100_000,) * 3)


@pytest.mark.parametrize("shape", [(16, 10, 8), (64, 10, 40), (32, 96, 20)])
def test_the_interior_is_as_monais(shape):
    """Where no weight lies beyond the border, of which MONAI takes zeros. Its own weights add up to .9999."""
    image = torch.randn(2, 64, 48, 40, generator=torch.Generator().manual_seed(0))
    theirs = Resize(shape, mode="trilinear", anti_aliasing=True)(image).as_tensor()
    rims = [0 if new >= old else 3 for old, new in zip(image.shape[1:], shape)]
    within = (slice(None), *(slice(rim, new - rim) for rim, new in zip(rims, shape)))
    assert resize(image, shape)[within].numel() > 0
    assert (resize(image, shape) - theirs)[within].abs().max() < 2e-4


@pytest.mark.parametrize("factor", [1.3, 2, 7.5, 30])
def test_a_constant_stays_one(factor):
    image = torch.full((1, 60, 45, 30), 3.0)
    shape = [max(1, round(size / factor)) for size in image.shape[1:]]
    torch.testing.assert_close(resize(image, shape), torch.full((1, *shape), 3.0))


def test_a_slope_stays_one_within():
    """Voxel k of the coarse grid lies at 8 k + 3.5 of the fine one."""
    ramp = torch.arange(80.0).reshape(1, 80, 1).expand(1, 80, 3)
    coarse = resize(ramp, (10, 3))[0, 2:-2, 0]
    torch.testing.assert_close(coarse, 8 * torch.arange(2.0, 8.0) + 3.5)


def pair_of_scans(folder: Path) -> list[str]:
    values = np.random.default_rng(0).random((2, 1, 24, 24, 24)).astype(np.float32)
    names = [str(folder / f"{name}.nii.gz") for name in ("source", "target")]
    for name, image in zip(names, values):
        write_image(Path(name), torch.from_numpy(image), torch.eye(4))
    return names


@pytest.mark.parametrize(
    ("engine", "limit", "expected"),
    [
        # 13,824 * 200 + 27,648 * 75 bytes
        ("greedy", "0.004", "13,824 voxels, for images of 27,648: needs 0.00451 GiB of memory, 0.004 GiB"),
        ("instance", "0.01", "24x24x24 voxels, for a target of 13,824: needs 0.0231 GiB of memory, 0.01 GiB"),
    ],
)
def test_a_registration_asks_before_it_begins(tmp_path, monkeypatch, engine, limit, expected):
    scans = [*pair_of_scans(tmp_path), "--engine", engine, "--align", "none"]
    monkeypatch.setenv("MEDTRACE_MAX_GIB", limit)
    result = CliRunner().invoke(app, ["register", *scans, "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert expected in result.stderr
    assert "--spacing" in result.stderr
    assert not (tmp_path / "out").exists()
    monkeypatch.delenv("MEDTRACE_MAX_GIB")
    result = CliRunner().invoke(app, ["register", *scans, "--out", str(tmp_path / "out"), "--spacing", "0.001"])
    assert result.exit_code == 1
    assert "GiB available" in result.stderr
    assert not (tmp_path / "out").exists()
