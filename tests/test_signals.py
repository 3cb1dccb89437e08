"""SIGTERM and Ctrl-C end a training at the end of its step, with nothing lost; real signals in real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from medtrace.engines.checkpoint import WITHIN_EPOCH
from medtrace.engines.runs import read_run
from tests.interrupted_training import METHODS, differences, ending, finish, killed_and_resumed

ROOT = Path(__file__).resolve().parents[1]
MOMENTS = {
    "in a forward pass": ("forward", 9),
    "in the first step": ("forward", 1),
    "in a backward pass": ("backward", 8),
    "in a validation": ("validation", 1),
    "at an epoch": ("epoch", 2),
    "before a checkpoint has its name": ("renaming", 2),
    "while writing the history": ("history", 2),
}


def stopped_and_resumed(method, folder, moment, **settings):
    number = moment[2]
    assert finish(method, folder, moment, **settings) == 128 + number
    written = folder / "checkpoints" / WITHIN_EPOCH
    if moment[0] != "epoch":  # whose checkpoint is there already
        assert torch.load(written, weights_only=True)["within_epoch"]["steps"] >= 1
    assert finish(method, folder, resume=True, **settings) == 0
    assert not (folder / "checkpoints" / WITHIN_EPOCH).exists()
    return ending(folder)


@pytest.mark.parametrize(
    ("moment", "number"),
    [("in a forward pass", signal.SIGTERM), ("in a validation", signal.SIGINT), ("in the first step", signal.SIGHUP)],
)
def test_stopped_and_resumed_is_uninterrupted(moment, number, uninterrupted, tmp_path):
    assert (
        differences(uninterrupted("reggan"), stopped_and_resumed("reggan", tmp_path, (*MOMENTS[moment], number))) == []
    )


def test_killed_while_writing_and_resumed_is_uninterrupted(uninterrupted, tmp_path):
    """Here, where the processes are warm; test_resume.py kills at every moment."""
    expected = uninterrupted("reggan")
    assert expected["epochs"] == ["1", "2", "3"]
    assert any("pools" in name for name in expected)
    assert differences(expected, killed_and_resumed("reggan", tmp_path, ("writing", 2))) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_at_any_point(method, moment, number, uninterrupted, tmp_path):
    assert differences(uninterrupted(method), stopped_and_resumed(method, tmp_path, (*MOMENTS[moment], number))) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_stopped_with_loader_workers(method, uninterrupted, tmp_path):
    """The signal reaches the whole group of processes, as from a terminal or a scheduler."""
    workers = {"training.num_workers": 2}
    result = stopped_and_resumed(method, tmp_path, (*MOMENTS["in a forward pass"], signal.SIGINT), **workers)
    assert differences(uninterrupted(method), result) == ["record"]


@pytest.mark.slow
def test_stopped_again_and_again(uninterrupted, tmp_path):
    """A stop after every step: each process takes at least one."""
    stops = 0
    while (code := finish("reggan", tmp_path, ("forward", 1, signal.SIGTERM), resume=True)) != 0:
        assert code == 143
        stops += 1
        assert stops < 40
    assert stops >= 8
    assert differences(uninterrupted("reggan"), ending(tmp_path)) == []


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "medtrace", *map(str, arguments)]
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}  # ignored in the background
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, env=environment, **pipes, **heard, **options)


def wait_for(path, process):
    until = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)


LONG = ("--smoke", "--device", "cpu", "--set", "training.max_epochs=100000", "--set", "training.val_interval=0")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code", "name"), [(signal.SIGTERM, 143, "SIGTERM"), (signal.SIGINT, 130, "Ctrl-C")])
def test_the_command_says_how_to_resume_and_leaves_the_run(number, code, name, tmp_path):
    run = tmp_path / "run"
    many = ("--set", "training.num_workers=1") if number == signal.SIGINT else ()
    process = command("train", "unet", "--out", run, *LONG, "--set", "training.checkpoint_interval=100000", *many,
                      start_new_session=True)  # fmt: skip
    wait_for(run / "history.csv", process)
    os.killpg(process.pid, number)  # as a terminal and a scheduler do
    _, err = process.communicate(timeout=60)
    last = err.strip().splitlines()[-1]
    assert process.returncode == code, err
    assert last.startswith(f"medtrace: {name} ended the training after step ")
    assert last.endswith(f"nothing is lost: continue with `medtrace train unet --out {run} --resume`")
    assert "Traceback" not in err
    assert read_run(run).method == "unet"
    states = torch.load(run / "checkpoints" / WITHIN_EPOCH, weights_only=True)
    assert states["within_epoch"]["steps"] >= 1


@pytest.mark.slow
def test_processes_of_torchrun_stop_at_one_step_and_go_on(tmp_path):
    """SIGTERM to torchrun, as a scheduler sends it: every process ends behind one step, and a resume loses none."""
    size = ("--set", "data.train_cases=64", "--set", "training.batch_size=1", "--set", "training.val_interval=0")

    def start(run, *options):
        line = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "medtrace",
        ]
        line += ["train", "unet", "--out", str(run), "--device", "cpu", *options, "--set", "training.max_epochs=3"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    whole, run = tmp_path / "whole", tmp_path / "run"
    assert start(whole, "--smoke", *size).wait(300) == 0
    process = start(run, "--smoke", *size)
    wait_for(run / "history.csv", process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "medtrace: SIGTERM ended the training after step " in err, err
    assert torch.load(run / "checkpoints" / WITHIN_EPOCH, weights_only=True)["within_epoch"]["steps"] >= 1
    assert start(run, "--resume").wait(300) == 0
    first, second = (folder / "checkpoints" / "weights.safetensors" for folder in (whole, run))
    assert first.read_bytes() == second.read_bytes()
