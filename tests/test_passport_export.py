"""`export_trace`, Slicer's scene and the command `medtrace export`."""

import ast
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
import SimpleITK as sitk
import torch

from medtrace.io import EXPORT_FORMATS, export_trace, load_trace, read_slicer_nrrd, save_trace, write_slicer_scene
from medtrace.io.composite import linear_transform
from medtrace.trace import Trace
from tests.passport_cases import AFFINES, affine_of, flow, make_trace, mapped, points_within, smooth

FILES = {
    "itk": {"ddf.h5", "inverse_ddf.h5"},
    "composite": {"resample_source.h5", "resample_image.h5"},
    "tfm": {"resample_source.tfm", "resample_image.tfm"},
    "ants": {"ddf.nii.gz", "inverse_ddf.nii.gz", "ddf_2d.nii.gz", "inverse_ddf_2d.nii.gz"},
    "nrrd": {"ddf.nrrd", "inverse_ddf.nrrd"},
    "nitransforms": {"ddf.x5", "inverse_ddf.x5"},
    "learn2reg": {"disp.nii.gz"},
    "fsl": {"ddf.nii.gz", "inverse_ddf.nii.gz"},
}


@pytest.mark.parametrize("format", FILES)
def test_every_format_appears_complete_or_not_at_all(tmp_path, format):
    if format == "nitransforms":
        pytest.importorskip("nitransforms")
    trace = make_trace("2d", "anisotropic")
    written = export_trace(trace, tmp_path / "out", format)
    assert {path.name for path in written} == FILES[format]
    with pytest.raises(FileExistsError, match="expected a new or empty folder"):
        export_trace(trace, tmp_path / "out", format)
    broken = replace(trace, affine=sheared(trace.affine))
    if format == "learn2reg":  # in voxels, whatever their shape
        return
    with pytest.raises(ValueError, match="right angles"):
        export_trace(broken, tmp_path / "none", format)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def sheared(affine):
    other = affine.clone()
    other[0, 1] += 0.3
    return other


def test_formats_are_listed_and_others_refused(tmp_path):
    assert set(EXPORT_FORMATS) == {*FILES, "slicer"}
    with pytest.raises(ValueError, match=r"format: expected one of 'itk', .* received 'dicom'"):
        export_trace(make_trace("2d", "plain"), tmp_path / "out", "dicom")
    with pytest.raises(ValueError, match="format: expected one of composite, tfm with a motion, received 'fsl'"):
        export_trace(make_trace("2d", "plain"), tmp_path / "out", "fsl", source_transform=torch.eye(4))


def nodes_of(scene):
    root = ElementTree.parse(scene).getroot()
    assert root.tag == "MRML"
    by_id = {node.get("id"): node for node in root}
    assert len(by_id) == len(list(root))
    return by_id


def references_of(node):
    pairs = [part.split(":") for part in node.get("references", "").split(";") if part]
    return dict(pairs)


@pytest.mark.parametrize("channels", [1, 2])
def test_the_scene_names_its_files_and_moves_the_source(tmp_path, channels):
    affine = AFFINES["flipped"]
    image = smooth(channels, 12, 10, 8)
    trace = Trace.build(image, image.flip(1), flow(12, 10, 8), affine=affine, mask=image[:1] > 0)
    trace = replace(trace, interval=image.abs(), unexplained=trace.mask)
    scene = write_slicer_scene(trace, tmp_path / "scene")
    by_id = nodes_of(scene)
    for node in by_id.values():
        for role, target in references_of(node).items():
            assert target in by_id, (role, target)
        if name := node.get("fileName"):
            assert not os.path.isabs(name)
            assert (tmp_path / "scene" / name).is_file()
    named = {node.get("name"): node for node in by_id.values()}
    single = channels == 1
    first = "source" if single else "source_0"
    assert {first, "mask", "source moved", "interval" if single else "interval_1", "unexplained"} <= set(named)
    moved = named["source moved"]
    assert moved.tag == "Volume"
    transform = by_id[references_of(moved)["transform"]]
    assert by_id[references_of(transform)["storage"]].get("fileName") == "ddf.nrrd"
    assert by_id[references_of(moved)["storage"]].get("fileName") == f"{first}.nii.gz"
    assert read_slicer_nrrd(tmp_path / "scene" / "ddf.nrrd").field_type == "resampling"
    modeling = read_slicer_nrrd(tmp_path / "scene" / "inverse_ddf.nrrd")
    assert modeling.field_type == "modeling"
    torch.testing.assert_close(modeling.ddf, trace.inverse_ddf, atol=1e-5, rtol=0)
    # What Slicer does with the two files: the volume is resampled by the first, points are moved by the second.
    folder = tmp_path / "scene"
    source, image = (
        sitk.ReadImage(str(folder / f"{name}{'' if single else '_0'}.nii.gz")) for name in ("source", "image")
    )
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / "ddf.nrrd")))
    theirs = torch.from_numpy(sitk.GetArrayFromImage(sitk.Resample(source, image, field, sitk.sitkLinear)).T.copy())
    assert (theirs - trace.warped[0])[trace.covered[0]].abs().max() < 1e-3
    points = points_within(trace.source.shape[1:], affine)
    field = sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / "inverse_ddf.nrrd")))
    torch.testing.assert_close(mapped(field, points), trace.locate(points), atol=1e-4, rtol=0)


