"""`import medtrace` is light and lazy; public names are listed, documented, typed, and each means one thing."""

import ast
import inspect
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import monai.engines
import pytest
from monai.bundle import BundleWorkflow
from monai.metrics.metric import CumulativeIterationMetric
from monai.transforms import MapTransform, Transform
from torch import nn

import medtrace
from medtrace import engines, losses, metrics, transforms
from medtrace.workflows.train import train
from medtrace.workflows.training.workflow import TrainingWorkflow
from tests.public_names import LISTED, public_modules, public_names

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(medtrace.__file__).parent
MODULES = public_modules()
TWINS = ("cli", "workflows", "evaluation", "kernels")
"""Subpackages whose functions are named after what they run: a command, or the operation that they compute."""


def in_child(code):
    """The last line that a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("start", ["import medtrace", "import medtrace; dir(medtrace); medtrace.__version__"])
def test_import_is_light(start):
    heavy = "{'torch', 'monai', 'numpy', 'nibabel', 'itk', 'typer'} & set(sys.modules)"
    assert in_child(f"{start}\nimport sys; print(sorted({heavy}))") == "[]"


@pytest.mark.slow
def test_names_of_the_front_door_are_those_of_their_subpackages():
    # in a fresh interpreter, where no other import has set an attribute of the package
    homes = {
        "Trace": "medtrace.trace",
        "load_trace": "medtrace.io",
        "read_image": "medtrace.data",
        **{name: f"medtrace.workflows.{name}" for name in ("prepare", "train", "evaluate", "translate", "register")},
    }
    code = (
        "import medtrace, sys\nfrom importlib import import_module\n"
        "for name in medtrace.__all__:\n    assert name in dir(medtrace)\n    getattr(medtrace, name)\n"
        f"for name, home in {homes!r}.items():\n"
        "    assert getattr(medtrace, name) is getattr(import_module(home), name), name\n"
        "for name in ('networks', 'losses', 'transforms', 'metrics', 'methods'):\n"
        "    assert getattr(medtrace, name) is sys.modules['medtrace.' + name], name\n"
        "print(len(medtrace.__all__))"
    )
    assert int(in_child(code)) == len(homes) + 5


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'medtrace' has no attribute 'nonsense'"):
        _ = medtrace.nonsense
    with pytest.raises(ImportError, match="nonsense"):
        exec("from medtrace import nonsense")


@cache
def documented_constants():
    """Names that are assigned in a module and followed by a docstring."""
    documented = set()
    for path in PACKAGE.rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for entry, after in pairwise(body):
            said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            targets = getattr(entry, "targets", [getattr(entry, "target", None)])
            documented |= {target.id for target in targets if said and isinstance(target, ast.Name)}
    return documented


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_are_documented(name):
    module, constants = MODULES[name], documented_constants()
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value):
            assert vars(value).get("__doc__"), public
        elif inspect.isroutine(value) or inspect.ismodule(value):
            assert value.__doc__, public
        else:
            assert public in constants, public


def test_a_public_name_means_the_same_in_every_subpackage():
    meanings = defaultdict(dict)
    for module in MODULES.values():
        for public in module.__all__:
            meanings[public][id(getattr(module, public))] = module.__name__
    assert {name: list(places.values()) for name, places in meanings.items() if len(places) > 1} == {}


def test_no_other_subpackage_defines_a_public_name_again():
    defined = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        subpackage = path.relative_to(PACKAGE).parts[0]
        for entry in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(entry, (ast.FunctionDef, ast.ClassDef)) and subpackage not in TWINS:
                defined[entry.name].add(subpackage)
    public = {name for module in MODULES.values() for name in module.__all__}
    again = {name: places for name, places in defined.items() if name in public and len(places) > 1}
    assert again == {}


def classes_of(module):
    return [value for name in module.__all__ if inspect.isclass(value := getattr(module, name))]


def test_classes_are_named_as_monai_names_them():
    modules = [kind for kind in classes_of(losses) if issubclass(kind, nn.Module)]
    measures = [kind for kind in classes_of(metrics) if issubclass(kind, CumulativeIterationMetric)]
    assert len(modules) >= 7
    assert len(measures) >= 20
    assert all(kind.__name__.endswith("Loss") for kind in modules)
    assert all(kind.__name__.endswith("Metric") for kind in measures)
    maps = [kind for kind in classes_of(transforms) if issubclass(kind, MapTransform)]
    assert len(maps) >= 6
    for kind in maps:
        assert kind.__name__.endswith("d")
        assert getattr(transforms, kind.__name__[:-1] + "D") is getattr(transforms, kind.__name__[:-1] + "Dict") is kind
    others = [kind for kind in classes_of(transforms) if issubclass(kind, Transform) and kind not in maps]
    assert {kind.__name__ + "d" for kind in others} <= {kind.__name__ for kind in maps}


def test_promised_places():
    from medtrace.losses import JacobianFoldingLoss, ParzenDNMILoss
    from medtrace.networks import DiffusionTranslator, DualDecoderGAN, MetamorphicRegNet, TraceTrans
    from medtrace.transforms import (
        HistogramStandardization,
        HistogramStandardizationd,
        RigidAlignment,
        RigidAlignmentd,
        SliceExtraction,
        SliceExtractiond,
    )

    for kind in (
        DiffusionTranslator,
        DualDecoderGAN,
        MetamorphicRegNet,
        TraceTrans,
        JacobianFoldingLoss,
        ParzenDNMILoss,
    ):
        assert issubclass(kind, nn.Module)
    for kind in (HistogramStandardization, RigidAlignment, SliceExtraction):
        assert issubclass(kind, Transform)
    for kind in (HistogramStandardizationd, RigidAlignmentd, SliceExtractiond):
        assert issubclass(kind, MapTransform)


def test_engines_and_training_are_composed_through_monai(tmp_path, monkeypatch):
    """That the committed bundle, a ConfigWorkflow, trains to the same weights is in test_bundles.py."""
    assert issubclass(engines.Trainer, monai.engines.Trainer)
    assert issubclass(engines.Evaluator, monai.engines.Evaluator)
    ran, run = [], TrainingWorkflow.run
    monkeypatch.setattr(TrainingWorkflow, "run", lambda workflow: (ran.append(workflow), run(workflow)))
    small = {"training.max_epochs": 1, "data.train_cases": 2}
    train("unet", out=tmp_path / "run", presets=("tracebench", "smoke"), settings=small, device="cpu")
    (workflow,) = ran
    assert isinstance(workflow, BundleWorkflow)
    assert isinstance(workflow.trainer, monai.engines.Trainer)
    assert workflow.trainer.state.iteration > 0


def checked_by_mypy(*arguments):
    command = [sys.executable, "-m", "mypy", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mypy_sees_the_types_of_calls():
    """With the settings of `make lint`, so that its cache serves; they are strict with this script."""
    checked_by_mypy("tests/typed_calls.py")


@pytest.mark.slow
def test_mypy_strict_sees_the_types_of_calls_from_elsewhere(tmp_path):
    (tmp_path / "mypy.ini").write_text("[mypy]\n")
    script = shutil.copy(ROOT / "tests" / "typed_calls.py", tmp_path / "script.py")
    settings = ("--config-file", str(tmp_path / "mypy.ini"), "--cache-dir", str(tmp_path / "cache"))
    checked_by_mypy("--strict", "--follow-imports=silent", "--ignore-missing-imports", *settings, script)


def test_the_script_for_mypy_calls_every_public_network_and_loss():
    text = (ROOT / "tests" / "typed_calls.py").read_text()
    networks = import_module("medtrace.networks")
    for module, skipped in ((networks, {"TranslationBackbone", "NoiseSchedule"}), (losses, set())):
        kinds = {kind.__name__ for kind in classes_of(module) if issubclass(kind, nn.Module)}
        called = set(re.findall(rf"{module.__name__.split('.')[1]}\.(\w+)\(", text))
        assert kinds - skipped - called == set()


def test_public_names_are_those_listed():
    """A name or option that goes is deprecated first (CONTRIBUTING.md); `python -m tests.public_names` lists anew."""
    listed, result = set(LISTED.read_text(encoding="utf-8").splitlines()), set(public_names())
    assert sorted(listed - result) == [], "gone"
    assert sorted(result - listed) == [], "new: list them by python -m tests.public_names"
