"""Trained networks as programs of their own: the same answers, without medtrace, and what the files tell."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from medtrace.engines.runs import RunRecord, load_method, save_weights
from medtrace.methods import method_class, method_names, resolve
from medtrace.workflows.export_model import export_model
from medtrace.workflows.exporting.programs import FACTS, FORMATS

ONE_PASS = [name for name in method_names() if method_class(name).abilities.one_pass]
TRANSLATES = [name for name in ONE_PASS if "translate" in method_class(name).abilities.tasks]


def made_run(name, folder, dims=2):
    """A run folder of networks as they begin, but with every field and residual at work."""
    kind = method_class(name)
    volume = {"data.spatial_shape": (16, 16, 16)} if dims == 3 else {}
    settings = resolve(kind.settings_type, ("tracebench", "smoke"), {"spatial_dims": dims, **volume})
    method = kind.build(settings)
    for parameter in method.parameters():
        if parameter.numel() and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    folder.mkdir(exist_ok=True)
    RunRecord(name, settings).write(folder)
    save_weights(method, folder)
    return folder


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A run whose field is not zero."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("moving")
    return made_run("tracetrans", folder)


WITHOUT = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
for path in sys.argv[2:]:
    image, ddf = session.run(["image", "ddf"], {"source": numpy.load(path)})
    numpy.savez(path + ".npz", image=image, ddf=ddf)
print({"medtrace", "torch", "monai"} & set(sys.modules))
"""


def test_onnxruntime_gives_image_and_field_without_medtrace(moving, tmp_path):
    done = export_model(moving, tmp_path / "model.onnx")
    assert done.difference < 1e-4
    generator = np.random.default_rng(0)
    sources = [generator.uniform(-1, 1, (2, 1, *size)).astype("float32") for size in ((48, 64), (51, 37))]
    paths = [tmp_path / f"{index}.npy" for index in range(2)]
    for path, source in zip(paths, sources):
        np.save(path, source)
    line = [sys.executable, "-c", WITHOUT, done.file, *paths]
    told = subprocess.run(line, capture_output=True, text=True, check=True, cwd=tmp_path, env={"PYTHONPATH": ""})
    assert told.stdout.strip() == "set()"
    method = load_method(moving, "cpu")
    for path, source in zip(paths, sources):
        answer = np.load(f"{path}.npz")
        for item, trace in enumerate(method.trace({"source": torch.from_numpy(source)})):
            assert np.abs(answer["image"][item] - trace.image.numpy()).max() < 1e-4
            assert np.abs(answer["ddf"][item] - trace.ddf.numpy()).max() < 1e-4
            assert np.abs(answer["ddf"][item]).max() > 0.1


@pytest.mark.parametrize("format", ["torchscript", pytest.param("pt2", marks=pytest.mark.slow)])
def test_other_formats_take_any_size(moving, tmp_path, format):
    done = export_model(moving, tmp_path / "model", format=format)
    assert done.difference < 1e-4
    assert done.size is None
    assert "any size" in str(done)


def test_fixed_size(moving, tmp_path):
    done = export_model(moving, tmp_path / "model.onnx", size=(32, 48))
    sizes = [axis.dim_value for axis in onnx.load(done.file).graph.input[0].type.tensor_type.shape.dim]
    assert sizes == [1, 1, 32, 48]
    with pytest.raises(ValueError, match="size: expected 2 numbers"):
        export_model(moving, tmp_path / "model.onnx", size=(32, 48, 32))


def test_facts_say_what_goes_in_and_out(smoke_run, tmp_path):
    done = export_model(smoke_run, tmp_path / "model.ts", format="torchscript")
    extra = {FACTS: ""}
    torch.jit.load(done.file, _extra_files=extra)
    facts = json.loads(extra[FACTS])
    assert facts["preparation"] == json.loads((smoke_run / "preparation.json").read_text())
    assert facts["inputs"]["source"] == {"channels": 1, "size": ["any", "any"], "range": [-1, 1], "background": -1}
    assert set(facts["outputs"]) == {"image", "ddf"}
    onnx_file = export_model(smoke_run, tmp_path / "model.onnx").file
    properties = {entry.key: entry.value for entry in onnx.load(onnx_file).metadata_props}
    assert json.loads(properties[FACTS]) == facts


def test_a_method_that_samples_is_not_one_pass():
    samples = {name for name in method_names() if hasattr(method_class(name), "refinement")}
    assert {"palette", "plasticine", "ddib", "two_stage", "bbdm", "flow_matching"} <= samples
    assert not samples & set(ONE_PASS)


def test_what_samples_or_registers_is_refused(tmp_path):
    for name, word in (("palette", "samples in many"), ("voxelmorph", "registers pairs")):
        run = made_run(name, tmp_path / name)
        with pytest.raises(ValueError, match=word):
            export_model(run, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="format: expected one of"):
        export_model(run, tmp_path / "model", format="tflite")


def test_a_program_that_answers_otherwise_is_not_written(moving, tmp_path, monkeypatch):
    monkeypatch.setattr("medtrace.workflows.export_model.TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="use another format"):
        export_model(moving, tmp_path / "model.onnx")
    assert not Path(tmp_path / "model.onnx").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", TRANSLATES)
def test_every_method_of_one_pass(name, dims, format, tmp_path):
    if dims not in method_class(name).abilities.spatial_dims:
        pytest.skip(f"{name} has no {dims}D")
    assert export_model(made_run(name, tmp_path / "run", dims), tmp_path / "model", format=format).difference < 1e-4
