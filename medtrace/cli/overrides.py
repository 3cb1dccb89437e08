"""Values of `--set KEY=VALUE`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medtrace.cli.errors import CommandLineError


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; values are YAML, so numbers, lists and booleans keep their type.

    Raises:
        CommandLineError: if a pair has no key or no "=", or its value is not YAML.
    """
    import yaml

    overrides = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise CommandLineError(f"--set: expected KEY=VALUE such as alpha=0.75, received {item!r}")
        try:
            overrides[key] = _number(value) if _number(value) is not None else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise CommandLineError(f"--set {key}: expected a YAML value, received {value!r}; quote it") from error
    return overrides


def _number(value: str) -> int | float | None:
    """YAML 1.1 reads 1e-3 as a string; here it is a number."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return None
