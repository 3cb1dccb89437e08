"""Run folders from elsewhere whose configuration would run code.

    python -m tests.cases.foreign_runs OUT --run RUN [--only CASE]

RUN is a finished run (`medtrace train tracetrans --smoke --out RUN`); every case is a changed copy, OUT/CASE/run, beside a harmless
`.pdbrc` that creates the file MARKER when a debugger starts in OUT/CASE. Use one from there:

    cd OUT/CASE && medtrace translate run image.nii.gz --out trace < /dev/null

Right, for each: exit code 1 with one line that names the configuration and the entry, and no file MARKER. Nothing here does more
than create that file. A run folder without a configuration (`config.yaml`) cannot be attacked like this: no case is written then.
"""

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import yaml

from tests.cases.common import case, grid_points, main

MARKER = "MARKER"
MAKE_MARKER = f"open({MARKER!r}, 'w').close()"


def options(parser):
    parser.add_argument("--run", type=Path, required=True, help="a finished run folder")


def write(folder, run, change):
    """A changed copy of the run, an image, and the debugger's start file."""
    shutil.copytree(run, folder / "run", ignore=shutil.ignore_patterns("tensorboard", "evaluation"))
    path = folder / "run" / "config.yaml"
    if not path.is_file():
        shutil.rmtree(folder / "run")
        return {"entry": "translate", "skipped": "the run has no config.yaml"}
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / ".pdbrc").write_text(f"!{MAKE_MARKER}\nc\n", encoding="utf-8")
    shape = (24, 24, 6)
    points = grid_points(shape, np.diag([2.0, 2.0, 3.0, 1.0]))
    head = 800 * np.exp(-((points - points.mean((0, 1, 2))) ** 2).sum(-1) / 200)
    nib.save(nib.Nifti1Image(head.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0])), folder / "image.nii.gz")
    return {
        "entry": "translate",
        "input": "run",
        "accept": ["refuse"],
        "must_not_exist": MARKER,
        "command": ["translate", "run", "image.nii.gz", "--out", "trace", "--no-report"],
    }


@case
def mode_debug(folder, options):
    """`_mode_: debug` under the objective: MONAI runs the component under pdb, which reads .pdbrc of the working directory.
    Reports: none
    Before: not seen by the check of foreign code; MARKER is created, the image is translated, exit code 0
    Right: refused before anything is built: `_mode_` is code; no MARKER
    """
    return write(folder, options.run, lambda config: config["objective"].update(_mode_="debug"))


@case
def mode_debug_nested(folder, options):
    """`_mode_: debug` under the network, one level down.
    Reports: none
    Before: MARKER is created
    Right: refused; no MARKER
    """
    return write(folder, options.run, lambda config: config["network_def"].update(_mode_="debug"))


@case
def mode_debug_written_as_an_id(folder, options):
    """The same as a flat id: a top-level key `objective#_mode_`.
    Reports: none
    Before: the entry passes unnoticed, the image is translated; MONAI leaves the key as it is, so no MARKER
    Right: refused: an id in a key may be code
    """
    return write(folder, options.run, lambda config: config.update({"objective#_mode_": "debug"}))


@case
def mode_callable(folder, options):
    """`_mode_: callable` under the objective: a partial instead of an object.
    Reports: none
    Before: "its networks cannot be made ('functools.partial' object has no attribute ...)"
    Right: refused as code, with the entry's name
    """
    return write(folder, options.run, lambda config: config["objective"].update(_mode_="callable"))


@case
def expression(folder, options):
    """A plain value replaced by an expression: alpha is `$` and Python, a control.
    Reports: none
    Before: refused: "would run code that medtrace does not ship"; no MARKER
    Right: that
    """
    return write(folder, options.run, lambda config: config["objective"].update(alpha=f"${MAKE_MARKER} or 0.5"))


@case
def foreign_target(folder, options):
    """Another callable: `_target_: builtins.open` in place of a number, a control.
    Reports: none
    Before: refused; no MARKER
    Right: that
    """
    return write(
        folder,
        options.run,
        lambda config: config["objective"].update(
            smoothness_weight={"_target_": "builtins.open", "file": MARKER, "mode": "w"}
        ),
    )


if __name__ == "__main__":
    main(__doc__, options)
