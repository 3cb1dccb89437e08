"""The rooms of the library may import only from the rooms before them."""

import ast
import re
from pathlib import Path

import pytest

import medtrace

ROOMS = [
    "checks",
    "storage",
    "guard",
    "kernels",
    "geometry",
    "fields",
    "trace",
    "losses",
    "metrics",
    "registration",
    "transforms",
    "networks",
    "methods",
    "engines",
    "testing",
    "data",
    "io",
    "report",
    "workflows",
    "cli",
]
PACKAGE = Path(medtrace.__file__).parent


def imported_rooms(tree: ast.AST, package: tuple[str, ...]) -> set[str]:
    """Rooms named by the imports of a module that lies in `package` (parts below medtrace)."""
    found = set()
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ("medtrace", *package)[: 1 + len(package) - (node.level - 1)]
                base = ".".join((*parent, base)) if base else ".".join(parent)
            names = [base] + [f"{base}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "medtrace" and len(parts) > 1 and parts[1] in ROOMS:
                found.add(parts[1])
    return found


def test_scanner_sees_every_form_of_import():
    code = "import medtrace.cli\nfrom medtrace import io\nfrom ..trace import Trace\nfrom . import warp"
    assert imported_rooms(ast.parse(code), ("fields",)) == {"cli", "io", "trace", "fields"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_only_upward(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    if parts == ("__init__",) or parts == ("__main__",):
        return
    assert parts[0] in ROOMS, f"{path} lies in no known room"
    allowed = set(ROOMS[: ROOMS.index(parts[0]) + 1])
    assert imported_rooms(ast.parse(path.read_text()), parts[:-1]) <= allowed


def test_bundles_hold_no_python():
    assert not list((PACKAGE / "bundles").rglob("*.py"))


def test_the_page_on_architecture_names_every_subpackage_once_in_order():
    page = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| `([^`]+)` \|$", page, re.MULTILINE)
    assert [name for name, _ in rows] == ROOMS
    for name, example in rows:
        assert (PACKAGE.parent / example).is_file(), example
        assert example.startswith(f"medtrace/{name}")
