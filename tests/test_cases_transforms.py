"""Transforms of other programs: each is read rightly, or refused with its name and the remedy."""

import json
import shutil

import pytest
import torch

from medtrace.data.reading import read_image
from medtrace.geometry import Grid
from medtrace.io import load_trace
from medtrace.io.foreign import Images, read_point_map
from medtrace.io.foreign.plausibility import check_plausible
from medtrace.workflows.import_field import pixel_of
from tests.cases import common, transform_programs, transform_variants, transforms
from tests.test_passport_export import run

MODULES = (transforms, transform_variants, transform_programs)
CASES = {name: make for module in MODULES for name, make in common.CASES[module.__name__].items()}


def imported(capsys, folder, expected, format_):
    """Exit code and error stream of `medtrace import`."""
    files = [f"[{folder / entry[1:]}" if entry.startswith("[") else folder / entry for entry in expected["fields"]]
    options = ["--format", format_] if format_ else []
    scans = ["--source", folder / expected["source"], "--target", folder / expected["target"]]
    code, _, err = run(capsys, "import", *files, *options, *scans, "--out", folder / "out")
    return code, err


def images_of(source, target):
    grids = [Grid((*image.shape[1:], 1)[:3], image.affine) for image in map(read_image, (source, target))]
    return Images(*grids, pixel_of(source), pixel_of(target))


def check_read(folder, expected, err):
    trace = load_trace(folder / "out")
    target, source = (torch.tensor([pair[side] for pair in expected["points"]]).double() for side in (0, 1))
    off = (trace.origin(target) - source).norm(dim=1)
    assert float(off.max()) < expected["tolerance"], off.tolist()
    metadata = json.loads((folder / "out" / "trace.json").read_text())["metadata"]
    for word in expected.get("said", []):
        assert word in err
        assert any(word in line for line in metadata["assumed"])
    assert "out_" not in str(metadata)  # names of files may be those of patients
    shutil.rmtree(folder / "out")


def check_refused(folder, expected, err):
    assert len(err.strip().splitlines()) == 1
    assert any(entry.strip("[,1]") in err for entry in (*expected["fields"], "source", "target"))
    words = expected.get("message", [])
    assert not words or any(word.lower() in err.lower() for word in words), err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_read_rightly_or_refused(tmp_path, capsys, name):
    folder = tmp_path / name
    expected = common.write(CASES[name], folder)
    code, err = imported(capsys, folder, expected, expected["format"])
    if code == 0:
        assert "read" in expected["accept"]
        check_read(folder, expected, err)
    else:
        assert code == 1
        assert "refuse" in expected["accept"], err
        check_refused(folder, expected, err)


@pytest.mark.parametrize("name", CASES)
def test_other_formats_and_none_are_read_rightly_or_refused(tmp_path, name):
    """What `also_formats` names may be refused; where the content reports the format, it has to do."""
    folder = tmp_path / name
    expected = common.write(CASES[name], folder)
    files = [f"[{folder / entry[1:]}" if entry.startswith("[") else folder / entry for entry in expected["fields"]]
    images = images_of(folder / expected["source"], folder / expected["target"])
    target, source = (torch.tensor([pair[side] for pair in expected["points"]]).double() for side in (0, 1))
    for format_ in (None, *expected.get("also_formats", [])):
        told = format_ is None and expected.get("by_content", expected["format"] != "flirt")
        try:
            point_map = read_point_map(files, images, format_)
            check_plausible(folder / "file", point_map, point_map.displacement())
            refusal = None
        except ValueError as error:
            refusal = error
        if refusal is not None:
            assert not told or "refuse" in expected["accept"], refusal
        elif "read" in expected["accept"]:
            off = (point_map.origin(target) - source).norm(dim=1)
            assert float(off.max()) < expected["tolerance"], (format_, off.tolist())
        else:
            assert not told
