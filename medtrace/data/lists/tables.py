"""Lists that users write: CSV in any spreadsheet's dialect, JSON, or a path a line."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SIMILAR = 0.8
"""Likeness from which on an unknown column is taken for a misspelled one."""
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class Table(NamedTuple):
    """The rows of a list."""

    rows: list[tuple[str, dict[str, str]]]
    """The position of a row, such as "row 3", and its non-empty cells by column."""
    unused: tuple[str, ...]
    """Columns that mean nothing here, as the list writes them."""
    parts: tuple[str, ...] = ()
    """Columns that are a part of one, such as "source_T1" of "source", in order."""


class _Columns(NamedTuple):
    required: Sequence[str]
    optional: Sequence[str]
    divided: Sequence[str] = ()

    @property
    def known(self) -> list[str]:
        return [*self.required, *self.optional]

    def part(self, name: str) -> str | None:
        """The column of one part, such as "source_T1", with the part as it is written; None where it is none."""
        plain = _plain(name)
        if plain in self.known:
            return None
        whole = next((whole for whole in self.divided if plain.startswith(f"{whole}_")), None)
        return None if whole is None else f"{whole}_{name.strip()[len(whole) + 1 :].strip()}"


def read_table(path: Path, required: Sequence[str], optional: Sequence[str] = (), divided: Sequence[str] = ()) -> Table:
    """Read a list of records.

    CSV may be separated by commas, semicolons, tabs or bars, in UTF-8, or in UTF-16 or UTF-32 with a byte order mark.
    Blank lines and lines that begin with # are ignored; the case of a column's name does not matter.

    Args:
        path: a JSON list of objects (or `{"pairs": [...]}`) where it ends in .json, otherwise CSV with a header.
        required: columns that must be there.
        optional: columns that may be.
        divided: of the columns, those that may stand in parts instead: `source_T1` and `source_FLAIR`, or in JSON
            `"source": {"T1": ..., "FLAIR": ...}`. The case of a part's name matters.

    Raises:
        ValueError: if it cannot be read, a column is missing, duplicated or misspelled, or a row's cells do not match
            the header; the message names the list and the row.
    """
    columns = _Columns(required, optional, divided)
    return _from_json(path, columns) if path.suffix.lower() == ".json" else _from_csv(path, columns)


def read_text(path: Path) -> str:
    """The text of a list, by its byte order mark, or UTF-8 without one.

    Raises:
        ValueError: if it is not text.
    """
    content = path.read_bytes()
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected UTF-8 text, received other bytes; save the list as CSV in UTF-8") from error
    if "\0" in text:
        raise ValueError(
            f"{path}: expected UTF-8 text, received zero bytes (UTF-16 without a byte order mark?); save the list as"
            " CSV in UTF-8"
        )
    return text


def _from_csv(path: Path, columns: _Columns) -> Table:
    lines = ["\n" if line.lstrip().startswith("#") else line for line in io.StringIO(read_text(path), newline="")]
    start = next((n for n, line in enumerate(lines) if line.strip(" \t\r\n,;|")), len(lines))
    declared = re.fullmatch(r"sep=(.)\s*", lines[start]) if start < len(lines) else None
    start += declared is not None
    header = lines[start] if start < len(lines) else ""
    separator = declared[1] if declared else _separator(header, columns)
    reader = csv.reader(lines[start:], delimiter=separator, skipinitialspace=True, strict=True)
    where, rows, nameless = f"row {start + 1}", [], False
    try:
        written = [name.strip() for name in next(reader, [])]
        names, unused = _checked_header(path, written, columns)
        while True:
            where = f"row {start + reader.line_num + 1}"
            if (cells := next(reader, None)) is None:
                break
            if any(cell.strip() for cell in cells):
                _check_cells(f"{path}: {where}", cells, written, separator)
                cells = [cell.strip() for cell in cells]
                nameless = nameless or any(cell and not name for name, cell in zip(written, cells))
                rows.append((where, {name: cell for name, cell in zip(names, cells) if name is not None and cell}))
    except csv.Error as error:
        raise ValueError(f"{path}: {where}: cannot be read as CSV ({error}); check its quotes") from error
    parts = tuple(name for name in names if name is not None and name not in columns.known)
    return Table(rows, (*unused, *(["a column without a name"] if nameless else [])), parts)


def _separator(header: str, columns: _Columns) -> str:
    """The one that finds most columns in the header."""

    def result(separator: str) -> int:
        cells = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
        return sum(_plain(cell) in columns.known or columns.part(cell) is not None for cell in set(cells))

    return max(SEPARATORS, key=result)


def _plain(column: str) -> str:
    return re.sub(r"[\s-]+", "_", unicodedata.normalize("NFKC", column).strip().casefold())


def _checked_header(path: Path, written: Sequence[str], columns: _Columns) -> tuple[list[str | None], tuple[str, ...]]:
    """The column that each cell belongs to, None where it means nothing, and the names of those."""
    names = [_plain(name) for name in written]
    parts = [columns.part(name) for name in written]
    whole = {name for name in columns.divided for part in parts if part is not None and part.startswith(f"{name}_")}
    missing = [name for name in columns.required if name not in names and name not in whole]
    if missing:
        raise ValueError(
            f"{path}: missing column(s) {', '.join(missing)}; the header has {', '.join(written) or 'nothing'};"
            f" name the columns {', '.join(columns.required)}"
        )
    doubled = [name for name, count in Counter(names).items() if count > 1 and name]
    if doubled:
        raise ValueError(f"{path}: the header has the column {doubled[0]} more than once; rename or remove one")
    for name, plain in zip(written, names):
        _check_spelling(str(path), name, plain, columns)
    unused = tuple(
        name for name, plain, part in zip(written, names, parts) if name and plain not in columns.known and part is None
    )
    return [name if name in columns.known else part for name, part in zip(names, parts)], unused


def _check_spelling(place: str, name: str, plain: str, columns: _Columns) -> None:
    if plain in columns.known:
        return
    close = difflib.get_close_matches(plain, columns.known, 1, SIMILAR)
    if columns.part(name) is not None:
        start, _, rest = plain.partition("_")
        others = {known.removeprefix(f"{start}_"): known for known in columns.known if known.startswith(f"{start}_")}
        close = [others[key] for key in difflib.get_close_matches(rest, others, 1, SIMILAR)]
    if close:
        raise ValueError(f"{place}: column {name!r}: did you mean {close[0]}? Rename the column, or remove it")


def _check_cells(place: str, cells: Sequence[str], columns: Sequence[str], separator: str) -> None:
    if any(cell.strip() for cell in cells[len(columns) :]):
        raise ValueError(
            f"{place}: expected {len(columns)} cells, as in the header, received {len(cells)}; quote a cell that holds"
            f" a {SEPARATORS.get(separator, separator)}, or remove the extra cells"
        )
    if len(cells) < len(columns):
        raise ValueError(
            f"{place}: no value for {columns[len(cells)]}: expected {len(columns)} cells, as in the header, received"
            f" {len(cells)}; pad the row with separators, or remove it"
        )


def _from_json(path: Path, columns: _Columns) -> Table:
    try:
        content = json.loads(read_text(path), object_pairs_hook=_without_doubles)
    except _DoubledKeyError as error:
        raise ValueError(f"{path}: an object has the key {error.args[0]!r} more than once; remove one") from None
    except (ValueError, RecursionError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: is not valid JSON ({error}); write a list of objects") from error
    items = content.get("pairs") if isinstance(content, dict) else content
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ValueError(f'{path}: expected a list of objects or {{"pairs": [...]}}; write one object per pair')
    rows, unused, parts = [], dict[str, None](), dict[str, None]()
    for number, item in enumerate(items, start=1):
        where = f"entry {number}"
        row: dict[str, str] = {}
        for name, value in _divided(item, columns):
            plain = _plain(name)
            _check_spelling(f"{path}: {where}", name, plain, columns)
            if plain not in columns.known:
                part = columns.part(name)
                if part is None:
                    unused[name] = None
                    continue
                plain, parts[part] = part, None
            if plain in row:
                raise ValueError(f"{path}: {where}: has the key {plain} more than once; remove one")
            row[plain] = _cell(f"{path}: {where}: {name}", value)
        rows.append((where, {name: cell for name, cell in row.items() if cell}))
    return Table(rows, tuple(unused), tuple(parts))


def _divided(item: Mapping[str, Any], columns: _Columns) -> list[tuple[str, Any]]:
    """The entries of an object, a mapping in place of one that may be divided as its parts."""
    result: list[tuple[str, Any]] = []
    for name, value in item.items():
        if isinstance(value, dict) and _plain(name) in columns.divided:
            result += [(f"{_plain(name)}_{part}", inner) for part, inner in value.items()]
        else:
            result.append((name, value))
    return result


class _DoubledKeyError(Exception):
    pass


def _without_doubles(items: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    for name, count in Counter(name for name, _ in items).items():
        if count > 1:
            raise _DoubledKeyError(name)
    return dict(items)


def _cell(place: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError(f"{place}: expected text, received {json.dumps(value)[:40]}; put it in quotes")
    return str(value).strip()
