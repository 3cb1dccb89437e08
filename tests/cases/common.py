"""What the generators share: a list of cases, a folder for each, `expected.json`, and one check of a volume.

A case is a function with a docstring of four parts: the situation, `Reports:`, `Before:` (what medtrace did until it
was mended) and `Right:`. It writes its inputs into the folder that it is given and returns what is right, as numbers.

Volumes hold a *ramp*: the intensity is a linear function of the position in RAS mm. Whatever the order of the slices
or the axes of the array, a volume that was read rightly (or resampled linearly) still holds it, and `departure` gives
the largest difference. Only numpy is needed.
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np

CASES = {}
"""Module → name → function that writes the case."""


def case(make):
    """Register a case under its function's name."""
    CASES.setdefault(make.__module__, {})[make.__name__] = make
    return make


def sections(make):
    """The four parts of a case's docstring."""
    parts, name = {"situation": []}, "situation"
    for line in make.__doc__.strip().splitlines():
        line = line.strip()
        for heading in ("Reports", "Before", "Right"):
            if line.startswith(heading + ":"):
                name, line = heading.lower(), line[len(heading) + 1 :].strip()
        parts.setdefault(name, []).append(line)
    return {key: " ".join(word for word in value if word) for key, value in parts.items()}


def write(make, folder, *options):
    """Write a case into a new folder; what is right, as `expected.json` says it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected = {"case": make.__name__, **sections(make), **make(folder, *options)}
    text = json.dumps(expected, indent=2, ensure_ascii=False)
    (folder / "expected.json").write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def main(description, add_options=None):
    """Write the cases of the calling script below the folder that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("out", type=Path, help="folder for the cases; a case's own folder is made anew")
    parser.add_argument("--only", action="append", metavar="CASE", help="one case, repeatable")
    if add_options:
        add_options(parser)
    options = parser.parse_args()
    cases = CASES["__main__"]
    for name in options.only or cases:
        write(cases[name], options.out / name, *([options] if add_options else []))
        print(options.out / name)


RAMP = {"offset": 600.0, "gradient": [3.0, 2.0, 5.0]}


def ramp_at(points, ramp=None):
    """The ramp's intensity at RAS mm points (..., 3)."""
    ramp = ramp or RAMP
    return ramp["offset"] + np.asarray(points, float) @ np.asarray(ramp["gradient"], float)


def grid_points(shape, affine):
    """RAS mm of every voxel, (*shape, 3)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    return index @ np.asarray(affine)[:3, :3].T + np.asarray(affine)[:3, 3]


def departure(volume, affine, ramp):
    """Largest difference of a volume (X, Y, Z) from a ramp."""
    volume = np.asarray(volume, float)
    return float(np.abs(volume - ramp_at(grid_points(volume.shape, affine), ramp)).max())


def oblique_affine(spacing=(0.8, 1.1, 3.0), origin=(10.0, -20.0, 30.0), degrees=(20, -15, 35)):
    """A grid that is turned about all axes: a rotation without shear, times the spacing."""
    a, b, c = np.radians(degrees)
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rz @ ry @ rx @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine
