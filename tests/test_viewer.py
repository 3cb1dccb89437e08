"""The page of a trace: what it holds, and what a browser makes of it."""

import base64
import csv
import json
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from medtrace.data import TraceBench
from medtrace.fields import exponentiate, folded_voxels, identity_grid, sample
from medtrace.io import save_trace
from medtrace.report import viewer
from medtrace.report.viewer import ReportCase, scene, write_report
from medtrace.report.viewer.packing import Packed, pack_field, pack_image, pack_labels, preview_field, preview_image
from medtrace.trace import Trace
from medtrace.workflows.report import report

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


MESSAGES = """document.addEventListener("DOMContentLoaded", () => {
    const message = document.getElementById("message");
    globalThis.said = [];
    new MutationObserver(() => said.push(message.textContent)).observe(message, { childList: true });
});"""
"""Keep what the page says while it reads."""


def wait_for(page, condition, argument=None):
    """Wait for some seconds; the page's security policy forbids the polling of Playwright's wait_for_function."""
    for _ in range(200):
        if page.evaluate(condition, argument):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"not met: {condition}")


@pytest.fixture
def open_page(browser, tmp_path):
    """Open cases in a page; it must end without a word on the console."""
    said, pages = [], []

    def opened(*cases, record=None, **options):
        path = write_report(list(cases), tmp_path / "report.html")
        page = browser.new_page(viewport={"width": 1366, "height": 768}, **options)
        pages.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        if record:
            page.add_init_script(record)
        page.goto(path.as_uri())
        wait_for(page, READY)
        return page

    yield opened
    for page in pages:
        page.close()
    assert said == []


def growing_trace(scale: float) -> Trace:
    """Tissue that grows evenly about the middle, on pixels of 2 × 3 mm."""
    grid = identity_grid((64, 64)) - 31.5
    affine = torch.diag(torch.tensor([2.0, 3.0, 1.0, 1.0], dtype=torch.float64))
    image = torch.exp(-grid.square().sum(0, keepdim=True) / 300)
    return Trace.build(image, image, grid * (1 / scale - 1), inverse_ddf=grid * (scale - 1), affine=affine)


def oblique_trace() -> Trace:
    """A volume on a turned, flipped, anisotropic grid that is on another such grid."""
    affines = []
    for angle, spacing, shift in ((0.3, (1.0, -1.2, 2.5), (5, 40, -10)), (-0.2, (-1.5, 1.1, 2.0), (38, 6, -8))):
        turn = torch.eye(4, dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        turn[:3, 3] = torch.tensor(shift)
        affines.append(turn @ torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)))
    ddf = F.interpolate(2 * torch.randn(1, 3, 3, 3, 3), size=(26, 22, 14), mode="trilinear", align_corners=True)[0]
    source, image = torch.rand(1, 20, 24, 16), torch.rand(1, 26, 22, 14)
    return Trace.build(source, image, ddf, affine=affines[0], source_affine=affines[1])


def screen_place(page, pane: str, voxel) -> list[float]:
    """Where a voxel of a pane is on the screen."""
    return page.evaluate(
        """([name, voxel]) => {
            const pane = medtrace.panes[name], box = pane.canvas.getBoundingClientRect();
            const [x, y] = pane.voxelToScreen(voxel);
            return [box.left + x, box.top + y];
        }""",
        [pane, list(voxel)],
    )


def click_voxel(page, pane: str, voxel) -> None:
    """Click at the place of a voxel in a pane."""
    page.mouse.click(*screen_place(page, pane, voxel))
    page.wait_for_timeout(80)


def reading(page, key: str) -> list[float]:
    """The numbers of a line of the readout."""
    text = page.text_content(f"[data-reading='{key}'] td")
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)]


@pytest.mark.parametrize("pane", ["source", pytest.param("image", marks=pytest.mark.slow)])
def test_click_shows_the_true_corresponding_point(open_page, pane):
    case, trace = postop_case()
    field = case["inverse_ddf" if pane == "source" else "ddf"]
    page = open_page(ReportCase("postop", trace))
    length = torch.linalg.vector_norm(field, dim=0)
    for place in ((length == length.max()).nonzero()[0].tolist(), [48, 48], [30, 60]):
        click_voxel(page, pane, (*place, 0))
        clicked, other = ("source", "target") if pane == "source" else ("target", "source")
        assert np.abs(np.array(reading(page, f"{clicked}-voxel")) - place).max() <= 0.5
        point = torch.tensor(reading(page, f"{clicked}-voxel"), dtype=torch.float32)
        truth = point + sample(field[None], point[None, :, None, None])[0, :, 0, 0]  # one grid: the truth's own voxels
        assert np.abs(np.array(reading(page, f"{other}-voxel")) - truth.numpy()).max() < 0.5
        page.keyboard.press("Escape")


