"""What differs between systems, as far as one of them can show it: locks of Windows, sampling on Apple's GPUs."""

import errno
import types
from pathlib import Path

import pytest
import torch

from medtrace.engines.runs import default_device
from medtrace.fields import exponentiate, flow, resample, sample, warp
from medtrace.fields.resample import lacks_sampling
from medtrace.storage import locks


@pytest.fixture
def windows(monkeypatch):
    """Locks of single bytes, as msvcrt gives them: refused with EACCES, and gone with the descriptor."""
    fcntl = pytest.importorskip("fcntl")

    def locking(descriptor, _mode, count):
        assert count == 1
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None

    monkeypatch.setattr(locks, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    monkeypatch.setattr(locks, "fcntl", None)


@pytest.mark.usefixtures("windows")
def test_a_lock_of_windows_refuses_a_second_and_names_its_holder(tmp_path):
    place = tmp_path / ".lock"
    held = locks.acquire(place)
    assert held.sure
    with pytest.raises(BlockingIOError):
        locks.acquire(place)
    assert locks.HOLDER.match(place.read_bytes())
    assert place.stat().st_size < 200  # the locked byte lies behind the file's end
    held.release()
    assert not place.exists()
    locks.acquire(place).release()


@pytest.mark.usefixtures("windows")
def test_a_file_that_another_has_opened_stays_on_windows(tmp_path, monkeypatch):
    held = locks.acquire(tmp_path / ".lock")

    def busy(*_, **__):
        raise PermissionError(errno.EACCES, "The process cannot access the file")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", busy)
        held.release()
    locks.acquire(tmp_path / ".lock").release()


@pytest.mark.usefixtures("windows")
def test_a_file_system_without_locks_is_not_sure(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(locks.msvcrt, "locking", none)
    held = locks.acquire(tmp_path / ".lock")
    assert not held.sure
    held.release()


@pytest.mark.parametrize(
    ("kind", "axes", "floating", "expected"),
    [("mps", 5, True, True), ("mps", 4, True, False), ("mps", 4, False, True), ("cpu", 5, True, False)],
)
@pytest.mark.filterwarnings("ignore:mps")
def test_apples_gpus_lack_volumes_and_labels(kind, axes, floating, expected):
    image = types.SimpleNamespace(device=torch.device(kind), ndim=axes, is_floating_point=lambda: floating)
    assert lacks_sampling(image) is expected


CALLS = {
    "warp": lambda image, field: warp(image, field),
    "sample": lambda image, field: sample(image, field.abs()),
    "exponentiate": lambda _, field: exponentiate(field),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_a_device_lacks_is_sampled_on_the_cpu_with_a_line_and_its_gradient(name, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    image, ddf = torch.rand(1, 1, 6, 7, 8, generator=generator), torch.randn(1, 3, 6, 7, 8, generator=generator)
    ddf.requires_grad_()
    expected = CALLS[name](image, ddf)
    (gradient,) = torch.autograd.grad(expected.sum(), ddf)
    on_mps = types.SimpleNamespace(device=torch.device("mps"), ndim=5, is_floating_point=lambda: True)
    answers = iter([True] + [False] * 9)
    for module in (resample, flow):
        monkeypatch.setattr(module, "lacks_sampling", lambda _: next(answers) and lacks_sampling(on_mps))
    with pytest.warns(UserWarning, match="mps: torch cannot sample volumes"):
        result = CALLS[name](image, ddf)
    assert torch.equal(result, expected)
    assert torch.equal(torch.autograd.grad(result.sum(), ddf)[0], gradient)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="here is an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"device: expected one of cpu.*received 'mps', which torch does not see"):
        default_device("mps")
