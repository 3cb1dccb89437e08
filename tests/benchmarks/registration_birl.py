"""Registration of neighboring tissue slices in different stains, by landmarks that were set by hand.

    python -m tests.benchmarks.registration_birl               both pairs of the shared data, in both directions
    python -m tests.benchmarks.registration_birl --files       likewise by `medtrace register` on the files

Nothing is said of the images: all settings are the defaults. The error of a landmark is the distance, in pixels,
between where its counterpart is and where the registration puts it. Beside it: as the images lie; after the affine map
that fits all the landmarks best, by least squares; what the landmarks themselves say of each other, each one's
counterpart predicted from all the others by a thin-plate spline, of the smoothness that does so best; and after the
alignment alone.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.interpolate import RBFInterpolator

from medtrace.fields import sample
from medtrace.inference.scan_pair import read_pair
from medtrace.registration import register_images
from medtrace.workflows.register import register
from tests.real_heads import DATA

SMOOTHINGS = (1e2, 1e3, 1e4, 1e5)
"""Of thin-plate splines, from hardly to almost affine."""

PAIRS = {"kidney": ("HE", "PanCytokeratin"), "lesion": ("HE", "proSPC")}


class Row(NamedTuple):
    """Mean errors in pixels."""

    before: float
    best_affine: float
    predicted: float
    aligned: float
    found: float
    worst: float
    verdict: str
    seconds: float


def points(path: Path) -> Any:
    """(N, 2) float64: columns and rows of an image's landmarks, which are voxels along its axes."""
    return np.loadtxt(path, delimiter=",", skiprows=1)[:, 1:]


def read_at(ddf: torch.Tensor, places: Any) -> Any:
    """(N, 2): displacements (2, W, H) at places (N, 2)."""
    where = torch.from_numpy(places.T[None, :, :, None]).float()
    return sample(ddf[None], where)[0, :, :, 0].T.numpy()


def predicted(here: Any, there: Any) -> Any:
    """(N, 2): counterparts of landmarks, each from the others alone."""
    tries = []
    for smoothing in SMOOTHINGS:
        ends = []
        for number, own in enumerate(here):
            others = np.arange(len(here)) != number
            spline = RBFInterpolator(here[others], there[others], kernel="thin_plate_spline", smoothing=smoothing)
            ends.append(spline(own[None])[0])
        tries.append(np.array(ends))
    return min(tries, key=lambda ends: float(np.linalg.norm(ends - there, axis=1).mean()))


def measured(name: str, moving: str, fixed: str, files: bool, **settings: Any) -> Row:
    """Errors of one pair; settings are those of `register_images`."""
    folder = DATA / "birl" / name
    there, here = (points(folder / f"{side}.csv") for side in (moving, fixed))
    paths = [folder / f"{side}.png" for side in (moving, fixed)]
    started = time.process_time()
    if files:
        with tempfile.TemporaryDirectory() as out:
            answer = register(*paths, Path(out) / "trace", progress=False, report=False, **settings)
        ddf, aligned, verdict = answer.trace.ddf, answer.alignment, answer.verdict
    else:
        pair = read_pair(*paths)
        own = register_images(pair.source, pair.target, pair.source_affine, pair.affine, **settings)
        ddf, aligned, verdict = own.ddf, own.alignment, own.verdict
    seconds = time.process_time() - started
    affine = read_pair(*paths).affine.numpy()  # of both: pixels of natural images are LPS mm
    matrix = np.linalg.inv(affine) @ aligned.matrix.numpy() @ affine
    found = here + read_at(ddf, here)
    design = np.c_[here, np.ones(len(here))]
    best = design @ np.linalg.lstsq(design, there, rcond=None)[0]
    straight = here @ matrix[:2, :2].T + matrix[:2, 3]
    guesses = here, best, predicted(here, there), straight, found
    lengths = [np.linalg.norm(guess - there, axis=1) for guess in guesses]
    return Row(*(float(one.mean()) for one in lengths), float(lengths[-1].max()), verdict.text(), seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_birl", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--files", action="store_true", help="register the files, as the command does")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(
        "| pair | landmarks | as they lie (px) | best affine | predicted by the others | aligned | registered"
        " | worst | CPU s | |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, sides in PAIRS.items():
        for moving, fixed in (sides, sides[::-1]):
            row = measured(name, moving, fixed, options.files)
            count = len(points(DATA / "birl" / name / f"{fixed}.csv"))
            errors = " | ".join(f"{value:.2f}" for value in row[:6])
            print(
                f"| {name}, {moving} to {fixed} | {count} | {errors} | {row.seconds:.1f} | {row.verdict} |", flush=True
            )


if __name__ == "__main__":
    main()
