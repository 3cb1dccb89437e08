"""Places for --out that a cluster, a container or a careful user has.

    python -m tests.cases.outputs OUT [--only CASE] [--mount]

Every case has two small volumes, source.nii.gz and target.nii.gz, the prepared place, and `command`, to be run in OUT/CASE with
`medtrace` before it and `environment` added. Right, for each: exit code 0 (or, where `accept` says so, a refusal in one line that
has `message` in it), `after` holds, and nothing hidden is left. With --mount (root only) the cases of mounts mount what they are
about; undo it with `umount`.
"""

import json
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
    Before: the link is *replaced* by a folder; the data are on the wrong disk, the linked folder stays empty, the old link is left as a hidden .out-...-old; exit code 0
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


def refused(out, message, after, **more):
    return right(out, after, **more) | {"accept": ["refuse"], "message": message}


def mounted(folder, options, *arguments):
    """Mount something on folder/out, where that is asked for."""
    folder.joinpath("out").mkdir(exist_ok=True)
    if options.mount:
        subprocess.run(["mount", *arguments, str(folder / "out")], check=True)
    return {"mounted": bool(options.mount)}


@case
def link_to_a_link(folder, options):
    """out is a symbolic link to a symbolic link to an empty folder.
    Reports: none
    Before: as symbolic_link
    Right: both links stay, and behind/trace.json exists
    """
    write_volumes(folder)
    (folder / "behind").mkdir()
    (folder / "middle").symlink_to("behind", target_is_directory=True)
    (folder / "out").symlink_to("middle", target_is_directory=True)
    return right("out", ["out is a symbolic link", "middle is a symbolic link", "behind/trace.json exists"])


@case
def link_above(folder, options):
    """A folder above out is a symbolic link; out does not exist.
    Reports: none
    Before: written
    Right: the link stays, and behind/out/trace.json exists
    """
    write_volumes(folder)
    (folder / "behind").mkdir()
    (folder / "link").symlink_to("behind", target_is_directory=True)
    return right("link/out", ["link is a symbolic link", "behind/out/trace.json exists"])


@case
def link_with_an_old_trace(folder, options):
    """out is a symbolic link to a folder with an earlier trace, which is to be replaced; the page is wanted.
    Reports: none
    Before: as symbolic_link
    Right: out is still a link, behind/trace.json is the new one, and the page is beside the link
    """
    write_volumes(folder)
    (folder / "behind").mkdir()
    (folder / "behind" / "trace.json").write_text("earlier!", encoding="utf-8")
    (folder / "behind" / "ddf.h5").write_text("earlier!", encoding="utf-8")
    (folder / "out").symlink_to("behind", target_is_directory=True)
    command = [part for part in REGISTER if part != "--no-report"]
    after = ["out is a symbolic link", "behind/trace.json does not hold 'earlier!'", "out.html exists"]
    return right("out", after) | {"command": [*command, "out", "--overwrite"]}


@case
def dangling_link_deep(folder, options):
    """out is a symbolic link to a folder in a folder, neither of which exists.
    Reports: none
    Before: as dangling_link
    Right: refused before the work with the link's name
    """
    write_volumes(folder)
    (folder / "out").symlink_to("missing/deeper", target_is_directory=True)
    return refused("out", "out: is a symbolic link to missing/deeper, which does not exist", ["missing does not exist"])


@case
def link_loop(folder, options):
    """out is a symbolic link to a link that leads back to it.
    Reports: none
    Before: after all the work
    Right: refused before the work with the link's name
    """
    write_volumes(folder)
    (folder / "out").symlink_to("other")
    (folder / "other").symlink_to("out")
    return refused("out", "out: is a symbolic link to other", ["out is a symbolic link"])


@case
def link_to_a_file(folder, options):
    """out is a symbolic link to a file.
    Reports: none
    Before: refused: "is in use"
    Right: refused at once; the file is as it was
    """
    write_volumes(folder)
    (folder / "notes.txt").write_text("precious\n", encoding="utf-8")
    (folder / "out").symlink_to("notes.txt")
    return refused("out", "out: expected a folder, received a file", ["notes.txt holds 'precious'"])


@case
def file_in_the_place(folder, options):
    """out is a file.
    Reports: none
    Before: refused: "is in use"
    Right: refused at once, also with --overwrite; the file is as it was
    """
    write_volumes(folder)
    (folder / "out").write_text("precious\n", encoding="utf-8")
    return refused("out", "out: expected a folder, received a file", ["out holds 'precious'"]) | {
        "command": [*REGISTER, "out", "--overwrite"]
    }


@case
def parent_not_writable_with_page(folder, options):
    """As parent_not_writable, with the page, which cannot be put beside out.
    Reports: none
    Before: after all the work
    Right: exit code 0; the page is in the folder
    """
    parent_not_writable(folder, options)
    command = [part for part in REGISTER if part != "--no-report"]
    after = ["volume/out/trace.json exists", "volume/out/report.html exists"]
    return right("volume/out", after, as_user="not root") | {"command": [*command, "volume/out"]}


