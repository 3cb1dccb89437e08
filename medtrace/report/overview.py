"""One page that lists many cases, the worst first: a thumbnail, the verdict, numbers, and the way to each page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple
from urllib.parse import quote

from medtrace.report.certificate import MARKS, STYLE

ORDER = ("error", "FAIL", "WARN", "not certified", "PASS")
"""Verdicts, the worst first. "error" is a case that gave no trace; "not certified" one that nothing has assessed."""

_SHOWN = {"error": ("FAIL", "✗ error"), "not certified": ("SKIPPED", "– not certified")}
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 24px; max-width: 110em; background: Canvas; }
.overview td, .overview th { vertical-align: middle; }
.overview td.number, .overview th.number { text-align: right; font-variant-numeric: tabular-nums; }
.overview td.reason { min-width: 18em; }
.overview td.name { overflow-wrap: anywhere; min-width: 8em; }
.overview img { display: block; height: 72px; width: auto; background: #000; border-radius: 4px; }
.overview thead th { position: sticky; top: 0; background: Canvas; }
.overview a { color: LinkText; }
.counts .status { margin-right: 10px; }
@media (max-width: 50em) { body { padding: 8px; } .overview img { height: 48px; } }
"""


class OverviewCase(NamedTuple):
    """One line of an overview."""

    name: str
    verdict: str
    """Of `ORDER`."""
    reason: str
    """The reasons against it, the failure, or that there are none."""
    numbers: Mapping[str, float | None] = {}
    """By the headings of their columns, with units; None if there is none."""
    page: str | None = None
    """Path of the case, relative to the overview."""
    thumbnail: str | None = None
    """Image file, likewise."""


def worst_first(cases: Sequence[OverviewCase]) -> list[OverviewCase]:
    """Cases by verdict, the worst first, and then by name."""
    return sorted(cases, key=lambda case: (ORDER.index(case.verdict), case.name))


def overview(cases: Sequence[OverviewCase], title: str, thumbnails: str = "") -> str:
    """An HTML page that lists cases, the worst verdict first.

    Args:
        cases: in any order.
        title: heading of the page.
        thumbnails: what the thumbnails show, in a few words.

    Returns:
        A page that needs only the thumbnails to which it refers.

    Raises:
        ValueError: if a verdict is unknown.

    Example:
        >>> page = overview([OverviewCase("one", "PASS", "nothing speaks against it", {"seconds": 2.5})], "Pairs")
        >>> "1 case" in page, "2.5" in page
        (True, True)
    """
    unknown = [case.verdict for case in cases if case.verdict not in ORDER]
    if unknown:
        raise ValueError(f"cases: expected verdicts of {', '.join(ORDER)}, received {unknown[0]!r}")
    columns = list(dict.fromkeys(name for case in cases for name in case.numbers))
    pictured = any(case.thumbnail for case in cases)
    head = [f"<th>{escape(thumbnails)}</th>"] if pictured else []
    head += ["<th>Case</th>", "<th>Verdict</th>"]
    head += [f'<th class="number">{escape(name)}</th>' for name in columns]
    rows = "".join(_row(case, columns, pictured) for case in worst_first(cases))
    counts = [(one, sum(case.verdict == one for case in cases)) for one in ORDER]
    told = " ".join(f"{_status(one)} {count} &nbsp;" for one, count in counts if count)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src 'self' file:;"
        " style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style></head><body>"
        f'<section class="certificate overview"><h1>{escape(title)}</h1>'
        f'<p class="counts">{len(cases)} case{"s" * (len(cases) != 1)}: {told}</p><p>Not for clinical use.</p>'
        f"<table><thead><tr>{''.join(head)}<th>Reason</th></tr></thead><tbody>{rows}</tbody></table>"
        "</section></body></html>\n"
    )


def _row(case: OverviewCase, columns: Sequence[str], pictured: bool) -> str:
    name = escape(case.name)
    page = None if case.page is None else quote(case.page)
    picture = ""
    if case.thumbnail is not None:
        picture = f'<img src="{quote(case.thumbnail)}" loading="lazy" alt="{name}">'
        picture = picture if page is None else f'<a href="{page}">{picture}</a>'
    cells = [f"<td>{picture}</td>"] if pictured else []
    cells.append(f'<td class="name">{name if page is None else f"""<a href="{page}">{name}</a>"""}</td>')
    cells.append(f"<td>{_status(case.verdict)}</td>")
    cells += [f'<td class="number">{_number(case.numbers.get(column))}</td>' for column in columns]
    cells.append(f'<td class="reason">{escape(case.reason)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _status(verdict: str) -> str:
    style, text = _SHOWN.get(verdict, (verdict, f"{MARKS.get(verdict, '')} {verdict}"))
    return f'<span class="status {style}">{escape(text)}</span>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
