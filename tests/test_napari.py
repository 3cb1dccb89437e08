"""Traces as layers of napari, without napari: what the manifest names, and that layers lie where the trace says."""

import configparser
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import medtrace
from medtrace.fields import exponentiate
from medtrace.io import napari as module
from medtrace.io import save_trace
from medtrace.io.napari import napari_layers, napari_reader
from medtrace.trace import Trace

PACKAGE = Path(medtrace.__file__).parent


def made_trace(dims):
    """Of two grids that differ in spacing and place, with a smooth field of some voxels."""
    generator = torch.Generator().manual_seed(2)
    spatial, source_spatial = ((12, 10, 8), (9, 11, 7)) if dims == 3 else ((12, 10), (9, 11))
    coarse = 2 * torch.randn(1, dims, *(3,) * dims, generator=generator)
    mode = "trilinear" if dims == 3 else "bilinear"
    ddf = exponentiate(torch.nn.functional.interpolate(coarse, size=spatial, mode=mode, align_corners=True))[0]
    affine = torch.tensor([[0.0, -1.5, 0, 4], [2.0, 0, 0, -3], [0, 0, 3.0, 1], [0, 0, 0, 1]], dtype=torch.float64)
    source_affine = affine @ torch.diag(torch.tensor([1.3, 0.9, 1.1 if dims == 3 else 1, 1], dtype=torch.float64))
    source_affine[:2, 3] += torch.tensor([0.7, -0.4])
    source, image = torch.rand(1, *source_spatial, generator=generator), torch.rand(2, *spatial, generator=generator)
    return Trace.build(source, image, ddf, affine=affine, source_affine=source_affine)


def test_the_manifest_names_what_is_there_and_travels_with_the_package():
    manifest = yaml.safe_load((PACKAGE / "napari.yaml").read_text())
    (command,), (reader,) = (manifest["contributions"][name] for name in ("commands", "readers"))
    assert command["id"] == reader["command"] == "medtrace.read_trace"
    assert reader["accepts_directories"]
    place, name = command["python_name"].split(":")
    assert getattr(import_module(place), name) is napari_reader
    setup = configparser.ConfigParser()
    setup.read(PACKAGE.parent / "setup.cfg")
    assert setup["options.entry_points"]["napari.manifest"].strip() == "medtrace = medtrace:napari.yaml"
    assert "napari.yaml" in setup["options.package_data"]["medtrace"].split()


def test_only_the_folder_of_a_trace_is_read(tmp_path):
    save_trace(made_trace(2), tmp_path / "trace")
    assert napari_reader(str(tmp_path)) is None
    assert napari_reader([str(tmp_path / "trace")]) is None
    layers = napari_reader(str(tmp_path / "trace"))(str(tmp_path / "trace"))
    names = [settings["name"] for _, settings, _ in layers]
    assert names == ["source", "image 0", "image 1", "warped", "displacement (mm)", "came from"]
    assert [settings["name"] for _, settings, _ in layers if settings["visible"]] == ["image 0", "image 1"]


@pytest.mark.parametrize("dims", [2, 3])
def test_arrows_end_in_the_source_where_the_trace_says(dims, monkeypatch):
    monkeypatch.setattr(module, "ARROWS", 40)
    trace = made_trace(dims)
    layers = {settings["name"]: (data, settings["affine"]) for data, settings, _ in napari_layers(trace)}
    arrows, target = layers["came from"]
    assert 4 <= len(arrows) <= 40
    starts, ends = arrows[:, 0], arrows.sum(1)
    points = np.zeros((len(starts), 4))
    points[:, :dims], points[:, 3] = starts, 1
    origins = trace.origin(torch.from_numpy(points @ trace.affine.numpy().T)[:, :3]).numpy()
    source_voxels = np.linalg.solve(trace.source_affine.numpy(), np.c_[origins, np.ones(len(origins))].T)[:dims]
    source = layers["source"][1]
    shown = source[:dims, :dims] @ source_voxels + source[:dims, dims:]
    np.testing.assert_allclose(shown.T, ends @ target[:dims, :dims].T + target[:dims, dims], atol=1e-4)
    length = layers["displacement (mm)"][0][tuple(starts.astype(int).T)]
    moved = np.linalg.norm((ends - starts) @ target[:dims, :dims].T, axis=1)
    np.testing.assert_allclose(length, moved, atol=1e-5)
    assert moved.max() > 1
