"""Examples in docstrings: every public network, loss, metric, transform and field function has one, and all run."""

import doctest
import enum
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import medtrace

COMPLETE = ("networks", "losses", "metrics", "transforms", "fields", "trace", "registration")
"""Subpackages of which every public function and class has an example."""
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules_with_examples():
    """Names of the modules whose text has a prompt."""
    found = []
    for module in pkgutil.walk_packages(medtrace.__path__, "medtrace."):
        path = module.module_finder.find_spec(module.name).origin
        if path and path.endswith(".py") and ">>> " in Path(path).read_text(encoding="utf-8"):
            found.append(module.name)
    return found


def needs_an_example(value):
    """A class or function; not a record of results, a choice, or a type."""
    inner = inspect.unwrap(value) if callable(value) else value
    if inspect.isfunction(inner):
        return True
    record = hasattr(inner, "_fields") or hasattr(inner, "__dataclass_fields__")
    return inspect.isclass(inner) and not record and not issubclass(inner, enum.Enum)


@pytest.mark.parametrize("name", COMPLETE)
def test_everything_public_has_an_example(name):
    package = importlib.import_module(f"medtrace.{name}")
    public = {key: getattr(package, key) for key in package.__all__}
    without = [key for key, value in public.items() if needs_an_example(value) and ">>> " not in (value.__doc__ or "")]
    assert without == []


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=OPTIONS, verbose=False)
    assert result.failed == 0, "see the output above"


def test_an_example_that_is_wrong_is_noticed():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False, optionflags=OPTIONS).run(test, out=lambda _: None).failed == 1
