"""The generated bundles: what is committed, MONAI's checks, and one training, evaluation and inference by two ways."""

import csv
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import monai.bundle
import pytest
import torch
import yaml
from monai.bundle import ConfigWorkflow
from safetensors.torch import load_file

from medtrace.engines.runs import load_method, read_run
from medtrace.io import load_trace
from medtrace.methods import method_class, method_names, resolve
from medtrace.workflows.bundle import BUNDLES, bundle, bundle_files
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.train import train
from medtrace.workflows.training.handlers import preparation_of
from tests.trainings import methods_at_length

COMMITTED = ("tracetrans", "reggan", "plasticine", "metaregnet")
OTHERS = tuple(name for name in method_names() if name not in COMMITTED)
SMOKE = ("tracebench", "smoke")


def files(folder, *names):
    return [str(folder / "configs" / f"{name}.yaml") for name in names]


def run_bundle(folder, *names, **values):
    monai.bundle.run(config_file=files(folder, *names), logging_file=False, bundle_root=str(folder), **values)


def weights(run):
    return load_file(Path(run) / "checkpoints" / "weights.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


TRAINED = ("metaregnet",)
"""Those trained in the default run; the others in the slow one."""
every_method = pytest.mark.parametrize(
    "name",
    [name if name in TRAINED else pytest.param(name, marks=pytest.mark.slow) for name in COMMITTED],
    indirect=True,
)


@pytest.fixture(scope="module", params=COMMITTED)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def small(name, tmp_path_factory):
    """The method's bundle with its smallest settings."""
    return bundle(name, tmp_path_factory.mktemp(name) / "bundle", presets=SMOKE)


@pytest.fixture(scope="module")
def trained(name, tmp_path_factory):
    """A run of the Python call."""
    return train(name, out=tmp_path_factory.mktemp(name) / "run", presets=SMOKE)


# What is committed


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_is_generated(name):
    kind = method_class(name)
    for path, text in bundle_files(kind, kind.settings_type()).items():
        assert (BUNDLES / name / path).read_text(encoding="utf-8") == text, f"run medtrace bundle {name}"
    assert (BUNDLES / name / "LICENSE").is_file()
    assert {path.name for path in BUNDLES.iterdir()} == {*COMMITTED, "LICENSE"}


@pytest.mark.parametrize("name", COMMITTED)
def test_settings_of_the_bundle_are_the_defaults(name):
    config = yaml.safe_load((BUNDLES / name / "configs" / "train.yaml").read_text())
    kind = method_class(name)
    assert resolve(kind.settings_type, start=config["settings"]) == kind.settings_type()
    inference = yaml.safe_load((BUNDLES / name / "configs" / "inference.yaml").read_text())
    for key in ("settings", "method_name", "method", "network", "network_def"):
        assert inference[key] == config[key], key


@pytest.mark.parametrize("name", methods_at_length(OTHERS))
def test_every_other_method_has_a_bundle_on_request(name, tmp_path):
    folder = bundle(name, tmp_path / name, presets=SMOKE)
    workflow = ConfigWorkflow(
        config_file=files(folder, "train"), logging_file=False, workflow_type="train", run_dir=str(tmp_path / "run")
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    verify_network(folder, "train")


def test_a_bundle_overwrites_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another"):
        bundle("unet", tmp_path)


# MONAI's checks


@pytest.mark.parametrize(("kind", "names"), [("train", ("train",)), ("infer", ("train", "evaluate"))])
def test_has_the_properties_of_a_bundle(kind, names, small, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(small, *names),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(small),
        run_dir=str(tmp_path),
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.network_def, torch.nn.Module)
    assert workflow.version == "0.1.0"
    assert len(workflow.train_dataset if kind == "train" else workflow.dataset) > 0


def verify_network(folder, config):
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=files(folder, config),
        device="cpu",
        any=32,
    )


@pytest.mark.parametrize("config", ["train", "inference"])
def test_network_gives_what_the_metadata_says(config, small):
    verify_network(small, config)


TEXT, OBJECT = {"type": "string", "minLength": 1}, {"type": "object", "minProperties": 1}


def test_metadata_holds_what_the_specification_asks_for(name, tmp_path):
    # MONAI reads a schema that lies at `filepath` and downloads it only otherwise.
    tensor = {
        "type": "object",
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
        "properties": {
            "num_channels": {"type": "integer", "minimum": 1},
            "spatial_shape": {"type": "array", "minItems": 2, "items": {"type": ["string", "integer"]}},
            "value_range": {"type": "array", "items": {"type": "number"}},
            "channel_def": OBJECT,
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
    texts = ["schema", "version", "monai_version", "pytorch_version", "numpy_version"]
    texts += ["task", "description", "authors", "copyright"]
    schema = {
        "type": "object",
        "required": [*texts, "changelog", "required_packages_version", "intended_use", "references"],
        "properties": {
            **dict.fromkeys(texts, TEXT),
            "changelog": OBJECT,
            "required_packages_version": OBJECT,
            "references": {"type": "array", "minItems": 1, "items": TEXT},
            "network_data_format": io,
        },
    }
    path, meta = tmp_path / "schema.json", BUNDLES / name / "configs" / "metadata.json"
    path.write_text(json.dumps(schema))
    monai.bundle.verify_metadata(meta_file=str(meta), filepath=str(path))
    metadata = json.loads(meta.read_text())
    assert metadata["version"] in metadata["changelog"]
    (tmp_path / "broken.json").write_text(json.dumps({**metadata, "version": 1}))
    with pytest.raises(ValueError, match="Failed validating"):
        monai.bundle.verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(path))


def test_metadata_follows_monais_schema(name, tmp_path):
    """MONAI ships no schema: it is downloaded, or read from $MEDTRACE_BUNDLE_SCHEMA."""
    path, meta = tmp_path / "schema.json", BUNDLES / name / "configs" / "metadata.json"
    if "MEDTRACE_BUNDLE_SCHEMA" in os.environ:
        shutil.copyfile(os.environ["MEDTRACE_BUNDLE_SCHEMA"], path)
    else:
        url = json.loads(meta.read_text())["schema"]
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                path.write_bytes(answer.read())
        except OSError as error:
            pytest.skip(f"{url} cannot be reached ({error}); set MEDTRACE_BUNDLE_SCHEMA to a copy")
    monai.bundle.verify_metadata(meta_file=str(meta), filepath=str(path))


# One training, two ways in


@pytest.mark.slow
@every_method
def test_monai_bundle_run_gives_the_weights_of_the_python_call(small, trained, tmp_path):
    """In a process of its own; in this one, test_train_two_domain.py does with a bundle of MUNIT."""
    line = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/train.yaml", "--run_dir", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300, cwd=small)
    assert done.returncode == 0, done.stderr[-3000:]
    assert same(weights(trained), weights(tmp_path))
    assert "best validation: mae" in done.stderr
    first, second = ((folder / "history.csv").read_text() for folder in (trained, tmp_path))
    assert first == second
    assert read_run(tmp_path) == read_run(trained)
    assert (tmp_path / "preparation.json").read_bytes() == (trained / "preparation.json").read_bytes()


@every_method
def test_resumed_bundle_ends_with_the_same_weights(small, trained, tmp_path):
    run_bundle(small, "train", run_dir=str(tmp_path), **{"settings#training#max_epochs": 1})
    assert not same(weights(trained), weights(tmp_path))
    run_bundle(small, "train", run_dir=str(tmp_path), resume=True)
    assert same(weights(trained), weights(tmp_path))
    assert [row["epoch"] for row in csv.DictReader((tmp_path / "history.csv").open())] == ["1", "2"]


@every_method
def test_another_seed_gives_other_weights(small, trained, tmp_path):
    run_bundle(small, "train", run_dir=str(tmp_path), **{"settings#training#seed": 1})
    assert not same(weights(trained), weights(tmp_path))


# Evaluation and inference


@every_method
def test_evaluation_tells_what_medtrace_evaluate_tells(small, trained, tmp_path):
    run_bundle(small, "train", "evaluate", run_dir=str(trained), output_dir=str(tmp_path / "bundle"))
    cases = list(csv.DictReader((tmp_path / "bundle" / "cases.csv").open()))
    assert len(cases) == 2
    from medtrace.data import sources

    settings = read_run(trained).settings
    table = evaluate(trained, sources(settings).test(), tmp_path / "call", progress=False)["method"]
    for row in cases:
        assert float(row["mae"]) == pytest.approx(table.rows[row["case"]]["mae"], rel=1e-5)


@every_method
def test_inference_writes_the_trace_of_every_case(name, small, trained, tmp_path):
    from medtrace.data import sources
    from medtrace.io.nifti import write_image
    from medtrace.methods import as_tensor

    images = tmp_path / "data" / "images"
    images.mkdir(parents=True)
    settings = read_run(trained).settings
    test = sources(settings).test()
    registers = "translate" not in method_class(name).abilities.tasks
    for index in range(2):
        case = test[index]
        for role in ("source", "target") if registers else ("source",):
            image = as_tensor(case[role]) / 2 + 0.5
            write_image(images / f"case{index}_{role}.nii.gz", image, case["source"].affine)
    out = tmp_path / "traces"
    run_bundle(small, "inference", run_dir=str(trained), dataset_dir=str(tmp_path / "data"), output_dir=str(out))
    traces = [load_trace(out / f"case{index}") for index in range(2)]
    method = load_method(trained, "cpu")
    batch = {key: torch.stack([as_tensor(test[i][key]) for i in range(2)]) for key in ("source", "target")}
    expected = method.trace_pair(**_pair(batch)) if registers else method.trace(batch)
    for trace, other in zip(traces, expected):
        torch.testing.assert_close(trace.ddf, other.ddf, atol=2e-3, rtol=0)
        if name != "plasticine":  # whose noise is seeded by the source's bytes, and a file rounds them
            torch.testing.assert_close(trace.image, other.image, atol=2e-3, rtol=0)


def _pair(batch):
    return {"moving": batch["source"], "fixed": batch["target"]}


@every_method
def test_a_run_of_tracebench_is_prepared_at_its_voxel_size(trained):
    from medtrace.data import DeterministicDataset, sources

    settings = read_run(trained).settings
    preparation = preparation_of(DeterministicDataset(sources(settings).training()), None)
    assert preparation.spatial_shape == (32, 32)
