"""Sphinx configuration: MyST pages, and the API from docstrings."""

import re
from typing import Any

import medtrace

project = "medtrace"
author = copyright = "The medtrace authors"
version = release = medtrace.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"medtrace {release}"
html_static_path: list[str] = []
suppress_warnings = ["config.cache"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # dataclass fields are members already

CODE = re.compile(r"(?<![`:\w])`([^`\n]+)`(?!`)")
MARKS = re.compile(r"([|*])")
TABLE_RULE = re.compile(r"^\s*\|[\s:|-]+\|\s*$")


def to_restructured_text(lines: list[str]) -> list[str]:
    """Turn the Markdown of medtrace's docstrings (`code`, tables, bare | and *) into reStructuredText."""
    lines = _even_equations(lines)
    result: list[str] = []
    index = 0
    while index < len(lines):
        if index + 1 < len(lines) and lines[index].strip().startswith("|") and TABLE_RULE.match(lines[index + 1]):
            end = index
            while end < len(lines) and lines[end].strip().startswith("|"):
                end += 1
            result += _list_table([lines[index], *lines[index + 2 : end]])
            index = end
        else:
            result.append(lines[index] if lines[index].lstrip().startswith(">>>") else _inline(lines[index]))
            index += 1
    return result


def _even_equations(lines: list[str]) -> list[str]:
    """An equation is one paragraph however its lines are indented."""
    result: list[str] = []
    inside = False
    for line in lines:
        inside = bool(line.strip()) and (inside or line.startswith("Equation"))
        result.append(line.strip() if inside else line)
    return result


def _inline(line: str) -> str:
    """Code becomes a literal; elsewhere | and * stand for themselves."""
    parts = CODE.split(line.replace("``", "`"))
    return "".join(f"``{part}``" if k % 2 else MARKS.sub(r"\\\1", part) for k, part in enumerate(parts))


def _list_table(rows: list[str]) -> list[str]:
    indent = " " * (len(rows[0]) - len(rows[0].lstrip()))
    table = ["", f"{indent}.. list-table::", f"{indent}   :header-rows: 1", ""]
    for row in rows:
        for number, cell in enumerate(_cells(row)):
            table.append(f"{indent}   {'* -' if number == 0 else '  -'} {_inline(cell)}")
    return [*table, ""]


def _cells(row: str) -> list[str]:
    """A bar inside code, or between letters as in a norm, parts no cells."""
    literals = CODE.findall(row)
    held = CODE.sub("\0", row.strip().strip("|"))
    remaining = iter(literals)
    cells = re.split(r"\s\|\s", f" {held} ")
    return [re.sub("\0", lambda _: f"`{next(remaining)}`", cell.strip()) for cell in cells]


def _docstring(*arguments: Any) -> None:
    lines = arguments[-1]
    lines[:] = to_restructured_text(lines)


def _skip(*arguments: Any) -> bool | None:
    """Leave out a NamedTuple's fields that nobody described."""
    documented = getattr(arguments[3], "__doc__", None) or ""
    return True if documented.startswith("Alias for field number") else None


def setup(app: Any) -> None:
    """Connect the hooks; the docstrings' one must come before napoleon's."""
    app.connect("autodoc-process-docstring", _docstring, priority=100)
    app.connect("autodoc-skip-member", _skip)
