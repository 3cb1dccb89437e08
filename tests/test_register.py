"""Registering two scans: grids, units, masks, with and without a trained network, and what is refused."""

import json
import math
import re
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.fields import jacobian_determinant
from medtrace.io import load_trace
from medtrace.methods import method_class, resolve
from medtrace.workflows.register import register
from medtrace.workflows.train import train
from tests.test_translate import OBLIQUE, flipped, save

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SMOKE, ONE_EPOCH = ("tracebench", "smoke"), {"training.max_epochs": 1}
METHODS = {
    "metaregnet": ("metaregnet", {}),
    "voxelmorph_cfm": ("voxelmorph", {}),
    "voxelmorph": ("voxelmorph", {"masking": False}),
}
"""Name → the method that is trained, and its settings."""


def brain(shape, shift=0.0, lesion=False, seed=0):
    """Smooth tissue in an ellipsoid, zeros outside; shifted along the first axis, with a dark lesion."""
    axes = [np.linspace(-1, 1, size) for size in shape]
    grid = list(np.meshgrid(*axes, indexing="ij"))
    grid[0] = grid[0] - shift * 2 / (shape[0] - 1)
    inside = sum(axis**2 for axis in grid) < 0.6
    tissue = 600 + 200 * np.cos(6 * grid[0] + seed) * np.cos(5 * grid[1]) + 100 * grid[-1]
    mask = sum((axis - 0.2) ** 2 for axis in grid) < 0.04
    return np.where(inside, np.where(mask, 60, tissue) if lesion else tissue, 0), mask


@pytest.fixture
def slices(tmp_path):
    """Two slices, the target moved by two voxels and in other units, with a lesion."""
    source, _ = brain((32, 36))
    target, mask = brain((32, 36), shift=2.0, lesion=True)
    return SimpleNamespace(
        source=save(tmp_path / "source.nii.gz", source[..., None], AFFINE),
        target=save(tmp_path / "target.nii.gz", 2.5 * target[..., None], AFFINE),
        mask=save(tmp_path / "mask.nii.gz", mask[..., None], AFFINE, np.uint8),
        out=tmp_path / "out",
        inside=torch.from_numpy(target > 0),
        lesion=torch.from_numpy(mask),
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Smoke runs of three methods."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: train(method, out=folder / name, presets=SMOKE, settings={**ONE_EPOCH, **settings}, device="cpu")
        for name, (method, settings) in METHODS.items()
    }


def command(*arguments):
    return CliRunner().invoke(app, ["register", *map(str, arguments), "--device", "cpu"])


def shown_page(slices):
    return slices.out.with_name("out.html").read_text()


def error_of(*arguments):
    result = command(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


# Without a network


def test_slices_are_registered_without_a_run(slices):
    result = command(
        slices.source, slices.target, "--mask", slices.mask, "--out", slices.out
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "folds: 0 voxels" in result.stdout
    assert "peak memory" in result.stdout
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', shown_page(slices), re.DOTALL)[1])
    assert "truth" in scene["cases"][0]["arrays"], "the page shows the target"
    low, high = scene["cases"][0]["windows"]["source"]
    span = scene["cases"][0]["arrays"]["truth"]["scale"] * (2**16 - 1)
    assert span < 1.3 * (high - low), "in the source's units, not in its own, which are 2.5 times as large"
    trace = load_trace(slices.out)
    assert trace.spatial_dims == 2
    inner = torch.from_numpy(ndimage.binary_erosion(slices.inside, iterations=4)) & ~slices.lesion
    assert float((trace.ddf[0][inner] + 2).abs().mean()) < 0.5, "the source lies two voxels before the target"
    assert float(trace.ddf[1][inner].abs().mean()) < 0.3
    assert torch.equal(trace.source[0], torch.from_numpy(brain((32, 36))[0].astype(np.int16)).float())
    assert bool((trace.appearance[0][slices.lesion] < -100).any()), "the lesion is dark, in the source's units"
    assert not trace.appearance[0][~slices.lesion].any()
    torch.testing.assert_close(trace.image, trace.warped + trace.appearance, atol=1e-3, rtol=0)
    details = json.loads((slices.out / "trace.json").read_text())["metadata"]
    assert details["similarity"] == "lncc"
    assert details["verdict"]["verdict"] == result.stdout.split(":")[0] != "FAIL"
    assert details["ssd_after"] < 0.3 * details["ssd_before"]


def test_without_a_mask_the_image_is_the_warped_source(slices, runs):
    for name, options in {
        "greedy": [],
        "instance": ["--engine", "instance", "--refine", 5, "--align", "none"],
        "network": ["--run", runs["metaregnet"], "--align", "none"],
    }.items():
        out = slices.out / name
        assert command(slices.source, slices.target, "--out", out, *options).exit_code == 0
        trace = load_trace(out)
        assert torch.equal(trace.image, trace.warped)
        assert not trace.appearance.any()
        assert not trace.mask.any()


def test_volumes_on_two_grids_are_registered_by_their_headers(tmp_path):
    shape = (20, 24, 18)
    target, mask = brain(shape, lesion=True)
    order, signs = (1, 0, 2), (-1, 1, -1)
    stored = flipped(AFFINE, shape, order, signs)
    source = brain(shape)[0].transpose(order)[::-1, :, ::-1]
    paths = [save(tmp_path / "s.nii.gz", source, stored), save(tmp_path / "t.nii.gz", target, AFFINE)]
    save(tmp_path / "m.nii.gz", mask, AFFINE, np.uint8)
    found = register(
        *paths, tmp_path / "out", mask=tmp_path / "m.nii.gz", spacing=6.0, labels=paths[0],
        figure=tmp_path / "figure.png", device="cpu", progress=False,
    )  # fmt: skip
    trace = load_trace(tmp_path / "out")
    np.testing.assert_allclose(trace.source_affine, stored, atol=1e-4)
    np.testing.assert_allclose(trace.affine, AFFINE, atol=1e-4)
    assert trace.source.shape == (1, *source.shape)
    # The anatomy is one and the same: read by the headers it already is on the target.
    healthy = ~torch.from_numpy(mask)
    moved = trace.warped[0] - torch.from_numpy(target.astype(np.int16))
    assert float(moved[healthy].abs().mean()) < 15
    assert float(trace.ddf.abs().mean()) < 0.3
    assert found.ssd_before < 0.01
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "trace.json").read_text())["metadata"]["working_shape"] == [10, 12, 9]


