"""Size and opening time of the page of a 256×256×256 trace with noise, a velocity and a mask.

    python tests/benchmarks/viewer_volume.py [OUT.html]

Needs playwright and Chromium; prints a JSON object. Also of Firefox, where it, node and puppeteer-core (`npm install
--prefix tests/viewer`) are installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from medtrace.fields import exponentiate, warp
from medtrace.report.viewer import ReportCase, write_report
from medtrace.trace import Trace

SHAPE = (256, 256, 256)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FRAMES = """async () => {
    const times = [];
    for (let step = 0; step < 60; step++) {
        const started = performance.now();
        medtrace.point('source', [60 + 2 * step, 128 + 30 * Math.sin(step / 9), 40 + step / 2]);
        await new Promise((done) => medtrace.addEventListener('drawn', done, { once: true }));
        times.push(performance.now() - started);
    }
    return times.sort((a, b) => a - b);
}"""


def noisy_trace(seed: int = 0) -> Trace:
    """A head-like volume of whole numbers with noise, as a scanner gives it, moved by up to some 8 voxels."""
    random = torch.Generator().manual_seed(seed)

    def smooth(channels: int, cells: tuple[int, int, int]) -> torch.Tensor:
        coarse = torch.randn(1, channels, *cells, generator=random)
        return F.interpolate(coarse, size=SHAPE, mode="trilinear", align_corners=True)

    axes = torch.meshgrid(*(torch.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    inside = (sum(axis.square() for axis in axes) < 0.8)[None, None]
    tissue = (400 + 150 * smooth(1, (24, 24, 24))).clamp(50, 1000) * inside
    source = (tissue + 20 * torch.randn(1, 1, *SHAPE, generator=random).abs()).round()
    velocity = 3 * smooth(3, (9, 9, 9)) * inside
    ddf, inverse = exponentiate(velocity, 6), exponentiate(-velocity, 6)
    mask = (smooth(1, (6, 6, 6)) > 1.5).float()
    image = (warp(source, ddf) + 120 * mask + 15 * torch.randn(1, 1, *SHAPE, generator=random)).round()
    return Trace.build(source[0], image[0], ddf[0], inverse_ddf=inverse[0], mask=mask[0], velocity=velocity[0])


def awaited(page, name: str) -> float:
    """Seconds from the start of the navigation to a mark of the page; the page forbids evaluation within it."""
    for _ in range(600):
        result = page.evaluate(f"performance.getEntriesByName({name!r})[0]?.startTime ?? null")
        if result is not None:
            return result / 1000
        time.sleep(0.1)
    raise TimeoutError(f"{name}: not reached within a minute")


def renderer_seconds() -> float:
    """Processor time of the browser's renderers, which a busy machine does not stretch as it does the wall clock."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        try:
            if b"--type=renderer" in (entry / "cmdline").read_bytes():
                ticks += sum(map(int, (entry / "stat").read_text().rpartition(")")[2].split()[11:13]))
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            continue
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(path: Path) -> dict[str, float]:
    """Seconds from the call to the first picture and to the last array, and the times of linked redraws."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1366, "height": 768})
        page.goto(path.as_uri(), wait_until="commit")
        shown, worked = awaited(page, "first picture"), renderer_seconds()
        complete, opening = awaited(page, "complete"), renderer_seconds()
        frames = page.evaluate(FRAMES)
        redraw = (renderer_seconds() - opening) / len(frames)
        heap = page.evaluate("performance.memory.usedJSHeapSize") / 1e6
        browser.close()
    return {
        "first_image_s": round(shown, 2),
        "first_image_processor_s": round(worked, 2),
        "complete_s": round(complete, 2),
        "complete_processor_s": round(opening, 2),
        "redraw_median_ms": round(frames[len(frames) // 2], 1),
        "redraw_p95_ms": round(frames[int(0.95 * len(frames))], 1),
        "redraw_processor_ms": round(1000 * redraw, 1),
        "heap_mb": round(heap, 1),
    }


def measured_in_firefox(path: Path) -> dict[str, float]:
    """Seconds to the first picture and to the last array in Firefox; nothing where it or its driver is missing."""
    script = Path(__file__).parents[1] / "viewer" / "opening.mjs"
    firefox, node = shutil.which("firefox-esr") or shutil.which("firefox"), shutil.which("node")
    if not (firefox and node and (script.parent / "node_modules" / "puppeteer-core").is_dir()):
        return {}
    done = subprocess.run([node, script, firefox, path.as_uri()], capture_output=True, text=True, check=True)
    seconds = json.loads(done.stdout)
    return {"firefox_first_image_s": round(seconds["first"], 2), "firefox_complete_s": round(seconds["complete"], 2)}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "volume.html"
        trace = noisy_trace()
        started = time.perf_counter()
        write_report(ReportCase("volume", trace), path.absolute())
        written = time.perf_counter() - started
        size = path.stat().st_size / 1e6
        result = {"size_mb": round(size, 1), "write_s": round(written, 1), **measured(path.absolute())}
        result |= measured_in_firefox(path.absolute())
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
