"""What is installed: bounds, extras, version, README of a package index, Dockerfile, conda recipe, the wheel."""

import ast
import configparser
import hashlib
import os
import re
import runpy
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import nibabel
import numpy as np
import pytest
import rattler_build
import torch
import yaml
from packaging.requirements import Requirement

import medtrace
from medtrace.cli.errors import describe
from medtrace.data import read_image
from medtrace.engines import build_optimizers, build_trainer
from medtrace.guard.extras import OptionalPackage
from medtrace.io import read_dicom_registration
from medtrace.methods import method_class, resolve
from tests.gpu_page import HEAD, PAGE, page
from tests.test_project_files import run, tool

ROOT = Path(__file__).resolve().parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
BUILD = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")
CORE = ("monai", "torch", "nibabel", "SimpleITK", "itk-core", "itk-io", "numpy", "scipy")
OF_EXTRAS = ("pydicom", "tensorboard", "jsonschema", "nilearn", "onnx", "mlflow-skinny", "wandb")


def requirements(section="options", name="install_requires"):
    lines = [line.strip() for line in SETUP[section][name].splitlines()]
    return {one.name: one for one in map(Requirement, filter(None, lines))}


def test_the_core_holds_what_a_scan_needs_and_extras_the_rest():
    core = set(requirements())
    assert set(CORE) <= core
    assert not core & set(OF_EXTRAS)
    extras = {
        name for extra in SETUP["options.extras_require"] for name in requirements("options.extras_require", extra)
    }
    assert set(OF_EXTRAS) <= extras


def test_the_lowest_versions_are_those_that_monai_takes():
    lowest = {
        name: next(iter(one.specifier)).version for name, one in requirements().items() if len(one.specifier) == 1
    }
    theirs = [Requirement(line) for line in requires("monai") if "extra" not in line]
    assert {"torch", "numpy"} <= {one.name for one in theirs}
    for one in theirs:
        assert one.specifier.contains(lowest[one.name]), f"{one.name}: MONAI wants {one.specifier}"


@pytest.mark.parametrize("installed", ["2.8.0+cu128", "2.9.1+rocm6.4", "2.13.0+cpu", "2.13.0"])
def test_a_torch_that_works_is_left_as_it_is(installed):
    assert requirements()["torch"].specifier.contains(installed)


def test_without_pydicom_other_scans_are_read_and_dicom_names_its_extra(tmp_path, monkeypatch):
    (tmp_path / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    nibabel.save(nibabel.Nifti1Image(np.arange(60.0).reshape(3, 4, 5), np.eye(4)), tmp_path / "scan.nii.gz")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert read_image(tmp_path / "scan.nii.gz").shape == (1, 3, 4, 5)
    for read in (read_image, read_dicom_registration):
        with pytest.raises(ModuleNotFoundError) as caught:
            read(tmp_path / "scan.dcm")
        line = "DICOM: expected the package pydicom, received none; pip install 'medtrace[dicom]'"
        assert describe(caught.value) == line


def imported(body):
    """Packages that a module imports as it is imported itself."""
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from imported(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            yield from imported([*node.body, *getattr(node, "orelse", [])])


def test_no_module_imports_a_package_of_an_extra_before_it_is_needed():
    optional = {name.replace("-", "_").removesuffix("_skinny") for name in OF_EXTRAS} | {"dask", "ants", "nitransforms"}
    found = {}
    for path in (ROOT / "medtrace").rglob("*.py"):
        taken = optional & set(imported(ast.parse(path.read_text(encoding="utf-8")).body))
        if taken:
            found[str(path)] = taken
    assert found == {}


def test_without_tensorboard_a_training_says_so_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    kind = method_class("unet")

    def trainer(folder, **tracking):
        settings = resolve(kind.settings_type, ("tracebench", "smoke"), {"training.max_epochs": 1, **tracking})
        method = kind.build(settings)
        batch = {key: torch.zeros(1, 1, 16, 16) for key in ("source", "target")}
        device, optimizers = torch.device("cpu"), build_optimizers(method, settings)
        return build_trainer(method, settings, [batch], optimizers, folder, device)

    with pytest.warns(UserWarning, match=r"tensorboard: is not installed.*pip install 'medtrace\[tracking\]'"):
        training = trainer(tmp_path)
    training.run()
    assert (tmp_path / "history.csv").is_file()
    assert not (tmp_path / "tensorboard").exists()
    with pytest.raises(ValueError, match=r"received tensorboard .*medtrace\[tracking\]`, or leave tracking at auto"):
        trainer(tmp_path, **{"training.tracking": "tensorboard"})


def test_an_optional_package_stands_in_for_itself():
    package = OptionalPackage("json", "none", "a test")
    assert package.decoder.JSONDecoder is package.JSONDecoder
    with pytest.raises(AttributeError):
        _ = package.__wrapped__
    with pytest.raises(ModuleNotFoundError, match=r"a test: expected the package nothing_here.*medtrace\[some\]"):
        _ = OptionalPackage("nothing_here", "some", "a test").anything


def git(folder, *line):
    author = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {**os.environ, **author}
    subprocess.run(["git", "-C", str(folder), *line], check=True, capture_output=True, env=environment)


def test_the_version_is_the_tags_where_there_is_one(tmp_path):
    version_of = BUILD["version_of"]
    (tmp_path / "medtrace").mkdir()
    (tmp_path / "medtrace" / "__init__.py").write_text('__version__ = "1.2.0"\n')
    assert version_of(tmp_path) is None  # no repository: setup.cfg's
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "one")
    assert version_of(tmp_path) is None
    git(tmp_path, "tag", "v1.2.0")
    assert version_of(tmp_path) == "1.2.0"
    assert version_of(tmp_path / "medtrace") is None  # a folder of another repository
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "two")
    assert re.fullmatch(r"1\.2\.0\.post1\+g[0-9a-f]{7,}", version_of(tmp_path))
    git(tmp_path, "tag", "v1.3.0")
    with pytest.raises(SystemExit, match=r"tag v1.3.0: expected the version of medtrace/__init__.py, 1.2.0"):
        version_of(tmp_path)
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.4\nName: medtrace\nVersion: 1.2.0.post1+gabc\n")
    assert version_of(tmp_path) == "1.2.0.post1+gabc"  # an unpacked sdist


