"""Make the weights and scans that ship (`medtrace/pretrained`): `python -m tests.pretrained`.

Trains TraceTrans composed and MetaRegNet on TraceBench by their presets, measures both on 64 unseen subjects, and
writes them with `medtrace card`; then the scans of `medtrace demo`, the first test case of either task. Needs the extra
`bench`.
"""

import argparse
import shutil
from pathlib import Path

import nibabel
import numpy as np

from medtrace.data import TraceBench
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.engines.runs import read_run
from medtrace.storage.directories import atomic_directory
from medtrace.storage.encoders import write_arrays, write_nifti
from medtrace.storage.files import remove
from medtrace.trace.contrast import ARBITRARY, Contrast, Intensity
from medtrace.workflows.card import card
from medtrace.workflows.demo import SHIPPED, TRUTH
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.scoring.trained import trained_row

UNITS = 1000.0
"""What the brightest magnitude of TraceBench is written as."""
T1 = Contrast("TraceBench T1", ARBITRARY, Intensity.WINDOW, limits=(0.0, UNITS), background=0.0, origin="of TraceBench")
METHODS = {"tracetrans_composed": "postop", "metaregnet": "metamorphic"}
SHAPES = {"postop": (96, 96), "metamorphic": (64, 64)}
"""As the presets have them."""
EPOCHS = {"metaregnet": 12}
"""Instead of the preset's 36, a third of its time."""
TEST_CASES = 64
LIMITS = {
    "tracetrans_composed": "It reads slices of 96 × 96 voxels of 2.15 mm, skull-stripped, 0 to 1000 from air to"
    " saturation, as `medtrace demo` has them: scans of other scales are translated wrongly.",
    "metaregnet": "It registers slices of 64 × 64 voxels of 3.22 mm, skull-stripped, 0 to 1000 from air to saturation,"
    " as `medtrace demo` has them.",
}


def units(image):
    """[-1, 1] as whole numbers from 0 to 1000."""
    return np.round((np.asarray(image)[0] + 1) / 2 * UNITS).astype(np.int16)


def model(method, task, work, out, given=None):
    """Train a method, unless its run is given, measure it, and write its model folder."""
    from rich.console import Console

    run = work / method
    if given is not None:
        shutil.copytree(given, run)
    else:
        settings = {"training.seed": 0, "data.seed": 0}
        settings |= {"training.max_epochs": EPOCHS[method]} if method in EPOCHS else {}
        how = {"presets": ("tracebench",), "settings": settings, "device": "cpu", "resume": True}
        trained_row(method, method, run, **how, console=Console())
    data = read_run(run).settings.data
    assert (data.task, data.spatial_shape) == (task, SHAPES[task])
    earlier = Preparation.load(run / FILE)
    known = {"contrasts": {T1.name: T1}, "targets": {T1.name: T1.name}, "source_contrast": T1.name}
    Preparation(
        earlier.spatial_dims,
        Intensity.WINDOW,
        spacing=earlier.spacing,
        spatial_shape=earlier.spatial_shape,
        channels=earlier.channels,
        **known,
    ).save(run / FILE)
    cases = TraceBench(task, SHAPES[task], cases=TEST_CASES, split="test")
    evaluate(run, cases, cheap_rows=False, delivered=False, device="cpu", progress=False)
    remove(out)
    card(run, out, license="apache-2.0", limits=[LIMITS[method]])


def scan(folder, name, image, affine):
    write_nifti(folder / f"{name}.nii.gz", nibabel.Nifti1Image(units(image)[..., None], affine))


def scans(out):
    """The first test case of either task: scans in whole numbers, and the true field in half precision."""
    remove(out)
    with atomic_directory(out, make_parents=True) as made:
        case = TraceBench("postop", SHAPES["postop"], cases=1, split="test")[0]
        affine = case["source"].affine.numpy()
        (made / "surgery").mkdir()
        scan(made / "surgery", "before", case["source"], affine)
        scan(made / "surgery", "after", case["target"], affine)
        head = (case["target_labels"] > 0).numpy()
        truth = {"ddf": case["ddf"].numpy().astype(np.float16), "head": head}
        write_arrays(made / "surgery" / TRUTH, truth, compressed=True)
        case = TraceBench("metamorphic", SHAPES["metamorphic"], cases=1, split="test")[0]
        affine = case["source"].affine.numpy()
        (made / "lesion").mkdir()
        scan(made / "lesion", "healthy", case["source"], affine)
        scan(made / "lesion", "patient", case["target"], affine)
        mask = case["mask"].numpy()[0].astype(np.uint8)[..., None]
        write_nifti(made / "lesion" / "lesion.nii.gz", nibabel.Nifti1Image(mask, affine))
        head = (case["head"] & ~case["pathology"]).numpy()
        truth = {"ddf": case["ddf"].numpy().astype(np.float16), "head": head}
        write_arrays(made / "lesion" / TRUTH, truth, compressed=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("pretrained_runs"), help="where trainings go")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--run", action="append", default=[], metavar="METHOD=RUN", help="a training that is done")
    parser.add_argument("--only", choices=[*METHODS, "scans"], action="append")
    asked = parser.parse_args()
    given = dict(one.split("=", 1) for one in asked.run)
    for method, task in METHODS.items():
        if not asked.only or method in asked.only:
            model(method, task, asked.work, asked.out / method, given.get(method))
    if not asked.only or "scans" in asked.only:
        scans(asked.out / "scans")


if __name__ == "__main__":
    main()