def test_points_through_two_oblique_grids(open_page):
    trace = oblique_trace()
    page = open_page(ReportCase("oblique", trace))
    for voxel in ([5.0, 9.0, 6.0], [12.3, 4.4, 9.0]):
        page.evaluate("voxel => medtrace.point('source', voxel)", voxel)
        page.wait_for_timeout(80)
        mm = trace.source_affine[:3, :3] @ torch.tensor(voxel, dtype=torch.float64) + trace.source_affine[:3, 3]
        assert np.allclose(reading(page, "source-mm"), mm.numpy(), atol=0.006)
        assert np.allclose(reading(page, "target-mm"), trace.locate(mm[None])[0].numpy(), atol=0.05)
    # slices: the wheel moves the point through them, and the other side follows
    before = reading(page, "source-mm"), reading(page, "target-mm")
    page.hover("[data-pane=source] canvas")
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(80)
    assert not np.allclose(before[0], reading(page, "source-mm"), atol=0.5)
    assert not np.allclose(before[1], reading(page, "target-mm"), atol=0.5)


def test_a_point_beyond_the_other_image_shows_its_last_slice(open_page):
    """The translation has the first four of the source's eight slices."""
    source = torch.rand(1, 12, 12, 8)
    trace = Trace.build(source, source[..., :4], torch.zeros(3, 12, 12, 4), source_affine=torch.eye(4))
    page = open_page(ReportCase("shorter", trace))
    for place, shown in ((7, 3), (4, 3), (2, 2)):
        page.evaluate("slice => medtrace.point('source', [6, 6, slice])", place)
        page.wait_for_timeout(80)
        assert reading(page, "source-voxel")[2] == place
        assert page.evaluate("[medtrace.sliceOf('source'), medtrace.sliceOf('target')]") == [place, shown]
    slices = "places => places.map((place) => medtrace.model.planes.axial.target.slice([0, 0, place]))"
    assert page.evaluate(slices, [-3, -0.6, 0.4, 2.6, 3.4, 99]) == [0, 0, 0, 3, 3, 3]


WHOLE_SLICES = """async (name) => {
    const { mapSlice, originPoints, locatedPoints } = await import("viewer/slices");
    const { correspondence: c, planes } = medtrace.model;
    let apart = 0;
    const compare = (points, k, place) => place.forEach((value, j) => {
        apart = Math.max(apart, Math.abs(points[3 * k + j] - value));
    });
    for (const index of [0, 5]) {
        const { source, target } = planes[name];
        const origins = originPoints(c, target, index), located = locatedPoints(c, source, index);
        const jacobian = mapSlice(medtrace.model, "jacobian", target, index, 0);
        target.each(index, (voxel, k) => {
            compare(origins, k, c.origin(voxel));
            apart = Math.max(apart, Math.abs(jacobian[k] - c.ddf.jacobian(...voxel)));
        });
        source.each(index, (voxel, k) => compare(located, k, c.locate(voxel)));
    }
    return apart;
}"""


def test_whole_slices_are_what_their_points_are(open_page):
    page = open_page(ReportCase("oblique", oblique_trace()))
    for name in ("axial", "coronal", "sagittal"):
        assert page.evaluate(WHOLE_SLICES, name) < 1e-3


