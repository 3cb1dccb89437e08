"""Wheel and sdist in fresh environments, one after the other, with a smoke of every command; `make matrix`.

    python tests/matrix.py --out matrix [--only 3.11-newest-wheel ...]

Writes `table.md` and a log for each environment into the folder. An interpreter that is absent is reported as not run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PLANS = [(python, "newest", artifact) for python in ("3.11", "3.12", "3.13") for artifact in ("wheel", "sdist")] + [
    ("3.11", "lowest", "wheel")
]
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}
SMOKE = (
    ["doctor"],
    ["methods"],
    ["demo", "--no-show", "--out", "demo"],
    ["bundle", "tracetrans", "--out", "bundle"],
    ["slicer-modules", "--out", "slicer"],
    ["train", "tracetrans", "--smoke", "--out", "run", "--device", "cpu"],
    ["runs", "run"],
    ["card", "run", "--license", "apache-2.0", "--out", "card"],
    ["export-model", "run", "--format", "torchscript", "--out", "model.ts"],
    ["translate", "run", "scan.nii.gz", "--out", "trace"],
    ["certify", "trace"],
    ["report", "trace", "--out", "page.html"],
    ["export", "trace", "--format", "ants", "--out", "ants"],
    ["bids", "trace", "--source", "sub-01_T1w", "--suffix", "T2w", "--out", "bids"],
    ["register", "2a.nii.gz", "scan.nii.gz", "--out", "registered"],
    ["apply", "registered", "2a.nii.gz", "--out", "applied.nii.gz"],
    ["landmarks", "points.csv", "points.csv", "--space", "RAS", "--transform", "registered", "--out", "landmarks"],
    ["convert", "registered", "--to", "itk", "--out", "itk"],
    ["import", "itk/transform.h5", "--source", "2a.nii.gz", "--target", "scan.nii.gz", "--out", "imported"],
    ["trace", "scan.nii.gz", "2a.nii.gz", "--out", "traced"],
    ["prepare", "pairs.csv", "--out", "dataset"],
    ["plan", "dataset"],
    ["train", "unet", "dataset", "--preset", "small", "--set", "training.max_epochs=1", "--out", "own"],
    ["evaluate", "own", "dataset"],
    ["calibrate", "radius", "--subjects", "2", "--size", "16", "--coverage", ".5", "--out", "radius.json"],
    ["traceability", "--set", "iterations=2", "--out", "traceability"],
    ["bench", "--setting", "smoke", "--out", "bench"],
    ["reproduce"],
)
"""What runs with the extra `bench` alone."""
REFUSED = (
    (["dicom", "trace", ".", "--out", "dicom"], "medtrace[dicom]"),
    (["export-model", "run", "--format", "onnx", "--out", "model.onnx"], "medtrace[onnx]"),
    (["translate", "hf://nobody/nothing", "scan.nii.gz", "--out", "none"], "medtrace[hub]"),
    (["report", "own", "--out", "report.pdf"], "medtrace[pdf]"),
)
"""What needs an extra, and the name of the extra that it has to say."""
DICOM = (
    ["translate", "run", "series", "--out", "of_series"],
    ["dicom", "of_series", "series", "--out", "dicom"],
)
"""What runs once the extra `dicom` is there, on a series that pydicom wrote."""
SCAN = """
import nibabel, numpy
from nilearn import datasets

scan = datasets.load_mni152_template(resolution=4)
values, rows = scan.get_fdata(), ["subject,source,target"]
nibabel.save(scan, "scan.nii.gz")
for number in range(6):
    changed = numpy.roll(values, number, 0) + 0.1 * numpy.random.default_rng(number).random(values.shape)
    for name, image in (("a", changed), ("b", numpy.sqrt(changed))):
        nibabel.save(nibabel.Nifti1Image(image.astype("float32"), scan.affine), f"{number}{name}.nii.gz")
    rows.append(f"s{number},{number}a.nii.gz,{number}b.nii.gz")
open("pairs.csv", "w").write("\\n".join(rows))
open("points.csv", "w").write("x,y,z\\n0,0,0\\n10,-20,16\\n-24,8,30\\n")
"""
SERIES = """
import nibabel, numpy, pathlib, pydicom
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

