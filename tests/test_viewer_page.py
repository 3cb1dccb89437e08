"""The page as a reader meets it: what stands on the pictures, three planes, zoom, paper, and no barrier."""

import re

import numpy as np
import pytest
import torch

from medtrace.fields import identity_grid
from medtrace.report.certificate import certificate_words
from medtrace.report.viewer import ReportCase, write_report
from medtrace.report.viewer.framing import box_of, is_photograph, start_of
from medtrace.report.viewer.scene import scene_of
from medtrace.trace import Trace
from medtrace.workflows.report import method_title

READY = "Boolean(window.medtrace?.complete) && !document.getElementById('message').textContent"
CERTIFICATE = {
    "case": "a",
    "verdict": "WARN",
    "checks": [
        {"name": "folding", "status": "PASS", "reason": "no voxel folds", "figures": {}, "limits": {}},
        {"name": "inverse", "status": "WARN", "reason": "0.9 mm.", "figures": {}, "limits": {}},
        {"name": "reproduction", "status": "SKIPPED", "reason": "no run", "figures": {}, "limits": {}},
    ],
}


def ball(size: int, dims: int) -> torch.Tensor:
    grid = identity_grid((size,) * dims) - (size - 1) / 2
    return torch.exp(-grid.square().sum(0, keepdim=True) / (size / 5) ** 2).clamp_min(0.05)


def moved_trace(dims: int = 2, size: int = 32) -> Trace:
    """Tissue moved 4.9 mm to the left and 2.1 mm forward, on voxels of 1 mm."""
    image = ball(size, dims)
    ddf = torch.zeros(dims, *image.shape[1:])
    ddf[0], ddf[1] = 4.9, -2.1  # of pulling: the source lies to the right and behind
    return Trace.build(image, image, ddf, inverse_ddf=-ddf, affine=torch.eye(4, dtype=torch.float64))


def photograph_trace() -> Trace:
    affine = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
    image = torch.rand(3, 30, 24, generator=torch.Generator().manual_seed(0)) * 255
    return Trace.build(image, image, torch.zeros(2, 30, 24), affine=affine)


def volume_of_one_slice() -> Trace:
    image = ball(24, 2)[:, None]
    ddf = torch.zeros(3, 1, 24, 24)
    ddf[1], ddf[2] = 0.001, 2
    return Trace.build(image, image, ddf, inverse_ddf=-ddf, affine=torch.eye(4, dtype=torch.float64))


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    """A slice with its target and certificate, a registered volume, a photograph, a volume of one sagittal slice."""
    flat = moved_trace()
    cases = [
        ReportCase("slice", flat, target=flat.image, method="TraceTrans", certificate=CERTIFICATE),
        ReportCase("volume", moved_trace(3, 20), target=ball(20, 3), method="greedy", registration=True),
        ReportCase("photo", photograph_trace(), method="CycleGAN"),
        ReportCase("one slice", volume_of_one_slice(), method="A method whose name is far longer than a pane is wide"),
    ]
    return write_report(cases, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def page(browser, page_file):
    said = []
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(page_file.as_uri())
    wait_for(page, READY)
    yield page
    page.close()
    assert said == []


def wait_for(page, condition):
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"not met: {condition}")


def choose(page, number):
    page.select_option("#case", str(number))
    wait_for(page, f"medtrace.number === {number} && medtrace.model.description.name && medtrace.complete")
    page.wait_for_timeout(100)


WRITTEN = """() => {
    const said = {};
    for (const pane of medtrace.shown) {
        const own = pane.context.fillText.bind(pane.context), texts = said[pane.key] = [];
        pane.context.fillText = (text, ...rest) => { texts.push(text); own(text, ...rest); };
    }
    medtrace.draw();
    for (const pane of medtrace.shown) delete pane.context.fillText;
    return said;
}"""


def test_pictures_say_what_they_are_and_how_large(page):
    said = page.evaluate(WRITTEN)
    assert list(said) == ["source", "warped", "image", "truth", "map"]
    assert {"Synthetic · TraceTrans", "Not for clinical use"} <= set(said["image"]) & set(said["map"])
    assert "Not for clinical use" not in said["source"] + said["truth"]
    assert [text for text in said["source"] if len(text) == 1] == ["R", "L", "A", "P"]
    assert [text for text in said["source"] if re.fullmatch(r"\d+ (mm|cm)", text)]
    choose(page, 1)
    assert page.text_content("[data-pane=truth] b") == "Target (fixed image)"
    assert "Computed · greedy" in page.evaluate(WRITTEN)["image"]
    choose(page, 2)
    said = page.evaluate(WRITTEN)
    assert "truth" not in said
    assert [text for text in said["source"] if len(text) == 1] == []
    assert [text for text in said["source"] if text.endswith(" px")]
    assert "RAS" not in page.text_content("#readout")


