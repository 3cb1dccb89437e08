"""The page of a trace in Firefox, driven over WebDriver BiDi by npm's puppeteer-core."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from tests.test_viewer_page import page_file  # noqa: F401 - the same page as in Chromium

SCRIPT = Path(__file__).parent / "viewer" / "firefox.mjs"
BROWSERS = ("firefox-esr", "firefox")
REMEDY = "apt-get install firefox-esr nodejs npm && npm install --prefix tests/viewer"


def driver_of(which=shutil.which, folder=SCRIPT.parent):
    """Node and Firefox, or what is missing for a test in Firefox."""
    firefox = next(filter(None, map(which, BROWSERS)), None)
    missing = [name for name, path in (("node", which("node")), ("a Firefox", firefox)) if path is None]
    missing += [] if (folder / "node_modules" / "puppeteer-core").is_dir() else ["puppeteer-core"]
    return (which("node"), firefox), f"needs {' and '.join(missing)}; {REMEDY}" if missing else ""


def test_what_is_missing_is_said(tmp_path):
    assert driver_of(lambda _: None, tmp_path)[1] == f"needs node and a Firefox and puppeteer-core; {REMEDY}"
    (tmp_path / "node_modules" / "puppeteer-core").mkdir(parents=True)
    assert driver_of(lambda name: f"/usr/bin/{name}", tmp_path) == (("/usr/bin/node", "/usr/bin/firefox-esr"), "")


@pytest.mark.slow
def test_the_page_works_in_firefox(page_file, tmp_path):  # noqa: F811 - the fixture
    (node, firefox), missing = driver_of()
    if missing:
        pytest.skip(missing)
    command = [node, SCRIPT, firefox, page_file.as_uri(), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert "Firefox" in seen["agent"]
    assert seen["said"] == []
    assert seen["panes"] == ["source", "warped", "image", "truth", "map"]
    assert min(seen["colors"][:4]) > 20  # pictures, not blank canvases
    assert seen["sentence"].startswith("Moved 4.9 mm left, 2.1 mm forward.")
    source, target = seen["clicked"]
    assert source[:2] == pytest.approx([16, 12], abs=0.6)
    assert target[0] - source[0] == pytest.approx(-4.9, abs=0.2)  # to the patient's left, where the first index falls
    assert target[1] - source[1] == pytest.approx(2.1, abs=0.2)
    assert "Against it: inverse (0.9 mm)." in seen["certificate"]
    assert len(seen["planes"]) == 6
    assert "RAS" not in seen["photograph"]
    assert not seen["wide"]
    for name in ("slice", "planes"):
        with Image.open(tmp_path / f"{name}.png") as shot:
            assert shot.size == (1366, 768)
