"""Detection of the code that a configuration would run, and of whether medtrace ships it.

MONAI's configurations are programs (see `medtrace.guard.configuration_language`). A bundle that came from elsewhere may
therefore do anything when it is built. medtrace builds one only if every entry that is not known to be data stands at
the same place of a bundle that it ships (plain values may differ), or if the user says so.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import medtrace
from medtrace.guard.configuration_language import (
    MAX_DEPTH,
    MAX_ENTRIES,
    TARGET,
    CodeEntry,
    PlainTargets,
    TooLarge,
    code_in,
    is_data_key,
    is_data_value,
    nodes,
    starts_as_code,
)
from medtrace.guard.plain_yaml import read_yaml

BUNDLES = Path(medtrace.__file__).parent / "bundles"
ALLOW = "MEDTRACE_ALLOW_FOREIGN_CODE"
"""Environment variable that `medtrace --allow-foreign-code` sets."""
MAX_BYTES = 1 << 20
_SHOWN = 12
_OTHER_USES = ("inference", "evaluate")
"""Files of a bundle that no training takes in."""
_DEVICE = re.compile(r"\$torch\.device\('[a-z]+(:\d+)?'\)")  # one named outright
_SPECIAL = re.compile(r"[#@%$]|::")
_INDEX = re.compile(r"(?<=#)\d+(?=#|$)")


class ForeignCodeError(ValueError):
    """A configuration would run code that medtrace does not ship."""


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read a configuration file; nothing of it is evaluated.

    Args:
        path: YAML (or JSON, which is YAML), at most 1 MiB.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a mapping in YAML, has an entry twice or a merge (`<<`), or is too large, deep or
            long to be a configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a configuration")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: expected a configuration of at most {MAX_BYTES} bytes, received a larger file")
    try:
        content = read_yaml(path.read_text(encoding="utf-8"), MAX_ENTRIES, MAX_DEPTH)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected text in UTF-8, received {error}; take an intact copy") from error
    except ValueError as error:
        raise ValueError(f"{path}: cannot be read as a configuration ({_printable(str(error))})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of entries, received {type(content).__name__}")
    return content


def foreign_code(config: Mapping[str, Any], training: bool = True) -> list[CodeEntry]:
    """The code of a configuration that is in no shipped bundle; of the bundle that it is closest to.

    A code counts as shipped if the same text stands at the same place of the bundle's `train.yaml` or of what is laid
    over it (the place in a list does not matter). Where a shipped expression says what goes into the run folder,
    nothing else may stand there, for a plain path would let a run write elsewhere. A reference may also lead to data.

    Args:
        config: as `read_config` gives it.
        training: what a training takes in; off, what a bundle is used for otherwise (`inference.yaml`) counts as well.
    """
    differing = [_differing(config, _shipped(bundle, training)) for bundle in _shipped_names()]
    return min(differing, key=len)


def check_code(
    config: Mapping[str, Any], path: str | os.PathLike, allow: bool | None = None, training: bool = True
) -> list[CodeEntry]:
    """Refuse a configuration with code that medtrace does not ship, unless that is allowed.

    Args:
        config: as `read_config` gives it.
        path: its file, for the message.
        allow: run it nevertheless, after telling on stderr what would run; None asks the environment variable
            MEDTRACE_ALLOW_FOREIGN_CODE, which `medtrace --allow-foreign-code` sets.
        training: as for `foreign_code`.

    Returns:
        The foreign code that is allowed; none where medtrace ships all.

    Raises:
        ForeignCodeError: if there is such code and it is not allowed.
    """
    try:
        foreign = foreign_code(config, training)
    except TooLarge:
        raise ValueError(
            f"{path}: expected at most {MAX_ENTRIES} entries, {MAX_DEPTH} deep, received more; it is not a"
            f" configuration"
        ) from None
    if not foreign:
        return foreign
    if code_is_allowed() if allow is None else allow:
        print(f"medtrace: {path} runs code that medtrace does not ship:", file=sys.stderr)
        for code in foreign:
            print(f"medtrace:   {_printable(str(code))}", file=sys.stderr)
        return foreign
    raise ForeignCodeError(
        f"{path}: would run code that medtrace does not ship ({_shown(foreign)}); if you trust whoever made it as you"
        " trust a program, use `medtrace --allow-foreign-code ...`"
    )


def code_is_allowed() -> bool:
    """Whether the environment variable MEDTRACE_ALLOW_FOREIGN_CODE allows code that medtrace does not ship."""
    return os.environ.get(ALLOW, "") not in ("", "0")


def as_plain(path: str | os.PathLike) -> str:
    """A path for MONAI's parser, which else takes `#`, `@`, `%`, `$` and `::` in it for ids, references and code.

    Such a path becomes the expression of a text in quotes, for the parser alone.
    """
    text = _unlike_code(os.fspath(path))
    if not _SPECIAL.search(text):
        return text
    return "$" + _SPECIAL.sub(lambda result: "".join(f"\\x{ord(sign):02x}" for sign in result[0]), ascii(text))


def _unlike_code(path: str) -> str:
    """A path that does not begin as an expression or a reference does."""
    return os.path.join(".", path) if starts_as_code(path) else path


def _anywhere(place: str) -> str:
    """A place without its numbers in lists."""
    return _INDEX.sub("*", place)


def _differing(config: Mapping[str, Any], shipped: Mapping[str, frozenset[str]]) -> list[CodeEntry]:
    result = []
    plain_targets: PlainTargets | None = None
    for node in nodes(config):
        known, text = shipped.get(_anywhere(node.place), frozenset()), str(node.value)
        foreign = not is_data_key(node)
        if not foreign and text not in known:
            if is_data_value(node):
                foreign = any("@run_dir" in code for code in known)
            elif not (node.place == "device" and _DEVICE.fullmatch(text)):
                plain_targets = plain_targets or PlainTargets(config)
                foreign = node.key == TARGET or text not in plain_targets
        if foreign:
            result.append(CodeEntry(node.place, text))
    return result


@cache
def _shipped_names() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))


@cache
def _shipped(bundle: str, training: bool) -> Mapping[str, frozenset[str]]:
    """Place → the texts that are code there, in a bundle's `train.yaml` and in what is laid over it."""
    codes: dict[str, set[str]] = {}
    for file in sorted((BUNDLES / bundle / "configs").glob("*.yaml")):
        if training and file.stem in _OTHER_USES:
            continue
        for place, text in code_in(read_config(file)):
            codes.setdefault(_anywhere(place), set()).add(text)
    return {place: frozenset(texts) for place, texts in codes.items()}


def _shown(codes: list[CodeEntry]) -> str:
    more = f"; and {len(codes) - _SHOWN} more" if len(codes) > _SHOWN else ""
    return "; ".join(_printable(str(code)) for code in codes[:_SHOWN]) + more


def _printable(text: str) -> str:
    """One line, without control characters that would move a terminal's cursor, of at most 200 characters."""
    line = "".join(character if character.isprintable() else "�" for character in " ".join(text.split()))
    return line if len(line) <= 200 else f"{line[:200]}…"
