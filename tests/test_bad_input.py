"""Bad input ends in one clear line naming the file and the remedy, a code other than 0, and nothing half-written."""

import json
import re
import shutil

import nibabel
import numpy as np
import pytest
from PIL import Image

from medtrace.cli import main
from medtrace.methods import method_names
from tests.standins import shift_run

pytestmark = pytest.mark.usefixtures("standin_methods")

SHAPE = (12, 10, 6)


def scan(seed=0, shape=SHAPE):
    rng = np.random.default_rng(seed)
    data = rng.uniform(100, 200, shape).astype(np.float32)
    data[:2] = 0
    return data


def save(path, data, affine=None):
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine), path)


@pytest.fixture
def raw(tmp_path):
    """Three good pairs, a list of them, and a run for translation."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for number in range(3):
        save(folder / f"{number}a.nii.gz", scan(number))
        save(folder / f"{number}b.nii.gz", scan(number + 10))
    write_list(folder)
    shift_run(tmp_path / "run", [1.0, 0.0])
    return folder


def write_list(folder, **first):
    """A JSON list whose first entry is changed."""
    rows = [{"subject": f"S{n}", "source": f"{n}a.nii.gz", "target": f"{n}b.nii.gz"} for n in range(3)]
    rows[0].update(first)
    (folder / "pairs.json").write_text(json.dumps(rows))


TOLD = re.compile("medtrace: failed case")
"""Lines on stderr beside the error: each of several failing cases."""


def refused(capfd, folder, *arguments):
    """Run a command that must fail; return its single line on stderr, beside a line for each of several cases."""
    before = sorted(str(p) for p in folder.rglob("*"))
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capfd.readouterr()
    assert caught.value.code == 1
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if not TOLD.match(line)]
    assert len(lines) == 1, captured.err
    # The pairs that could be read are kept for the next attempt.
    shutil.rmtree(folder / "data.partial", ignore_errors=True)
    assert sorted(str(p) for p in folder.rglob("*")) == before, "something was left behind"
    return lines[0]


def prepare(capfd, tmp_path, *more):
    return refused(
        capfd, tmp_path, "prepare", tmp_path / "raw" / "pairs.json", "--out", tmp_path / "data", "--slices", "3",
        "--split", "0.67", "0", "0.33", "--no-align", "--no-crop", *more,
    )  # fmt: skip


def translate(capfd, tmp_path, image, *more):
    out = tmp_path / "new" / "trace"
    return refused(capfd, tmp_path, "translate", tmp_path / "run", image, "--out", out, *more)


def corrupt_gzip(path):
    save(path, scan())
    path.write_bytes(path.read_bytes()[:600])


def short_nifti(path):
    save(path, scan())
    path.write_bytes(path.read_bytes()[:900])


def with_value(value):
    def make(path):
        data = scan()
        data[3, 4, 2] = value
        save(path, data)

    return make


BROKEN = {
    "corrupt gzip": ("bad.nii.gz", corrupt_gzip, r"cannot be read as NIfTI \(.*\); copy or export it again"),
    "short file": ("bad.nii", short_nifti, "its header claims .* damaged or cut short, take an intact copy"),
    "no image": ("bad.nii.gz", lambda p: p.write_text("hello"), "cannot be read as NIfTI .*; copy or export it again"),
    "empty file": ("bad.nii", lambda p: p.write_bytes(b""), "cannot be read as NIfTI .*; copy or export it again"),
    "not a number": ("bad.nii.gz", with_value(np.nan), r"holds 1 voxel\(s\) that are NaN or infinite; replace them"),
    "infinite": ("bad.nii.gz", with_value(-np.inf), r"holds 1 voxel\(s\) that are NaN or infinite; replace them"),
    "constant": ("bad.nii.gz", lambda p: save(p, np.full(SHAPE, 7.0)), r"is constant \(7 everywhere\)"),
    "unknown kind": ("bad.xyz", lambda p: p.write_text("hello"), r"unknown file type; expected \.nii"),
    "broken natural image": (
        "bad.png",
        lambda p: p.write_bytes(b"\x89PNG\r\n"),
        "cannot be read as a natural image .*; export it",
    ),
    "broken NRRD": ("bad.nrrd", lambda p: p.write_text("NRRD0004\nx"), "its header claims .*; copy or export it again"),
    "no DICOM": ("bad", lambda p: p.mkdir(), "holds no DICOM series; give the folder of the .dcm files"),
    "missing": ("bad.nii.gz", lambda _: None, r"no such file( or folder)?"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_images_are_refused(capfd, tmp_path, raw, name):
    file, make, message = BROKEN[name]
    make(raw / file)
    write_list(raw, target=file)
    if name != "broken natural image":
        line = prepare(capfd, tmp_path)
        assert re.match(rf"medtrace: error: .*{re.escape(str(raw / file))}", line)
        assert re.search(message, line)
    line = translate(capfd, tmp_path, raw / file)
    assert re.match(rf"medtrace: error: {re.escape(str(raw / file))}: ", line)
    assert re.search(message, line)


def test_unequal_grids(capfd, tmp_path, raw):
    save(raw / "other.nii.gz", scan(shape=(12, 10, 7)))
    write_list(raw, target="other.nii.gz")
    line = prepare(capfd, tmp_path)
    assert re.search(r"other.nii.gz: expected the grid \(12, 10, 6\) of .*0a.nii.gz, received \(12, 10, 7\); res", line)
    save(raw / "other.nii.gz", scan(), np.diag([1.0, 1.0, 1.5, 1.0]))
    line = prepare(capfd, tmp_path)
    assert re.search(r"other.nii.gz: lies up to 2.5 mm off .*0a.nii.gz, whose voxels it should share; resample", line)
    for number, size in ((n, size) for n in "abc" for size in (9, 8)):
        natural_image = np.eye(size, dtype=np.uint8) * ord(number)
        Image.fromarray(natural_image).save(raw / f"{number}{'a' if size == 9 else 'b'}.png")
    rows = [{"subject": f"S{n}", "source": f"{n}a.png", "target": f"{n}b.png"} for n in "abc"]
    (raw / "pairs.json").write_text(json.dumps(rows))
    line = prepare(capfd, tmp_path)
    assert re.search(r"ab.png: expected the grid \(9, 9\) of .*aa.png, received \(8, 8\); resample", line)


def test_wrong_channel_count(capfd, tmp_path, raw):
    save(raw / "two.nii.gz", np.stack([scan(), scan(1)], axis=-1))
    write_list(raw, target="two.nii.gz")
    line = prepare(capfd, tmp_path)
    assert re.search(r"two.nii.gz: expected 1 channel\(s\) as .*0a.nii.gz, received 2; convert", line)
    save(raw / "other.nii.gz", np.stack([scan(2), scan(3)], axis=-1))
    write_list(raw, source="two.nii.gz", target="other.nii.gz")
    assert re.search(r"\.nii\.gz: .*expected [12] channel\(s\)", prepare(capfd, tmp_path))
    line = translate(capfd, tmp_path, raw / "two.nii.gz")
    assert re.search(r"two.nii.gz: source: expected 1 channel\(s\), received 2", line)


def test_empty_or_unfit_mask(capfd, tmp_path, raw):
    save(raw / "mask.nii.gz", np.zeros(SHAPE))
    write_list(raw, mask="mask.nii.gz")
    assert re.search(r"mask.nii.gz: the mask is empty; mark the foreground", prepare(capfd, tmp_path))
    assert "mask.nii.gz: the mask is empty" in translate(
        capfd, tmp_path, raw / "0a.nii.gz", "--mask", raw / "mask.nii.gz"
    )
    save(raw / "mask.nii.gz", np.ones((3, 3, 3)))
    assert re.search(r"mask.nii.gz: expected the grid \(12, 10, 6\)", prepare(capfd, tmp_path))
    one = np.zeros(SHAPE)
    one[3, 3, 3] = 1
    save(raw / "mask.nii.gz", one)
    assert re.search(r"0a.nii.gz: image: is constant \(.*\) in its foreground; check", prepare(capfd, tmp_path))


def test_pair_list_with_a_missing_column(capfd, tmp_path, raw):
    (raw / "pairs.csv").write_text("subject,source,after\nS,0a.nii.gz,0b.nii.gz\n")
    line = refused(capfd, tmp_path, "prepare", raw / "pairs.csv", "--out", tmp_path / "data")
    assert line.startswith(f"medtrace: error: {raw / 'pairs.csv'}: missing column(s) target;")
    assert "name the columns subject, source, target" in line


def test_scans_and_natural_images_do_not_mix(capfd, tmp_path, raw):
    Image.fromarray(np.eye(9, dtype=np.uint8)).save(raw / "a.png")
    write_list(raw, target="a.png")
    assert re.search(r"pairs.json: entry 1: mixes scans and natural images", prepare(capfd, tmp_path))


def test_transparent_natural_image(capfd, tmp_path, raw):
    Image.fromarray(np.full((9, 9, 4), 100, np.uint8)).save(raw / "a.png")
    assert "a.png: has transparent pixels; flatten the natural image" in translate(capfd, tmp_path, raw / "a.png")


def test_broken_runs_and_datasets(capfd, tmp_path, raw):
    weights = tmp_path / "run" / "checkpoints" / "weights.safetensors"
    weights.write_bytes(b"not weights")
    assert str(weights) in translate(capfd, tmp_path, raw / "0a.nii.gz")
    weights.unlink()
    line = translate(capfd, tmp_path, raw / "0a.nii.gz")
    assert f"{weights} is missing: the training has not finished; resume it" in line
    line = refused(capfd, tmp_path, "train", "tracetrans", tmp_path / "none", "--out", tmp_path / "r")
    assert "none is not a folder; make it with `medtrace prepare`" in line
    line = refused(capfd, tmp_path, "train", "nomethod", "--tracebench", "--out", tmp_path / "r")
    assert f"method: 'nomethod' is not one; expected one of {', '.join(method_names())}" in line


def test_preparation_that_is_none(capfd, tmp_path, raw):
    file = tmp_path / "run" / "preparation.json"
    for text in ("{", "[]", '{"version": 9}', '{"version": 1}', '{"version": 1, "spatial_dims": 5, "contrasts": {}}'):
        file.write_text(text)
        assert f"{file}: is not a valid preparation" in translate(capfd, tmp_path, raw / "0a.nii.gz")


def test_output_in_use(capfd, tmp_path, raw):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("precious")
    for more in ([], ["--overwrite"]):
        line = refused(capfd, tmp_path, "prepare", raw / "pairs.json", "--out", taken, "--split", "1", "0", "0", *more)
        assert str(taken) in line
        line = refused(capfd, tmp_path, "translate", tmp_path / "run", raw / "0a.nii.gz", "--out", taken, *more)
        assert str(taken) in line
    assert (taken / "thesis.txt").read_text() == "precious"
