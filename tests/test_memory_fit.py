"""Too little memory for a batch or a volume: what fits is found, told, and taken with `fit`."""

import json

import nibabel
import numpy as np
import pytest
import torch

from medtrace.engines import Trainer
from medtrace.engines.runs import read_run
from medtrace.guard.notices import Notice
from medtrace.guard.shortage import MemoryShortageError, first_that_fits, halves, is_shortage
from medtrace.methods.base import Method
from medtrace.networks.patches import PatchInferer
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from medtrace.workflows.translate import translate
from tests.test_own_data import heads
from tests.trainings import SMOKE

EIGHT = {"training.batch_size": 8, "data.train_cases": 8, "training.max_epochs": 1, "training.val_interval": 0}


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B"),
            True,
        ),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_shortage_is_known_whatever_says_it(error, short):
    assert is_shortage(error) is short
    outer = ValueError("outer")
    outer.__cause__ = error
    assert is_shortage(outer) is short


def test_a_real_allocation_that_fails_is_a_shortage():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_shortage(caught.value)


def test_other_errors_of_an_attempt_are_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        first_that_fits([1], lambda _: 1 / 0)
    assert halves(8) == [4, 2, 1]
    assert halves(1) == []


@pytest.fixture
def cap(monkeypatch):
    """A device on which a step of more than so many cases runs out of memory."""

    def set_cap(cases):
        original = Trainer._go_back

        def short(self, batch):
            if len(batch["source"]) > cases:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(self, batch)

        monkeypatch.setattr(Trainer, "_go_back", short)

    return set_cap


def test_train_says_which_batch_fits(cap, tmp_path):
    cap(3)
    with pytest.raises(MemoryShortageError, match=r"batch of 8 does not fit into the memory of cpu; 2 does: resume"):
        train("unet", out=tmp_path / "run", presets=SMOKE, settings=EIGHT, device="cpu")
    settings = {"training.batch_size": 2}
    train("unet", out=tmp_path / "run", resume=True, settings=settings, device="cpu")
    assert (tmp_path / "run" / "checkpoints" / "weights.safetensors").is_file()


def test_train_takes_what_fits(cap, tmp_path):
    whole = train(
        "unet", out=tmp_path / "two", presets=SMOKE, settings={**EIGHT, "training.batch_size": 2}, device="cpu"
    )
    cap(3)
    with pytest.warns(Notice, match="a batch of 8 did not fit into memory; continues with 2"):
        run = train("unet", out=tmp_path / "run", presets=SMOKE, settings=EIGHT, device="cpu", fit=True)
    assert read_run(run).settings.training.batch_size == 2
    weights = [path / "checkpoints" / "weights.safetensors" for path in (run, whole)]
    assert weights[0].read_bytes() == weights[1].read_bytes()  # what was tried left no trace


def test_train_says_where_nothing_fits(cap, tmp_path):
    cap(0)
    with pytest.raises(MemoryShortageError, match=r"a batch of 8 does not fit .* nor a part of it; prepare"):
        train("unet", out=tmp_path / "run", presets=SMOKE, settings=EIGHT, device="cpu", fit=True)


def test_train_takes_the_patch_that_fits_where_no_batch_does(monkeypatch, tmp_path):
    pairs = heads(tmp_path / "raw", subjects=3, shape=(64, 48, 4))
    contrasts = {"source_contrast": "T1", "target_contrast": "T2"}
    prepared = tmp_path / "data"
    prepare(pairs, prepared, **contrasts, slices=2, crop=None, align=False, progress=False)
    original = Trainer._go_back

    def short(self, batch):
        if batch["source"][0, 0].numel() > 33 * 40:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch)

    monkeypatch.setattr(Trainer, "_go_back", short)
    small = {"channels": [4, 8], "training.batch_size": 2, "training.max_epochs": 1}
    options = {"settings": small, "device": "cpu"}
    with pytest.raises(MemoryShortageError, match=r"a batch of 2 .*; 1 of patches of 32 x 32 does") as caught:
        train("unet", prepared, tmp_path / "said", **options)
    assert "--set training.batch_size=1 --set data.patch=[32,32]" in str(caught.value)
    with pytest.warns(Notice, match="continues with 1 of patches of 32 x 32"):
        run = train("unet", prepared, tmp_path / "run", **options, fit=True)
    assert read_run(run).settings.data.patch == (32, 32)
    assert (run / "checkpoints" / "weights.safetensors").is_file()


def scan(path, shape):
    values = np.random.default_rng(0).random(shape, dtype=np.float32) * 100
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    return path


def test_translate_finds_the_batch_of_slices(tmp_path, monkeypatch):
    run = train("unet", out=tmp_path / "run", presets=SMOKE, settings={"training.max_epochs": 1}, device="cpu")
    original = Method.trace

    def short(self, batch):
        sizes.append(len(batch["source"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, batch)

    sizes = []
    monkeypatch.setattr(Method, "trace", short)
    image = scan(tmp_path / "scan.nii.gz", (32, 32, 6))
    options = {"device": "cpu", "progress": False, "report": False}
    with pytest.raises(MemoryShortageError, match="batch size 2 does: pass --batch-size 2 or --fit"):
        translate(run, image, tmp_path / "out", **options)
    assert sizes == [6, 4, 2]
    with pytest.warns(Notice, match="processed with batch size 2"):
        trace = translate(run, image, tmp_path / "out", **options, fit=True)
    monkeypatch.undo()
    expected = translate(run, image, tmp_path / "two", **options, batch_size=2)
    assert torch.equal(trace.image, expected.image)


@pytest.mark.slow
def test_translate_finds_the_patch(tmp_path, monkeypatch):
    settings = {"training.max_epochs": 1, "spatial_dims": 3, "data.spatial_shape": [16, 16, 16]}
    run = train("tracetrans", out=tmp_path / "run", presets=SMOKE, settings=settings, device="cpu")
    preparation = json.loads((run / "preparation.json").read_text())
    preparation["spacing"] = None
    (run / "preparation.json").write_text(json.dumps(preparation))
    original, before = PatchInferer.__call__, Method.trace

    def short(self, inputs, network, multiple=1):
        if max(self.size) > 48:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, inputs, network, multiple)

    def whole(self, batch):
        if self.inferer is None:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return before(self, batch)

    monkeypatch.setattr(PatchInferer, "__call__", short)
    monkeypatch.setattr(Method, "trace", whole)
    image = scan(tmp_path / "scan.nii.gz", (56, 40, 40))
    options = {"device": "cpu", "progress": False, "report": False}
    with pytest.raises(MemoryShortageError, match="patch size 48 does: pass --patch-size 48 or --fit"):
        translate(run, image, tmp_path / "out", **options)
    with pytest.warns(Notice, match="processed with patch size 48"):
        translate(run, image, tmp_path / "out", **options, fit=True)
