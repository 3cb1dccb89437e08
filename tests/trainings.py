"""What tests of trainings share: a run folder read back, a bundle run, and two things compared."""

import csv
import subprocess
import sys
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medtrace.data import sources
from medtrace.engines.distributed import DistributedNetwork
from medtrace.engines.runs import read_run
from medtrace.io.compact import FIELD_ERROR
from medtrace.io.nifti import write_image
from medtrace.methods import method_names
from medtrace.workflows.bundle import bundle
from medtrace.workflows.evaluate import evaluate

SMOKE = ("tracebench", "smoke")
AFFINE = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)
"""Its own grid, turned and with three voxel sizes."""
ROUNDED = FIELD_ERROR + 1e-4
"""How far a saved field may lie from the one that was saved, in voxels."""
ONE_OF_A_KIND = (
    "cut",
    "cyclegan",
    "dualgan",
    "flow_matching",
    "metaregnet",
    "nemar",
    "pix2pix",
    "plasticine",
    "reggan",
    "stargan_v2",
    "tracetrans",
    "tracetrans_composed",
    "unet",
    "unsb",
)
"""Methods no two of which are made alike."""


def methods_at_length(names=None):
    """Methods as parameters of a test: one of a kind, and the others with the slow tests."""
    slow = pytest.mark.slow
    return [name if name in ONE_OF_A_KIND else pytest.param(name, marks=slow) for name in names or method_names()]


def checkpoint(run):
    return torch.load(Path(run) / "checkpoints" / "final.pt", weights_only=True)


def weights(run):
    """The tensors of the method's state."""
    return {name: value for name, value in checkpoint(run)["method"].items() if isinstance(value, torch.Tensor)}


def epochs(run):
    return list(csv.DictReader((Path(run) / "history.csv").open()))


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def apart(first, second):
    """The largest difference of two sets of weights."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def check_equal(first, second, path="checkpoint"):
    """Two nested checkpoints, bit by bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key, value in first.items():
            check_equal(value, second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (one, another) in enumerate(zip(first, second)):
            check_equal(one, another, f"{path}/{index}")
    else:
        assert first == second, path


def configs(folder, *names):
    return [str(folder / "configs" / f"{name}.yaml") for name in names]


def run_bundle(folder, *names, **values):
    monai.bundle.run(config_file=configs(folder, *names), logging_file=False, bundle_root=str(folder), **values)


def command(folder, *names, launcher=("-m", "monai.bundle"), **values):
    """`python -m monai.bundle run` in its own process."""
    values = {"bundle_root": folder, **values}
    options = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    line = [sys.executable, *launcher, "run", "--config_file", str(configs(folder, *names)), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def bundle_of(run, folder):
    """The bundle with the settings of a run."""
    record = read_run(run)
    return bundle(record.method, folder, settings=record.settings.model_dump(mode="json"))


def check_properties(folder, out, kind="train", names=("train",), **values):
    """MONAI's check of a bundle; gives the workflow."""
    workflow = ConfigWorkflow(
        config_file=configs(folder, *names),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(folder),
        run_dir=str(out),
        **values,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert workflow.version == "0.1.0"
    assert len(workflow.train_dataset if kind == "train" else workflow.dataset) > 0
    return workflow


def check_evaluation(run, folder, tmp_path, columns, rel=1e-5):
    """The bundle's evaluation has the cases and, in every column that both have, the values of `medtrace evaluate`."""
    run_bundle(folder, "train", "evaluate", run_dir=str(run), output_dir=str(tmp_path / "bundle"))
    rows = list(csv.DictReader((tmp_path / "bundle" / "cases.csv").open()))
    test = sources(read_run(run).settings).test()
    assert [row["case"] for row in rows] == [case["case"] for case in test]
    expected = evaluate(run, test, out=tmp_path / "python", progress=False)["method"]
    shared = set(rows[0]) & set(expected.rows[rows[0]["case"]])
    assert columns <= shared
    for row in rows:
        for column in shared:
            value = expected.rows[row["case"]][column]
            assert float(row[column]) == pytest.approx(value, rel=rel, nan_ok=True), column
    summary = list(csv.DictReader((tmp_path / "bundle" / "summary.csv").open()))
    assert {row["n"] for row in summary} == {"2"}


def prepared_images(folder, roles=("source",)):
    """Two cases as `medtrace prepare` writes them, in [0, 1], on `AFFINE`; gives role → (2, 1, 20, 28)."""
    (folder / "images").mkdir(parents=True)
    images = {role: torch.rand(2, 1, 20, 28) for role in roles}
    for role, both in images.items():
        for number, image in enumerate(both):
            write_image(folder / "images" / f"subject-{number}_{role}.nii.gz", image[..., None], AFFINE)
    return images


def train_in_group(folder, out):
    """Train a bundle with `multi_gpu_train` in the process group that there is; gives the paths that were wrapped."""
    workflow = ConfigWorkflow(
        config_file=configs(folder, "train", "multi_gpu_train"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(folder),
        run_dir=str(out),
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    method = workflow.parser.get_parsed_content("network")
    wrapped = {name for name, module in method.named_modules() if isinstance(module, DistributedNetwork)}
    inside = {id(weight) for name in wrapped for weight in method.get_submodule(name).parameters()}
    stepped = {id(weight) for phase in method.phases for weight in method.parameters_of(phase.name)}
    assert stepped == inside
    return wrapped