def test_the_readme_of_a_package_index_leads_nowhere_wrong():
    readable, text = BUILD["readable"], (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\]\(docs/", text)
    plain = readable(text, "")
    assert {link for link in re.findall(r"\]\(([^)]*)\)", plain) if not link.startswith("https://")} == set()
    assert "[MONAI](https://monai.io)" in plain
    assert "getting started" in plain
    linked = readable("![a page](docs/a.webp), [how](docs/a.md#here), [above](#top)", "https://host/me/it")
    assert linked == (
        "![a page](https://host/me/it/raw/main/docs/a.webp), [how](https://host/me/it/blob/main/docs/a.md#here), above"
    )


def test_the_dockerfile_is_clean_and_installs_what_there_is(tmp_path):
    code, said = run(tool("hadolint"), ROOT / "Dockerfile")
    assert code == 0, said
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (torch,) = re.findall(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert f"torch=={torch} " in text
    assert "-c constraints.txt" in text
    extras = re.search(r"'\.\[([a-z,]+)\]'", text)[1].split(",")
    assert set(extras) <= set(SETUP["options.extras_require"])
    assert 'ENTRYPOINT ["medtrace"]' in text
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp\n")
    assert run(tool("hadolint"), tmp_path / "Dockerfile")[0] != 0  # a linter that takes anything is none


CONDA = {
    "torch": "pytorch",
    "itk-core": "itk",
    "itk-io": "itk",
    "pytorch-ignite": "ignite",
    "PyYAML": "pyyaml",
    "SimpleITK": "simpleitk",
    "matplotlib": "matplotlib-base",
}


def test_the_conda_recipe_is_valid_and_asks_for_the_same():
    path = ROOT / "conda" / "recipe.yaml"
    recipe = rattler_build.Stage0Recipe.from_file(str(path))
    assert type(recipe.render()[0]).__name__ == "RenderedVariant"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert content["package"] == {"name": "medtrace", "version": medtrace.__version__}
    expected = {f"{CONDA.get(name, name)} {one.specifier}" for name, one in requirements().items()}
    for extra in ("bench", "dicom", "tracking"):
        chosen = requirements("options.extras_require", extra)
        expected |= {f"{name} {one.specifier}" for name, one in chosen.items() if name in ("nilearn", "pydicom")}
    asked = set()
    for line in content["requirements"]["run"]:
        name, _, bounds = line.partition(" ")
        asked.add(f"{name} {Requirement(f'x{bounds}').specifier}")
    assert asked == expected | {f"python {SETUP['options']['python_requires']}"}
    with pytest.raises(rattler_build.RecipeParseError):
        rattler_build.Stage0Recipe.from_yaml("package: {title: medtrace}")


def test_the_page_of_a_gpu_says_what_was_run_and_on_what():
    assert PAGE.read_text(encoding="utf-8").startswith(HEAD)
    assert "**Not run yet**" in page([], {})
    made = page([("test_a", "passed", "float32 1e-05")], {"hardware": "Some GPU, 80 GiB", "date": "2030-01-01"})
    assert "| hardware | Some GPU, 80 GiB |" in made
    assert "| `test_a` | passed | float32 1e-05 |" in made
    assert "Not run yet" not in made


@pytest.mark.slow
def test_a_wheel_has_the_same_bytes_again(tmp_path):
    digests = set()
    for turn in ("one", "two"):
        line = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / turn, ROOT]
        subprocess.run(line, check=True, capture_output=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"})
        (wheel,) = (tmp_path / turn).iterdir()
        digests.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(digests) == 1