values = nibabel.load("scan.nii.gz").get_fdata()
study, series, frame = generate_uid(), generate_uid(), generate_uid()
pathlib.Path("series").mkdir()
for index in range(values.shape[2]):
    slice = pydicom.Dataset()
    slice.file_meta = pydicom.dataset.FileMetaDataset()
    slice.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    slice.SOPClassUID = slice.file_meta.MediaStorageSOPClassUID = MRImageStorage
    slice.SOPInstanceUID = slice.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    slice.StudyInstanceUID, slice.SeriesInstanceUID, slice.FrameOfReferenceUID = study, series, frame
    slice.Modality, slice.SeriesNumber, slice.InstanceNumber = "MR", 1, index + 1
    slice.PatientName, slice.PatientID, slice.PatientBirthDate, slice.PatientSex = "Template", "1", "", "O"
    slice.StudyDate, slice.StudyTime, slice.StudyID = "20240102", "101112", "1"
    slice.AccessionNumber = slice.ReferringPhysicianName = slice.Manufacturer = ""
    slice.PixelSpacing, slice.SliceThickness = [4, 4], 4
    slice.ImageOrientationPatient, slice.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-98, -134, 4 * index - 72]
    slice.Columns, slice.Rows = values.shape[:2]
    slice.SamplesPerPixel, slice.PhotometricInterpretation = 1, "MONOCHROME2"
    slice.BitsAllocated, slice.BitsStored, slice.HighBit, slice.PixelRepresentation = 16, 16, 15, 0
    slice.RescaleSlope, slice.RescaleIntercept = 1, 0
    slice.PixelData = numpy.ascontiguousarray(1000 * values[::-1, ::-1, index].T).astype("uint16").tobytes()
    slice["PixelData"].VR = "OW"
    slice.save_as(f"series/{index:03d}.dcm", enforce_file_format=True)
"""
PLAIN = """
import importlib.util, pathlib
from medtrace.data import read_image
there = {name for name in ("pydicom", "tensorboard", "jsonschema", "onnx", "wandb") if importlib.util.find_spec(name)}
assert not there, there
pathlib.Path("scan.dcm").write_bytes(bytes(128) + b"DICM" + bytes(64))
try:
    read_image("scan.dcm")
except ModuleNotFoundError as error:
    assert "medtrace[dicom]" in str(error), error
else:
    raise AssertionError("a DICOM file was read without pydicom")
"""
"""What holds where no extra but `bench` is installed; the commands of REFUSED name their extras as well."""


def build(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Both artifacts, and what was found of them."""
    found = []
    digests = []
    for turn in ("first", "second"):
        place = folder / turn
        call([sys.executable, "-m", "build", "--outdir", place, ROOT], folder / f"build-{turn}.log", EPOCH)
        digests.append({path.suffix: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()})
    same = digests[0][".whl"] == digests[1][".whl"]
    found.append(f"wheel: {'the same bytes' if same else 'OTHER BYTES'} in two builds")
    made = {("wheel" if path.suffix == ".whl" else "sdist"): path for path in (folder / "first").iterdir()}
    code = call([sys.executable, "-m", "twine", "check", "--strict", *made.values()], folder / "twine.log")
    found.append(f"twine check --strict: {'passed' if code == 0 else 'FAILED'}")
    return made, found


def call(line: list, log: Path, variables: dict[str, str] | None = None, cwd: Path | None = None) -> int:
    """Run, with everything it says in a log, and the seconds that it and its processes took."""
    with log.open("a") as said:
        said.write(f"$ {' '.join(map(str, line))}\n")
        said.flush()
        environment = {**os.environ, "PYTHONPATH": "", **(variables or {})}
        begun, before = time.monotonic(), os.times()
        code = subprocess.call(list(map(str, line)), stdout=said, stderr=said, env=environment, cwd=cwd)
        after = os.times()
        busy = after.children_user + after.children_system - before.children_user - before.children_system
        said.write(f"= {code} after {time.monotonic() - begun:.0f} s, {busy:.0f} s of the processor\n")
    return code


