"""CLI modules of 3D Slicer: an XML and a script for each command, and the code that loads results into the scene."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from medtrace.io import load_trace
from medtrace.io.nifti import write_image
from medtrace.io.transforms import write_transform
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, make_executable

PREFIX = "Medtrace"


def write_slicer_modules(out: str | os.PathLike, modules: Mapping[str, str], python: str | None = None) -> list[Path]:
    """Write modules: `MedtraceX.xml` and `MedtraceX.py`, a script of Python's own library that answers `--xml`.

    The script runs `medtrace` in the Python that wrote it, since Slicer's own has no medtrace, and puts the image and
    the transform where Slicer asks for them. A verdict of FAIL is a line, not an error, so that the result can be seen.

    Args:
        out: a new or empty folder.
        modules: command → XML.
        python: the interpreter that has medtrace; by default this one.

    Returns:
        The files, sorted.

    Raises:
        FileExistsError: if `out` is in use.
    """
    with atomic_directory(out, make_parents=True) as folder:
        for command, xml in modules.items():
            name = f"{PREFIX}{command.capitalize()}"
            atomic_write(folder / f"{name}.xml", xml)
            script = folder / f"{name}.py"
            atomic_write(script, _SCRIPT.format(command=command, python=python or sys.executable))
            make_executable(script)
    return sorted(Path(out).iterdir())


def into_scene(trace: str | os.PathLike, image: str | None = None, transform: str | None = None) -> None:
    """Write a trace's image and displacement where Slicer reads them.

    Args:
        trace: the folder.
        image: .nii or .nii.gz, as the modules ask for; None for none.
        transform: .h5, which resamples the source onto the image and moves it in the scene; None for none.
    """
    loaded = load_trace(Path(trace))
    if image:
        write_image(image, loaded.image, loaded.affine)
    if transform:
        write_transform(transform, loaded.ddf, loaded.affine)


_SCRIPT = '''#!/usr/bin/env python3
"""Run `medtrace {command}` for 3D Slicer; made by `medtrace slicer-modules`."""
import os
import subprocess
import sys
from pathlib import Path

PYTHON = {python!r}
OWN = ("--slicer-image", "--slicer-transform")
FAILED_VERDICT = 3


def main(arguments):
    if "--xml" in arguments:
        print(Path(__file__).with_suffix(".xml").read_text(encoding="utf-8"), end="")
        return 0
    environment = {{name: value for name, value in os.environ.items()
                   if name not in ("PYTHONHOME", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")}}
    own, given, out, words = {{}}, [], None, list(arguments)
    while words:
        word = words.pop(0)
        if word.startswith("-") and words and words[0] == "":  # an option that was left empty
            words.pop(0)
        elif word in OWN:
            own[word] = words.pop(0) if words else ""
        else:
            given.append(word)
            if word in ("--out", "-o") and words:
                out = words[0]
    if not Path(PYTHON).is_file():
        print(f"{{PYTHON}} is missing: make the modules again with `medtrace slicer-modules`", file=sys.stderr)
        return 1
    code = subprocess.run([PYTHON, "-m", "medtrace", "{command}", *given], env=environment).returncode
    if code not in (0, FAILED_VERDICT):
        return code
    if code == FAILED_VERDICT:
        print("medtrace: the verdict is FAIL; the result is written and marked")
    if own and out:
        finish = "import sys; from medtrace.workflows.slicer_modules import into_scene; into_scene(*sys.argv[1:])"
        done = subprocess.run([PYTHON, "-c", finish, out, own.get(OWN[0], ""), own.get(OWN[1], "")], env=environment)
        return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
'''
