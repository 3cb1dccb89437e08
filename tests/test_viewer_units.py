"""The page's JavaScript: unit tests in node, a linter, and module names that the page can resolve."""

import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNITS = ROOT / "tests" / "viewer"
ASSETS = files("medtrace.report.viewer") / "assets"
MODULES = sorted(asset.name for asset in ASSETS.iterdir() if asset.name.endswith(".js"))
TESTED = (
    "affine",
    "colors",
    "contours",
    "correspondence",
    "decode",
    "grid",
    "plane",
    "regions",
    "scores",
    "slices",
    "arranging",
    "marks",
    "words",
)

node = shutil.which("node")
linter = shutil.which("oxlint", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The modules and their tests as Node wants them: below a package that says what they are."""
    root = tmp_path_factory.mktemp("package")
    (root / "package.json").write_text('{"type": "module"}')
    for folder in (UNITS, Path(str(ASSETS))):
        shutil.copytree(folder, root / folder.relative_to(ROOT))
    return root


@pytest.mark.skipif(node is None, reason="node is not installed")
def test_units(sources):
    units = [f"tests/viewer/{path.name}" for path in sorted(UNITS.glob("*.test.mjs"))]
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", *units], cwd=sources, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.search(r"^# pass (\d+)", done.stdout, re.M)[1])
    written = sum(text.read_text().count("\ntest(") for text in UNITS.glob("*.test.mjs"))
    assert passed == written > 20


@pytest.mark.skipif(node is None, reason="node is not installed")
@pytest.mark.parametrize("module", MODULES)
def test_syntax(sources, module):
    path = sources / "medtrace" / "report" / "viewer" / "assets" / module
    done = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(linter is None, reason="oxlint is not installed")
def test_linter():
    command = [linter, "-c", UNITS / "oxlint.json", "--deny-warnings", str(ASSETS), UNITS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(linter is None, reason="oxlint is not installed")
def test_the_linter_finds_faults(tmp_path):
    (tmp_path / "bad.js").write_text("export function f(x) {\n  let y = 1;\n  return x == z;\n}\n")
    command = [linter, "-c", UNITS / "oxlint.json", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    for rule in ("no-undef", "no-unused-vars", "prefer-const", "eqeqeq"):
        assert f"eslint({rule})" in done.stdout


def test_what_can_run_without_a_page_is_tested():
    tests = "".join(path.read_text(encoding="utf-8") for path in UNITS.glob("*.test.mjs"))
    for name in TESTED:
        assert f"assets/{name}.js" in tests


@pytest.mark.parametrize("module", MODULES)
def test_imports_are_modules_of_the_page(module):
    """Each is inlined under its name: an import of anything else would not open offline."""
    text = (ASSETS / module).read_text(encoding="utf-8")
    for place in re.findall(r'\bfrom "([^"]+)"', text):
        assert re.fullmatch(r"\./\w+\.js", place), place
        assert place.removeprefix("./") in MODULES