def test_channels_and_windows_are_chosen(open_page):
    image = torch.stack([torch.full((40, 40), 10.0), torch.linspace(0, 900, 1600).reshape(40, 40)])
    trace = Trace.build(image, image, torch.zeros(2, 40, 40))
    page = open_page(ReportCase("two channels", trace), ReportCase("one", growing_trace(1.1)))
    assert page.locator("#channel option").count() == 2
    gray = """() => {
        medtrace.draw(); // not at the next frame
        const pane = medtrace.panes.source;
        return pane.context.getImageData(...pane.voxelToScreen([5, 5, 0]).map(Math.round), 1, 1).data[0];
    }"""
    page.select_option("#channel", "1")
    level, width = (
        page.locator(f"#windows input[type=number][data-window='source {part}']") for part in ("level", "width")
    )
    assert 800 < float(width.input_value()) <= 900
    level.fill("-500")
    level.press("Enter")
    page.wait_for_function("medtrace.state.windows.source[1] < 0")
    assert page.evaluate(gray) == 255  # everything is brighter than the window
    assert page.evaluate("medtrace.state.windows.image") == page.evaluate("medtrace.state.windows.source")  # together
    width.fill("-3")
    width.press("Enter")
    assert float(width.input_value()) > 0  # no window has a negative width
    assert reading(page, "before")[0] == pytest.approx(10.0, abs=0.02)
    page.select_option("#case", "1")
    page.wait_for_selector("#channels", state="hidden")


def test_the_certificate_is_seen_at_once(open_page):
    checks = [{"name": "folding", "status": "FAIL", "reason": "<b>folds</b>", "figures": {"folded": 2.0}, "limits": {}}]
    certificate = {"case": "SECRET", "verdict": "FAIL", "checks": checks, "provenance": {"file": "SECRET"}}
    trace = growing_trace(1.1)
    page = open_page(ReportCase("failed", trace, certificate=certificate), ReportCase("uncertified", trace))
    assert "FAIL" in page.text_content("#verdict")
    page.keyboard.press("c")
    assert "<b>folds</b>" in page.text_content("#certificate-panel")
    assert page.evaluate("document.getElementById('certificate-panel').scrollTop") == 0
    assert "SECRET" not in page.content()
    page.keyboard.press("Escape")
    page.select_option("#case", "1")
    page.wait_for_selector("#verdict", state="hidden", timeout=20_000)


def test_one_voxel_moved_is_marked_as_folded(open_page):
    image = torch.rand(1, 40, 40)
    ddf = torch.zeros(2, 40, 40)
    ddf[0, 22, 17] = 1.5
    traces = {
        name: Trace.build(image, image, k * ddf, inverse_ddf=-k * ddf) for k, name in enumerate(("sound", "folded"))
    }
    page = open_page(ReportCase("folded", traces["folded"]), ReportCase("sound", traces["sound"]))
    folded = int(folded_voxels(ddf[None]).sum())
    assert folded > 0
    assert page.text_content("#folds") == f"⚠ {folded} folded voxels"
    page.click("#folds")
    page.uncheck("#show-cross")
    page.wait_for_timeout(80)
    place = np.array(reading(page, "target-voxel"))
    assert np.abs(place - [22, 17]).max() <= 1
    colors = page.evaluate(MARK_COLORS, [*place.tolist(), 0])
    assert max(map(min, colors)) > 230  # white square
    assert min(map(max, colors)) < 30  # black cross
    page.select_option("#case", "1")
    page.wait_for_selector("#folds", state="hidden", timeout=20_000)


MARK_COLORS = """voxel => {
    const pane = medtrace.panes.map, [x, y] = pane.voxelToScreen(voxel), ratio = devicePixelRatio;
    const { data } = pane.context.getImageData(Math.round((x - 4) * ratio), Math.round((y - 4) * ratio), 8, 8);
    return Array.from({ length: 64 }, (_, k) => [...data.slice(4 * k, 4 * k + 3)]);
}"""


