"""Broken copies of a file, the same for the same seed."""

import copy
import gzip
import json
import re
import struct
from typing import Any

import numpy as np

NUMBERS = [0, 1, -1, 2, 127, 128, 255, 256, 32767, -32768, 65535, 30000, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 40]
WORDS = [b"0", b"-1", b"1e308", b"-1e-308", b"nan", b"inf", b"99999999999", b"30000", b"../../etc/passwd", b"", b"null"]
WORDS += [b"[]", b"{}", b'"x"', b"/etc/passwd", b"[" * 400, b"\x00", "\u2028é".encode(), b"true", b"1.5", b"$1"]
VALUES = [None, True, 0, -1, 3, 1.5, 1e308, float("nan"), 10**20, "", "x", "../x", "/etc/passwd", "a\0b", "nan", [], {}]
VALUES += [[1, 2], [[0.0] * 4] * 4, {"a": 1}, "x" * 5000, 30000, [30000, 30000, 30000], "</script>"]
HEAD = 600
"""Bytes at the beginning, where headers are; half of the changes go there."""


def mutated(content: bytes, seed: int) -> bytes:
    """A file's content with one to four things wrong; a gzip file is sometimes broken inside and packed again."""
    random = np.random.default_rng(seed)
    if content[:2] == b"\x1f\x8b" and random.random() < 0.75:
        return gzip.compress(_broken(gzip.decompress(content), random), 1, mtime=0)
    if content[:1] in (b"{", b"[") and random.random() < 0.75:
        tree = json.loads(content)
        for _ in range(int(random.integers(1, 4))):
            _change_tree(tree, random)
        return json.dumps(tree, indent=1).encode()
    return _broken(content, random)


def _change_tree(tree: Any, random: np.random.Generator) -> None:
    """Replace, remove or double one entry of nested lists and mappings."""
    node = tree
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = keys[int(random.integers(len(keys)))]
        if isinstance(node[key], (dict, list)) and random.random() < 0.8:
            node = node[key]
            continue
        kind = random.random()
        if kind < 0.15:
            del node[key]
        elif kind < 0.25 and isinstance(node, list):
            node.append(copy.deepcopy(node[key]))
        else:
            node[key] = copy.deepcopy(VALUES[int(random.integers(len(VALUES)))])
        return


def _broken(content: bytes, random: np.random.Generator) -> bytes:
    data = bytearray(content)
    is_text = b"\x00" not in content[:2000]
    changes = [_flip, _overwrite, _number, _cut, _remove, _double, _swap] + [_word] * (12 if is_text else 2)
    for _ in range(int(random.integers(1, 5))):
        if not data:
            break
        changes[int(random.integers(len(changes)))](data, random)
    return bytes(data)


def _place(data: bytearray, random: np.random.Generator) -> int:
    end = min(len(data), HEAD) if random.random() < 0.5 else len(data)
    return int(random.integers(end))


def _flip(data, random):
    data[_place(data, random)] ^= 1 << int(random.integers(8))


def _overwrite(data, random):
    start = _place(data, random)
    length = int(random.integers(1, 9))
    data[start : start + length] = random.integers(0, 256, length, dtype=np.uint8).tobytes()[: len(data) - start]


def _number(data, random):
    """Write a number that readers stumble over, at an even place."""
    kind, value = "hiqfd"[int(random.integers(5))], NUMBERS[int(random.integers(len(NUMBERS)))]
    if kind in "fd":
        value = [float(value), float("nan"), float("inf"), 1e30][int(random.integers(4))]
    size = struct.calcsize(kind)
    start = _place(data, random) // 2 * 2
    if kind in "hiq":
        value = (value + (1 << 8 * size - 1)) % (1 << 8 * size) - (1 << 8 * size - 1)
    packed = struct.pack("<>"[int(random.integers(2))] + kind, value)
    data[start : start + size] = packed[: max(0, len(data) - start)]


def _cut(data, random):
    del data[_place(data, random) :]


def _remove(data, random):
    start = _place(data, random)
    del data[start : start + int(random.integers(1, 64))]


def _double(data, random):
    start = _place(data, random)
    piece = data[start : start + int(random.integers(1, 64))]
    data[start:start] = piece * int(random.integers(1, 4))


def _swap(data, random):
    """Exchange two pieces."""
    length = int(random.integers(1, 16))
    one, other = (_place(data, random) for _ in range(2))
    if abs(one - other) >= length and max(one, other) + length <= len(data):
        data[one : one + length], data[other : other + length] = (
            data[other : other + length],
            data[one : one + length],
        )


def _word(data, random):
    """Put something else in the place of a number or word of a text."""
    result = list(re.finditer(rb"[\w.+-]+", bytes(data[:20000])))
    if result:
        word = result[int(random.integers(len(result)))]
        data[word.start() : word.end()] = WORDS[int(random.integers(len(WORDS)))]
