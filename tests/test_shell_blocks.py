"""Every shell block of README and how-tos runs, twice in the same folder, on small files and with short trainings."""

import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut

from tests.shell_world import NOBODY, PEOPLE, World, run_line

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.S | re.M)

NOT_RUN = {
    r"^(?!medtrace )": "another program, or an installation",
    r"hf://": "needs the network",
    r"--resume$": "continues what torchrun began; tests/test_distributed.py does",
    r"--patch-size": "needs a run on volumes; tests/test_memory_fit.py and tests/test_streaming.py have some",
    r"--scheduler ": "needs a cluster; tests/test_parallel_cases.py has one",
    r"^medtrace reproduce \w": "needs a paper's data; tests/test_reproduce.py makes small ones",
    r"^medtrace bench ": "minutes to hours; tests/test_bench_*.py run every study small",
    r"^medtrace prepare BraTSReg_Training|bratsreg_t1": "needs BraTS-Reg; tests/test_published_layouts.py makes one",
    r"^medtrace demo": "tests/test_demo.py runs it",
    r"^medtrace dicom |--dicom ": "needs a DICOM series; tests/test_dicom.py makes one",
}
"""Lines that are not run here, and why."""

SHORT = {
    r"^medtrace train .*--tracebench": ("--preset", "smoke"),
    r"^medtrace train (?!.*(--smoke|--tracebench|--preset|--from))": ("--preset", "small"),
    r"^medtrace train (?!.*(--smoke|--tracebench))": ("--set", "training.max_epochs=1"),
    r"^medtrace prepare (?!.*(--crop|--faces))": ("--crop", "32", "32", "32", "--slices", "3"),
    r"^medtrace prepare .*--faces": ("--resize", "64", "--largest-face"),
    r"^medtrace runs .*--delete": ("--yes",),
    r"^medtrace calibrate radius --run": ("--cases", "4"),
}
"""What is added to a line so that it takes seconds; nothing of it concerns where it reads and writes."""

POINTS = "point,x,y,z\np,0,0,0\nq,5,-3,4\n"
FINE = (0, 3)
"""Done, and done with a verdict that is FAIL: heads of 32 voxels are few."""


def lines_of(page, block=None):
    """The lines of a page's blocks, or of one; a line that ends in a backslash continues."""
    texts = BLOCK.findall(page.read_text(encoding="utf-8"))
    text = "\n".join(texts if block is None else [texts[block]]).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def reason_not_to_run(line):
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, line)), None)


def more_for(line):
    return [word for pattern, words in SHORT.items() if re.search(pattern, line) for word in words]


def readme(world):
    world.scans("before.nii.gz", "healthy.nii.gz", "scan.nii.gz", "images/a.nii.gz")
    world.scans("images/b.nii.gz", person=1)
    world.scans("after.nii.gz", "patient.nii.gz", "translated.nii.gz", "template.nii.gz", role="target")
    world.scans("scan.nii.gz", person=NOBODY)
    world.labels("labels.nii.gz")
    world.lesion("lesion.nii.gz")
    world.pairs()


def apply_transforms(world):
    world.traces("my_trace")
    world.scans("before.nii.gz", "mr.nii.gz", "moving.nii.gz", "before/a.nii.gz")
    world.scans(
        "after.nii.gz", "translated.nii.gz", "fixed.nii.gz", "atlas.nii.gz", "translated/a.nii.gz", role="target"
    )
    world.scans("synthetic_ct.nii.gz", role="target")
    world.labels("labels.nii.gz")
    world.rigid("0.tfm")
    world.converted("my_trace", "ants", out_1Warp__nii__gz="1Warp.nii.gz")
    world.converted("0.tfm", "ants", out_0GenericAffine__mat="0GenericAffine.mat")
    world.converted("my_trace", "itk", atlas__h5="transform.h5")
    world.converted("0.tfm", "lta", affine__lta="affine.lta")
    world.converted("0.tfm", "elastix", TransformParameters__1__txt="TransformParameters.0.txt")
    world.text(
        "points.fcsv",
        "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z\np,1,2,3\n",
    )
    world.text("source.csv", POINTS)
    world.text("target.csv", POINTS)


def field_formats(world):
    apply_transforms(world)
    world.scans("scan.nii.gz")
    world.rigid("motion.tfm", "rigid.tfm")


def bids(world):
    for person in ("01", "02", "03", "04"):
        anat = f"bids_dataset/sub-{person}/ses-pre/anat/sub-{person}_ses-pre"
        world.scans(f"{anat}_T1w.nii.gz", person=int(person))
        world.scans(f"{anat}_T2w.nii.gz", person=int(person), role="target")
    world.text("bids_dataset/dataset_description.json", '{"Name": "small", "BIDSVersion": "1.9.0"}')
    world.runs("runs/tracetrans")
    world.traces("my_trace", "traces/sub-02_ses-pre_T1w")


def with_runs(world):
    world.runs("runs/tracetrans", "runs/plasticine", "runs/cyclegan", "runs/case", "runs/other", "runs/old")
    world.scans("scan.nii.gz", person=NOBODY)
    world.traces("my_trace")


def model(world):
    with_runs(world)
    world.pairs()
    assert run_line("medtrace prepare pairs.csv --out dataset") == 0


def certificate(world):
    with_runs(world)
    world.text("source.csv", POINTS)
    rows = ["trace,source_landmarks,target_landmarks"]
    for number in range(24):
        world.traces(f"t{number}")
        rows.append(f"t{number},source.csv,source.csv")
    world.text("subjects.csv", "\n".join(rows) + "\n")


def pairs_with_contrasts(world):
    world.pairs(("contrast", "t1"), ("target_contrast", "t2"))