@case
def parent_not_writable_behind_a_link(folder, options):
    """out is a symbolic link to an empty writable folder in a folder that cannot be written.
    Reports: none
    Before: the link is replaced by a folder
    Right: exit code 0; volume/out/trace.json exists, and out is still a link
    """
    parent_not_writable(folder, options)
    os.chmod(folder, 0o777)
    (folder / "out").symlink_to("volume/out", target_is_directory=True)
    return right("out", ["volume/out/trace.json exists", "out is a symbolic link"], as_user="not root")


@case
def missing_in_a_parent_not_writable(folder, options):
    """out does not exist, in a folder that cannot be written.
    Reports: none
    Before: after all the work
    Right: refused at once, with the folder's name and "Permission denied"
    """
    write_volumes(folder)
    (folder / "volume").mkdir()
    os.chmod(folder / "volume", 0o555)
    return refused("volume/out", "Permission denied", ["volume/out does not exist"], as_user="not root")


@case
def place_not_writable(folder, options):
    """out is an empty folder that cannot be written itself, in one that can.
    Reports: none
    Before: the folder is replaced by one that can be written
    Right: refused at once, with "Permission denied"
    """
    write_volumes(folder)
    os.chmod(folder, 0o777)
    (folder / "out").mkdir(mode=0o555)
    return refused("out", "Permission denied", ["out/trace.json does not exist"], as_user="not root")


@case
def bind_mount(folder, options):
    """out is a folder of the same disk that is mounted there, which os.path.ismount does not see.
    Reports: none
    Before: after all the work: "out: Device or resource busy"
    Right: exit code 0; behind/trace.json exists and the page is in the volume, not beside it
    """
    write_volumes(folder)
    (folder / "behind").mkdir()
    more = mounted(folder, options, "--bind", str(folder / "behind"))
    command = [part for part in REGISTER if part != "--no-report"]
    after = ["out/trace.json exists", "out is a mount point", "out/report.html exists", "out.html does not exist"]
    return right("out", after, **more) | {"command": [*command, "out"]}


@case
def mount_point_with_an_old_trace(folder, options):
    """out is a mount point with an earlier trace, which is to be replaced.
    Reports: none
    Before: after all the work: "out: Device or resource busy"
    Right: exit code 0; out/trace.json is the new one
    """
    write_volumes(folder)
    more = mounted(folder, options, "-t", "tmpfs", "-o", "size=64m", "tmpfs")
    (folder / "out" / "trace.json").write_text("earlier!", encoding="utf-8")
    (folder / "out" / "report.html").write_text("earlier!", encoding="utf-8")
    after = ["out/trace.json does not hold 'earlier!'", "out/report.html does not exist", "out is a mount point"]
    return right("out", after, **more) | {"command": [*REGISTER, "out", "--overwrite"]}


@case
def mount_read_only(folder, options):
    """out is a mount point that cannot be written.
    Reports: none
    Before: after all the work
    Right: refused at once, with "Read-only file system"
    """
    write_volumes(folder)
    more = mounted(folder, options, "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs")
    return refused("out", "Read-only file system", ["out/trace.json does not exist"], **more)


@case
def mount_too_small(folder, options):
    """out is a mount point with less room than the trace can need.
    Reports: none
    Before: after all the work: "No space left on device"
    Right: refused before the registration, with both numbers
    """
    write_volumes(folder)
    more = mounted(folder, options, "-t", "tmpfs", "-o", "size=100k", "tmpfs")
    return refused("out", "a trace of this size needs", ["out/trace.json does not exist"], **more)


@case
def other_files_kept_with_overwrite(folder, options):
    """out holds an earlier trace and notes.txt of the user.
    Reports: none
    Before: refused at once
    Right: refused at once, also with --overwrite; everything untouched
    """
    write_volumes(folder)
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("precious\n", encoding="utf-8")
    (folder / "out" / "trace.json").write_text("earlier!", encoding="utf-8")
    return refused(
        "out", "received 'notes.txt'", ["out/notes.txt holds 'precious'", "out/trace.json holds 'earlier!'"]
    ) | {"command": [*REGISTER, "out", "--overwrite"]}


