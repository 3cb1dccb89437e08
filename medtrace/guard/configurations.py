"""Which code a configuration would run, and whether medtrace ships it.

MONAI's configurations are programs: `_target_` names a class or function to call, `$` starts a Python expression, and
`%` takes in another file. A run folder or bundle that came from elsewhere may therefore do anything when it is built.
medtrace builds one only if every such entry stands at the same place of a bundle that it ships (plain values may
differ), or if the user says so.
"""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import medtrace

BUNDLES = Path(medtrace.__file__).parent / "bundles"
ALLOW = "MEDTRACE_ALLOW_FOREIGN_CODE"
"""Environment variable that `medtrace --allow-foreign-code` sets."""
MAX_BYTES = 1 << 20
MAX_ENTRIES, MAX_DEPTH = 20_000, 50
_SHOWN = 12
_CODE_STARTS = ("$", "%")
_DEVICE = re.compile(r"\$torch\.device\('[a-z]+(:\d+)?'\)")  # what `--device` leaves in a run
PATHS = ("bundle_root", "dataset_dir", "run_dir")
"""Entries of a configuration that are folders."""
_SPECIAL = re.compile(r"[#@%$]|::")
_INDEX = re.compile(r"(?<=#)\d+(?=#|$)")


class Code(NamedTuple):
    """An entry that runs code when the configuration is built."""

    place: str
    """MONAI's id, such as "train#handlers#0#_target_"."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class ForeignCodeError(ValueError):
    """A configuration would run code that medtrace does not ship."""


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """Read a configuration file; nothing of it is evaluated.

    Args:
        path: YAML (or JSON, which is YAML), at most 1 MiB.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no mapping in YAML, or too large, deep or long to be a configuration.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a configuration")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: expected a configuration of at most {MAX_BYTES} bytes, received a larger file")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a configuration ({reason}); take an intact copy") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of entries, received {type(content).__name__}")
    try:
        for _ in entries(content):
            pass
    except _TooMuch:
        raise ValueError(
            f"{path}: expected at most {MAX_ENTRIES} entries, {MAX_DEPTH} deep, received more; it is no configuration"
        ) from None
    return content


def code_in(config: Mapping[str, Any]) -> list[Code]:
    """All entries of a configuration that run code or take in a file: `_target_`, `$...` and `%...`."""
    found = []
    for place, value in entries(config):
        is_target = place == "_target_" or place.endswith("#_target_")
        if is_target or (isinstance(value, str) and value.startswith(_CODE_STARTS)):
            found.append(Code(place, str(value)))
    return found


def foreign_code(config: Mapping[str, Any]) -> list[Code]:
    """The code of a configuration that is in no shipped bundle; of the bundle that it is closest to.

    A code counts as shipped if the same text stands at the same place of the bundle's `train.yaml` or of an overlay
    (the place in a list does not matter). Where a shipped expression says what goes into the run folder, nothing else
    may stand there, for a plain path would let a run write elsewhere.
    """
    differing = [_differing(config, bundle) for bundle in _shipped_names()]
    return min(differing, key=len)


def check_code(config: Mapping[str, Any], path: str | os.PathLike, allow: bool | None = None) -> list[Code]:
    """Refuse a configuration with code that medtrace does not ship, unless that is allowed.

    Args:
        config: as `read_config` gives it.
        path: its file, for the message.
        allow: run it nevertheless, after telling on stderr what would run; None asks the environment variable
            MEDTRACE_ALLOW_FOREIGN_CODE, which `medtrace --allow-foreign-code` sets.

    Returns:
        The foreign code that is allowed; none where medtrace ships all.

    Raises:
        ForeignCodeError: if there is such code and it is not allowed.
    """
    foreign = foreign_code(config)
    if not foreign:
        return foreign
    allowed = os.environ.get(ALLOW, "") not in ("", "0") if allow is None else allow
    if allowed:
        print(f"medtrace: {path} runs code that medtrace does not ship:", file=sys.stderr)
        for code in foreign:
            print(f"  {_printable(str(code))}", file=sys.stderr)
        return foreign
    shown = "; ".join(_printable(str(code)) for code in foreign[:_SHOWN])
    more = f"; and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
    raise ForeignCodeError(
        f"{path}: would run code that medtrace does not ship ({shown}{more}); if you trust whoever made it as you trust"
        " a program, use `medtrace --allow-foreign-code ...`"
    )


