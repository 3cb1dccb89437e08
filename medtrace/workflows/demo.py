"""A first look, without data, training or network: two scans and trained weights that ship, a translation, a
registration and their page."""

from __future__ import annotations

import os
import sys
import time
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medtrace.data.reading import read_image
from medtrace.metrics import deformed_region, end_point_error
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, write_json
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.trace import Trace
from medtrace.workflows.register import Registered, register
from medtrace.workflows.report import report
from medtrace.workflows.translate import translate

SHIPPED = Path(__file__).parents[1] / "pretrained"
"""Weights and scans that ship, made by `python -m tests.pretrained`."""
TRANSLATOR, REGISTRAR = SHIPPED / "tracetrans_composed", SHIPPED / "metaregnet"
SCANS = SHIPPED / "scans"
TRUTH = "truth.npz"
PAGE = "page.html"
NUMBERS = "demo.json"


class Demo(NamedTuple):
    """What the demo made.

    Attributes:
        page: to open in a browser.
        translation, registration: folders of the traces.
        numbers: errors against the known truth, beside those of doing nothing.
        verdict: verdict of the registration.
        lines: readable lines about what was done and the error against the truth.
    """

    page: Path
    translation: Path
    registration: Path
    numbers: dict[str, float]
    verdict: str
    lines: tuple[str, ...]


@reserving(lambda out: reserve_folder(out, make_parents=True))
def demo(out: str | os.PathLike, *, say: Callable[[str], None] = lambda _: None) -> Demo:
    """Translate one scan and register another with the weights that ship, and write both traces as a page.

    The scans are simulated (TraceBench, slices made from the ICBM152 template, of subjects that the weights
    have not seen), so that the true fields are known and the errors are listed next to those of doing nothing. Nothing
    is downloaded.

    Args:
        out: a new or empty folder.
        say: receives a line as each step begins.

    Returns:
        The page, the traces and the figures, which are also in `demo.json`.

    Raises:
        FileExistsError: if `out` is in use.
    """
    out = Path(out)
    started, spent = time.perf_counter(), time.process_time()
    with atomic_directory(out) as folder:
        scans = _copied(folder / "scans")
        say("translating the scan before surgery to the scan after it (TraceTrans composed)")
        given = scans / "surgery"
        translation = translate(
            TRANSLATOR, given / "before.nii.gz", folder / "translation", report=False, progress=False
        )
        say("registering a healthy head to one with a lesion (MetaRegNet)")
        pair = scans / "lesion"
        registered = register(
            pair / "healthy.nii.gz",
            pair / "patient.nii.gz",
            folder / "registration",
            mask=pair / "lesion.nii.gz",
            run=REGISTRAR,
            report=False,
            progress=False,
        )
        say("writing the page")
        report(
            [folder / "translation", folder / "registration"],
            folder / PAGE,
            targets=[given / "after.nii.gz", pair / "patient.nii.gz"],
        )
        numbers = {**_of_translation(translation, given), **_of_registration(registered.trace, pair)}
        lines = _lines(numbers, registered)
        cost = {
            "seconds": round(time.perf_counter() - started, 1),
            "processor_seconds": round(time.process_time() - spent, 1),
        }
        write_json(folder / NUMBERS, {"numbers": numbers, "verdict": registered.verdict.grade, **cost})
    return Demo(out / PAGE, out / "translation", out / "registration", numbers, registered.verdict.grade, tuple(lines))


def _copied(folder: Path) -> Path:
    for file in sorted(SCANS.rglob("*")):
        if file.is_file():
            atomic_write(folder / file.relative_to(SCANS), file.read_bytes(), make_parents=True)
    return folder


class _Truth(NamedTuple):
    """The true displacement (1, 2, H, W) in voxels of the target's grid, and the head (1, 1, H, W) on it."""

    ddf: Tensor
    head: Tensor


def _truth(folder: Path) -> _Truth:
    with np.load(folder / TRUTH) as arrays:
        return _Truth(torch.from_numpy(arrays["ddf"]).float()[None], torch.from_numpy(arrays["head"])[None])


def _error_mm(trace: Trace, truth: _Truth, region: Tensor) -> tuple[float, float]:
    """Mean length of the error of a trace's field and of no field, in mm, over a region."""
    ddf = trace.ddf.reshape(trace.ddf.shape[0], *truth.ddf.shape[2:])[None, :2]
    known: dict[str, Any] = {"mask": region, "affine": trace.affine}
    fields = ddf, torch.zeros_like(truth.ddf)
    own, still = (float(end_point_error(field.float(), truth.ddf, **known)) for field in fields)
    return own, still


def _of_translation(trace: Trace, folder: Path) -> dict[str, float]:
    truth = _truth(folder)
    after = read_image(folder / "after.nii.gz").as_tensor()
    region = truth.head[0].reshape(trace.image.shape)
    moved, unmoved = _error_mm(trace, truth, deformed_region(truth.ddf) & truth.head)
    return {
        "image_error": float((trace.image - after)[region].abs().mean()),
        "image_error_of_the_source": float((trace.source - after)[region].abs().mean()),
        "field_error_mm": moved,
        "field_error_of_no_field_mm": unmoved,
    }


def _of_registration(trace: Trace, folder: Path) -> dict[str, float]:
    truth = _truth(folder)
    own, still = _error_mm(trace, truth, truth.head)
    return {"registration_error_mm": own, "registration_error_of_no_field_mm": still}


def _lines(numbers: dict[str, float], registered: Registered) -> list[str]:
    n = numbers
    return [
        "translation: before surgery to after it, by TraceTrans composed",
        f"  image: mean error {n['image_error']:.0f} against the true scan, in intensities of 0 to 1000; the scan"
        f" before surgery has {n['image_error_of_the_source']:.0f}",
        f"  field: {n['field_error_mm']:.2f} mm from the truth where tissue moved; a zero field is"
        f" {n['field_error_of_no_field_mm']:.2f} mm from it",
        f"registration: a healthy head to one with a lesion, by MetaRegNet: {registered.verdict.grade}",
        *(f"  {line.grade:<5}{line.topic}: {line.text}" for line in registered.lines),
        f"  field: {n['registration_error_mm']:.2f} mm from the truth in the healthy head; a zero field is"
        f" {n['registration_error_of_no_field_mm']:.2f} mm from it",
    ]


def show(page: Path) -> bool:
    """Open a page in the browser where there is a display; never fails.

    Args:
        page: the file.

    Returns:
        Whether a browser was asked to open it.
    """
    screens = sys.platform in ("darwin", "win32") or any(os.environ.get(one) for one in ("DISPLAY", "WAYLAND_DISPLAY"))
    if not screens:
        return False
    try:
        # A generic browser is text-based and would take over the terminal.
        if type(webbrowser.get()) is webbrowser.GenericBrowser:
            return False
        return webbrowser.open(page.resolve().as_uri())
    except (webbrowser.Error, OSError, ValueError):
        return False
