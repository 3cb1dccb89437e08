"""Several processes train as one: gradients, checkpoints, uneven shares, and another number of processes afterwards.

Everything here runs on gloo, on the CPU. Normalisations keep no batch statistics, which no two processes share.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from medtrace.engines import distributed
from medtrace.methods.plasticine.method import PlasticineMethod
from tests.distributed_steps import VARIANTS, steps

TOLERANCE = 1e-4
"""Largest difference of a weight after two steps, as a share of the largest change of any weight."""
REPOSITORY = Path(__file__).resolve().parents[1]
ALWAYS = ("tracetrans", "plasticine, no alignment")


@pytest.fixture(autouse=True)
def _own_code(monkeypatch):
    monkeypatch.setenv("MEDTRACE_ALLOW_FOREIGN_CODE", "1")


def environment():
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MEDTRACE_ALLOW_FOREIGN_CODE": "1"}


def on_two_processes(out, names):
    script = [sys.executable, str(REPOSITORY / "tests" / "distributed_steps.py"), str(out), *names]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]


def weights(run):
    states = torch.load(run / "checkpoints" / "final.pt", weights_only=True)["method"]
    return {
        name: value for name, value in states.items() if isinstance(value, torch.Tensor) and value.is_floating_point()
    }


def apart(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def check_equal_steps(folder, names):
    on_two_processes(folder / "two", names)
    for name in names:
        two = weights(folder / "two" / name)
        one = weights(steps(folder / "one", name))
        start = weights(steps(folder / "start", name, 1, rate=0.0))
        moved = apart(one, start)
        assert moved > 0, name
        assert apart(one, two) <= TOLERANCE * moved, name


def test_two_processes_step_as_one_with_the_double_batch(tmp_path):
    check_equal_steps(tmp_path, ALWAYS)


@pytest.mark.slow
def test_two_processes_step_as_one_for_every_method(tmp_path):
    check_equal_steps(tmp_path, [name for name in VARIANTS if name not in ALWAYS])


def test_without_torchrun_the_overlay_is_a_group_of_one(tmp_path):
    """So that what two processes began, one goes on with."""
    name = "tracetrans"
    alone = steps(tmp_path / "alone", name, overlays=("multi_gpu_train",))
    assert not torch.distributed.is_initialized()
    plain = steps(tmp_path / "plain", name)
    start = steps(tmp_path / "start", name, 1, rate=0.0)
    assert apart(weights(alone), weights(plain)) <= TOLERANCE * apart(weights(plain), weights(start))


@pytest.mark.usefixtures("process_group")
def test_join_keeps_a_group_that_is_there():
    group = torch.distributed.group.WORLD
    distributed.join("gloo")
    assert torch.distributed.group.WORLD is group


@pytest.mark.parametrize(
    ("weights", "learns"),
    [
        ({}, True),
        ({"alignment_weight": 0.0}, False),
        ({"alignment_weight": 0.0, "stand_in_similarity_weight": 1.0}, True),
        ({"alignment_weight": 0.0, "stand_in_smoothness_weight": 1.0}, True),
    ],
)
def test_a_stand_in_that_no_term_reaches_does_not_learn(weights, learns):
    """A process waits for the gradient of every weight that learns."""
    from medtrace.networks import DeformationModule, DiffusionTranslator, NoiseEstimator

    estimator = NoiseEstimator(2, 1, 1, channels=(8,), residual_blocks=1, head_channels=8, norm_groups=8)
    module = DeformationModule(2, 1, channels=(8,))
    method = PlasticineMethod(DiffusionTranslator(estimator, module), **weights)
    assert all(parameter.requires_grad == learns for parameter in module.alignment.parameters())
    assert all(parameter.requires_grad for parameter in module.encoder.parameters())
    source, target = torch.rand(2, 2, 1, 16, 16)
    batch = {"source": source, "target": target}
    carried = {}
    method.terms("noise", batch, carried)
    phase = method.phase("deformation")
    phase.total(method.terms("deformation", batch, carried)).backward()
    assert all(p.grad is not None for p in method.parameters_of("deformation") if p.requires_grad)


@pytest.mark.slow
def test_torchrun_with_uneven_shares_and_on_with_other_numbers(tmp_path):
    """Three cases and one to validate on two processes; then one process goes on, then two again."""
    run = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
    command = ["-m", "medtrace", "train", "tracetrans", "--out", str(run), "--device", "cpu"]
    first = ["--smoke", "--overlay", "multi_gpu_train", "--set", "train_cases=3", "--set", "validation_cases=1"]
    epochs = []

    def call(start, *options, epochs_in_all):
        done = subprocess.run(
            [*start, *command, *options, "--set", f"max_epochs={epochs_in_all}", "--set", "batch_size=2"],
            capture_output=True, text=True, env=environment(), cwd=REPOSITORY,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        rows = (run / "history.csv").read_text().splitlines()[1:]
        epochs.append([row.split(",")[0] for row in rows])
        return torch.load(run / "checkpoints" / "final.pt", weights_only=True)["trainer"]

    two = call([*torchrun, "2"], *first, epochs_in_all=1)
    assert two["epoch_length"] == 1  # two of three cases each, one of them twice
    one = call([sys.executable], "--resume", epochs_in_all=2)
    assert one["epoch_length"] == 2
    assert one["iteration"] == 4
    call([*torchrun, "2"], "--resume", epochs_in_all=3)
    assert epochs == [["1"], ["1", "2"], ["1", "2", "3"]]
    assert len(list((run / "checkpoints").glob("final.pt"))) == 1
    assert len(list((run / "tensorboard").rglob("events*"))) == 3  # rank 0's alone


@pytest.mark.parametrize("bundle", ["tracetrans", "reggan", "metaregnet", "plasticine"])
def test_the_overlay_names_what_the_training_has(bundle):
    """It disables handlers of other ranks by their place in the list."""
    configs = REPOSITORY / "medtrace" / "bundles" / bundle / "configs"
    handlers = yaml.safe_load((configs / "train.yaml").read_text())["train"]["handlers"]
    overlay = yaml.safe_load((configs / "multi_gpu_train.yaml").read_text())
    disabled = {int(key.split("#")[2]) for key in overlay if re.fullmatch(r"train#handlers#\d+#_disabled_", key)}
    writers = {
        place for place, handler in enumerate(handlers)
        if handler["_target_"].rsplit(".", 1)[-1] in ("LossHistory", "TensorBoardStatsHandler", "ProgressBar")
    }  # fmt: skip
    assert disabled == writers
