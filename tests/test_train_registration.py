"""Trainings of MetaRegNet and VoxelMorph: each trains, resumes, evaluates and infers."""

import shutil

import pytest
import torch

from medtrace.engines.runs import load_method
from medtrace.io import load_trace
from medtrace.io.nifti import write_image
from medtrace.methods import build_method, method_class
from medtrace.methods.metaregnet.method import MetaRegNetMethod
from medtrace.networks import DiffeomorphicVoxelMorph, MetamorphicRegNet
from medtrace.networks.stacked_pair import StackedPair
from medtrace.workflows.bundle import bundle
from medtrace.workflows.train import train
from tests.trainings import (
    AFFINE,
    ROUNDED,
    SMOKE,
    bundle_of,
    check_evaluation,
    check_properties,
    epochs,
    prepared_images,
    run_bundle,
    same,
    train_in_group,
    weights,
)

METHODS = {
    "metaregnet": ("metaregnet", {}),
    "voxelmorph_cfm": ("voxelmorph", {}),
    "voxelmorph": ("voxelmorph", {"masking": False}),
}
NETWORKS = {"metaregnet": MetamorphicRegNet, "voxelmorph": DiffeomorphicVoxelMorph}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by method."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(method="metaregnet"):
        if method not in runs:
            name, values = METHODS[method]
            runs[method] = train(name, out=parent / method, presets=SMOKE, settings=values)
        return runs[method]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_registers(method, trained):
    run = trained(method)
    assert [row["epoch"] for row in epochs(run)] == ["1", "2"]
    result = load_method(run, "cpu")
    assert type(result) is method_class(METHODS[method][0])
    assert getattr(result, "masking", None) == {"voxelmorph_cfm": True, "voxelmorph": False}.get(method)
    images = torch.rand(2, 1, 33, 40) * 2 - 1
    trace = result.trace_pair(images[:1], images[1:], torch.ones(1, 1, 33, 40))[0]
    assert trace.ddf.abs().max() > 0
    assert (trace.appearance.abs().max() > 0) == (method == "metaregnet")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_weights(method, trained, tmp_path):
    whole, (name, values) = trained(method), METHODS[method]
    cut = train(name, out=tmp_path / "cut", presets=SMOKE, settings={**values, "training.max_epochs": 1})
    assert not same(weights(whole), weights(cut))
    train(name, out=cut, resume=True, settings={"training.max_epochs": 2})
    assert same(weights(whole), weights(cut))
    assert (whole / "history.csv").read_text() == (cut / "history.csv").read_text()


def test_masking_is_what_tells_the_rivals_apart(trained):
    assert not same(weights(trained("voxelmorph")), weights(trained("voxelmorph_cfm")))


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    run = trained("voxelmorph_cfm")
    run_bundle(bundle_of(run, tmp_path / "bundle"), "train", run_dir=str(tmp_path / "run"))
    assert same(weights(run), weights(tmp_path / "run"))


def test_a_wrong_method_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"method: 'syn' is not one; .*(metaregnet.*voxelmorph|did you mean)"):
        train("syn", out=tmp_path / "run", presets=SMOKE)
    with pytest.raises(ValueError, match="masking: is not a setting"):
        train("metaregnet", out=tmp_path / "run", presets=SMOKE, settings={"masking": False})
    assert not (tmp_path / "run").exists()


def test_the_defaults_are_the_papers_text():
    settings = method_class("metaregnet").settings_type()
    method = build_method("metaregnet", settings)
    assert method.networks.num_blocks == len(method.networks.flow_blocks) == 7
    assert method.energy.similarity == "mse"
    weights_of = {"similarity": 1.0, "intensity_diffusion": 1.0, "folding": 1e-3, "smoothness": 0.0, "bending": 0.0}
    assert dict(method.phase("registration").weights) == weights_of
    assert settings.optimizer.learning_rate == 1e-4


@pytest.mark.slow
def test_volumes_and_a_segmentation_in_place_of_masks(tmp_path):
    """A segmentation is code: a user's own method has it."""
    values = {"data.spatial_shape": [16, 18, 16], "data.train_cases": 2, "data.validation_cases": 1}
    run = train("metaregnet", out=tmp_path / "run", presets=SMOKE, settings={**values, "training.max_epochs": 1})
    images = torch.rand(2, 1, 16, 17, 18) * 2 - 1
    trained = load_method(run, "cpu")
    assert not trained.trace_pair(images[:1], images[1:])[0].mask.any()
    method = MetaRegNetMethod(trained.networks, segmentation=lambda images: images > 0.5)
    trace = method.trace_pair(images[:1], images[1:])[0]
    assert trace.ddf.shape == (3, 16, 17, 18)
    assert torch.equal(trace.mask, (images[1] > 0.5).float())


# Bundles


@pytest.mark.parametrize("name", NETWORKS)
def test_has_the_properties_of_a_bundle(name, tmp_path):
    folder = bundle(name, tmp_path / "bundle", presets=SMOKE)
    workflow = check_properties(folder, tmp_path, "infer", ("train", "evaluate"))
    assert isinstance(workflow.network_def, StackedPair)
    assert isinstance(workflow.parser.get_parsed_content("method").networks, NETWORKS[name])
    prepared_images(tmp_path / "data", ("source", "target"))
    check_properties(folder, tmp_path, "infer", ("inference",), dataset_dir=str(tmp_path / "data"))


@pytest.mark.parametrize("method", ["metaregnet", pytest.param("voxelmorph_cfm", marks=pytest.mark.slow), "voxelmorph"])
def test_evaluation_tells_what_medtrace_evaluate_tells(method, trained, tmp_path):
    run = trained(method)
    check_evaluation(run, bundle_of(run, tmp_path / "of-run"), tmp_path, {"mae", "epe_mm"})


@pytest.mark.parametrize("method", ["metaregnet", "voxelmorph"])
def test_inference_writes_the_trace_of_every_pair(method, trained, tmp_path):
    images = prepared_images(tmp_path / "data", ("source", "target"))
    mask = torch.zeros(1, 20, 28)
    mask[:, 5:9, 10:15] = 1
    write_image(tmp_path / "data" / "images" / "subject-1_mask.nii.gz", mask[..., None], AFFINE)
    run, out = trained(method), tmp_path / "out"
    options = {"run_dir": str(run), "dataset_dir": str(tmp_path / "data"), "output_dir": str(out)}
    run_bundle(bundle_of(run, tmp_path / "bundle"), "inference", **options)
    loaded = load_method(run, "cpu")
    for number in range(2):
        source, target = (images[role][number][None] * 2 - 1 for role in ("source", "target"))
        expected = loaded.trace_pair(source, target, None if number == 0 else mask[None])[0]
        saved = load_trace(out / f"subject-{number}")
        torch.testing.assert_close(saved.affine, AFFINE)
        torch.testing.assert_close(saved.image, expected.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(saved.ddf, expected.ddf, atol=ROUNDED, rtol=0)
        assert saved.mask.any() == (number == 1)
    shutil.rmtree(out)
    other = "voxelmorph" if method == "metaregnet" else "metaregnet"
    with pytest.raises(RuntimeError):
        run_bundle(bundle(other, tmp_path / "other", presets=SMOKE), "inference", **options)
    assert not out.exists()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("method", ["metaregnet", "voxelmorph_cfm"])
def test_the_network_is_distributed(method, trained, tmp_path):
    run = trained(method)
    assert train_in_group(bundle_of(run, tmp_path / "bundle"), tmp_path / "run") == {"networks"}
    assert weights(tmp_path / "run").keys() == weights(run).keys()