def test_region_grows_as_the_field_says_and_scores_are_saved(open_page):
    trace = growing_trace(scale=1.2)
    page = open_page(ReportCase("growing", trace, method="=SUM(A1)"))
    page.click("#tool button[value=box]")
    corners = [screen_place(page, "source", voxel) for voxel in ([24, 26, 0], [40, 38, 0])]
    page.mouse.move(*corners[0])
    page.mouse.down()
    page.mouse.move(*corners[1], steps=4)
    page.mouse.up()
    page.wait_for_timeout(80)
    before, after, change = map(float, re.findall(r"-?\d+\.\d+", page.text_content("#regions tr td:nth-child(2)")))
    assert before == pytest.approx(16 * 2 * 12 * 3, rel=0.1)  # the mouse meets whole screen pixels
    assert after / before == pytest.approx(1.44, rel=0.01)
    assert change == pytest.approx(44, abs=1)
    for name, score in (("progression", 2), ("realism", 1), ("traceability", 5)):
        page.check(f"input[name=score-{name}][value='{score}']")
    page.fill("#comment", 'a "quoted", word')
    with page.expect_download() as download:
        page.click("#save-csv")
    lines = list(csv.reader(download.value.path().read_text().splitlines()))
    row = dict(zip(lines[0], lines[1]))
    assert (row["case"], row["region"], row["drawn_on"], row["unit"]) == ("growing", "region 1", "source", "mm²")
    assert (row["progression"], row["realism"], row["traceability"]) == ("2", "1", "5")
    assert row["comment"] == 'a "quoted", word'
    assert row["method"] == "'=SUM(A1)"  # no formula for a spreadsheet
    with page.expect_download() as download:
        page.click("#save-json")
    saved = json.loads(download.value.path().read_text())
    assert saved["scores"][0]["after"] == pytest.approx(after, abs=0.06)
    assert "lower is better" in saved["scale"]
    assert len(saved["regions"][0]["regions"][0]["outline_ras_mm"]) == 4


def test_path_and_frames_follow_the_velocity(open_page):
    grid = identity_grid((48, 48)) - 23.5
    velocity = 0.8 * torch.stack([-grid[1], grid[0]]) * torch.exp(-grid.square().sum(0) / 200)
    image = torch.rand(1, 48, 48)
    trace = Trace.build(image, image, exponentiate(velocity[None])[0], velocity=velocity)
    page = open_page(ReportCase("turning", trace))
    assert "exp(t·v)" in page.text_content("[data-reading='path'] td")
    path = np.array(page.evaluate("medtrace.model.correspondence.path([20, 30, 0])"))[:, :2]
    for fraction, steps in ((0.5, 16), (1.0, 32)):
        moved = exponentiate(fraction * velocity[None])[0]
        assert np.abs(path[steps] - np.array([20, 30]) - moved[:, 20, 30].numpy()).max() < 0.1
    straight = path[0] + 0.5 * (path[32] - path[0])
    assert np.linalg.norm(path[16] - straight) > 0.2  # a turn is not a straight line


def test_names_are_text_and_keys_work(open_page):
    hostile = "</script><img src=x onerror=console.error(1)>"
    page = open_page(ReportCase(hostile, growing_trace(1.1), method="<b>m</b>", notes=(hostile,)), color_scheme="dark")
    assert hostile in page.text_content("#about")
    assert page.locator("img").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 27)"
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(246, 246, 244)"
    page.keyboard.press("j")
    page.keyboard.press("g")
    page.wait_for_timeout(80)
    assert page.input_value("#layer") == "jacobian"
    assert page.is_checked("#show-grid")
    page.keyboard.press("?")
    assert page.is_visible("#help-panel")


def test_a_large_volume_opens_with_a_preview(open_page, monkeypatch):
    monkeypatch.setattr(scene, "PREVIEWED", 1000)
    image = torch.randint(0, 3000, (1, 24, 20, 17), generator=torch.Generator().manual_seed(0)).float()
    ddf = torch.zeros(3, 24, 20, 17)
    ddf[0] = 2.0
    page = open_page(ReportCase("volume", Trace.build(image, image, ddf, inverse_ddf=-ddf)), record=MESSAGES)
    wait_for(page, "medtrace.complete")
    assert page.evaluate("said") == ["Coarse preview; loading the full resolution …", ""]
    page.evaluate("medtrace.point('target', [11, 7, 5])")
    assert reading(page, "after") == [float(image[0, 11, 7, 5])]
    assert page.evaluate("medtrace.state.point.source") == [13, 7, 5]


# without a browser


def unpacked(packed: Packed) -> np.ndarray:
    """What the page reads: sums of the differences, times the scale."""
    dtype = np.dtype(packed.header["dtype"])
    planes = np.frombuffer(zlib.decompress(base64.b64decode(packed.payload)), np.uint8).reshape(dtype.itemsize, -1)
    unsigned = np.ascontiguousarray(planes.T).view(f"u{dtype.itemsize}").ravel()
    numbers = np.add.accumulate(unsigned, dtype=unsigned.dtype).view(dtype).reshape(packed.header["shape"])
    return numbers * packed.header["scale"] + packed.header["offset"]


