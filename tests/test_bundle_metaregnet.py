"""The MetaRegNet bundle: every method trains, resumes, evaluates and infers, and MONAI's checks of a bundle pass."""

import csv
import json
import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medtrace.engines.distributed import DistributedNetwork
from medtrace.io import load_trace
from medtrace.io.compact import FIELD_ERROR
from medtrace.io.nifti import write_image
from medtrace.networks import DiffeomorphicVoxelMorph, MetamorphicRegNet
from medtrace.networks.stacked_pair import StackedPair
from medtrace.objectives import MetaRegNetObjective, VoxelMorphObjective
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.runs import load_objective
from medtrace.workflows.train import bundle_folder, train
from tests.test_bundle_tracetrans import same

BUNDLE = bundle_folder("metaregnet")
CONFIGS = BUNDLE / "configs"
SMOKE = ("tracebench", "smoke")
METHODS = {"metaregnet": MetaRegNetObjective, "voxelmorph_cfm": VoxelMorphObjective, "voxelmorph": VoxelMorphObjective}
SIZES = {"channels": [4, 8], "num_blocks": 2, "flow_halvings": 1, "voxelmorph_channels": [4, 4, 4, 4]}


def files(*names):
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def run_bundle(*names, **values):
    monai.bundle.run(config_file=files(*names), logging_file=False, bundle_root=str(BUNDLE), **values)


def weights(run):
    return torch.load(Path(run) / "checkpoints" / "final.pt", weights_only=True)["objective"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by method, of the Python call."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(method="metaregnet"):
        if method not in runs:
            runs[method] = train("metaregnet", smoke=True, out=parent / method, overrides={"method": method})
        return runs[method]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_registers(method, trained):
    run = trained(method)
    assert [row["epoch"] for row in csv.DictReader((run / "history.csv").open())] == ["1", "2"]
    objective = load_objective(run, "cpu")
    assert type(objective) is METHODS[method]
    assert getattr(objective, "masking", None) == {"voxelmorph_cfm": True, "voxelmorph": False}.get(method)
    images = torch.rand(2, 1, 33, 40) * 2 - 1
    trace = objective.register(images[:1], images[1:], torch.ones(1, 1, 33, 40))[0]
    assert trace.ddf.abs().max() > 0
    assert (trace.appearance.abs().max() > 0) == (method == "metaregnet")


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_with_the_same_weights(method, tmp_path):
    values = {"method": method}
    whole = train("metaregnet", smoke=True, out=tmp_path / "whole", overrides=values)
    cut = train("metaregnet", smoke=True, out=tmp_path / "cut", overrides={**values, "max_epochs": 1})
    assert not same(weights(whole), weights(cut))
    train("metaregnet", out=cut, resume=True, overrides={"max_epochs": 2})
    assert same(weights(whole), weights(cut))
    assert (whole / "history.csv").read_text() == (cut / "history.csv").read_text()


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    run_bundle("train", *SMOKE, run_dir=str(tmp_path), method="voxelmorph_cfm")
    assert same(weights(trained("voxelmorph_cfm")), weights(tmp_path))


def test_a_wrong_method_trains_nothing(tmp_path):
    with pytest.raises(RuntimeError) as caught:
        train("metaregnet", smoke=True, out=tmp_path / "run", overrides={"method": "syn"})
    expected = "method: expected one of 'metaregnet', 'voxelmorph_cfm', 'voxelmorph', received 'syn'"
    assert expected in str(caught.value.__cause__)
    assert not (tmp_path / "run").exists()


def test_train_is_the_papers_text():
    parser = ConfigParser()
    parser.read_config(files("train"))
    objective = parser.get_parsed_content("objective")
    assert objective.networks.num_blocks == len(objective.networks.flow_blocks) == 7
    assert objective.energy.similarity == "mse"
    weights_of = {"similarity": 1.0, "intensity_diffusion": 1.0, "folding": 1e-3, "smoothness": 0.0}
    assert dict(objective.phase("registration").weights) == weights_of
    assert parser["learning_rate"] == 1e-4
    assert parser["optimizers#registration#_target_"] == "torch.optim.Adam"


@pytest.mark.usefixtures("foreign_code")
def test_volumes_and_a_segmentation_in_place_of_masks(tmp_path):
    values = {
        "spatial_shape": [16, 18, 16], "train_cases": 2, "validation_cases": 1, "max_epochs": 1,
        "segmentation": "$lambda images: images > 0.5",
    }  # fmt: skip
    run = train("metaregnet", smoke=True, out=tmp_path / "run", overrides=values)
    objective = load_objective(run, "cpu")
    images = torch.rand(2, 1, 16, 17, 18) * 2 - 1
    trace = objective.register(images[:1], images[1:])[0]
    assert torch.equal(trace.mask, (images[1] > 0.5).float())


# MONAI's own checks


@pytest.mark.parametrize("method", ["metaregnet", "voxelmorph_cfm"])
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ("train",)), ("infer", ("train", "evaluate")), ("infer", ("inference",))]
)
def test_has_the_properties_of_a_bundle(kind, names, method, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(*names, *SMOKE),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        method=method,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    expected = MetamorphicRegNet if method == "metaregnet" else DiffeomorphicVoxelMorph
    assert isinstance(workflow.network_def, expected)
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
        **SIZES,
    )


