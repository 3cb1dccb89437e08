"""Places for --out that a cluster, a container or a careful user has.

    python -m tests.cases.outputs OUT [--only CASE] [--mount]

Every case has two small volumes, source.nii.gz and target.nii.gz, the prepared place, and `command`, to be run in OUT/CASE with
`medtrace` before it. Right, for each: exit code 0, `after` holds, and nothing hidden is left beside the place. With --mount (root
only) `mount_point` puts a tmpfs of 64 MiB on OUT/mount_point/out; undo it with `umount`.
"""

import os
import subprocess

import nibabel as nib
import numpy as np

from tests.cases.common import case, grid_points, main

REGISTER = ["register", "source.nii.gz", "target.nii.gz", "--refine", "1", "--no-report", "--out"]


def options(parser):
    parser.add_argument("--mount", action="store_true", help="mount a tmpfs for the case mount_point (root only)")


def write_volumes(folder, stem="{}.nii.gz"):
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    points = grid_points((20, 20, 6), affine)
    for name, middle in (("source", (18, 20, 8)), ("target", (22, 20, 8))):
        volume = 800 * np.exp(-((points - middle) ** 2).sum(-1) / 120)
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), folder / stem.format(name))


def right(out, after, **more):
    return {"entry": "register", "command": [*REGISTER, out], "accept": ["read"], "after": after, **more}


@case
def plain(folder, options):
    """A folder that does not exist yet, a control.
    Reports: none
    Before: written
    Right: exit code 0; out/trace.json exists
    """
    write_volumes(folder)
    return right("out", ["out/trace.json exists"])


@case
def symbolic_link(folder, options):
    """out is a symbolic link to an empty folder on another disk.
    Reports: none
    Before: the link is *replaced* by a folder; the data lie on the wrong disk, the linked folder stays empty, the old link is left as a hidden .out-...-old; exit code 0
    Right: out is still a link, and behind/trace.json exists
    """
    write_volumes(folder)
    (folder / "behind").mkdir()
    (folder / "out").symlink_to("behind", target_is_directory=True)
    return right("out", ["out is a symbolic link", "behind/trace.json exists"])


@case
def dangling_link(folder, options):
    """out is a symbolic link to a folder that does not exist.
    Reports: none
    Before: after all the work: ".out-...: Not a directory"; nothing is written
    Right: refused *before* the work with the link's name, or the folder behind is made
    """
    write_volumes(folder)
    (folder / "out").symlink_to("missing", target_is_directory=True)
    return right("out", ["missing/trace.json exists"]) | {"accept": ["read", "refuse"]}


@case
def parent_not_writable(folder, options):
    """out is an empty writable folder in a folder that cannot be written (a volume given to a container).
    Reports: none
    Before: after all the work: ".out-...: Permission denied" (root passes: run it as another user, or without CAP_DAC_OVERRIDE)
    Right: exit code 0; volume/out/trace.json exists
    """
    write_volumes(folder)
    (folder / "volume" / "out").mkdir(parents=True)
    os.chmod(folder / "volume" / "out", 0o777)
    os.chmod(folder / "volume", 0o555)
    return right("volume/out", ["volume/out/trace.json exists"], as_user="not root")


@case
def mount_point(folder, options):
    """out is a mount point (a Docker volume); --mount makes it.
    Reports: none
    Before: after all the work: "out: Device or resource busy"
    Right: exit code 0; out/trace.json exists and out is still mounted
    """
    write_volumes(folder)
    (folder / "out").mkdir()
    if options.mount:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder / "out")], check=True)
    return right("out", ["out/trace.json exists", "out is a mount point"], mounted=bool(options.mount))


@case
def other_files_kept(folder, options):
    """out holds notes.txt of the user, and no trace.
    Reports: none
    Before: refused at once: "is in use"
    Right: refused at once, notes.txt untouched
    """
    write_volumes(folder)
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("precious\n", encoding="utf-8")
    return right("out", ["out/notes.txt holds 'precious'"]) | {"accept": ["refuse"]}


@case
def number_sign_in_names(folder, options):
    """A # in a path: sources in `scan #2`, out `trace #2`.
    Reports: none
    Before: written rightly by register; a *training* with --out `run#2` writes the configuration to `run#2` and weights to `run::2`, and a data set `data#2` is not found as `data::2`
    Right: exit code 0; 'trace #2/trace.json' exists; likewise `train --out run#2` leaves one folder, run#2, with its weights
    """
    (folder / "scan #2").mkdir()
    write_volumes(folder, "scan #2/{}.nii.gz")
    command = [
        "register",
        "scan #2/source.nii.gz",
        "scan #2/target.nii.gz",
        "--refine",
        "1",
        "--no-report",
        "--out",
        "trace #2",
    ]
    return right("trace #2", ["trace #2/trace.json exists"]) | {
        "command": command,
        "training": ["train", "tracetrans", "--smoke", "--out", "run#2"],
        "after_training": ["run#2 holds the weights", "run::2 does not exist"],
    }


if __name__ == "__main__":
    main(__doc__, options)