def test_whole_numbers_are_stored_exactly():
    image = torch.randint(-500, 3000, (2, 7, 9, 5)).float()
    packed = pack_image(image)
    assert packed.header["error"] == 0
    assert np.array_equal(unpacked(packed), image.numpy())


def test_differences_between_parts_of_a_large_image_wrap_around_silently():
    image = 60000.0 - torch.arange(128.0**3).remainder(60000).reshape(1, 128, 128, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        packed = pack_image(image)
    assert np.array_equal(unpacked(packed), image.numpy())


def test_other_images_are_stored_within_the_stated_error():
    image = torch.randn(1, 33, 20)
    packed = pack_image(image)
    assert packed.header["shape"] == [1, 33, 20, 1]
    assert np.abs(unpacked(packed)[..., 0] - image.numpy()).max() <= packed.header["error"] + 1e-12
    assert 0 < packed.header["error"] < 1e-4
    assert np.array_equal(unpacked(pack_image(torch.full((1, 4, 4), 0.3)))[0, ..., 0], np.full((4, 4), np.float32(0.3)))


def test_smooth_fields_are_halved_and_others_kept():
    rough = 3 * torch.randn(2, 64, 64)
    smooth = F.interpolate(0.5 * torch.randn(1, 3, 5, 5, 5), size=(64, 64, 40), mode="trilinear", align_corners=True)[0]
    assert pack_field(smooth).header["shape"] == [3, 32, 32, 20]
    assert pack_field(smooth).header["error"] <= 0.25
    assert pack_field(rough).header["shape"] == [3, 64, 64, 1]
    assert np.abs(unpacked(pack_field(rough))[:2, ..., 0] - rough.numpy()).max() <= 0.5 / 64 + 1e-6


def test_previews_are_coarse_and_small():
    image = torch.randint(0, 3000, (2, 64, 33, 20)).float()
    packed = preview_image(image)
    assert packed.header["shape"] == [2, 32, 17, 10]
    assert packed.header["full"] == [64, 33, 20]
    assert np.array_equal(unpacked(packed), image[:, ::2, ::2, ::2].numpy())
    ramp = torch.linspace(0, 12, 64).reshape(1, 64, 1, 1).expand(3, 64, 33, 20)
    coarse = preview_field(ramp)
    assert coarse.header["shape"] == [3, 16, 9, 5]
    assert np.abs(unpacked(coarse)[0, :, 0, 0] - np.linspace(0, 12, 16)).max() <= coarse.header["error"] + 1e-6


def test_report_from_disk_names_folders_and_nothing_else(tmp_path):
    folders = [tmp_path / side / "visit" for side in ("one", "two")]
    for folder in folders:
        folder.parent.mkdir()
        save_trace(growing_trace(1.1), folder, method="Method", metadata={"file": "SECRET^NAME.nii"})
    path = report(folders, tmp_path / "page" / "report.html")
    text = path.read_text()
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', text, re.DOTALL)[1])
    assert [(case["name"], case["method"]) for case in scene["cases"]] == [
        ("one/visit", "Method"),
        ("two/visit", "Method"),
    ]
    assert "SECRET" not in text
    assert str(tmp_path) not in text
    assert not list(path.parent.glob(".*"))


def test_modules_import_only_what_is_there():
    assets = Path(viewer.__file__).parent / "assets"
    names = {path.name for path in assets.glob("*.js")}
    for path in assets.glob("*.js"):
        assert set(re.findall(r'from "\./(\w+\.js)"', path.read_text())) <= names
    assert "://" not in "".join(path.read_text() for path in assets.iterdir())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: write_report([], path / "a.html"), "cases: expected at least one"),
        (
            lambda path: write_report([ReportCase("a", growing_trace(1.1))] * 2, path / "a.html"),
            "a unique name for each",
        ),
        (lambda path: write_report(ReportCase("a", growing_trace(1.1)), path / "a.pdf"), "ending in .html"),
        (lambda _: ReportCase("a", growing_trace(1.1), labels=torch.zeros(1, 5, 5)), "the source's grid"),
        (lambda path: report([], path / "a.html"), "folders: expected at least one"),
        (lambda path: report(["a"], path / "a.html", targets=["b", "c"]), "targets: expected one for each"),
        (lambda _: pack_labels(torch.full((1, 4, 4), 0.5)), "labels: expected whole numbers"),
    ],
)
def test_errors_say_what_was_expected(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path)
