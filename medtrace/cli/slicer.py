"""3D Slicer's CLI modules: their XML, made from the declarations of the commands, and the command that writes them."""

from __future__ import annotations

import inspect
import re
import types
import typing
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from medtrace import __version__
from medtrace.cli import options
from medtrace.cli.app import app, command
from medtrace.cli.output import COMMON, give, tell

MODULES: Mapping[str, str] = {
    "translate": "Translate (medtrace)",
    "register": "Register (medtrace)",
    "trace": "Trace (medtrace)",
    "certify": "Certify (medtrace)",
}
"""Command → title of its module."""
IMAGES = frozenset({"images", "source", "target", "image", "mask", "source_mask", "labels", "input_"})
DIRECTORIES = frozenset({"run", "out", "traces", "trace"})
FILES = frozenset({"thresholds", "radius", "figure", "html", "target_landmarks", "source_landmarks"})
"""Parameters that are paths, grouped by the element that Slicer shows for them."""
_MANY = ("workers", "scheduler", "threads", "page", "keep_metadata", "transforms")
_DICOM = ("dicom", "series", "source_series", "target_series", "resample_tilt")
LEFT_OUT = frozenset({*COMMON, "help", *_MANY, *_DICOM})
"""Parameters that mean nothing for the single images that Slicer hands over."""
LEFT_OUT_OF: Mapping[str, frozenset[str]] = {"translate": frozenset({"source"})}
"""Likewise of one command."""
OUTPUTS: Mapping[str, tuple[tuple[str, str, str], ...]] = dict.fromkeys(
    ("translate", "register", "trace"),
    (
        ("image", "slicer-image", "The translated or registered image."),
        ("transform", "slicer-transform", "The displacement, which moves the source onto that image."),
    ),
)
"""Command → what is returned to the scene: element, long flag, description."""


@command("slicer-modules", new_folder=True)
def slicer_modules(out: options.NewFolder = Path("slicer_modules")) -> None:
    """Write translate, register, trace and certify as CLI modules of 3D Slicer."""
    from medtrace.workflows.slicer_modules import write_slicer_modules

    files = write_slicer_modules(out, {name: module_xml(name) for name in MODULES})
    give({"modules": out, "files": files})
    tell(f"{out}: {', '.join(path.name for path in files)}")
    tell("add the folder in Slicer: Edit, Application Settings, Modules, Additional module paths")


def module_xml(name: str) -> str:
    """The XML of a command, as 3D Slicer's execution model describes a module.

    Args:
        name: name of the command, one of `MODULES`.

    Raises:
        ValueError: if no rule here covers the type of a parameter.

    Example:
        >>> ElementTree.fromstring(module_xml("certify")).find("title").text
        'Certify (medtrace)'
    """
    declared = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    kinds = _types(name)
    root = ElementTree.Element("executable")
    _leaf(root, "category", "Registration.medtrace")
    _leaf(root, "title", MODULES[name])
    _leaf(root, "description", f"{declared.help.split(chr(10))[0]} Research only; not for diagnosis.")
    _leaf(root, "version", __version__)
    _leaf(root, "documentation-url", "")
    _leaf(root, "license", "Apache-2.0")
    _leaf(root, "contributor", "medtrace developers")
    groups = {True: _group(root, "Input and output"), False: _group(root, "Options", advanced=True)}
    indices = iter(range(len(declared.params)))
    for parameter in declared.params:
        if parameter.name in LEFT_OUT | LEFT_OUT_OF.get(name, frozenset()):
            continue
        first = parameter.param_type_name == "argument" or parameter.required or parameter.name in IMAGES
        groups[first].append(_element(name, parameter, kinds[parameter.name], indices))
    for kind, flag, words in OUTPUTS.get(name, ()):
        element = ElementTree.SubElement(groups[True], kind)
        if kind == "transform":
            element.set("type", "nonlinear")
        element.set("fileExtensions", ".h5" if kind == "transform" else ".nii.gz")
        _describe(element, flag.replace("-", "_"), words, f"--{flag}")
        _leaf(element, "channel", "output")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _group(root: ElementTree.Element, label: str, advanced: bool = False) -> ElementTree.Element:
    group = ElementTree.SubElement(root, "parameters")
    if advanced:
        group.set("advanced", "true")
    _leaf(group, "label", label)
    _leaf(group, "description", label)
    return group


def _types(name: str) -> dict[str, type]:
    """Parameter of a command → its type; for lists, the type of their members."""
    function = next(one.callback for one in app.registered_commands if one.name == name and one.callback is not None)
    result: dict[str, type] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        kind = parameter.annotation
        kind = typing.get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(one for one in typing.get_args(kind) if one is not type(None))
        result[key] = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
    return result


def _element(command_name: str, parameter: Any, of_type: type, indices: Iterator[int]) -> ElementTree.Element:
    """One parameter of a command."""
    kind = _kind(command_name, parameter, of_type)
    element = ElementTree.Element(kind)
    if kind == "image":
        element.set("fileExtensions", ".nii.gz")
    long = next((one for one in parameter.opts if one.startswith("--")), None)
    words = " ".join((getattr(parameter, "help", None) or parameter.name).split())
    name = parameter.name.rstrip("_")
    default = parameter.default
    if kind == "boolean" and default is True:  # what is on by default has a separate flag to turn it off
        long, name = parameter.secondary_opts[0], f"no_{name}"
        words, default = f"Leave this out: {words}", False
    argument = parameter.param_type_name == "argument"
    _describe(element, name, words, None if argument else long)
    if argument:
        _leaf(element, "index", str(next(indices)))
    if kind in ("image", "directory", "file"):
        _leaf(element, "channel", "output" if parameter.name in ("out", "figure", "html") else "input")
    elif kind == "string-enumeration":
        choices = _choices(parameter)
        _leaf(element, "default", str(default if default in choices else ""))
        for choice in choices if default in choices else ["", *choices]:
            _leaf(element, "element", choice)
    elif default is not None and not isinstance(default, (list, tuple)):
        _leaf(element, "default", str(default).lower() if isinstance(default, bool) else str(default))
    return element


def _kind(command_name: str, parameter: Any, of_type: type) -> str:
    """The element that shows a parameter. Numbers without a default are texts, which may stay empty in Slicer."""
    if of_type is Path:
        for kind, names in (("image", IMAGES), ("directory", DIRECTORIES), ("file", FILES)):
            if parameter.name in names:
                return kind
        raise ValueError(
            f"{command_name}: {parameter.name}: expected a path among IMAGES, DIRECTORIES, FILES or LEFT_OUT; add it"
        )
    if of_type is bool:
        return "boolean"
    if _choices(parameter):
        return "string-enumeration"
    if parameter.default is not None and not parameter.multiple:
        return {int: "integer", float: "double"}.get(of_type, "string")
    return "string"


def _choices(parameter: Any) -> list[str]:
    """The choices that help names as a|b|c."""
    metavar = parameter.metavar or ""
    return metavar.split("|") if re.fullmatch(r"[\w-]+(\|[\w-]+)+", metavar) and "cuda" not in metavar else []


def _describe(element: ElementTree.Element, name: str, words: str, flag: str | None) -> None:
    _leaf(element, "name", name)
    _leaf(element, "label", name.replace("_", " "))
    _leaf(element, "description", words)
    if flag is not None:
        _leaf(element, "longflag", flag)


def _leaf(parent: ElementTree.Element, name: str, text: str) -> None:
    ElementTree.SubElement(parent, name).text = text
