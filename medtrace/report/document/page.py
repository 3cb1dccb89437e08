"""A document as one HTML file that needs nothing but itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from html import escape

from medtrace.report.certificate import MARKS, STYLE
from medtrace.report.document.blocks import Block, CellTable, Document, Grade, Heading, Items, Picture, Text

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; color: CanvasText; background: Canvas; max-width: 1040px; margin: 0 auto;
  padding: 20px 18px 40px; }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 10px; } h2 { font-size: 19px; margin: 34px 0 8px; }
h3 { font-size: 16px; margin: 24px 0 6px; overflow-wrap: anywhere; }
.note { font-size: 13.5px; color: color-mix(in srgb, CanvasText 78%, Canvas); }
.warning { border-left: 4px solid #b03000; padding: 4px 12px; font-weight: 600; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12.5px; padding: 10px 12px; border-radius: 4px;
  background: color-mix(in srgb, CanvasText 7%, Canvas); }
.scroll { overflow-x: auto; margin: 10px 0; }
table { border-collapse: collapse; min-width: 60%; }
caption { caption-side: bottom; text-align: left; font-size: 13.5px; padding-top: 6px; }
th, td { text-align: left; padding: 4px 12px 4px 0; vertical-align: top;
  border-bottom: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); }
th { font-size: 13.5px; } th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.number { white-space: nowrap; }
figure { margin: 12px 0; } figure img { max-width: 100%; background: #fff; display: block; }
figcaption { font-size: 13.5px; padding-top: 5px; }
nav a { margin-right: 16px; color: LinkText; }
footer { margin-top: 34px; font-size: 12.5px; border-top: 1px solid color-mix(in srgb, CanvasText 20%, Canvas); }
@media print { body { max-width: none; padding: 0; } nav { display: none; } figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } }
"""


def document_html(document: Document) -> str:
    """Write a document as HTML.

    Args:
        document: what to write.

    Returns:
        A page in the reader's light or dark theme, which fetches nothing and runs nothing.

    Example:
        >>> page = document_html(Document("Scores", (Heading("Failures"), Text("none"))))
        >>> "<h2 id=" in page, "<script" in page
        (True, False)
    """
    headings = [block for block in document.blocks if isinstance(block, Heading) and block.level == 2]
    links = " ".join(f'<a href="#{_anchor(one.text)}">{escape(one.text)}</a>' for one in headings)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(document.title)}</title><style>{STYLE}{_STYLE}</style></head>"
        f'<body><main><h1>{escape(document.title)}</h1><nav aria-label="Sections">{links}</nav>'
        f"{''.join(_blocks(document.blocks))}</main><footer><p>{escape(document.footer)}</p></footer>"
        "</body></html>\n"
    )


def _anchor(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")


def _blocks(blocks: Sequence[Block]) -> Iterator[str]:
    """Every block; each table has a name of its own, by which screen readers list them."""
    tables = 0
    for block in blocks:
        tables += isinstance(block, CellTable)
        yield _block(block, f"table {tables}")


def _block(block: Block, table_name: str) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="{_anchor(block.text)}">{escape(block.text)}</h{block.level}>'
    if isinstance(block, Text):
        if block.kind == "code":
            return f'<pre tabindex="0">{escape(block.text)}</pre>'
        return f'<p class="{block.kind}">{escape(block.text)}</p>'
    if isinstance(block, Items):
        return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in block.lines)}</ul>"
    if isinstance(block, Grade):
        mark = f"{MARKS.get(block.verdict, '')} {block.verdict}".strip()
        kind = block.verdict if block.verdict in MARKS else "SKIPPED"
        return f'<p><span class="status {kind}">{escape(mark)}</span> {escape(block.text)}</p>'
    if isinstance(block, CellTable):
        return _table(block, table_name)
    return _picture(block)


def _table(table: CellTable, name: str) -> str:
    kinds = [' class="number"' if column in table.numeric else "" for column in range(len(table.columns))]
    head = "".join(
        f'<th scope="col"{kind}>{escape(text)}</th>' if text else "<td></td>"
        for kind, text in zip(kinds, table.columns)
    )
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(text)}</td>" for kind, text in zip(kinds, row)) + "</tr>"
        for row in table.rows
    )
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">'
        f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    return (
        f'<figure><img alt="{escape(picture.text)}" style="width:{100 * picture.width:.0f}%"'
        f' src="data:image/png;base64,{data}"><figcaption>{escape(picture.caption)}</figcaption></figure>'
    )