def note_own_code(config: Mapping[str, Any]) -> None:
    """Tell on stderr that a run is being made with code from the command line, which loading it will ask about."""
    foreign = foreign_code(config)
    if foreign:
        shown = "; ".join(_printable(str(code)) for code in foreign[:_SHOWN])
        print(
            f"medtrace: note: the run holds code of yours ({shown}); commands that read it will want"
            " `medtrace --allow-foreign-code ...`",
            file=sys.stderr,
        )


def as_plain(path: str | os.PathLike) -> str:
    """A path for MONAI's parser, which else takes `#`, `@`, `%`, `$` and `::` in it for ids, references and code.

    Such a path becomes the expression of a text in quotes. It is for the parser alone; a file keeps the path itself
    (`plain_paths`).
    """
    text = _unlike_code(os.fspath(path))
    if not _SPECIAL.search(text):
        return text
    return "$" + _SPECIAL.sub(lambda found: "".join(f"\\x{ord(sign):02x}" for sign in found[0]), ascii(text))


def plain_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with its folders as plain text, as it is kept in a file: the reverse of `parsable_paths`."""
    return {**config, **{name: _text_of(config[name]) for name in PATHS if name in config}}


def parsable_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of a file with its folders as MONAI's parser takes them rightly (see `as_plain`).

    Folders that an expression gives stay as they are.
    """
    texts = {name: config[name] for name in PATHS if isinstance(config.get(name), str)}
    return {**config, **{name: as_plain(text) for name, text in texts.items() if not text.startswith(_CODE_STARTS)}}


def _text_of(value: Any) -> Any:
    """The text of an expression that `as_plain` made; anything else as it is."""
    if isinstance(value, str) and value.startswith(("$'", '$"')):
        try:
            text = ast.literal_eval(value[1:])
        except (ValueError, SyntaxError):
            return value
        if isinstance(text, str):
            return _unlike_code(text)
    return value


def _unlike_code(path: str) -> str:
    """A path that does not begin as an expression or a reference does."""
    return os.path.join(".", path) if path.startswith((*_CODE_STARTS, "@")) else path


class _TooMuch(Exception):
    pass


def entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Place and value of every plain entry, and of `_target_` whatever its kind."""
    count = 0
    stack: list[tuple[str, Any, int]] = [("", config, 0)]
    while stack:
        place, value, depth = stack.pop()
        count += 1
        if count > MAX_ENTRIES or depth > MAX_DEPTH:
            raise _TooMuch
        if isinstance(value, Mapping):
            items: Sequence[tuple[Any, Any]] = list(value.items())
        elif isinstance(value, (list, tuple)):
            items = list(enumerate(value))
        else:
            yield place, value
            continue
        if place == "_target_" or place.endswith("#_target_"):
            yield place, value
        for key, inner in reversed(items):
            name = str(key).replace("::", "#")
            stack.append((f"{place}#{name}" if place else name, inner, depth + 1))


def _anywhere(place: str) -> str:
    """A place without its numbers in lists, which overlays move."""
    return _INDEX.sub("*", place)


def _differing(config: Mapping[str, Any], bundle: str) -> list[Code]:
    shipped = _shipped(bundle)
    found = []
    for code in code_in(config):
        known = shipped.get(_anywhere(code.place), frozenset())
        if code.text not in known and not (code.place == "device" and _DEVICE.fullmatch(code.text)):
            found.append(code)
    seen = {code.place for code in found}
    for place, value in entries(config):
        known = shipped.get(_anywhere(place), frozenset())
        writes = [text for text in known if "@run_dir" in text]
        if writes and str(value) not in known and place not in seen:
            found.append(Code(place, str(value)))
    return found


@cache
def _shipped_names() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir()))


@cache
def _shipped(bundle: str) -> Mapping[str, frozenset[str]]:
    """Place → the codes that `train.yaml` and the overlays of a bundle have there."""
    found: dict[str, set[str]] = {}
    for file in sorted((BUNDLES / bundle / "configs").glob("*.yaml")):
        for place, text in code_in(read_config(file)):
            # "+" before a key of an overlay adds to a list or mapping.
            found.setdefault(_anywhere(re.sub(r"(^|#)[+~]", r"\1", place)), set()).add(text)
    return {place: frozenset(texts) for place, texts in found.items()}


def _printable(text: str) -> str:
    """One line, without control characters that would move a terminal's cursor, of at most 200 characters."""
    line = "".join(character if character.isprintable() else "�" for character in " ".join(text.split()))
    return line if len(line) <= 200 else f"{line[:200]}…"