def test_field_on_a_coarse_grid_is_in_the_targets_voxels(tmp_path):
    """A shift of four voxels, found at twice the voxel size, on an oblique grid whose axes are not RAS."""
    shape = (40, 36, 12)
    source, target = brain(shape)[0], brain(shape, shift=-4.0)[0]
    paths = [save(tmp_path / f"{name}.nii.gz", data) for name, data in (("s", source), ("t", target))]
    out = tmp_path / "out"
    found = register(*paths, out, spacing=1.44, device="cpu", progress=False)
    inner = torch.from_numpy(ndimage.binary_erosion(target > 0, iterations=2))
    error = found.trace.ddf[:, inner] - torch.tensor([4.0, 0, 0])[:, None]
    assert float(error[0].mean().abs()) < 0.8
    assert float(error[1:].mean(1).abs().max()) < 0.5
    assert int((jacobian_determinant(found.trace.ddf[None]) < 0).sum()) == found.folds
    np.testing.assert_allclose(nibabel.load(out / "warped.nii.gz").affine, OBLIQUE, atol=1e-4)


def test_natural_images_are_registered(tmp_path):
    for name, shift in (("a", 0), ("b", 2.0)):
        Image.fromarray((brain((40, 32), shift)[0] / 4).astype(np.uint8)).save(tmp_path / f"{name}.png")
    found = register(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "out", device="cpu", progress=False)
    assert found.trace.source.shape == (1, 32, 40)
    assert found.ssd_after < 0.5 * found.ssd_before


def test_pathology_of_the_source_moves_with_it(slices):
    register(
        slices.target,
        slices.source,
        slices.out,
        source_mask=slices.mask,
        device="cpu",
        progress=False,
    )
    trace = load_trace(slices.out)
    middle = torch.nonzero(slices.lesion).float().mean(0)
    context = torch.nonzero(trace.mask[0] > 0).float().mean(0)
    assert float(context[0] - middle[0]) == pytest.approx(-2, abs=0.8)
    assert bool((trace.appearance[trace.mask > 0] > 0).any())


# With a network


@pytest.mark.parametrize("method", METHODS)
def test_a_run_registers_and_is_refined(method, slices, runs):
    options = {"mask": slices.mask, "run": runs[method], "device": "cpu", "progress": False}
    first = register(slices.source, slices.target, slices.out, **options)
    refined = register(slices.source, slices.target, slices.out, refine=20, overwrite=True, **options)
    assert first.trace.ddf.any()
    assert refined.ssd_after < first.ssd_after < 1
    spacing = json.loads((runs[method] / "preparation.json").read_text())["spacing"]
    shape = json.loads((slices.out / "trace.json").read_text())["metadata"]["working_shape"]
    assert shape == [round(size * 3 / voxel) for size, voxel in zip((32, 36), spacing)]


