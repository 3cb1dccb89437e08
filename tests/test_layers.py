"""Subpackages import from those before them, files never in a circle, and nobody asks for a method's class."""

import ast
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import pytest

import medtrace
from medtrace.methods import method_names

SUBPACKAGES = [
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
    "inference",
    "report",
    "evaluation",
    "workflows",
    "cli",
]
PACKAGE = Path(medtrace.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
EXEMPT = {"medtrace", "medtrace.__main__"}
"""The lazy front door, and what starts the command line."""


def module_of(path: Path, root: Path = PACKAGE) -> str:
    """Dotted name of a file; of an `__init__.py` that of its folder."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in FILES}


def named(tree: ast.AST, package: str) -> dict[str, int]:
    """Every dotted name that the imports of a module in `package` may mean, with a line.

    All imports count: at the top, within functions, and under `if TYPE_CHECKING`, since two files that need each
    other's types are one idea too. So do calls of `import_module`: where the name is put together, every text of the
    file that completes it to a module, and without such a text every module right below.
    """
    result: dict[str, int] = {}
    for node in ast.walk(tree):
        names: Iterable[str] = ()
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                base = ".".join([*parts[: len(parts) - (node.level - 1)], *([base] if base else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            names = dynamic(node.args[0], tree, package)
        for name in names:
            result.setdefault(name, getattr(node, "lineno", 0))
    return result


def dynamic(argument: ast.expr, tree: ast.AST, package: str) -> list[str]:
    """What `import_module(argument)` may import."""
    if isinstance(argument, ast.Constant):
        return [str(argument.value)]
    text = ast.unparse(argument).replace("{__name__}", package)
    prefix = text.removeprefix("f").strip("'\"").split("{")[0]
    words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    meant = [prefix + word for word in words if prefix + word in MODULES and word]
    below = [name for name in MODULES if name.startswith(prefix) and "." not in name.removeprefix(prefix)]
    return meant or [name for name in below if MODULES[name].name == "__init__.py"]


def graph(sources: Mapping[str, tuple[str, bool]]) -> dict[str, dict[str, int]]:
    """Module → the modules of the library that it imports, with a line.

    Args:
        sources: module → its text, and whether it is the `__init__.py` of a folder.
    """
    edges: dict[str, dict[str, int]] = {}
    for module, (text, is_folder) in sources.items():
        package = module if is_folder else module.rpartition(".")[0]
        edges[module] = {}
        for name, line in named(ast.parse(text), package).items():
            while name and name not in sources:  # `from package import thing`: the thing is the package's
                name = name.rpartition(".")[0]
            if name and name != module and name not in EXEMPT:
                edges[module].setdefault(name, line)
    return edges


def cycles(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    result: list[list[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in edges.get(module, ()):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                result.append(sorted(group))

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10 * len(edges) + 1000)
    try:
        for module in edges:
            if module not in number:
                visit(module)
    finally:
        sys.setrecursionlimit(limit)
    return result


EDGES = graph(
    {
        module: (path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for module, path in MODULES.items()
        if module not in EXEMPT
    }
)


def subpackage_of(module: str) -> str:
    return module.split(".")[1]


def test_the_scanner_sees_every_form_of_import():
    code = """
import medtrace.cli
from medtrace import io
from ..trace import Trace
from . import warp
if TYPE_CHECKING:
    from medtrace.engines.trainer import Trainer
def late():
    from medtrace.report import save_figure
    import_module("medtrace.guard.probe")
    import_module(f"medtrace.methods.{name}")
"""
    result = set(named(ast.parse(code), "medtrace.fields"))
    assert result >= {
        "medtrace.cli", "medtrace.io", "medtrace.trace.Trace", "medtrace.fields.warp", "medtrace.guard.probe",
        "medtrace.engines.trainer.Trainer", "medtrace.report.save_figure", "medtrace.methods.tracetrans",
    }  # fmt: skip


def test_a_circle_is_found_however_it_is_hidden():
    sources = {
        "medtrace.a": ("from medtrace.b import x", False),
        "medtrace.b": ("def late():\n    from medtrace.c import y", False),
        "medtrace.c": ("if TYPE_CHECKING:\n    from medtrace.d import z", False),
        "medtrace.d": ("import medtrace.a\nimport medtrace.e", False),
        "medtrace.e": ("", False),
    }
    assert cycles(graph(sources)) == [["medtrace.a", "medtrace.b", "medtrace.c", "medtrace.d"]]
    assert cycles(graph({**sources, "medtrace.c": ("", False)})) == []
    through_folder = {"medtrace.f": ("from medtrace.f.g import x", True), "medtrace.f.g": ("from . import h", False)}
    assert cycles(graph(through_folder)) == [["medtrace.f", "medtrace.f.g"]]


def test_no_file_imports_itself_through_others():
    assert cycles(EDGES) == []


@pytest.mark.parametrize("module", sorted(EDGES))
def test_imports_go_only_to_subpackages_before(module):
    assert subpackage_of(module) in SUBPACKAGES, f"{module} lies in no known subpackage"
    allowed = SUBPACKAGES[: SUBPACKAGES.index(subpackage_of(module)) + 1]
    assert {name: line for name, line in EDGES[module].items() if subpackage_of(name) not in allowed} == {}


def test_the_library_does_not_enter_by_its_own_front_door():
    """What the lazy front door re-exports would hide a cycle."""
    plain = {"__version__", "__file__", *SUBPACKAGES}
    result = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "medtrace" and not node.level:
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "medtrace":
                names = [node.attr]
            result += [(module, name) for name in names if module not in EXEMPT and name not in plain]
    assert result == []


def classes_of(folder: Path) -> set[str]:
    return {
        node.name
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }


def referred(tree: ast.AST) -> set[str]:
    """Names that code refers to: read, reached as attributes, or imported."""
    result = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            result.add(node.id)
        elif isinstance(node, ast.Attribute):
            result.add(node.attr)
        elif isinstance(node, ast.alias):
            result |= {node.name.rpartition(".")[2], node.asname}
    return result


@cache
def referred_in(path: Path) -> set[str]:
    return referred(ast.parse(path.read_text(encoding="utf-8")))


def asked_for(tree: ast.AST) -> set[str]:
    """Names in the second argument of `isinstance` and `issubclass`."""
    calls = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
    ]
    return {name for call in calls for name in referred(call.args[1])}


METHODS = PACKAGE / "methods"


@pytest.mark.parametrize("name", method_names())
def test_nobody_refers_to_the_classes_of_a_method_outside_its_folder(name):
    classes = classes_of(METHODS / name)
    assert classes, name
    front = METHODS / "__init__.py"  # hands each of them on, and uses none
    others = [path for path in FILES if METHODS / name not in path.parents and path != front]
    result = {str(path.relative_to(PACKAGE)): classes & referred_in(path) for path in others}
    assert {path: names for path, names in result.items() if names} == {}


def test_nobody_asks_outside_of_methods_whether_a_method_is_of_a_shared_class():
    classes = classes_of(METHODS / "common")
    others = [path for path in FILES if METHODS not in path.parents]
    result = {str(path.relative_to(PACKAGE)): classes & asked_for(ast.parse(path.read_text())) for path in others}
    assert {path: names for path, names in result.items() if names} == {}
    planted = ast.parse("if isinstance(method, (Method, common.TwoDomainMethod)): pass")
    assert classes & asked_for(planted) == {"TwoDomainMethod"}


def test_bundles_hold_no_python():
    assert not list((PACKAGE / "bundles").rglob("*.py"))


def test_the_page_on_architecture_names_every_subpackage_once_in_order():
    page = (Path(__file__).resolve().parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| `([^`]+)` \|$", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == SUBPACKAGES
    for number, (name, told, example) in enumerate(rows):
        assert (PACKAGE.parent / example).is_file(), example
        assert example.startswith(f"medtrace/{name}")
        used = {
            subpackage_of(other)
            for module, others in EDGES.items()
            if subpackage_of(module) == name
            for other in others
        }
        used.discard(name)
        assert set(re.findall(r"`(\w+)`", told)) == used, (name, sorted(used, key=SUBPACKAGES.index))
        assert used <= set(SUBPACKAGES[:number])
