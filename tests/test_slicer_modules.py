"""CLI modules of 3D Slicer: XML by the execution model, arguments that the commands parse, and a run."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import typer

from medtrace.cli import app
from medtrace.cli.slicer import MODULES, module_xml
from medtrace.workflows.slicer_modules import into_scene, write_slicer_modules

COMMANDS = typer.main.get_command(app).commands
HEAD = ["category", "title", "description", "version", "documentation-url", "license", "contributor"]
KINDS = {"image", "directory", "file", "transform", "boolean", "string", "string-enumeration", "integer", "double"}
"""Elements of a parameter group, of those that the published schema (ModuleDescription.xsd) knows, that modules use."""
CHILDREN = {"name", "label", "description", "longflag", "index", "channel", "default", "element"}


def parameters(name):
    root = ElementTree.fromstring(module_xml(name))
    return [one for group in root.findall("parameters") for one in group if one.tag not in ("label", "description")]


@pytest.mark.parametrize("name", MODULES)
def test_xml_follows_the_execution_model(name):
    root = ElementTree.fromstring(module_xml(name))
    assert root.tag == "executable"
    assert [child.tag for child in root] == [*HEAD, "parameters", "parameters"]
    names = []
    for one in parameters(name):
        assert one.tag in KINDS
        assert {child.tag for child in one} <= CHILDREN
        assert (one.find("index") is None) != (one.find("longflag") is None)
        if one.tag in ("image", "directory", "file", "transform"):
            assert one.find("channel").text in ("input", "output")
        if one.tag == "string-enumeration":
            assert (one.find("default").text or "") in [choice.text or "" for choice in one.findall("element")]
        if one.tag in ("integer", "double"):
            float(one.find("default").text)
        names.append(one.find("name").text)
        assert names[-1].isidentifier()  # Slicer makes C++ names of them
    assert len(set(names)) == len(names)
    indices = sorted(int(one.find("index").text) for one in parameters(name) if one.find("index") is not None)
    assert indices == list(range(len(indices)))


@pytest.mark.parametrize("name", MODULES)
def test_arguments_that_slicer_makes_are_parsed_by_the_command(name, tmp_path):
    """Every parameter with its default, or a path, or an element, as Slicer puts them together."""
    options, positions = [], {}
    for one in parameters(name):
        flag, index = one.find("longflag"), one.find("index")
        default = one.findtext("default") or ""
        value = str(tmp_path) if one.tag in ("image", "directory", "file") else default
        if index is not None:
            positions[int(index.text)] = value
        elif not flag.text.startswith("--slicer-"):
            if one.tag == "boolean":
                options.append(flag.text)
            elif value:
                options += [flag.text, value]
    COMMANDS[name].make_context(name, [*options, *(positions[index] for index in sorted(positions))])


def test_numbers_without_a_default_may_stay_empty():
    told = {one.findtext("name"): one for one in parameters("register")}
    assert told["spacing"].tag == "string"
    assert told["smoothness"].tag == "double"
    assert told["no_report"].findtext("longflag") == "--no-report"
    assert [one.text for one in told["align"].findall("element")] == ["auto", "none", "rigid", "affine"]
    assert told["source"].tag == told["mask"].tag == "image"


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    place = tmp_path_factory.mktemp("slicer") / "modules"
    write_slicer_modules(place, {name: module_xml(name) for name in MODULES})
    return place


def call(script, *arguments, **environment):
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("name", MODULES)
def test_scripts_answer_with_their_xml(modules, name):
    script = modules / f"Medtrace{name.capitalize()}.py"
    assert os.access(script, os.X_OK)
    assert call(script, "--xml").stdout == script.with_suffix(".xml").read_text() == module_xml(name)


def test_scene_gets_image_and_transform(tmp_path):
    import torch

    from medtrace.io import save_trace
    from medtrace.trace import Trace

    ddf = torch.zeros(3, 8, 8, 8)
    ddf[0] = 1.0
    trace = Trace.build(torch.rand(1, 8, 8, 8), torch.rand(1, 8, 8, 8), ddf)
    save_trace(trace, tmp_path / "trace", precise=True)
    into_scene(tmp_path / "trace", str(tmp_path / "out.nii.gz"), str(tmp_path / "out.h5"))
    image = np.asarray(nibabel.load(tmp_path / "out.nii.gz").dataobj)
    np.testing.assert_array_equal(image, trace.image[0].numpy())
    transform = sitk.ReadTransform(str(tmp_path / "out.h5"))
    np.testing.assert_allclose(transform.TransformPoint((-3.0, -3.0, 3.0)), (-4.0, -3.0, 3.0))


@pytest.mark.slow
def test_a_run_of_the_script_as_slicer_calls_it(modules, tmp_path):
    """In Slicer's environment, whose Python variables lead elsewhere; empty options are left out."""
    random = np.random.default_rng(0)
    image = np.zeros((40, 40, 12), np.float32)
    image[10:30, 12:28, 3:9] = 500 + 50 * random.standard_normal((20, 16, 6))
    for name, shift in (("moving", 2), ("fixed", 0)):
        nibabel.save(nibabel.Nifti1Image(np.roll(image, shift, 0), np.eye(4)), tmp_path / f"{name}.nii.gz")
    done = call(
        modules / "MedtraceRegister.py",
        *("--out", tmp_path / "trace", "--preset", "", "--spacing", "", "--no-report"),
        *("--slicer-image", tmp_path / "image.nii.gz", "--slicer-transform", tmp_path / "moved.h5"),
        *(tmp_path / "moving.nii.gz", tmp_path / "fixed.nii.gz"),
        LD_LIBRARY_PATH="/nowhere/of/slicer",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "image.nii.gz").is_file()
    assert sitk.ReadTransform(str(tmp_path / "moved.h5")).GetDimension() == 3
