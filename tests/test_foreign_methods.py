"""The method of docs/howto/new_method.md, as an installed package of others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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


def medtrace(package, *arguments):
    return child(package, "-c", "from medtrace.cli import main; main()", *arguments)


def test_it_is_listed_trained_and_used(package, tmp_path):
    listed = medtrace(package, "methods")
    assert listed.returncode == 0, listed.stderr
    assert re.search(r"^two_convolutions +translate +2D ", listed.stdout, re.M)

    run = tmp_path / "run"
    trained = medtrace(package, "train", "two_convolutions", "--smoke", "--out", run)
    assert trained.returncode == 0, trained.stderr
    assert (run / "run.json").exists()

    scan = tmp_path / "scan.nii.gz"
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.random((32, 32, 1), dtype=np.float32), np.diag([1.0, 1.0, 5.0, 1.0])), scan)
    translated = medtrace(package, "translate", run, scan, "--out", tmp_path / "trace", "--no-report")
    assert translated.returncode == 0, translated.stderr
    assert (tmp_path / "trace" / "image.nii.gz").exists()


@pytest.mark.slow
def test_it_keeps_the_contract_in_full(package):
    code = (
        "from medtrace.methods import method_class; from medtrace.testing import check_method;"
        "check_method(method_class('two_convolutions'), 'full')"
    )
    done = child(package, "-c", code)
    assert done.returncode == 0, done.stderr


def test_without_the_package_the_name_is_unknown(tmp_path):
    refused = medtrace(tmp_path, "train", "two_convolutions", "--smoke", "--out", tmp_path / "run")
    assert refused.returncode == 1
    assert "method: 'two_convolutions' is not one" in refused.stderr
