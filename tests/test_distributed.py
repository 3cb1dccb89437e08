"""Several processes train as one: gradients, checkpoints, uneven shares, and another number of processes afterwards.

Everything here runs on gloo, on the CPU. Normalizations keep no batch statistics, which no two processes share.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from torch import nn

from medtrace.engines import distributed
from medtrace.engines.distributed import distribute
from medtrace.methods.plasticine.method import PlasticineMethod
from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DualDecoderGAN
from medtrace.workflows.bundle import BUNDLES, bundle
from tests.distributed_steps import VARIANTS, settings_of, stepping, steps
from tests.trainings import apart, checkpoint, configs, run_bundle, same, weights

TOLERANCE = 1e-4
"""Largest difference of a weight after two steps, as a fraction of the largest change of any weight."""
REPOSITORY = Path(__file__).resolve().parents[1]
ALWAYS = ("tracetrans", "plasticine, no alignment")


def environment():
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def on_two_processes(out, names):
    script = [sys.executable, str(REPOSITORY / "tests" / "distributed_steps.py"), str(out), *names]
    done = subprocess.run(script, capture_output=True, text=True, env=environment(), cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]


def numbers(run):
    return {name: value for name, value in weights(run).items() if value.is_floating_point()}


def check_equal_steps(folder, names):
    on_two_processes(folder / "two", names)
    for name in names:
        two = numbers(folder / "two" / name)
        one = numbers(steps(folder / "one", name))
        start = numbers(steps(folder / "start", name, 1, rate=0.0))
        moved = apart(one, start)
        assert moved > 0, name
        assert apart(one, two) <= TOLERANCE * moved, name


@pytest.mark.slow
def test_two_processes_step_as_one_with_the_double_batch(tmp_path):
    check_equal_steps(tmp_path, ALWAYS)


@pytest.mark.slow
def test_two_processes_step_as_one_for_every_method(tmp_path):
    check_equal_steps(tmp_path, [name for name in VARIANTS if name not in ALWAYS])


@pytest.mark.filterwarnings("ignore:Local rank information")
def test_without_torchrun_a_group_is_one_alone(tmp_path, monkeypatch):
    """So that what two processes began, one continues with: a bundle's overlay, and `train` as the only rank."""
    name = "tracetrans"
    plain = numbers(steps(tmp_path / "plain", name))
    moved = apart(plain, numbers(steps(tmp_path / "start", name, 1, rate=0.0)))
    folder = bundle(name, tmp_path / "bundle", presets=("tracebench", "smoke"), settings=settings_of(name, 2, 1))
    with stepping():
        run_bundle(folder, "train", "multi_gpu_train", run_dir=str(tmp_path / "bundled"))
    assert not torch.distributed.is_initialized()
    assert apart(numbers(tmp_path / "bundled"), plain) <= TOLERANCE * moved
    for variable, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(variable, value)
    meeting = f"file://{tmp_path}/meeting"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=1)
    alone = numbers(steps(tmp_path / "alone", name))
    assert not torch.distributed.is_initialized()
    assert apart(alone, plain) <= TOLERANCE * moved


@pytest.mark.usefixtures("process_group")
def test_join_keeps_a_group_that_is_there():
    group = torch.distributed.group.WORLD
    distributed.join("gloo")
    assert torch.distributed.group.WORLD is group


NETWORKS = ("networks.generator", "networks.translation_discriminator", "networks.warp_discriminator")


def small_method():
    return TraceTransMethod(
        DualDecoderGAN(2, 1, 1, (4, 8), norm="batch", discriminator_channels=4, discriminator_layers=1)
    )


@pytest.mark.usefixtures("process_group")
def test_distributed_networks_look_like_those_inside():
    alone, several = small_method(), small_method()
    names = list(alone.state_dict())
    distribute(several, NETWORKS)
    assert all(isinstance(several.get_submodule(path), nn.parallel.DistributedDataParallel) for path in NETWORKS)
    assert list(several.state_dict()) == names
    several.load_state_dict(alone.state_dict())
    assert same(several.state_dict(), alone.state_dict())
    assert several.networks.generator.integration_steps == 7
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = several.networks.generator.no_such_thing
    with pytest.raises(RuntimeError, match="size mismatch"):
        several.load_state_dict({**alone.state_dict(), names[0]: torch.zeros(1)})
    batch = {"source": torch.rand(2, 1, 16, 16)}
    for first, second in zip(alone.eval().trace(batch), several.eval().trace(batch)):
        assert torch.equal(first.image, second.image)


def test_a_method_names_the_networks_that_its_phases_step():
    result = small_method().distributed_networks()
    assert set(result) == set(NETWORKS)
    assert result["networks.generator"] == {"find_unused_parameters": False}
    alone = TraceTransMethod(small_method().networks, alpha=1.0).distributed_networks()
    assert alone["networks.generator"] == {"find_unused_parameters": True}


def test_distribute_needs_a_process_group():
    with pytest.raises(RuntimeError, match="torchrun"):
        distribute(small_method(), NETWORKS)


