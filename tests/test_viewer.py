"""The page of a trace: what it holds, and what a browser makes of it."""

import re
import shutil

import numpy as np
import pytest
import torch

from medtrace.data import TraceBench
from medtrace.report.viewer import ReportCase, write_report
from medtrace.trace import Trace

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
READY = "Boolean(window.medtrace?.complete) && !document.getElementById('message').textContent"


def postop_case() -> tuple[dict, Trace]:
    case = TraceBench("postop", (96, 96), 1, split="test")[0]
    trace = Trace.build(
        case["source"].as_tensor(),
        case["target"].as_tensor(),
        case["ddf"],
        inverse_ddf=case["inverse_ddf"],
        affine=torch.as_tensor(case["source"].affine),
    )
    return case, trace


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright; pip install playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser on the path, one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def open_page(browser, tmp_path):
    """Open cases in a page; it must end without a word on the console."""
    said, pages = [], []

    def opened(*cases, **options):
        path = write_report(list(cases), tmp_path / "report.html")
        page = browser.new_page(viewport={"width": 1366, "height": 768}, **options)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(path.as_uri())
        for _ in range(100):  # not wait_for_function, whose polling the page's security policy forbids
            if page.evaluate(READY):
                break
            page.wait_for_timeout(50)
        assert page.evaluate(READY)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []


def click_voxel(page, pane: str, voxel) -> None:
    """Click at the place of a voxel in a pane."""
    x, y = page.evaluate(
        """([name, voxel]) => {
            const pane = medtrace.panes[name], box = pane.canvas.getBoundingClientRect();
            const [x, y] = pane.voxelToScreen(voxel);
            return [box.left + x, box.top + y];
        }""",
        [pane, list(voxel)],
    )
    page.mouse.click(x, y)
    page.wait_for_timeout(60)


def reading(page, key: str) -> list[float]:
    """The numbers of a line of the readout."""
    text = page.text_content(f"[data-reading='{key}'] td")
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_click_shows_the_true_corresponding_point(open_page):
    case, trace = postop_case()
    page = open_page(ReportCase("postop", trace))
    length = torch.linalg.vector_norm(case["inverse_ddf"], dim=0)
    for place in ((length == length.max()).nonzero()[0].tolist(), [48, 48], [30, 60]):
        click_voxel(page, "source", (*place, 0))
        clicked = np.array(reading(page, "source-voxel"))
        assert np.abs(clicked - place).max() <= 0.5
        voxel = torch.tensor([[*reading(page, "source-mm")]], dtype=torch.float64)
        truth = trace.locate(voxel)[0].numpy()
        shown = np.array(reading(page, "target-mm"))
        pixel = float(trace.affine[:3, 0].norm())
        assert np.linalg.norm(shown - truth) < 0.5 * pixel
        page.keyboard.press("Escape")
