"""YAML as one tree, in which every entry stands once and where it is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str, most: int, deepest: int) -> Any:
    """Read YAML, or JSON, without what hides entries from a reader of the text.

    An alias (`*name`) gives its own entry, equal to the one that it names. Tags that make objects of Python are
    refused, as by `yaml.safe_load`.

    Args:
        text: text of one document.
        most: entries, those of aliases counted wherever they stand.
        deepest: levels of entries within entries.

    Returns:
        Mappings, lists and plain values.

    Raises:
        ValueError: if it is not YAML, has a key twice in a mapping, merges mappings by `<<`, or is larger than allowed.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        for count, (place, node, depth) in enumerate(_nodes(root)):
            if count > most or depth > deepest:
                raise ValueError(f"expected at most {most} entries, {deepest} deep, received more; it is too large")
            if isinstance(node, yaml.MappingNode):
                _check_keys(place, node)
        return _unshared(loader.construct_document(root))
    except (yaml.YAMLError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{reason}; take an intact copy") from error


def _nodes(root: yaml.Node) -> Iterator[tuple[str, yaml.Node, int]]:
    stack = [("", root, 0)]
    while stack:
        place, node, depth = stack.pop()
        yield place, node, depth
        if isinstance(node, yaml.MappingNode):
            stack.extend((_below(place, key.value), value, depth + 1) for key, value in reversed(node.value))
        elif isinstance(node, yaml.SequenceNode):
            items = list(enumerate(node.value))
            stack.extend((_below(place, number), value, depth + 1) for number, value in reversed(items))


def _below(place: str, key: object) -> str:
    return f"{place}#{key}" if place else str(key)


def _check_keys(place: str, mapping: yaml.MappingNode) -> None:
    seen = set()
    for key, value in mapping.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise ValueError(f"line {line}: {place or 'at the top'}: expected a text key, received a collection")
        if key.tag == _MERGE:
            raise ValueError(
                f"line {line}: {_below(place, key.value)}: takes in {_described(value)} by a merge, which hides what"
                " the entry holds; write it out there"
            )
        if key.value in seen:
            raise ValueError(
                f"line {line}: {_below(place, key.value)}: occurs twice, and one would hide the other; keep one"
            )
        seen.add(key.value)


def _described(merged: yaml.Node) -> str:
    names = [
        str(key.value)
        for node in (merged.value if isinstance(merged, yaml.SequenceNode) else [merged])
        if isinstance(node, yaml.MappingNode)
        for key, _ in node.value
    ]
    return ", ".join(names[:12]) or "entries"


def _unshared(value: Any) -> Any:
    """A copy that holds nothing twice, where aliases made it."""
    if isinstance(value, Mapping):
        return {key: _unshared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unshared(inner) for inner in value]
    return value
