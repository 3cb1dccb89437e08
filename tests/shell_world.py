"""The files that shell blocks of README and how-tos name, small, and what runs a line of a block in their folder."""

import shlex
import shutil
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK

from medtrace.cli import main
from medtrace.data import TraceBench
from medtrace.io import save_trace
from medtrace.trace import Trace

SIZE = 32
PEOPLE = ("anna", "bert", "carl", "dora", "emil", "fred")
NOBODY = len(PEOPLE)
"""One more, who is in no list."""


class World:
    """A folder with what commands read.

    Args:
        folder: where they run.
        smoke_run: a run folder of seconds.
    """

    def __init__(self, folder: Path, smoke_run: Path) -> None:
        self.folder, self.smoke_run = folder, smoke_run
        self.cases = list(TraceBench("postop", (SIZE,) * 3, cases=len(PEOPLE) + 1, split="test"))

    def stored(self, name: str, values: np.ndarray, person: int) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(values, np.asarray(self.cases[person]["source"].affine)), path)

    def scans(self, *names: str, person: int = 0, role: str = "source", gamma: float = 1.0) -> None:
        """A head in arbitrary units, under each name; another contrast by a power of its intensities."""
        unit = (self.cases[person][role].as_tensor()[0].numpy().clip(-1, 1) + 1) / 2
        values = (1000 * unit**gamma).astype(np.float32)
        for name in names:
            self.stored(name, values, person)

    def labels(self, *names: str, role: str = "source", person: int = 0) -> None:
        """Its tissues as whole numbers."""
        values = self.cases[person][f"{role}_labels"].as_tensor()[0].numpy().astype(np.uint8)
        for name in names:
            self.stored(name, values, person)

    def lesion(self, name: str) -> None:
        """A ball in the head, as a mask."""
        places = np.indices((SIZE,) * 3) - SIZE / 2
        self.stored(name, (np.square(places).sum(0) < 9).astype(np.uint8), 0)

    def traces(self, *names: str) -> None:
        """The truth of a case."""
        case = self.cases[0]
        trace = Trace.build(case["source"], case["target"], case["ddf"], affine=case["source"].affine)
        for name in names:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_trace(trace, self.folder / name, overwrite=True)

    def runs(self, *names: str) -> None:
        """A training of seconds on slices."""
        for name in names:
            shutil.copytree(self.smoke_run, self.folder / name)

    def pairs(self, *more: tuple[str, str]) -> None:
        """`pairs.csv` of six people; further columns as (name, cell), with {person} in the cell."""
        rows = [",".join(["subject", "source", "target", *(name for name, _ in more)])]
        for number, person in enumerate(PEOPLE):
            self.scans(f"{person}/before.nii.gz", person=number)
            self.scans(f"{person}/after.nii.gz", person=number, role="target")
            self.labels(f"{person}/before_labels.nii.gz", person=number)
            self.labels(f"{person}/after_labels.nii.gz", person=number, role="target")
            cells = [cell.format(person=person) for _, cell in more]
            rows.append(",".join([person, f"{person}/before.nii.gz", f"{person}/after.nii.gz", *cells]))
        self.text("pairs.csv", "\n".join(rows) + "\n")

    def text(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def rigid(self, *names: str) -> None:
        """A shift by 2 mm, as ITK stores it."""
        for name in names:
            SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (2.0, 0.0, 0.0)), str(self.folder / name))

    def converted(self, transform: str, form: str, **files: str) -> None:
        """What another program would have left: `transform` in its format, its files under the names given."""
        out = self.folder / f"made_{transform}_{form}"
        grids = ("--source", "before.nii.gz", "--target", "after.nii.gz") if not transform.endswith("trace") else ()
        assert run_line(shlex.join(["medtrace", "convert", transform, "--to", form, *grids, "--out", str(out)])) == 0
        for name, made in files.items():
            shutil.copy(out / made, self.folder / name.replace("__", "."))


def run_line(line: str, *more: str) -> int:
    """Run a command in this process; its exit code."""
    try:
        main([*shlex.split(line, comments=True)[1:], *more])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0