def test_stacked_pair_is_source_and_target():
    torch.manual_seed(0)
    network = DiffeomorphicVoxelMorph(2, 1, (4, 4, 4, 4), (4,))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    source, target = torch.rand(2, 1, 1, 16, 16)
    stacked = StackedPair(network)(torch.cat([source, target], dim=1))
    assert torch.equal(stacked, network(source, target).warped)
    assert not torch.equal(stacked, network(target, source).warped)
    with pytest.raises(ValueError, match="even number of channels"):
        StackedPair(network)(torch.rand(1, 3, 16, 16))


def test_metadata_holds_what_the_specification_asks_for():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    versions = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    others = {"schema", "changelog", "task", "description", "authors", "copyright", "intended_use", "references"}
    assert versions | others | {"network_data_format"} <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    reggan = json.loads((bundle_folder("reggan") / "configs" / "metadata.json").read_text())
    assert {key: metadata[key] for key in versions} == {key: reggan[key] for key in versions}


def test_inference_describes_the_network_of_the_training():
    configs = {}
    for name in ("train", "inference"):
        configs[name] = ConfigParser()
        configs[name].read_config(files(name))
    shared = [
        "method",
        "methods",
        "spatial_dims",
        "in_channels",
        "channels",
        "num_blocks",
        "share_blocks",
        "integration",
    ]
    shared += ["flow_halvings", "voxelmorph_channels", "velocity_halvings", "objective", "network", "network_in_out"]
    shared += [f"objectives#{name}#networks" for name in ("metaregnet", "voxelmorph")]
    for key in shared:
        assert configs["train"][key] == configs["inference"][key], key


# Evaluation and inference


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_tells_what_medtrace_evaluate_tells(method, trained, tmp_path):
    run = trained(method)
    run_bundle("train", "evaluate", *SMOKE, run_dir=str(run), output_dir=str(tmp_path), method=method)
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in cases] == ["metamorphic-test-0000", "metamorphic-test-0001"]
    parser = ConfigParser()
    parser.read_config(files("train", *SMOKE))
    expected = evaluate(run, parser.get_parsed_content("data#test"), out=tmp_path / "python")["method"]
    assert "epe_mm" in cases[0]
    for row in cases:
        for column, value in expected.rows[row["case"]].items():
            assert float(row[column]) == pytest.approx(value, rel=1e-5, nan_ok=True), column


@pytest.mark.parametrize("method", ["metaregnet", "voxelmorph"])
def test_inference_writes_the_trace_of_every_pair(method, trained, tmp_path):
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)
    folder = tmp_path / "dataset" / "images"
    folder.mkdir(parents=True)
    images = torch.rand(2, 2, 1, 20, 28)
    mask = torch.zeros(1, 20, 28)
    mask[:, 5:9, 10:15] = 1
    for number, (source, target) in enumerate(images):
        write_image(folder / f"pair-{number}_source.nii.gz", source[..., None], affine)
        write_image(folder / f"pair-{number}_target.nii.gz", target[..., None], affine)
    write_image(folder / "pair-1_mask.nii.gz", mask[..., None], affine)
    run, out = trained(method), tmp_path / "out"
    options = {"run_dir": str(run), "dataset_dir": str(tmp_path / "dataset"), "output_dir": str(out)}
    run_bundle("inference", method=method, **options, **SIZES)
    objective = load_objective(run, "cpu")
    for number, (source, target) in enumerate(images * 2 - 1):
        expected = objective.register(source[None], target[None], None if number == 0 else mask[None])[0]
        saved = load_trace(out / f"pair-{number}")
        torch.testing.assert_close(saved.affine, affine)
        torch.testing.assert_close(saved.image, expected.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(saved.ddf, expected.ddf, atol=1.1 * FIELD_ERROR, rtol=0)
        assert saved.mask.any() == (number == 1)
    shutil.rmtree(out)
    other = "voxelmorph" if method == "metaregnet" else "metaregnet"
    with pytest.raises(RuntimeError):
        run_bundle("inference", method=other, **options, **SIZES)
    assert not out.exists()


# Several devices


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("method", ["metaregnet", "voxelmorph_cfm"])
def test_the_network_is_distributed(method, trained, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files("train", *SMOKE, "multi_gpu_train"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        method=method,
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    assert isinstance(workflow.parser.get_parsed_content("network").networks, DistributedNetwork)
    assert weights(tmp_path).keys() == weights(trained(method)).keys()