def try_out(python: str, dependencies: str, artifact: Path, folder: Path) -> str:
    """One environment: installed, imported, every command's help, and a smoke of those that need no more data."""
    interpreter = interpreter_of(python)
    if interpreter is None:
        return "not run: no such interpreter"
    folder.mkdir(parents=True)
    log, place = folder / "log.txt", folder / "venv"
    call([interpreter, "-m", "venv", place], log)
    own = place / "bin"
    constraints = folder / "constraints.txt"
    lowest = subprocess.run(
        [sys.executable, ROOT / "tests" / "lowest_versions.py", "bench", "dicom"], capture_output=True, text=True
    )
    constraints.write_text(lowest.stdout if dependencies == "lowest" else "")
    install = [own / "python", "-m", "pip", "install", "-q", "-c", constraints]
    begun = time.monotonic()
    if call([*install, artifact], log):
        return "FAILED to install, see the log"
    took = time.monotonic() - begun
    size = sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) / 1e9
    packages = sum(1 for path in place.rglob("*.dist-info") if path.is_dir())
    begun = time.monotonic()
    plain = call([own / "medtrace", "demo", "--no-show", "--out", "first"], log, cwd=folder)
    first = time.monotonic() - begun
    if plain or call([*install, f"{artifact}[bench]"], log):
        return "FAILED without the extra bench, or to install it, see the log"
    call([own / "python", "-c", SCAN], log, cwd=folder)
    listed = subprocess.run(
        [own / "python", "-c", "from medtrace.cli import app; print(*[c.name for c in app.registered_commands])"],
        capture_output=True, text=True, cwd=folder,
    ).stdout.split()  # fmt: skip
    failed = [name for name in listed if call([own / "medtrace", name, "--help"], log, cwd=folder)]
    failed += [line[0] for line in SMOKE if call([own / "medtrace", *line], log, cwd=folder) not in (0, 3)]
    if call([own / "python", "-c", PLAIN], log, cwd=folder):
        failed.append("what a plain installation promises")
    for line, extra in REFUSED:
        before = len(log.read_text())
        code = call([own / "medtrace", *line], log, cwd=folder)
        if code == 0 or extra not in "".join(log.read_text()[before:].split()):
            failed.append(f"the refusal of {line[0]} without {extra}")
    call([*install, f"{artifact}[dicom]"], log)
    call([own / "python", "-c", SERIES], log, cwd=folder)
    failed += [line[0] for line in DICOM if call([own / "medtrace", *line], log, cwd=folder)]
    failed += [f"no smoke of {name}" for name in listed if name not in {line[0] for line in (*SMOKE, *DICOM)}]
    call([own / "python", "-m", "pip", "list", "--format", "freeze"], folder / "versions.txt")
    shutil.rmtree(place)
    if failed or not listed:
        return f"FAILED: {', '.join(failed) or 'no commands'}"
    done = f"passed: help and smoke of {len(listed)} commands, {len(REFUSED)} extras named"
    of_plain = f"{packages} packages, {size:.1f} GB, installed in {took:.0f} s, first demo {first:.0f} s"
    return f"{done}; without extras: {of_plain}"


def interpreter_of(version: str) -> str | None:
    """One that runs, also where a launcher of that name leads nowhere."""
    places = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for place in filter(None, places):
        done = subprocess.run([place, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
        if done.stdout.decode().strip() == version:
            return str(place)
    return None


def main() -> int:
    """Try what was asked for and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("matrix"))
    names = ["-".join(plan) for plan in PLANS]
    parser.add_argument("--only", nargs="*", default=names, choices=names, metavar="PYTHON-DEPENDENCIES-ARTIFACT")
    chosen = parser.parse_args()
    out = chosen.out.absolute()
    out.mkdir(parents=True)
    made, found = build(out)
    rows = ["| Python | dependencies | from | result |", "|---|---|---|---|"]
    for plan, name in zip(PLANS, names):
        result = "not run" if name not in chosen.only else try_out(plan[0], plan[1], made[plan[2]], out / name)
        rows.append(f"| {' | '.join(plan)} | {result} |")
        print(rows[-1], flush=True)
    text = "\n".join([*rows, "", *found, ""])
    (out / "table.md").write_text(text)
    print(text)
    return int("FAILED" in text or "OTHER BYTES" in text)


if __name__ == "__main__":
    sys.exit(main())
