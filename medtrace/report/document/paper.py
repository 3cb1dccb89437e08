"""A document as PDF, by fpdf2, with the fonts that matplotlib ships."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

from medtrace.report.certificate import MARKS
from medtrace.report.document.blocks import Block, CellTable, Document, Grade, Heading, Items, Picture, Text

MARGIN = 16.0
"""Size of an A4 page, in mm."""
MISSING = "PDF: needs the package fpdf2, which is not installed; `pip install 'medtrace[pdf]'`, or write HTML"
_FONT, _MONO = "DejaVu", "DejaVuMono"
_FILES = ((_FONT, "", "DejaVuSans"), (_FONT, "B", "DejaVuSans-Bold"), (_MONO, "", "DejaVuSansMono"))
_COLORS = {"PASS": (0, 114, 178), "WARN": (230, 159, 0), "FAIL": (176, 48, 0)}
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Date of every file, so that the same document has the same bytes."""


def document_pdf(document: Document) -> bytes:
    """Write a document as PDF on A4: headings stay with what follows, tables repeat their headings on every page.

    Args:
        document: what to write.

    Returns:
        The file's bytes; the same document gives the same bytes.

    Raises:
        ImportError: if fpdf2 is not installed.

    Example:
        >>> document_pdf(Document("Scores", (Heading("Failures"), Text("none"))))[:5]
        b'%PDF-'
    """
    try:
        import fpdf
    except ImportError:
        raise ImportError(MISSING) from None

    class Paper(fpdf.FPDF):
        """Pages with a footer."""

        def footer(self) -> None:
            self.set_y(-MARGIN + 4)
            self.set_font(_FONT, "", 7)
            self.set_text_color(90)
            self.cell(self.epw - 20, 4, document.footer)
            self.cell(20, 4, f"{self.page_no()} / {{nb}}", align="R")
            self.set_text_color(0)

    paper = Paper(format="A4")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for family, style, name in _FILES:
        paper.add_font(family, style, fonts / f"{name}.ttf")
    paper.set_margins(MARGIN, MARGIN, MARGIN)
    paper.set_auto_page_break(True, MARGIN + 2)
    paper.set_creation_date(_EPOCH)
    paper.set_title(document.title)
    paper.set_lang("en")
    paper.add_page()
    paper.set_font(_FONT, "B", 16)
    _lines(paper, 7.5, document.title)
    paper.ln(2)
    for number, block in enumerate(document.blocks):
        _draw(paper, block, document.blocks[number + 1 :])
    return bytes(paper.output())


def _lines(paper: Any, height: float, text: str, **options: Any) -> None:
    paper.multi_cell(paper.epw, height, text, new_x="LMARGIN", new_y="NEXT", align="L", **options)


def _draw(paper: Any, block: Block, following: tuple[Block, ...]) -> None:
    if isinstance(block, Heading):
        _heading(paper, block, following)
    elif isinstance(block, Text):
        _text(paper, block)
    elif isinstance(block, Items):
        paper.set_font(_FONT, "", 9)
        for line in block.lines:
            _lines(paper, 4.6, f"• {line}")
        paper.ln(1.5)
    elif isinstance(block, Grade):
        _grade(paper, block)
    elif isinstance(block, CellTable):
        _table(paper, block)
    else:
        _picture(paper, block)


def _heading(paper: Any, heading: Heading, following: tuple[Block, ...]) -> None:
    """A heading, on the page of what follows it."""
    own = itertools.takewhile(lambda block: not isinstance(block, Heading), following)
    picture = next((block for block in itertools.islice(own, 5) if isinstance(block, Picture)), None)
    needed = 24.0 if picture is None else 34.0 + _height(paper, picture)
    if paper.will_page_break(min(needed, paper.eph)):
        paper.add_page()
    paper.ln(4 if heading.level == 2 else 2)
    paper.set_font(_FONT, "B", 12.5 if heading.level == 2 else 10)
    _lines(paper, 6, heading.text)
    paper.ln(0.5)


def _text(paper: Any, text: Text) -> None:
    size = {"plain": 9.0, "note": 8.0, "warning": 9.0, "code": 7.5}[text.kind]
    paper.set_font(_MONO if text.kind == "code" else _FONT, "B" if text.kind == "warning" else "", size)
    paper.set_text_color(*(_COLORS["FAIL"] if text.kind == "warning" else (0, 0, 0)))
    _lines(paper, size * 0.52, text.text)
    paper.set_text_color(0)
    paper.ln(1.5)


def _grade(paper: Any, grade: Grade) -> None:
    paper.set_font(_FONT, "B", 9)
    paper.set_text_color(*_COLORS.get(grade.verdict, (90, 90, 90)))
    paper.cell(24, 4.8, f"{MARKS.get(grade.verdict, '')} {grade.verdict}".strip())
    paper.set_text_color(0)
    paper.set_font(_FONT, "", 9)
    paper.multi_cell(paper.epw - 24, 4.8, grade.text, new_x="LMARGIN", new_y="NEXT", align="L")
    paper.ln(0.8)


def _table(paper: Any, table: CellTable) -> None:
    from fpdf.fonts import FontFace

    size = 8.0 if len(table.columns) < 7 else 7.0
    paper.set_font(_FONT, "", size)
    paper.set_draw_color(170)
    widths = _widths(paper, table)
    aligned = tuple("RIGHT" if column in table.numeric else "LEFT" for column in range(len(table.columns)))
    with paper.table(
        col_widths=widths,
        width=sum(widths),
        align="LEFT",
        text_align=aligned,
        borders_layout="HORIZONTAL_LINES",
        line_height=size * 0.55,
        padding=(0.7, 1.2),
        headings_style=FontFace(emphasis="BOLD"),
    ) as drawn:
        for cells in (table.columns, *table.rows):
            row = drawn.row()
            for cell in cells:
                row.cell(cell)
    paper.set_draw_color(0)
    paper.ln(1)
    if table.caption:
        paper.set_font(_FONT, "", 8)
        _lines(paper, 4.2, table.caption)
    paper.ln(2)


def _widths(paper: Any, table: CellTable) -> tuple[float, ...]:
    """Each column as wide as its cells; where that is too much, columns of text give way."""
    wanted = []
    for column, heading in enumerate(table.columns):
        paper.set_font(style="B")
        head = max(paper.get_string_width(word) for word in (heading or " ").split(" "))
        paper.set_font(style="")
        cells = [paper.get_string_width(row[column]) for row in table.rows]
        wanted.append(max([head, *cells]) + 4)
    over = sum(wanted) - paper.epw
    text = [column for column in range(len(wanted)) if column not in table.numeric]
    room = sum(wanted[column] for column in text)
    if over > 0 and text and room > over:
        wanted = [width - over * width / room if column in text else width for column, width in enumerate(wanted)]
    elif over > 0:
        wanted = [width * paper.epw / sum(wanted) for width in wanted]
    return tuple(wanted)


def _height(paper: Any, picture: Picture) -> float:
    with Image.open(BytesIO(picture.png)) as image:
        return paper.epw * picture.width * image.height / image.width + 8


def _picture(paper: Any, picture: Picture) -> None:
    height = min(_height(paper, picture), paper.eph)
    if paper.will_page_break(height):
        paper.add_page()
    # for a picture taller than the page, the height is the limit
    size = {"w": paper.epw * picture.width} if height < paper.eph else {"h": paper.eph - 12}
    paper.image(BytesIO(picture.png), **size, alt_text=picture.text)
    paper.ln(1)
    paper.set_font(_FONT, "", 8)
    _lines(paper, 4.2, picture.caption)
    paper.ln(2)
