"""What MONAI's model zoo, MONAI Label and plain MONAI data lists ask of a bundle."""

import json
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest
import torch

from medtrace.data import TraceBench
from medtrace.engines.runs import read_run
from medtrace.io import load_trace
from medtrace.methods import as_tensor
from medtrace.trace.prediction import affines_of
from medtrace.workflows.bundle import BUNDLES, bundle
from tests.test_bundles import COMMITTED, SMOKE, files


@pytest.mark.parametrize("name", COMMITTED)
def test_zoo_finds_version_and_changelog(name):
    """The zoo asks for a metadata file whose version stands in its changelog and whose packages have versions."""
    metadata = json.loads((BUNDLES / name / "configs" / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    versions = {**metadata["required_packages_version"], "torch": metadata["pytorch_version"]}
    assert all(version and not version.endswith(".") for version in versions.values()), versions
    assert metadata["weights"]["path"] == "models/model.pt"
    assert "tracing" in metadata["weights"]["torchscript"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in COMMITTED])
def test_zoo_verifies_data_shape_and_torchscript(name, tmp_path):
    """As its scripts do: network `network_def` of configs/inference, the sizes left to MONAI, and a stated exclusion
    (tracing in place of scripting)."""
    folder = BUNDLES / name
    place = {"config_file": str(folder / "configs" / "inference.yaml"), "bundle_root": str(folder)}
    place["meta_file"] = str(folder / "configs" / "metadata.json")
    monai.bundle.verify_net_in_out(net_id="network_def", **place)
    parser = monai.bundle.ConfigParser()
    parser.read_config(place["config_file"])
    parser["bundle_root"] = str(folder)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "model.pt")
    metadata = json.loads(Path(place["meta_file"]).read_text())
    channels = metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    monai.bundle.ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(tmp_path / "model.pt"),
        use_trace=True,
        input_shape=[1, channels, 64, 64],
        **place,
    )
    out = metadata["network_data_format"]["outputs"]["pred"]["num_channels"]
    program = torch.jit.load(tmp_path / "model.ts")
    assert program(torch.zeros(1, channels, 96, 64)).shape == (1, out, 96, 64)


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Pairs as files of one slice in units of a scanner, called image and label."""
    folder = tmp_path_factory.mktemp("slices")
    cases = TraceBench("postop", (32, 32), cases=2)
    result = []
    for index in range(2):
        item = {}
        for key, role in (("image", "source"), ("label", "target")):
            values = (as_tensor(cases[index][role])[0].numpy() + 1) * 400
            path = folder / f"head{index}_{role}.nii.gz"
            nibabel.save(nibabel.Nifti1Image(values[..., None], np.diag([2.0, 2, 3, 1])), path)
            item[key] = str(path)
        result.append(item)
    return result


def test_monai_label_trains_a_bundle_on_its_own_lists(slices, tmp_path):
    """Its bundle app overrides the data of both datasets with lists of image and label files, epochs and device."""
    folder = bundle("tracetrans", tmp_path / "bundle", presets=SMOKE)
    monai.bundle.run(
        config_file=files(folder, "train"),
        logging_file=False,
        bundle_root=str(folder),
        run_dir=str(tmp_path / "run"),
        device=torch.device("cpu"),
        **{
            "train#trainer#max_epochs": 1,
            "train#dataset#data": slices,
            "validate#dataset#data": slices[:1],
            "settings#data": {"kind": "prepared"},
        },
    )
    assert read_run(tmp_path / "run").training_data == {}
    preparation = json.loads((tmp_path / "run" / "preparation.json").read_text())
    assert preparation["spacing"] == [2, 2, 3]
    assert (tmp_path / "run" / "checkpoints" / "weights.safetensors").is_file()


def test_inference_takes_a_plain_data_list_and_monais_transforms(slices, smoke_run, tmp_path):
    folder = bundle("tracetrans", tmp_path / "bundle", presets=SMOKE)
    transforms = [
        {"_target_": "LoadImaged", "keys": "source"},
        {"_target_": "EnsureChannelFirstd", "keys": "source"},
        {"_target_": "medtrace.data.dataset.DropSliceAxisd", "keys": "source"},
        {"_target_": "ScaleIntensityRanged", "keys": "source", "a_min": 0, "a_max": 800, "b_min": -1, "b_max": 1},
    ]
    monai.bundle.run(
        config_file=files(folder, "inference"),
        logging_file=False,
        bundle_root=str(folder),
        run_dir=str(smoke_run),
        output_dir=str(tmp_path / "out"),
        items=[{"source": pair["image"]} for pair in slices],
        **{"preprocessing#transforms": transforms},
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["head0_source", "head1_source"]
    trace = load_trace(tmp_path / "out" / "head0_source")
    assert torch.allclose(trace.affine.diagonal()[:2].abs(), torch.tensor([2.0, 2.0], dtype=torch.float64))


def test_a_squeezed_slice_is_refused_with_the_transform_to_take():
    slice_ = monai.data.MetaTensor(torch.zeros(1, 8, 8, 1), affine=torch.eye(4))
    squeezed = monai.transforms.SqueezeDim(dim=-1)(slice_)
    batch = monai.data.MetaTensor(squeezed[None].as_tensor(), affine=squeezed.affine)
    with pytest.raises(ValueError, match="DropSliceAxisd"):
        affines_of(batch)