def test_a_volume_of_one_slice_has_no_slices_to_step_through(page):
    choose(page, 3)
    assert page.evaluate("[Object.keys(medtrace.model.planes), medtrace.state.planeName]") == [["sagittal"], "sagittal"]
    assert page.evaluate("medtrace.shown.every((pane) => pane.slider.hidden && !pane.label.textContent)")
    assert not page.is_visible("#planes")
    assert not page.is_visible(".depth")
    page.hover("[data-pane=image] canvas")
    page.mouse.wheel(0, -100)
    assert page.evaluate("medtrace.state.zoom") > 1
    said = page.evaluate(WRITTEN)
    assert {"Synthetic", "Not for clinical use"} <= set(said["image"])
    assert not re.search(r"-0\.0+\b", page.text_content("#readout"))


def test_the_spot_is_told_in_words(page):
    assert page.text_content("#sentence").startswith("Moved 4.9 mm left, 2.1 mm forward.")
    page.keyboard.press("c")
    assert "Against it: inverse (0.9 mm)." in page.text_content("#certificate-words")


def test_three_planes_share_the_crosshair(page):
    choose(page, 1)
    page.keyboard.press("4")
    page.wait_for_timeout(100)
    assert page.evaluate("medtrace.shown.map((pane) => pane.key)") == [
        f"{name} {plane}" for name in ("source", "image") for plane in ("axial", "coronal", "sagittal")
    ]
    place = page.evaluate(
        """() => {
            const pane = medtrace.panes["image sagittal"], box = pane.canvas.getBoundingClientRect();
            const [x, y] = pane.voxelToScreen([10, 7, 12]);
            return [box.left + x, box.top + y];
        }"""
    )
    page.mouse.click(*place)
    page.wait_for_timeout(100)
    target = page.evaluate("medtrace.state.point.target")
    assert np.abs(np.array(target[1:]) - [7, 12]).max() <= 0.5
    axial, coronal = page.evaluate("['axial', 'coronal'].map((plane) => medtrace.panes[`image ${plane}`].index)")
    assert (axial, coronal) == (round(target[2]), round(target[1]))


ZOOMED = "() => ({ zoom: medtrace.state.zoom, page: medtrace.panes.source.toPage(60, 40) })"


def test_wheel_and_drag_zoom_and_move(page):
    box = page.locator("[data-pane=source] canvas").bounding_box()
    before = page.evaluate(ZOOMED)
    page.mouse.move(box["x"] + 60, box["y"] + 40)
    for _ in range(6):
        page.mouse.wheel(0, -100)
    page.wait_for_timeout(100)
    after = page.evaluate(ZOOMED)
    assert after["zoom"] == pytest.approx(1.15**6)
    assert np.abs(np.array(after["page"]) - before["page"]).max() < 2.5  # about the cursor, as far as edges allow
    page.mouse.down()
    page.mouse.move(box["x"] + 30, box["y"] + 25, steps=3)
    page.mouse.up()
    page.wait_for_timeout(100)
    moved = np.array(page.evaluate(ZOOMED)["page"]) - after["page"]
    assert (moved > 0.5).all()
    page.keyboard.press("0")
    assert page.evaluate("medtrace.state.zoom") == 1


def test_two_fingers_zoom_and_one_leafs(page):
    choose(page, 1)
    touch = """(steps) => {
        const canvas = medtrace.panes.source.canvas, box = canvas.getBoundingClientRect();
        canvas.setPointerCapture = () => {};
        for (const [type, pointerId, x, y] of steps) {
            canvas.dispatchEvent(new PointerEvent(`pointer${type}`, {
                pointerId, pointerType: "touch", clientX: box.left + x, clientY: box.top + y, button: 0,
            }));
        }
    }"""
    first = page.evaluate("medtrace.panes.source.index")
    page.evaluate(touch, [["down", 1, 90, 120], ["move", 1, 90, 60], ["up", 1, 90, 60]])
    page.wait_for_timeout(100)
    assert page.evaluate("medtrace.panes.source.index") > first
    page.evaluate(
        touch, [["down", 1, 80, 80], ["down", 2, 120, 80], ["move", 2, 160, 80], ["up", 1, 80, 80], ["up", 2, 160, 80]]
    )
    assert page.evaluate("medtrace.state.zoom") == pytest.approx(2)


