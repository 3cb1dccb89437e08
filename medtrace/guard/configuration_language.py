"""The entries of MONAI's configuration language that are code, and those that are data.

What MONAI 1.6.1 does with a configuration (`monai.bundle.ConfigParser`):

- `_target_` names what is called with the other keys of its mapping; `_mode_: debug` calls it under pdb, which executes
  a `.pdbrc` of the working directory, and so does the argument `_debug_`; `_requires_` builds other entries before.
- A string that starts with `$` is a Python expression, one that starts with `%` is replaced by another entry or file,
  and `@id` by what another entry becomes: an object, if that entry is code.
- A key with `#` or `::` is the id of an entry somewhere else, and `+` before a key merges into what is there.

So only keys and values that are known to be data are data. All else is code, also what no version of MONAI knows.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

MAX_ENTRIES, MAX_DEPTH = 20_000, 50
TARGET = "_target_"
_CODE_STARTS = ("$", "%")
_REFERENCE_START = "@"
_PLAIN_KEY = re.compile(r"[^\W_](?:[\w.\- ]*\w)?")
_PLAIN_KINDS = (str, bool, int, float, type(None), datetime.date)  # datetime.datetime is a date
_METADATA = "_meta_"
_DATA_KEYS: Mapping[str, tuple[type, ...]] = {"_desc_": (str,), "_disabled_": (bool, str)}
"""The keys with an underscore that MONAI reads as data, besides the metadata, and the kinds of what they hold."""


class CodeEntry(NamedTuple):
    """An entry that runs code when the configuration is built."""

    place: str
    """MONAI's id, such as "train#handlers#0#_target_"."""
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


class Node(NamedTuple):
    """An entry of a configuration, which may hold others."""

    place: str
    value: Any
    parent: str
    key: Any
    """As it is in the mapping; the number in a list."""
    named: bool
    """Whether `parent` is a mapping."""


class TooLarge(Exception):
    """More entries, or deeper, than a configuration has."""


def nodes(config: Any) -> Iterator[Node]:
    """Every entry, in the order of the configuration, each before those that it holds.

    Raises:
        TooLarge: where there are more, or deeper ones, than a configuration has.
    """
    count = 0
    stack = [(Node("", config, "", None, False), 0)]
    while stack:
        node, depth = stack.pop()
        if count > MAX_ENTRIES or depth > MAX_DEPTH:
            raise TooLarge
        if depth:
            yield node
        count += 1
        named = isinstance(node.value, Mapping)
        items = list(node.value.items()) if named else []
        if isinstance(node.value, (list, tuple)):
            items = list(enumerate(node.value))
        for key, inner in reversed(items):
            name = str(key).replace("::", "#")
            place = f"{node.place}#{name}" if node.place else name
            stack.append((Node(place, inner, node.place, key, named), depth + 1))


def entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Place and value of every plain entry, and of `_target_` whatever its kind."""
    for node in nodes(config):
        if not isinstance(node.value, (Mapping, list, tuple)) or is_target(node):
            yield node.place, node.value


def is_target(node: Node) -> bool:
    """Whether an entry names what is called."""
    return node.place == TARGET or node.place.endswith(f"#{TARGET}")


def is_data_key(node: Node) -> bool:
    """Whether a key, with what it holds, means nothing to MONAI but a name."""
    if not node.named or node.key == TARGET:
        return True
    if not isinstance(node.key, str):
        return False
    if node.key in _DATA_KEYS:
        return isinstance(node.value, _DATA_KEYS[node.key])
    if node.place == _METADATA:
        return True
    return _PLAIN_KEY.fullmatch(node.key) is not None


def is_data_value(node: Node) -> bool:
    """Whether a value, apart from those that it holds, is taken as it is."""
    if is_target(node):
        return False
    if isinstance(node.value, str):
        return not node.value.startswith((*_CODE_STARTS, _REFERENCE_START))
    return isinstance(node.value, (Mapping, list, tuple, *_PLAIN_KINDS))


def code_in(config: Mapping[str, Any]) -> list[CodeEntry]:
    """All entries of a configuration that run code, take in a file, refer to others, or are not known to be data."""
    return [
        CodeEntry(node.place, str(node.value))
        for node in nodes(config)
        if not (is_data_key(node) and is_data_value(node))
    ]


class PlainTargets:
    """The references that lead to data.

    Args:
        config: the configuration that they stand in.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._places = {node.place for node in nodes(config)}
        self._holding_code: set[str] = set()
        for code in code_in(config):
            parts = code.place.split("#")
            self._holding_code.update("#".join(parts[:count]) for count in range(1, len(parts) + 1))

    def __contains__(self, text: object) -> bool:
        """Whether a text is an absolute reference to an entry that is there and neither is nor holds code."""
        if not isinstance(text, str) or re.fullmatch(r"@\w+(?:(?:#|::)\w+)*", text) is None:
            return False
        target = text[1:].replace("::", "#")
        return target in self._places and target not in self._holding_code


def starts_as_code(text: str) -> bool:
    """Whether MONAI would not take a text as it is."""
    return text.startswith((*_CODE_STARTS, _REFERENCE_START))
