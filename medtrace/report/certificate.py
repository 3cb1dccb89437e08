"""A certificate as HTML, for a page or a notebook."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from medtrace.io.digest import file_hashes
from medtrace.io.trace_folder import BESIDE
from medtrace.storage.places import stands_alone

FORMAT = "medtrace certificate"
INSIDE = "certificate.json"
STALE = "The trace's files have changed since it was certified: certify it again."
MARKS = {"PASS": "✓", "WARN": "!", "FAIL": "✗", "SKIPPED": "–"}
STYLE = """
.certificate { font: 14px/1.4 system-ui, sans-serif; color: CanvasText; }
.certificate table { border-collapse: collapse; width: 100%; }
.certificate th, .certificate td { text-align: left; vertical-align: top; padding: 4px 10px;
  border-bottom: 1px solid color-mix(in srgb, CanvasText 20%, transparent); }
.status { font-weight: 600; white-space: nowrap; padding: 1px 8px; border-radius: 4px; }
.status.PASS { background: #0072b2; color: #fff; }
.status.WARN { background: #e69f00; color: #000; }
.status.FAIL { background: #b03000; color: #fff; }
.status.SKIPPED { background: #777; color: #fff; }
.certificate .figure { display: inline-block; margin-right: 14px; white-space: nowrap; }
.certificate .over { font-weight: 700; }
.certificate summary { cursor: pointer; }
.certificate pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 12px; }
"""


def certificate_beside(folder: str | os.PathLike) -> Path:
    """The path where `medtrace certify` writes the certificate of a trace's folder: FOLDER.certificate.json, next to
    it, or in it where it is a mount point or has a parent that cannot be written."""
    folder = Path(os.path.abspath(folder))
    return folder / INSIDE if stands_alone(folder) else folder.with_name(f"{folder.name}.certificate.json")


def certificate_of(folder: str | os.PathLike) -> dict[str, Any] | None:
    """The certificate of a trace's folder, if one lies beside it or, as certificate.json, in it.

    Returns:
        As `read_certificate`, with "stale": whether the trace's files differ from those that were certified. None if
        there is no certificate.

    Raises:
        ValueError: if there is one that cannot be read.
    """
    inside = Path(folder) / INSIDE
    path = next((path for path in (certificate_beside(folder), inside) if path.is_file()), None)
    if path is None:
        return None
    certificate = read_certificate(path)
    certified = certificate.get("provenance", {}).get("trace_sha256", {})
    now = file_hashes(folder)
    return {**certificate, "stale": any(certified.get(name) != now[name] for name in now if name not in BESIDE)}


def read_certificate(path: str | os.PathLike) -> dict[str, Any]:
    """Read a certificate that `medtrace certify --out` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a certificate.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a file that `medtrace certify --out` wrote")
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: cannot be read as JSON ({error}); certify the trace again") from error
    if not isinstance(certificate, dict) or certificate.get("format") != FORMAT or not _complete(certificate):
        raise ValueError(f"{path}: expected a {FORMAT}; certify the trace again")
    return certificate


def _complete(certificate: Mapping[str, Any]) -> bool:
    try:
        certificate_html(certificate)
        certificate.get("provenance", {}).get("trace_sha256", {}).get("")
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def certificate_html(certificate: Mapping[str, Any], style: bool = True) -> str:
    """A fragment of HTML: the verdict, and a row for every check with its reason, figures and limits.

    Provenance is shown where the certificate has it; "stale" (see `certificate_of`) is reported beside the verdict.

    Statuses are shown by words and marks as well as by color. The colors of text and background are the page's, light
    or dark.

    Args:
        certificate: as `read_certificate` or `Certificate.as_dict` returns it.
        style: put the style sheet (`STYLE`) before it.
    """
    rows = "".join(_row(check) for check in certificate["checks"])
    title = str(certificate.get("title", "Certificate"))
    return (
        (f"<style>{STYLE}</style>" if style else "")
        + '<section class="certificate">'
        + f"<h2>{escape(title)} of {escape(str(certificate['case']))} {_status(certificate['verdict'])}</h2>"
        + (f"<p>{escape(STALE)}</p>" if certificate.get("stale") else "")
        + "<table><thead><tr><th>Check</th><th>Verdict</th><th>Reason</th><th>Figures (limits: warn, fail)</th></tr>"
        + f"</thead><tbody>{rows}</tbody></table>"
        + _provenance(certificate.get("provenance"))
        + "</section>"
    )


_MEANING = {
    "PASS": "No check found a reason to doubt this result. That does not make it right.",
    "WARN": "Treat it with caution: at least one check found a reason for doubt.",
    "FAIL": "Do not trust it: at least one check exceeds its FAIL limit.",
}


def certificate_words(certificate: Mapping[str, Any]) -> list[str]:
    """The certificate in sentences: what the verdict means, what spoke against the result, and what nobody looked at.

    Args:
        certificate: as for `certificate_html`.

    Example:
        >>> check = {"name": "folding", "status": "FAIL", "reason": "3 voxels fold", "figures": {}, "limits": {}}
        >>> certificate_words({"case": "a", "verdict": "FAIL", "checks": [check]})[1]
        'Against it: folding (3 voxels fold).'
    """
    by_status: dict[str, list[Mapping[str, Any]]] = {}
    for check in certificate["checks"]:
        by_status.setdefault(str(check["status"]), []).append(check)
    lines = [_MEANING.get(str(certificate["verdict"]), "")]
    against = [*by_status.get("FAIL", ()), *by_status.get("WARN", ())]
    if against:
        lines.append(
            "Against it: " + "; ".join(f"{one['name']} ({one['reason'].rstrip('.')})" for one in against) + "."
        )
    if "PASS" in by_status:
        lines.append("Passed: " + ", ".join(str(one["name"]) for one in by_status["PASS"]) + ".")
    if "SKIPPED" in by_status:
        lines.append("Not examined: " + ", ".join(str(one["name"]) for one in by_status["SKIPPED"]) + ".")
    if certificate.get("stale"):
        lines.append(STALE)
    return [line for line in lines if line]


def _provenance(result: Mapping[str, Any] | None) -> str:
    if not result:
        return ""
    return f"<details><summary>Provenance</summary><pre>{escape(json.dumps(result, indent=2))}</pre></details>"


def _row(check: Mapping[str, Any]) -> str:
    limits = check["limits"]
    figures = "".join(_figure(name, value, limits.get(name)) for name, value in check["figures"].items())
    return (
        f"<tr><td>{escape(check['name'])}</td><td>{_status(check['status'])}</td>"
        f"<td>{escape(check['reason'])}</td><td>{figures}</td></tr>"
    )


def _figure(name: str, value: float | None, limit: Mapping[str, float | None] | None) -> str:
    text = f"{escape(name)} {_number(value)}"
    if limit is None:
        return f'<span class="figure">{text}</span>'
    over = value is None or (limit["warn"] is not None and value > limit["warn"])
    allowed = f" ({_number(limit['warn'])}, {_number(limit['fail'])})"
    return f'<span class="figure{" over" if over else ""}">{text}{allowed}</span>'


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.3g}"


def _status(status: str) -> str:
    return f'<span class="status {escape(status)}">{MARKS[status]} {escape(status)}</span>'
