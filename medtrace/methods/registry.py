"""Methods by name: the folders of this package, and those that other packages register.

Another package adds methods by an entry point in the group `medtrace.methods`, whose value is the class:

    [project.entry-points."medtrace.methods"]
    mine = "my_package.mine:MyMethod"
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from medtrace.methods.base import Method
from medtrace.methods.recipes import Recipe
from medtrace.methods.settings import MethodSettings, resolve

GROUP = "medtrace.methods"
_FOLDER = Path(__file__).parent
_IN_PROCESS: dict[str, type[Method]] = {}


@cache
def _shipped() -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in _FOLDER.glob("*/method.py")))


def _registered() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def recipe_names() -> tuple[str, ...]:
    """Methods whose papers can be reproduced: those whose folder has a recipe."""
    return tuple(name for name in _shipped() if (_FOLDER / name / "recipe.py").is_file())


def recipe_of(name: str) -> Recipe:
    """The recipe of a method's paper.

    Raises:
        ValueError: if there is none; the message lists the existing ones.
    """
    if name not in recipe_names():
        raise ValueError(f"paper: expected one of {', '.join(recipe_names())}, received {name!r}")
    result: Recipe = import_module(f"medtrace.methods.{name}.recipe").RECIPE
    return result


def folder_of(kind: type[Method]) -> Path:
    """The folder of a method's class, with its card."""
    return Path(inspect.getfile(kind)).parent


def settings_of(name: str, values: Mapping[str, Any]) -> MethodSettings:
    """Validated settings of a method from all or some of their values, nested as in `run.json`."""
    return resolve(method_class(name).settings_type, start=values)


def build_method(name: str, settings: MethodSettings) -> Method:
    """A method, untrained."""
    return method_class(name).build(settings)


def register_method(kind: type[Method]) -> type[Method]:
    """Make a method known to this process by its `name`, without an entry point; also as a decorator.

    Raises:
        ValueError: if it has no name, or one that is taken.
    """
    if not kind.name:
        raise ValueError(f"{kind.__name__}: expected a name, received none; set the attribute name")
    if kind.name in _shipped():
        raise ValueError(f"{kind.__name__}: {kind.name!r} is a method of medtrace; choose another name")
    _IN_PROCESS[kind.name] = kind
    return kind


def method_names() -> tuple[str, ...]:
    """Names of all methods, those of other packages after those of this one."""
    others = {*_registered(), *_IN_PROCESS} - set(_shipped())
    return (*_shipped(), *sorted(others))


def method_class(name: str) -> type[Method]:
    """The method called `name`.

    Raises:
        TypeError: if another package registers something that is not a `Method`.
        ValueError: if there is none of that name; the message lists similar names.
    """
    if name in _shipped():
        result: type[Method] = import_module(f"medtrace.methods.{name}").METHOD
        return result
    if name in _IN_PROCESS:
        return _IN_PROCESS[name]
    registered = _registered()
    if name not in registered:
        names = method_names()
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names)}"
        raise ValueError(f"method: {name!r} is not one; {hint}")
    value = registered[name].load()
    if not (isinstance(value, type) and issubclass(value, Method)):
        raise TypeError(
            f"method {name!r}: expected a subclass of medtrace.methods.Method at {registered[name].value}, received"
            f" {value!r}; correct the entry point"
        )
    if value.name != name:
        raise ValueError(f"method {name!r}: is called {value.name!r} by its class; use one name for both")
    return value