def test_the_engine_continues_a_runs_field(slices, runs):
    options = ["--mask", slices.mask, "--run", runs["metaregnet"], "--out", slices.out, "--align", "none"]
    options += ["--spacing", 3]
    ends = {}
    for name, more in {"run": [], "standard": ["--engine", "greedy"], "thorough": ["--preset", "thorough"]}.items():
        more += ["--engine", "greedy"] if name == "thorough" else []
        result = command(slices.source, slices.target, *options, *more, "--overwrite")
        assert result.exit_code == 0, result.output
        assert ("similarity lncc: of the engine" in result.stdout) == (name != "run")
        ends[name] = json.loads((slices.out / "trace.json").read_text())["metadata"]
    assert "continued_by" not in ends["run"]
    assert [ends[name]["continued_by"] for name in ("standard", "thorough")] == ["standard", "thorough"]
    assert ends["standard"]["ssd_after"] < 0.5 * ends["run"]["ssd_after"]
    assert ends["thorough"]["ssd_after"] != ends["standard"]["ssd_after"]
    for more, expected in (
        (["--engine", "instance"], "--engine: expected none or greedy"),
        (["--preset", "thorough"], "the engine greedy, which continues its field, takes a preset"),
        (["--engine", "greedy", "--similarity", "mi"], "expected with the engine greedy alone"),
        (["--engine", "greedy", "--refine", 3], "takes no gradient steps"),
    ):
        assert expected in error_of(slices.source, slices.target, *options, *more, "--overwrite")


def test_memory_counts_the_engine_that_continues_a_field(slices, runs, monkeypatch):
    rooms: list[int] = []
    monkeypatch.setattr("medtrace.workflows.registration.trained.check_memory", lambda _, room, *__: rooms.append(room))
    options = {"run": runs["metaregnet"], "spacing": 3, "align": "none", "device": "cpu", "progress": False}
    for more in ({}, {"engine": "greedy"}):
        register(slices.source, slices.target, slices.out, overwrite=True, **options, **more)
    shape = json.loads((slices.out / "trace.json").read_text())["metadata"]["working_shape"]
    assert rooms[1] - rooms[0] == 200 * math.prod(shape)


def test_the_engine_refuses_to_continue_a_translator(slices, runs, monkeypatch):
    settings = resolve(method_class("reggan").settings_type, SMOKE)
    other = method_class("reggan").build(settings)
    monkeypatch.setattr("medtrace.workflows.registration.trained.load_method", lambda *_: other)
    options = ["--run", runs["metaregnet"], "--engine", "greedy"]
    message = error_of(slices.source, slices.target, "--out", slices.out, *options)
    assert "with a run of RegGAN, whose field the engine cannot continue" in message


def test_a_run_of_slices_refuses_volumes_and_a_translator_every_pair(tmp_path, runs, slices):
    volume = save(tmp_path / "v.nii.gz", brain((20, 20, 20))[0], AFFINE)
    message = error_of(volume, volume, "--out", slices.out, "--run", runs["metaregnet"])
    assert "registers single slices, but the images are volumes; train with spatial_dims=3" in message
    other = train("tracetrans", out=tmp_path / "tracetrans", presets=SMOKE, settings=ONE_EPOCH, device="cpu")
    message = error_of(slices.source, slices.target, "--out", slices.out, "--run", other)
    assert "registers pairs, received TraceTransMethod" in message
    assert not slices.out.exists()


# What is refused


def test_errors_are_one_line(tmp_path, slices):
    volume = save(tmp_path / "v.nii.gz", brain((20, 20, 20))[0], AFFINE)
    natural_image = tmp_path / "p.png"
    Image.fromarray((brain((32, 36))[0] / 4).astype(np.uint8)).save(natural_image)
    everywhere = save(tmp_path / "all.nii.gz", np.ones((32, 36, 1)), AFFINE, np.uint8)
    for arguments, expected in (
        ([slices.source, tmp_path / "none.nii.gz"], "none.nii.gz: no such file"),
        ([slices.source, volume], "is a volume, but"),
        ([slices.source, natural_image], "expected a scan, as"),
        ([slices.source, slices.target, "--refine", 0], "expected 1 or more gradient steps without a run"),
        ([slices.source, slices.target, "--mask", volume], "expected the grid"),
        ([slices.source, slices.target, "--mask", everywhere], "a mask that covers all of it"),
        ([slices.source, slices.target, "--spacing", -1], "spacing"),
        ([slices.source, slices.target, "--figure", "a.txt"], "expected a name ending in .png"),
        ([slices.source, slices.target, "--labels", volume], "expected the grid (32, 36, 1)"),
        ([slices.source, slices.target, "--run", tmp_path], "is missing"),
    ):
        assert expected in error_of(*arguments, "--out", slices.out)
        assert not slices.out.exists()
    (slices.out).mkdir()
    (slices.out / "note.txt").touch()
    assert "is in use" in error_of(slices.source, slices.target, "--out", slices.out)


def test_tilted_slices_are_refused(tmp_path, slices):
    turned = AFFINE.copy()
    turned[:3, :3] = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]) * 3
    tilted = save(tmp_path / "tilted.nii.gz", brain((32, 36))[0][..., None], turned)
    assert "its plane is tilted" in error_of(slices.source, tilted, "--out", slices.out)
