"""Record the moving picture of the README: two volumes are registered, and their page is used in a browser.

python docs/recordings/page_in_motion.py docs/images/page.webp

Needs playwright and a Chromium on the path (`pip install '.[test]'`). The volumes are a TraceBench case, the fields are
what `medtrace register` makes of them.
"""

import argparse
import io
import shutil
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from medtrace.data import TraceBench
from medtrace.workflows.register import register

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
READY = "Boolean(window.medtrace?.complete)"
WIDTH = 900
SPOTS = ((0.42, 0.34), (0.5, 0.42), (0.58, 0.36), (0.64, 0.5))
"""Where the pointer goes in the moving image, as fractions of its picture."""


def registered_page(folder: Path, size: int) -> Path:
    """The page of a registration of a head before surgery to the same head after it."""
    case = TraceBench("postop", (size,) * 3, cases=1, split="test")[0]
    for name in ("source", "target"):
        image = case[name]
        values = image.as_tensor()[0].numpy().astype(np.float32)
        nibabel.save(nibabel.Nifti1Image(values, np.asarray(image.affine)), folder / f"{name}.nii.gz")
    register(folder / "source.nii.gz", folder / "target.nii.gz", folder / "trace", progress=False)
    return folder / "trace.html"


def recorded(page_file: Path) -> list[tuple[Image.Image, int]]:
    """Pictures of the page and how many milliseconds each is shown."""
    frames = []
    with sync_playwright() as driver:
        path = next(filter(None, map(shutil.which, BROWSERS)))
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 720}, color_scheme="dark")

        def shoot(milliseconds: int) -> None:
            page.wait_for_timeout(250)
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            frames.append((shot.resize((WIDTH, round(shot.height * WIDTH / shot.width))), milliseconds))

        page.goto(page_file.as_uri(), wait_until="commit")
        while not page.evaluate(READY):
            page.wait_for_timeout(100)
        shoot(1500)
        box = page.locator("[data-pane=source] canvas").bounding_box()
        for across, down in SPOTS:
            page.mouse.move(box["x"] + across * box["width"], box["y"] + down * box["height"])
            shoot(900)
        page.keyboard.press("v")  # arrows
        shoot(1200)
        for layer in ("jacobian", "residual"):
            page.select_option("#layer", layer)
            shoot(1200)
        page.locator("body").press("4")  # three planes
        shoot(1800)
        browser.close()
    return frames


def main() -> None:
    """Parse and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="WebP or GIF to write")
    parser.add_argument("--size", type=int, default=96, help="voxels along every axis")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frames = recorded(registered_page(Path(folder), arguments.size))
    (first, *others), times = zip(*frames)
    first.save(arguments.path, save_all=True, append_images=others, duration=list(times), loop=0, quality=45, method=6)


if __name__ == "__main__":
    main()
