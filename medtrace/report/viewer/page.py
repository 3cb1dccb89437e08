"""One self-contained page of traces: nothing is fetched when it opens."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps

from medtrace import __version__
from medtrace.report.certificate import STYLE
from medtrace.report.drawing import AMOUNT, CHANGE
from medtrace.report.viewer.packing import Packed
from medtrace.report.viewer.scene import ReportCase, scene_of
from medtrace.storage.files import atomic_write

REPORT = "report.html"
"""Name of a page that lies in the folder it is about."""
SUFFIXES = (".html", ".htm")
_ASSETS = files("medtrace.report.viewer") / "assets"
_IMPORT = re.compile(r'(?<=from )"\./(\w+)\.js"')
_PLACE = re.compile(r"<!-- (style|modules|scene|arrays) -->")


def write_report(cases: ReportCase | Sequence[ReportCase], path: str | os.PathLike[str]) -> Path:
    """Write traces as one HTML file that opens offline.

    Args:
        cases: what to show; the reader chooses among them.
        path: ends in .html; its folder is created if missing. The file appears complete or not at all.

    Returns:
        The path.

    Raises:
        TypeError: if a case is not a `ReportCase`.
        ValueError: if there is no case, two have the same name, or the suffix is another one.
    """
    cases = [cases] if isinstance(cases, ReportCase) else list(cases)
    _check(cases, Path(path))
    return atomic_write(path, _parts(cases), make_parents=True)


def _check(cases: Sequence[Any], path: Path) -> None:
    if not cases:
        raise ValueError("cases: expected at least one, received none")
    for case in cases:
        if not isinstance(case, ReportCase):
            raise TypeError(f"cases: expected ReportCase, received {type(case).__name__}; see ReportCase")
    names = [case.name for case in cases]
    if len(set(names)) < len(names):
        raise ValueError(f"cases: expected a unique name for each, received {', '.join(names)}")
    check_suffix(path)


def check_suffix(path: Path) -> None:
    """Check that a page's name ends as a page's."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path: expected a name ending in .html, received {path.name!r}")


def _parts(cases: Sequence[ReportCase]) -> Iterator[str]:
    """The page piece by piece: only one case's arrays are in memory at a time."""
    scenes: list[dict[str, Any]] = []
    template = (_ASSETS / "template.html").read_text(encoding="utf-8")
    pieces = _PLACE.split(template)
    yield pieces[0]
    for name, text in zip(pieces[1::2], pieces[2::2]):
        if name == "style":
            yield f"<style>\n{(_ASSETS / 'viewer.css').read_text(encoding='utf-8')}{STYLE}</style>"
        elif name == "modules":
            yield _modules()
        elif name == "arrays":
            for case in cases:
                description, arrays = scene_of(case)
                description["arrays"] = _headers(len(scenes), arrays)
                yield from _elements(description["arrays"], arrays)
                scenes.append(description)
        else:
            scene = {"medtrace": __version__, "maps": _maps(), "cases": scenes}
            yield f'<script type="application/json" id="scene">{safe_json(scene)}</script>'
        yield text


def _headers(case: int, arrays: Mapping[str, Packed]) -> dict[str, Any]:
    return {name: {"id": f"array-{case}-{name}", **packed.header} for name, packed in arrays.items()}


def _elements(headers: Mapping[str, Any], arrays: Mapping[str, Packed]) -> Iterator[str]:
    for name, packed in arrays.items():
        yield f'<script type="text/plain" id="{headers[name]["id"]}">{packed.payload}</script>\n'


def safe_json(value: Any) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _modules() -> str:
    """The page's modules, as an import map of data addresses: browsers read no module files from disk."""
    imports = {}
    for asset in sorted(_ASSETS.iterdir(), key=lambda entry: entry.name):
        if asset.name.endswith(".js"):
            name = asset.name.removesuffix(".js")
            code = _IMPORT.sub(r'"viewer/\1"', asset.read_text(encoding="utf-8")) + f"//# sourceURL=viewer/{asset.name}"
            encoded = base64.b64encode(code.encode()).decode("ascii")
            imports[f"viewer/{name}"] = f"data:text/javascript;base64,{encoded}"
    return f'<script type="importmap">{json.dumps({"imports": imports})}</script>'


def _maps() -> dict[str, str]:
    """Color maps of amounts and of changes, 256 RGB colors each, base64."""
    places = np.linspace(0, 1, 256)
    return {
        name: base64.b64encode((colormaps[key](places)[:, :3] * 255).round().astype(np.uint8).tobytes()).decode("ascii")
        for name, key in (("amount", AMOUNT), ("change", CHANGE))
    }
