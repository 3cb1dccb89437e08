"""The parts of a document, without a word of how they look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Heading:
    """A heading.

    Attributes:
        text: its text.
        level: 2 for a section, 3 below it.
    """

    text: str
    level: Literal[2, 3] = 2


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: its text.
        kind: "plain"; "note", set smaller; "warning", set apart; "code", as typed.
    """

    text: str
    kind: Literal["plain", "note", "warning", "code"] = "plain"


@dataclass(frozen=True)
class Items:
    """A list.

    Attributes:
        lines: one per item.
    """

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Grade:
    """A verdict with what it rests on.

    Attributes:
        verdict: PASS, WARN, FAIL or SKIPPED.
        text: text beside it.
    """

    verdict: str
    text: str


@dataclass(frozen=True)
class CellTable:
    """A table.

    Attributes:
        columns: headings.
        rows: cells as text, as many as there are headings.
        numeric: columns that are right-aligned.
        caption: text below it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: expected {len(self.columns)} cells in each, received {len(row)}")


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        png: the file's bytes.
        caption: text below it.
        text: what it shows, for readers who cannot see it.
        width: maximum fraction of the page's width that it takes.
    """

    png: bytes
    caption: str
    text: str
    width: float = 1.0


Block = Heading | Text | Items | Grade | CellTable | Picture
"""A part of a document."""


@dataclass(frozen=True)
class Document:
    """A title and what follows it.

    Attributes:
        title: title of the document.
        blocks: in order.
        footer: text at the end, and on every printed page.
    """

    title: str
    blocks: tuple[Block, ...] = field(default=())
    footer: str = ""
