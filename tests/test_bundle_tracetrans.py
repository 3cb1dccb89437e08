"""The TraceTrans bundle: MONAI's checks, and the same training by `monai.bundle run` and by one Python call."""

import csv
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ConfigWorkflow
from torch import nn

from medtrace.engines.distributed import distribute
from medtrace.io import load_trace
from medtrace.io.compact import FIELD_ERROR
from medtrace.io.nifti import write_image
from medtrace.networks import DualDecoderGAN, TraceTrans
from medtrace.networks.output_field import OutputField
from medtrace.objectives import TraceTransObjective
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.handlers import CaseScores, TraceSaver
from medtrace.workflows.runs import load_objective
from medtrace.workflows.train import bundle_folder, train

BUNDLE = bundle_folder("tracetrans")
CONFIGS = BUNDLE / "configs"
SMOKE = ("tracebench", "smoke")


def files(*names):
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def run_bundle(*names, **values):
    monai.bundle.run(config_file=files(*names), logging_file=False, bundle_root=str(BUNDLE), **values)


def command(*names, launcher=("-m", "monai.bundle"), **values):
    """`python -m monai.bundle run` in a process of its own."""
    values = {"bundle_root": BUNDLE, **values}
    options = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    line = [sys.executable, *launcher, "run", "--config_file", str(files(*names)), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def weights(run):
    return torch.load(Path(run) / "checkpoints" / "final.pt", weights_only=True)["objective"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the Python call."""
    return train("tracetrans", tracebench=True, smoke=True, out=tmp_path_factory.mktemp("run") / "python")


# MONAI's own checks


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("train", ("train",)),
        ("train", ("train", "pix2pix")),
        ("infer", ("train", "evaluate")),
        ("infer", ("inference",)),
    ],
)
def test_has_the_properties_of_a_bundle(kind, names, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(*names, *SMOKE),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.network_def, DualDecoderGAN)
    assert workflow.version == "0.1.0"
    assert len(workflow.train_dataset if kind == "train" else workflow.dataset) > 0


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_gives_what_the_metadata_says(name):
    monai.bundle.verify_net_in_out(
        net_id="network_in_out",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files(name),
        device="cpu",
        any=33,
        channels=[4, 8, 8, 8, 8],
    )


def test_metadata_holds_what_the_specification_asks_for(tmp_path):
    # MONAI reads a schema that lies at `filepath` and downloads it only otherwise.
    text, obj = {"type": "string", "minLength": 1}, {"type": "object", "minProperties": 1}
    tensor = {
        "type": "object",
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
        "properties": {
            "num_channels": {"type": "integer", "minimum": 1},
            "spatial_shape": {"type": "array", "minItems": 2, "items": {"type": ["string", "integer"]}},
            "value_range": {"type": "array", "items": {"type": "number"}},
            "channel_def": obj,
        },
    }
    io = {
        "type": "object",
        "required": ["inputs", "outputs"],
        "properties": {
            "inputs": {"type": "object", "required": ["image"], "properties": {"image": tensor}},
            "outputs": {"type": "object", "required": ["pred"], "properties": {"pred": tensor}},
        },
    }
    versions = ["version", "monai_version", "pytorch_version", "numpy_version"]
    texts = ["schema", *versions, "task", "description", "authors", "copyright"]
    schema = {
        "type": "object",
        "required": [*texts, "changelog", "required_packages_version", "intended_use", "references"],
        "properties": {
            **dict.fromkeys(texts, text),
            "changelog": obj,
            "required_packages_version": obj,
            "references": {"type": "array", "minItems": 1, "items": text},
            "network_data_format": io,
        },
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    monai.bundle.verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(path))
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    (tmp_path / "broken.json").write_text(json.dumps({**metadata, "version": 1}))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(path))


def test_metadata_follows_monais_schema(tmp_path):
    """MONAI ships no schema: it is downloaded, or read from $MEDTRACE_BUNDLE_SCHEMA."""
    path = tmp_path / "schema.json"
    if "MEDTRACE_BUNDLE_SCHEMA" in os.environ:
        shutil.copyfile(os.environ["MEDTRACE_BUNDLE_SCHEMA"], path)
    else:
        url = json.loads((CONFIGS / "metadata.json").read_text())["schema"]
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                path.write_bytes(answer.read())
        except OSError as error:
            pytest.skip(f"{url} cannot be reached ({error}); set MEDTRACE_BUNDLE_SCHEMA to a copy")
    monai.bundle.verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(path))


def test_monai_loads_the_weights_of_a_run(trained):
    parser = ConfigParser()
    parser.read_config(str(trained / "config.yaml"))
    loaded = monai.bundle.load(
        name=trained.name,
        bundle_dir=str(trained.parent),
        source="github",
        model=parser.get_parsed_content("objective"),
        model_file="checkpoints/final.pt",
        key_in_ckpt="objective",
        device="cpu",
    )
    assert same(loaded.state_dict(), weights(trained))


def test_inference_describes_the_network_of_the_training():
    configs = {}
    for name in ("train", "inference"):
        configs[name] = ConfigParser()
        configs[name].read_config(files(name))
    sizes = ["spatial_dims", "in_channels", "out_channels", "channels", "velocity_halvings", "discriminator_channels"]
    shared = ["network_def", "network_in_out", "network", "norm", "discriminator_layers"]
    for key in [*sizes, *shared, "objective#alpha", "objective#_target_"]:
        assert configs["train"][key] == configs["inference"][key], key


# One training, two ways in


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    output = command("train", *SMOKE, run_dir=tmp_path)
    assert same(weights(trained), weights(tmp_path))
    assert "Key metric: mae" in output
    first, second = ((folder / "history.csv").read_text() for folder in (trained, tmp_path))
    assert first == second
    assert first.splitlines()[0].startswith("epoch,loss,translation_l1")


def test_another_seed_gives_other_weights(trained, tmp_path):
    run_bundle("train", *SMOKE, run_dir=str(tmp_path), seed=1)
    assert not same(weights(trained), weights(tmp_path))


def test_resumed_bundle_ends_with_the_same_weights(trained, tmp_path):
    run_bundle("train", *SMOKE, run_dir=str(tmp_path), max_epochs=1)
    assert not same(weights(trained), weights(tmp_path))
    run_bundle("train", *SMOKE, run_dir=str(tmp_path), resume=True)
    assert same(weights(trained), weights(tmp_path))
    assert [row["epoch"] for row in csv.DictReader((tmp_path / "history.csv").open())] == ["1", "2"]


def test_pix2pix_overlay_leaves_one_stream(tmp_path):
    run_bundle("train", *SMOKE, "pix2pix", run_dir=str(tmp_path))
    columns = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert columns[2:] == ["translation_l1", "translation_adversarial", "translation_discriminator"]


# Evaluation and inference


def test_evaluation_tells_what_medtrace_evaluate_tells(trained, tmp_path):
    run_bundle("train", "evaluate", *SMOKE, run_dir=str(trained), output_dir=str(tmp_path))
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in cases] == ["postop-test-0000", "postop-test-0001"]
    summary = {row["value"]: row for row in csv.DictReader((tmp_path / "summary.csv").open())}
    assert {row["n"] for row in summary.values()} == {"2"}
    parser = ConfigParser()
    parser.read_config(files("train", *SMOKE))
    expected = evaluate(trained, parser.get_parsed_content("data#test"), out=tmp_path / "python")["method"]
    for row in cases:
        for column, value in expected.rows[row["case"]].items():
            assert float(row[column]) == pytest.approx(value, rel=1e-5, nan_ok=True), column


@pytest.fixture
def prepared(tmp_path):
    """Two prepared sources, in [0, 1], with a grid of their own."""
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)
    (tmp_path / "dataset" / "images").mkdir(parents=True)
    images = torch.rand(2, 1, 20, 28, 1)
    for number, image in enumerate(images):
        write_image(tmp_path / "dataset" / "images" / f"subject-{number}_source.nii.gz", image, affine)
    return SimpleNamespace(folder=tmp_path / "dataset", images=images[..., 0], affine=affine)


def test_inference_writes_the_trace_of_every_source(trained, prepared, tmp_path):
    options = {"run_dir": str(trained), "dataset_dir": str(prepared.folder), "output_dir": str(tmp_path / "out")}
    run_bundle(
        "inference", channels=[4, 8], velocity_halvings=1, discriminator_channels=4, discriminator_layers=1, **options
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subject-0", "subject-1"]
    expected = load_objective(trained, "cpu").trace({"source": prepared.images * 2 - 1})
    for number, trace in enumerate(expected):
        saved = load_trace(tmp_path / "out" / f"subject-{number}")
        torch.testing.assert_close(saved.affine, prepared.affine)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(saved.ddf, trace.ddf, atol=1.1 * FIELD_ERROR, rtol=0)


def engine_with(handler, batch, traces):
    """An evaluator that answers one batch."""
    engine = Engine(lambda _engine, _batch: {"traces": traces})
    handler.attach(engine)
    engine.run(Loader([batch]))
    return engine


class Loader(list):
    batch_size = 2


def test_handlers_count_cases_without_a_name(tmp_path):
    objective = TraceTransObjective(DualDecoderGAN(2, 1, 1, (4, 8), discriminator_channels=4, discriminator_layers=1))
    batch = {key: torch.rand(2, 1, 24, 24) for key in ("source", "target")}
    traces = objective.eval().trace(batch)
    engine = engine_with(CaseScores(tmp_path / "scores"), batch, traces)
    rows = list(csv.DictReader((tmp_path / "scores" / "cases.csv").open()))
    assert [row["case"] for row in rows] == ["case-0000", "case-0001"]
    error = (traces[1].image - batch["target"][1]).abs().mean().item() * 127.5
    assert float(rows[1]["mae"]) == pytest.approx(error, rel=1e-4)
    assert engine.state.metrics["mae"] == pytest.approx(np.mean([float(row["mae"]) for row in rows]))
    engine_with(TraceSaver(tmp_path / "traces"), batch, traces)
    assert (tmp_path / "traces" / "case-0001" / "trace.json").is_file()


def test_handlers_say_what_they_need(tmp_path):
    with pytest.raises(ValueError, match="expected a 'target'"):
        engine_with(CaseScores(tmp_path), {"source": torch.zeros(1, 1, 8, 8)}, [])
    with pytest.raises(ValueError, match=r"received '\.\./a'"):
        engine_with(TraceSaver(tmp_path), {"case": ["../a"]}, [None])
    assert list(tmp_path.iterdir()) == []


def test_output_field_names_the_fields_there_are():
    network = TraceTrans(2, 1, 1, (4, 8)).eval()
    source = torch.rand(1, 1, 16, 16)
    assert torch.equal(OutputField(network, "warped")(source), network(source).warped)
    with pytest.raises(ValueError, match=r"expected one of \['image', 'warped', 'ddf', 'velocity'\], received 'flow'"):
        OutputField(network, "flow")(source)


# Several devices


NETWORKS = ("networks.generator", "networks.translation_discriminator", "networks.warp_discriminator")


def small_objective():
    return TraceTransObjective(
        DualDecoderGAN(2, 1, 1, (4, 8), norm="batch", discriminator_channels=4, discriminator_layers=1)
    )


@pytest.mark.usefixtures("process_group")
def test_distributed_networks_look_like_those_inside():
    alone, several = small_objective(), small_objective()
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


def test_distribute_needs_a_process_group():
    with pytest.raises(RuntimeError, match="torchrun"):
        distribute(small_objective(), NETWORKS)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.5, 1.0, 0.0])
def test_two_processes_train_as_one(alpha, tmp_path):
    """Two halves of a batch on two processes take the steps of the whole batch on one; at 0.5 also resumed."""
    # Adam divides by the gradient's size: without a floor, rounding would decide where gradients vanish.
    floor = {f"optimizers#{phase}#eps": 1e-3 for phase in ("generator", "discriminator")}
    values = {"train_cases": 2, "max_epochs": 3, "objective#alpha": alpha, **floor}
    run_bundle("train", *SMOKE, run_dir=str(tmp_path / "one"), **values)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle")
    split = {**values, "batch_size": 1, "run_dir": tmp_path / "two"}
    if alpha == 0.5:
        command("train", *SMOKE, "multi_gpu_train", launcher=torchrun, **{**split, "max_epochs": 2})
        split["resume"] = True
    command("train", *SMOKE, "multi_gpu_train", launcher=torchrun, **split)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    run_bundle("train", *SMOKE, run_dir=str(tmp_path / "start"), **{**values, "learning_rate": 0.0})
    start = weights(tmp_path / "start")
    assert one.keys() == two.keys()
    moved = max((one[name] - start[name]).abs().max() for name in one)
    apart = max((one[name] - two[name]).abs().max() for name in one)
    assert apart < 1e-3 * moved
    assert len((tmp_path / "two" / "history.csv").read_text().splitlines()) == 4