def nothing(world):
    """The page reads no files."""


def pairs(world):
    world.pairs()


def several_images(world):
    """A list of two contrasts in and one out, and its data set."""
    rows = ["subject,source_T1,source_FLAIR,target_T2"]
    for number, person in enumerate(PEOPLE):
        names = [f"{person}/{name}.nii.gz" for name in ("t1", "flair", "t2")]
        for name, gamma in zip(names, (1.0, 0.7, 1.5)):
            world.scans(name, person=number, gamma=gamma)
        rows.append(",".join([person, *names]))
    world.text("pairs.csv", "\n".join(rows) + "\n")
    world.scans("t1.nii.gz", person=NOBODY)
    world.scans("flair.nii.gz", person=NOBODY, gamma=0.7)
    assert run_line("medtrace prepare pairs.csv --out dataset --slices 3 --crop 32 32 32") == 0


def domains(world):
    for name, people in (("ge", range(0, 6, 2)), ("siemens", range(1, 6, 2))):
        rows = ["subject,image"]
        for number in people:
            world.scans(f"{name}/{PEOPLE[number]}.nii.gz", person=number)
            rows.append(f"{PEOPLE[number]},{name}/{PEOPLE[number]}.nii.gz")
        world.text(f"{name}.csv", "\n".join(rows) + "\n")


def faces(world):
    for number, person in enumerate(PEOPLE):
        light = 1 - 0.03 * number
        portrait = Image.fromarray(astronaut()).point(lambda value, light=light: value * light)
        (world.folder / person).mkdir()
        for role in ("before", "after"):
            portrait.save(world.folder / person / f"{role}.png")
            portrait = portrait.point(lambda value: value * 0.9)
    rows = [f"{person},{person}/before.png,{person}/after.png" for person in PEOPLE]
    world.text("pairs.csv", "\n".join(["subject,source,target", *rows]) + "\n")


def pairs_with_labels(world):
    with_runs(world)
    world.pairs(("source_labels", "{person}/before_labels.nii.gz"), ("target_labels", "{person}/after_labels.nii.gz"))


def viewer(world):
    world.traces("runs/case1", "runs/case2")
    world.scans("after.nii.gz", role="target")
    world.labels("tissues.nii.gz")


def register(world):
    readme(world)
    world.scans("icbm152_t1.nii.gz")
    world.labels("icbm152_tissues.nii.gz")
    world.scans("DATA/T1.nii.gz", role="target")
    world.lesion("lesion.nii.gz")
    (world.folder / "DATA").mkdir(exist_ok=True)
    shutil.copy(world.folder / "lesion.nii.gz", world.folder / "DATA" / "lesions.nii.gz")


def many(world):
    world.pairs()
    world.runs("runs/mine", "runs/volumes")
    world.scans("scan.nii.gz", "scans/a.nii.gz", person=NOBODY)
    world.scans("scans/b.nii.gz", person=NOBODY, role="target")


def training(world):
    with_runs(world)
    world.pairs()
    for name in ("dataset", "other-dataset"):
        assert run_line(f"medtrace prepare pairs.csv --out {name} --slices 3 --crop 32 32 32") == 0


WORLDS = {
    "README": readme,
    "apply_transforms": apply_transforms,
    "bids": bids,
    "certificate": certificate,
    "export": with_runs,
    "field_formats": field_formats,
    "hand_on_a_model": model,
    "misaligned_pairs": pairs_with_contrasts,
    "reproduce_papers": nothing,
    "prepare_pairs 0": pairs,
    "prepare_pairs 1": faces,
    "prepare_pairs 2": several_images,
    "prepare_pairs 3": several_images,
    "prepare_pairs 4": domains,
    "prepare_pairs 5": pairs,
    "register_to_pathology": register,
    "scale_out": many,
    "slicer": lambda world: world.traces("scan_trace"),
    "traceability_by_segmentation": pairs_with_labels,
    "train_evaluate_translate": training,
    "viewer": viewer,
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_line_is_run_or_says_why_not(page):
    for line in lines_of(page):
        assert page.stem in {key.split()[0] for key in WORLDS} or reason_not_to_run(line), line


LONG = {"README", "apply_transforms", "bids", "export", "field_formats", "hand_on_a_model", "misaligned_pairs",
        "prepare_pairs", "scale_out", "certificate", "register_to_pathology", "traceability_by_segmentation",
        "train_evaluate_translate"}  # fmt: skip
"""Pages that train, start processes or convert to every format; test_docs.py checks each line's options."""


def marked(key):
    return pytest.param(key, marks=[pytest.mark.slow] * (key.split()[0] in LONG))


@pytest.mark.parametrize("key", map(marked, WORLDS))
def test_blocks_run_twice_in_one_folder(key, smoke_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    WORLDS[key](World(tmp_path, smoke_run))
    stem, *block = key.split()
    page = next(page for page in PAGES if page.stem == stem)
    lines = [line for line in lines_of(page, *map(int, block)) if not reason_not_to_run(line)]
    assert lines
    for line in lines:
        capsys.readouterr()
        assert run_line(line, *more_for(line)) in FINE, f"{line}\n{capsys.readouterr().err}"
    for line in lines:
        capsys.readouterr()
        if run_line(line, *more_for(line)) in FINE:
            continue
        if "--delete" in line:  # there is nothing left to remove
            continue
        refusal = capsys.readouterr().err  # of a result that is there: it names the option that goes on or replaces
        option = re.search(r"--(?:overwrite|resume)", refusal)
        assert option, f"{line}\n{refusal}"
        assert run_line(line, *more_for(line), option[0]) in FINE, f"{line}\n{capsys.readouterr().err}"
