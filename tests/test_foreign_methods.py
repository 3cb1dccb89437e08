"""The method of docs/howto/new_method.md, as an installed package of others."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.io import load_trace
from medtrace.methods import method_class, method_names
from medtrace.workflows.methods import method_table

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "howto" / "new_method.md"
POINT = re.compile(r'^\[project\.entry-points\."medtrace\.methods"\]\n(\w+) = "([\w.]+):(\w+)"', re.M)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder for Python's path: the page's first block of Python as a module, and its entry point as metadata."""
    text = PAGE.read_text(encoding="utf-8")
    name, module, kind = POINT.search(text).groups()
    code = re.search(r"^```python\n(.*?)^```", text, re.S | re.M)[1]
    assert f"class {kind}(Method)" in code
    folder = tmp_path_factory.mktemp("site")
    path = folder.joinpath(*module.split(".")).with_suffix(".py")
    path.parent.mkdir()
    (path.parent / "__init__.py").touch()
    path.write_text(code.replace("@register_method\n", ""), encoding="utf-8")  # known by the entry point alone
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[medtrace.methods]\n{name} = {module}:{kind}\n")
    return folder


def child(package, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment, check=False
    )


def test_it_is_listed_trained_and_used(package, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(package)
    run, scan, trace = tmp_path / "run", tmp_path / "scan.nii.gz", tmp_path / "trace"
    voxels = np.random.default_rng(0).random((32, 32, 1), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, np.diag([1.0, 1.0, 5.0, 1.0])), scan)
    commands = [
        ["methods"],
        ["train", "two_convolutions", "--smoke", "--out", str(run)],
        ["translate", str(run), str(scan), "--out", str(trace), "--no-report"],
    ]
    done = [CliRunner().invoke(app, command) for command in commands]
    assert [one.exit_code for one in done] == [0, 0, 0], done[-1].output
    assert re.search(r"^two_convolutions +translate +2D ", done[0].stdout, re.M)
    assert json.loads((run / "run.json").read_text())["method"] == "two_convolutions"
    assert load_trace(trace).image.shape == (1, 32, 32, 1)


@pytest.mark.slow
def test_it_keeps_the_contract_in_full(package):
    code = (
        "from medtrace.methods import method_class; from medtrace.testing import check_method;"
        "check_method(method_class('two_convolutions'), 'full')"
    )
    done = child(package, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_the_terminal(width):
    table = method_table(width)
    lines = table.text.splitlines()
    assert max(map(len, lines)) <= width
    assert table.failures == []
    heads = ["method", "tasks", "dims", "training", "paper"]
    assert lines[0].split() == heads
    for name in method_names():
        row = [line for line in lines if line.startswith(f"{name} ")]
        assert len(row) == 1
    words = "".join(line[lines[0].index("paper") :] + " " for line in lines[1:]).split()
    assert words == " ".join(method_class(name).paper for name in method_names()).split()


def test_one_line_a_method_where_no_terminal_reads():
    assert len(method_table().text.splitlines()) == 1 + len(method_names())


def test_a_package_that_cannot_be_imported_is_named_and_the_others_listed(tmp_path, monkeypatch):
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[medtrace.methods]\nbroken = no_such_package_here:Method\n")
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(app, ["methods"])
    assert done.exit_code == 1
    assert "unet" in done.stdout
    assert "medtrace: failed broken: ModuleNotFoundError: No module named 'no_such_package_here'" in done.stderr