@case
def folder_like_a_workspace(folder, options):
    """Beside out are folders of the user whose names begin as those in which medtrace works, one just like them.
    Reports: none
    Before: no such names
    Right: both stay
    """
    write_volumes(folder)
    for name in (".medtrace-settings", f".medtrace-{'a' * 16}"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("precious\n", encoding="utf-8")
        os.utime(folder / name, (0, 0))
    after = [f".medtrace-{'a' * 16}/notes.txt holds 'precious'", ".medtrace-settings/notes.txt holds 'precious'"]
    return right("out", ["out/trace.json exists", *after])


@case
def left_by_a_killed_process(folder, options):
    """A process was killed (SIGKILL) while it made out.
    Reports: none
    Before: hidden .out-... stay for good
    Right: exit code 0, and nothing hidden is left
    """
    write_volumes(folder)
    for name in ("d3fbf47a7e5b4e7f" * 2, "0123456789abcdef"):
        left = folder / f".medtrace-{name}"
        (left / "new" / "out").mkdir(parents=True)
        (left / "new" / "out" / "ddf.nii.gz").write_bytes(b"half")
        (left / "lock").write_text("process 999999 on here since 2026-01-01T00:00:00+00:00", encoding="utf-8")
    return right("out", ["out/trace.json exists"])


@case
def killed_while_it_replaced(folder, options):
    """A process was killed while its trace took the place of another one's files.
    Reports: none
    Before: a mixture, or nothing
    Right: the earlier trace is put back and then refused: it is in use
    """
    write_volumes(folder)
    (folder / "out").mkdir()
    left = folder / "out" / f".medtrace-{'0' * 32}"
    (left / "new" / "out").mkdir(parents=True)
    (left / "old").mkdir()
    (left / "old" / "trace.json").write_text("earlier!", encoding="utf-8")
    (left / "old" / "ddf.h5").write_text("earlier!", encoding="utf-8")
    (left / "new" / "out" / "trace.json").write_text("new", encoding="utf-8")
    (folder / "out" / "ddf.h5").write_text("new", encoding="utf-8")
    record = {"content": "out", "new": ["ddf.h5", "trace.json"], "old": ["ddf.h5", "trace.json"]}
    (left / "delivery.json").write_text(json.dumps(record), encoding="utf-8")
    (left / "lock").write_text("process 999999 on here since 2026-01-01T00:00:00+00:00", encoding="utf-8")
    return refused("out", "already holds a trace", ["out/trace.json holds 'earlier!'", "out/ddf.h5 holds 'earlier!'"])


@case
def colons_in_names(folder, options):
    """Two colons in a path, which MONAI takes for #.
    Reports: none
    Before: written rightly by register; a training as with #
    Right: exit code 0; likewise `train --out run::2`
    """
    return _named(folder, "a::b")


@case
def signs_at_the_beginning(folder, options):
    """A path that begins with the signs of MONAI's references and code.
    Reports: none
    Before: as number_sign_in_names
    Right: exit code 0
    """
    return _named(folder, "@#c $d %e")


@case
def code_in_names(folder, options):
    """A path that looks like an expression, with a quote and a backslash.
    Reports: none
    Before: as number_sign_in_names
    Right: exit code 0, and nothing runs
    """
    return _named(folder, "$'#' + @run_dir\\")


def _named(folder, name):
    (folder / f"scan {name}").mkdir()
    write_volumes(folder, f"scan {name}/{{}}.nii.gz")
    scans = [f"scan {name}/source.nii.gz", f"scan {name}/target.nii.gz"]
    return right(name, [f"{name}/trace.json exists"]) | {
        "command": ["register", *scans, *REGISTER[3:], name],
        "training": ["train", "tracetrans", "--smoke", "--out", name],
        "after_training": [f"{name} holds the weights"],
    }


@case
def home_folder(folder, options):
    """--out=~/trace, which no shell expands.
    Reports: none
    Before: a folder called ~
    Right: the trace is in the home folder
    """
    write_volumes(folder)
    (folder / "home").mkdir()
    return right("", ["home/trace/trace.json exists", "~ does not exist"], environment={"HOME": "home"}) | {
        "command": [*REGISTER[:-1], "--out=~/trace"]
    }


@case
def home_in_use(folder, options):
    """--out '~', a folder with files.
    Reports: none
    Before: a folder called ~
    Right: refused; nothing there is touched
    """
    write_volumes(folder)
    (folder / "home").mkdir()
    (folder / "home" / "notes.txt").write_text("precious\n", encoding="utf-8")
    return refused("~", "is in use", ["home/notes.txt holds 'precious'"], environment={"HOME": "home"})


@case
def home_of_nobody(folder, options):
    """--out=~someone/trace of a user who does not exist.
    Reports: none
    Before: a folder called ~someone
    Right: refused with the name
    """
    write_volumes(folder)
    return refused("~no-such-user/trace", "~no-such-user/trace", ["~no-such-user does not exist"])


@case
def parents_missing(folder, options):
    """Folders above out that do not exist.
    Reports: none
    Before: written
    Right: they are made
    """
    write_volumes(folder)
    return right("a/b/out", ["a/b/out/trace.json exists"])


@case
def parents_missing_and_refused(folder, options):
    """Folders above out that do not exist, and a source that cannot be read.
    Reports: none
    Before: refused
    Right: refused, and none of the folders is left
    """
    write_volumes(folder)
    (folder / "source.nii.gz").write_bytes(b"broken")
    return refused("a/b/out", "source.nii.gz", ["a does not exist"])


if __name__ == "__main__":
    main(__doc__, options)