def test_the_scene_can_be_moved_and_its_script_runs_against_slicers_names(tmp_path):
    """Slicer itself is not here: a stand-in records what the script asks of it, from another folder."""
    write_slicer_scene(make_trace("3d", "oblique"), tmp_path / "scene")
    (tmp_path / "scene").rename(tmp_path / "elsewhere")
    script = tmp_path / "elsewhere" / "load_trace.py"
    ast.parse(script.read_text())
    package = tmp_path / "surrogate" / "slicer"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from slicer import util\n")
    (package / "util.py").write_text(
        "import os\n"
        "class Node:\n"
        "    def __init__(self, path): self.path = path; assert os.path.isfile(path), path\n"
        "    def SetName(self, name): print('name', name)\n"
        "    def GetID(self): return os.path.basename(self.path)\n"
        "    def SetAndObserveTransformNodeID(self, other): print('under', self.GetID(), other)\n"
        "def loadVolume(path, properties): print('volume', properties['name']); return Node(path)\n"
        "def loadTransform(path): print('transform', os.path.basename(path)); return Node(path)\n"
        "def setSliceViewerLayers(background, foreground, foregroundOpacity, fit):\n"
        "    print('shown', background.GetID(), foreground.GetID())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(tmp_path / "surrogate")},
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    lines = done.stdout.splitlines()
    assert "under source.nii.gz ddf.nrrd" in lines
    assert lines[-1] == "shown image.nii.gz source.nii.gz"
    assert [line for line in lines if line.startswith("transform")] == [
        "transform ddf.nrrd",
        "transform inverse_ddf.nrrd",
    ]


def run(capsys, *arguments):
    from medtrace.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


def test_command_exports_and_brings_to_the_original_scan(tmp_path, capsys):
    trace = make_trace("3d", "flipped")
    save_trace(trace, tmp_path / "trace", precise=True)
    code, out, _ = run(capsys, "export", tmp_path / "trace", "--format", "nrrd", "--out", tmp_path / "fields")
    assert code == 0
    assert "ddf.nrrd" in out
    motion = affine_of((1, 1, 1), (0, 0, 20.0), (3.0, 2, 1))
    sitk.WriteTransform(linear_transform(motion.numpy()), str(tmp_path / "motion.tfm"))
    code, _, err = run(
        capsys,
        *("export", tmp_path / "trace", "--format", "trace", "--out", tmp_path / "original"),
        *("--source", tmp_path / "trace" / "source.nii.gz", "--target-motion", tmp_path / "motion.tfm"),
    )
    assert (code, err) == (0, "")
    original = load_trace(tmp_path / "original")
    points = points_within(trace.source.shape[1:], trace.source_affine)
    expected = trace.locate(points) @ motion[:3, :3].T + motion[:3, 3]
    # Between voxels the displacement, which now turns too, is read linearly as before.
    torch.testing.assert_close(original.locate(points), expected, atol=1e-3, rtol=0)
    code, _, err = run(
        capsys,
        *("export", tmp_path / "trace", "--format", "tfm", "--out", tmp_path / "composite"),
        *("--target-motion", tmp_path / "motion.tfm"),
    )
    assert (code, err) == (0, "")
    transform = sitk.ReadTransform(str(tmp_path / "composite" / "resample_image.tfm"))
    torch.testing.assert_close(mapped(transform, points), expected, atol=1e-4, rtol=0)
    code, _, err = run(
        capsys, "export", tmp_path / "trace", "--format", "itk", "--out", tmp_path / "x", "--target-motion", "m.tfm"
    )
    assert (code, "source: expected the source scan" in err) == (1, True)
    code, _, err = run(capsys, "export", tmp_path / "trace", "--format", "dicom", "--out", tmp_path / "x")
    assert (code, "format: expected one of itk, composite" in err) == (1, True)
    assert not (tmp_path / "x").exists()
