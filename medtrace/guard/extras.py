"""Packages that only an extra of medtrace installs, imported when they are first used."""

from __future__ import annotations

import importlib
from typing import Any


class OptionalPackage:
    """A package that stands in for itself until something of it is asked for, so that what needs none of it runs.

    Args:
        name: name of the package.
        extra: of medtrace, which installs it.
        purpose: what needs it, as the message begins.

    Raises:
        ModuleNotFoundError: when something of it is asked for and it is not installed; the message names the extra.

    Example:
        >>> OptionalPackage("json", "dicom", "an example").dumps([1])
        '[1]'
    """

    def __init__(self, name: str, extra: str, purpose: str) -> None:
        self._name, self._extra, self._purpose = name, extra, purpose

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # inspecting this object is not a use of the package
        module = self._imported(self._name)
        return getattr(module, name) if hasattr(module, name) else self._imported(f"{self._name}.{name}")

    def _imported(self, name: str) -> Any:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != self._name:
                raise
            raise ModuleNotFoundError(
                f"{self._purpose}: expected the package {self._name}, received none; pip install"
                f" 'medtrace[{self._extra}]'",
                name=self._name,
            ) from error


PYDICOM = OptionalPackage("pydicom", "dicom", "DICOM")