@pytest.mark.parametrize(
    ("weights", "learns"),
    [
        ({}, True),
        ({"alignment_weight": 0.0}, False),
        ({"alignment_weight": 0.0, "surrogate_similarity_weight": 1.0}, True),
        ({"alignment_weight": 0.0, "surrogate_smoothness_weight": 1.0}, True),
    ],
)
def test_a_surrogate_that_no_term_reaches_does_not_learn(weights, learns):
    """A process waits for the gradient of every weight that learns."""
    from medtrace.networks import DeformationModule, DiffusionTranslator, NoiseEstimator

    estimator = NoiseEstimator(2, 1, 1, channels=(8,), residual_blocks=1, head_channels=8, norm_groups=8)
    module = DeformationModule(2, 1, channels=(8,))
    method = PlasticineMethod(DiffusionTranslator(estimator, module), **weights)
    assert all(parameter.requires_grad == learns for parameter in module.alignment.parameters())
    assert all(parameter.requires_grad for parameter in module.encoder.parameters())
    source, target = torch.rand(2, 2, 1, 16, 16)
    batch = {"source": source, "target": target}
    context = {}
    method.terms("noise", batch, context)
    phase = method.phase("deformation")
    phase.total(method.terms("deformation", batch, context)).backward()
    assert all(p.grad is not None for p in method.parameters_of("deformation") if p.requires_grad)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


@pytest.mark.slow
def test_torchrun_with_uneven_shares_and_on_with_other_numbers(tmp_path):
    """Three cases and one to validate on two processes; then one process continues, then two again."""
    run = tmp_path / "run"
    command = ["-m", "medtrace", "train", "tracetrans", "--out", str(run), "--device", "cpu"]
    first = ["--smoke", "--set", "data.train_cases=3", "--set", "data.validation_cases=1"]
    epochs = []

    def call(start, *options, epochs_in_all):
        sizes = ["--set", f"training.max_epochs={epochs_in_all}", "--set", "training.batch_size=2"]
        done = subprocess.run(
            [*start, *command, *options, *sizes], capture_output=True, text=True, env=environment(), cwd=REPOSITORY
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows = (run / "history.csv").read_text().splitlines()[1:]
        epochs.append([row.split(",")[0] for row in rows])
        return checkpoint(run)["trainer"]

    two = call([*TORCHRUN, "2"], *first, epochs_in_all=1)
    assert two["epoch_length"] == 1  # two of three cases each, one of them twice
    one = call([sys.executable], "--resume", epochs_in_all=2)
    assert one["epoch_length"] == 2
    assert one["iteration"] == 4
    call([*TORCHRUN, "2"], "--resume", epochs_in_all=3)
    assert epochs == [["1"], ["1", "2"], ["1", "2", "3"]]
    assert len(list((run / "checkpoints").glob("final.pt"))) == 1
    assert len(list((run / "tensorboard").rglob("events*"))) == 3  # rank 0's alone


def bundle_on_two_processes(folder, out, floor, *options):
    """`monai.bundle run` by torchrun, with Adam's floor; see `test_two_processes_train_a_bundle_as_one`."""
    script = f"import tests.distributed_adam as adam; adam.main({floor!r})"
    (out.parent / "start.py").write_text(script)
    line = [
        *TORCHRUN, "2", str(out.parent / "start.py"), "run",
        "--config_file", str(configs(folder, "train", "multi_gpu_train")), "--bundle_root", str(folder),
        "--run_dir", str(out), *options,
    ]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, env=environment(), cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values", "floor"),
    [
        ("tracetrans", {"alpha": 0.5}, 1e-3),
        ("tracetrans", {"alpha": 1.0}, 1e-3),
        ("tracetrans", {"alpha": 0.0}, 1e-3),
        # Ranks keep pools and running means of their own.
        ("reggan", {"pool_size": 0, "mean_displacement_weight": 0.0}, 1e-1),
        ("reggan", {"cycle": True, "pool_size": 0, "mean_displacement_weight": 0.0}, 1e-1),
        ("pix2pix", {"pool_size": 0}, 1e-1),
    ],
)
def test_two_processes_train_a_bundle_as_one(name, values, floor, tmp_path):
    """Two halves of a batch on two processes take the steps of the whole batch on one; at 0.5 also resumed."""
    values = {**values, "data.train_cases": 2, "training.max_epochs": 3}

    def of(folder, **more):
        return bundle(name, tmp_path / folder, presets=("tracebench", "smoke"), settings={**values, **more})

    from tests.distributed_adam import floored

    with mock.patch("medtrace.engines.build_optimizers", floored(floor)):
        run_bundle(of("bundle"), "train", run_dir=str(tmp_path / "one"))
        still = {"optimizer.learning_rate": 1e-30}
        run_bundle(of("still", **still), "train", run_dir=str(tmp_path / "start"))
    half = of("half", **{"training.batch_size": 1})
    options = []
    if values.get("alpha") == 0.5:
        bundle_on_two_processes(half, tmp_path / "two", floor, "--settings#training#max_epochs", "2")
        options = ["--resume", "True"]
    bundle_on_two_processes(half, tmp_path / "two", floor, *options)
    one, two, start = (weights(tmp_path / folder) for folder in ("one", "two", "start"))
    assert apart(one, two) < 1e-3 * apart(one, start)
    assert len((tmp_path / "two" / "history.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
def test_other_ranks_write_nothing(name):
    """Handlers that log or write are disabled where a rank does not lead, or ask for the rank themselves."""
    handlers = yaml.safe_load((BUNDLES / name / "configs" / "train.yaml").read_text())["train"]["handlers"]
    disabled = {
        handler["_target_"].rsplit(".", 1)[-1]
        for handler in handlers
        if re.match(r"\$not medtrace\.engines\.leads\(\)( or |$)", str(handler.get("_disabled_")))
    }
    assert disabled == {"LossHistory", "TensorBoardStatsHandler", "ProgressBar", "Tracking", "RunPage"}
    with mock.patch("torch.distributed.is_initialized", return_value=True):
        from medtrace.engines import leads

        with mock.patch("torch.distributed.get_rank", return_value=1):
            assert not leads()
        with mock.patch("torch.distributed.get_rank", return_value=0):
            assert leads()