def test_the_ruler_measures_in_mm(page):
    page.keyboard.press("i")
    places = page.evaluate(
        """() => {
            const pane = medtrace.panes.source, box = pane.canvas.getBoundingClientRect();
            return [[10, 12, 0], [20, 12, 0]].map((voxel) => {
                const [x, y] = pane.voxelToScreen(voxel);
                return [box.left + x, box.top + y];
            });
        }"""
    )
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=3)
    page.mouse.up()
    page.wait_for_timeout(100)
    (told,) = [text for text in page.evaluate(WRITTEN)["source"] if re.fullmatch(r"\d+\.\d mm", text)]
    assert float(told.split()[0]) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize("size", [(1366, 768), (820, 1180), (390, 844)])
def test_no_size_needs_to_be_scrolled_sideways(page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.wait_for_timeout(150)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_paper_has_undistorted_pictures_and_black_text(page):
    page.emulate_media(media="print")
    page.wait_for_timeout(150)
    assert page.is_hidden(".tools")
    assert page.evaluate("getComputedStyle(medtrace.panes.source.canvas).objectFit") == "contain"
    corner = page.evaluate("[...medtrace.panes.map.context.getImageData(1, 1, 1, 1).data]")
    assert corner == [0, 0, 0, 255]  # paper does not show through
    for scheme in ("light", "dark"):
        page.emulate_media(media="print", color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_barrier(page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-core; pip install '.[test]'")
    page.emulate_media(color_scheme=scheme)
    for number in range(3):
        choose(page, number)
        result = axe.Axe().run(page)
        assert result.response["violations"] == [], result.generate_report()
        assert len(result.response["passes"]) > 10


# without a browser


def test_the_page_starts_in_the_lesion_or_where_most_changes():
    trace = moved_trace()
    mask = torch.zeros(1, 32, 32)
    mask[0, 4:7, 20:23] = 1
    masked = Trace.build(trace.source, trace.image, trace.ddf, mask=mask)
    assert start_of(masked) == [5.0, 21.0, 0.0]
    brighter = trace.source.clone()
    brighter[0, 9, 13] += 1
    assert start_of(Trace.build(trace.source, brighter, torch.zeros_like(trace.ddf))) == [9.0, 13.0, 0.0]
    same = Trace.build(trace.source, trace.source, torch.zeros_like(trace.ddf))
    assert start_of(same) == [15.5, 15.5, 0.0]


def test_pictures_show_the_box_of_the_tissue():
    image = torch.zeros(1, 64, 64)
    image[0, 20:41, 10:51] = 1 + torch.rand(21, 41, generator=torch.Generator().manual_seed(0))
    description, arrays = scene_of(ReportCase("a", Trace.build(image, image, torch.zeros(2, 64, 64))))
    assert description["source"]["box"] == [[19.0, 41.0], [8.0, 52.0], [0.0, 0.0]]
    assert "tissue" in arrays
    assert box_of(None, (5, 6, 7)) == [[0.0, 4.0], [0.0, 5.0], [0.0, 6.0]]


def test_photographs_are_known_by_their_affine():
    assert is_photograph(photograph_trace())
    assert not is_photograph(moved_trace())


def test_a_certificate_in_words_names_what_speaks_against_it():
    words = certificate_words({**CERTIFICATE, "stale": True})
    assert words[0].startswith("Treat it with caution")
    assert words[1:4] == ["Against it: inverse (0.9 mm).", "Passed: folding.", "Not examined: reproduction."]
    assert "certify it again" in words[4]
    assert certificate_words({**CERTIFICATE, "verdict": "FAIL"})[0].endswith(
        "at least one check exceeds its FAIL limit."
    )


def test_methods_are_called_by_their_names():
    assert [method_title(name) for name in ("TraceTransMethod", "unet", None, "another (itk)")] == [
        "TraceTrans",
        "U-Net regression",
        None,
        "another (itk)",
    ]
