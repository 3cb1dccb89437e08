"""Readers and broken files: refused with a reason or read rightly; no crash, no hang, no room for what is not there."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from medtrace import io
from medtrace.data.reading import read_image
from medtrace.guard.declared_size import check_metaimage, check_nrrd
from medtrace.guard.memory import MAX_GIB
from medtrace.guard.volume_files import check_volume
from tests.fuzz.corpus import AFFINE, KINDS
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import Outcome, report, run, spread

# Readers in C and C++ are broken in child processes only, which take seconds to start: see the slow test.
IN_PYTHON = [
    "nifti", "nifti.gz", "nifti2", "nifti pair", "mgz", "trace.json", "dicom headers", "dicom registration",
    "learn2reg npz", "fsl warp", "pairs csv", "pairs json", "dataset.json", "preparation", "certificate",
    "thresholds", "landmarks", "scores", "checkpoint", "legacy checkpoint", "config", "run", "fcsv", "markups",
    "elastix", "elastix Euler", "lta", "flirt", "spm",
]  # fmt: skip


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Folder and content of the intact file of a kind."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("intact")
            KINDS[kind].make(folder)
            made[kind] = folder, (folder / KINDS[kind].file).read_bytes()
        return made[kind]

    return of


@pytest.mark.filterwarnings("ignore")  # of pydicom, about what is wrong
@pytest.mark.parametrize("kind", IN_PYTHON)
def test_broken_files_are_refused_with_a_reason_or_read(kind, intact):
    folder, content = intact(kind)
    KINDS[kind].read(folder)
    reasons = []
    for seed in range(4 if kind == "config" else 12):
        (folder / KINDS[kind].file).write_bytes(mutated(content, seed))
        try:
            KINDS[kind].read(folder)
        except (ValueError, TypeError, OSError) as error:
            reasons.append(str(error))
    (folder / KINDS[kind].file).write_bytes(content)
    assert reasons
    assert min(map(len, reasons)) > 10


@pytest.mark.slow
def test_ten_thousand_broken_files():
    outcomes = run(spread(10_250, list(KINDS), 1000))
    findings = [outcome for outcome in outcomes if outcome.verdict == "finding"]
    assert len(outcomes) == 10_250
    assert not findings, report(outcomes)


@pytest.mark.slow
def test_the_runner_sees_crashes_hangs_and_allocations():
    outcomes = run([("bad crash", 0), ("bad memory", 1), ("bad error", 2), ("bad hang", 3), ("nifti", 4)])
    assert [outcome.verdict for outcome in outcomes[:4]] == ["finding"] * 4
    assert outcomes[4].verdict != "finding"
    details = [outcome.detail for outcome in outcomes]
    assert "crash (SIGSEGV)" in details[0]
    assert "MemoryError" in details[1]
    assert "ZeroDivisionError" in details[2]
    assert "hang (SIGXCPU)" in details[3]


def test_the_report_counts():
    text = report(
        [Outcome("a", 0, "refused", "x"), Outcome("a", 1, "finding", "crash"), Outcome("b", 0, "accepted", "")]
    )
    assert text.splitlines()[1].split() == ["a", "2", "0", "1", "1"]
    assert text.splitlines()[3].split() == ["all", "3", "1", "1", "1"]
    assert "a 1: crash" in text


def test_mutations_are_the_same_for_a_seed_and_differ_between_seeds():
    content = gzip.compress(b"header 12 13 14\n" * 40)
    assert mutated(content, 5) == mutated(content, 5)
    assert len({mutated(content, seed) for seed in range(50)}) > 45


class TestLyingHeaders:
    """Headers of a few hundred bytes that claim 30000³ voxels: refused by arithmetic, before any room is made."""

    @pytest.mark.parametrize("name", ["image.nii", "image.nii.gz"])
    def test_nifti(self, tmp_path, name):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32) + np.arange(4), np.eye(4)), tmp_path / "a.nii")
        content = bytearray((tmp_path / "a.nii").read_bytes())
        struct.pack_into("<3h", content, 42, 30000, 30000, 30000)
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        for read in (read_image, io.read_nifti_image, io.read_transform):
            with pytest.raises(ValueError, match=r"claims 2.01e\+05 GiB"):
                read(tmp_path / name)
        struct.pack_into("<3h", content, 42, 40, 40, 4)
        (tmp_path / "b.nii").write_bytes(content)
        with pytest.raises(ValueError, match="claims 51200 bytes"):
            read_image(tmp_path / "b.nii")

    def test_packed_voxels_that_are_damaged(self, tmp_path):
        """ITK's own inflation of these bytes writes past its memory (found by the mutations: a crash)."""
        folder = tmp_path
        KINDS["mha packed"].make(folder)
        content = (folder / "image.mha").read_bytes()
        (folder / "image.mha").write_bytes(mutated(content, 1112))
        with pytest.raises(ValueError, match="voxels"):
            read_image(folder / "image.mha")

    def test_directions_that_cannot_be(self, tmp_path):
        """ITK takes minutes and more over a direction of 1e308 (found by the mutations: a hang)."""
        KINDS["mha"].make(tmp_path)
        content = (tmp_path / "image.mha").read_bytes()
        for old, new in ((b"= 1 0 0 0 1 0 0", b"= 1 0 0 0 1 0 1e308"), (b"Offset = 0", b"Offset = nan")):
            assert old in content
            (tmp_path / "image.mha").write_bytes(content.replace(old, new))
            with pytest.raises(ValueError, match="expected numbers up to"):
                read_image(tmp_path / "image.mha")

    @pytest.mark.parametrize("name", ["image.nrrd", "image.mha"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_text_headers(self, tmp_path, name, packed):
        image = sitk.GetImageFromArray(np.arange(64, dtype=np.float32).reshape(4, 4, 4))
        sitk.WriteImage(image, str(tmp_path / name), useCompression=packed)
        assert read_image(tmp_path / name).shape == (1, 4, 4, 4)
        content = (tmp_path / name).read_bytes()
        assert b" 4 4 4\n" in content
        for sizes, message in ((b"30000 30000 30000", "GiB"), (b"3000 300 300", "compressed" if packed else "bytes")):
            (tmp_path / name).write_bytes(content.replace(b" 4 4 4\n", b" " + sizes + b"\n"))
            with pytest.raises(ValueError, match=message):
                read_image(tmp_path / name)

    def test_dicom(self, tmp_path):
        import pydicom

        KINDS["dicom"].make(tmp_path)
        path = tmp_path / "series" / "first.dcm"
        dataset = pydicom.dcmread(path)
        dataset.Rows = dataset.Columns = 60000
        dataset.save_as(path)
        for place in (path, path.parent):
            with pytest.raises(ValueError, match=r"claims .* of voxels"):
                read_image(place)

    def test_dicom_elements(self, tmp_path):
        """An element that claims four gigabytes is cut short and brings none."""
        KINDS["dicom"].make(tmp_path)
        path = tmp_path / "series" / "first.dcm"
        content = path.read_bytes()
        place = content.index(b"\x10\x00\x10\x00PN")
        lying = content[:place] + b"\x10\x00\x10\x00UT\x00\x00\xf0\xff\xff\xff" + content[place + 8 :]
        path.write_bytes(lying)
        with pytest.raises(ValueError, match=r"first\.dcm"):
            io.read_source_series(path.parent)
        with pytest.raises(ValueError, match=r"first\.dcm"):
            read_image(path.parent)

    def test_npz(self, tmp_path):
        import zipfile

        head = b"{'descr': '<f2', 'fortran_order': False, 'shape': (3, 30000, 30000, 30000), }"
        member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)
        with zipfile.ZipFile(tmp_path / "disp.npz", "w") as archive:
            archive.writestr("arr_0.npy", member)
        with pytest.raises(ValueError, match="GiB"):
            io.read_learn2reg(tmp_path / "disp.npz", AFFINE)

    def test_arrays_of_objects(self, tmp_path):
        np.savez(tmp_path / "disp.npz", np.array([[print]], dtype=object))
        with pytest.raises(ValueError, match=r"disp\.npz"):
            io.read_learn2reg(tmp_path / "disp.npz", AFFINE)

    def test_natural_images(self, tmp_path):
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "a.bmp")
        content = bytearray((tmp_path / "a.bmp").read_bytes())
        struct.pack_into("<2i", content, 18, 12000, 12000)
        (tmp_path / "a.bmp").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.bmp: .*claims"):
            read_image(tmp_path / "a.bmp")

    def test_matlab_transforms(self, tmp_path):
        (tmp_path / "a.mat").write_bytes(struct.pack("<5i", 0, 1 << 30, 1, 0, 6) + b"Euler\0" + bytes(96))
        with pytest.raises(ValueError, match="claim"):
            io.read_motion(tmp_path / "a.mat")

    def test_the_limit_can_be_set(self, tmp_path, monkeypatch):
        nibabel.save(
            nibabel.Nifti1Image(np.arange(512, dtype=np.float32).reshape(8, 8, 8), np.eye(4)), tmp_path / "a.nii"
        )
        check_volume(tmp_path / "a.nii")
        assert MAX_GIB == 16
        monkeypatch.setenv("MEDTRACE_MAX_GIB", "1e-7")
        with pytest.raises(ValueError, match="set MEDTRACE_MAX_GIB"):
            check_volume(tmp_path / "a.nii")


class TestConfinedData:
    """Headers that name another file as their data."""

    @pytest.mark.parametrize("named", ["../secret.raw", "/etc/passwd", "LIST\n../secret.raw", "../a%d.raw 1 3 1"])
    def test_detached_data_outside_of_the_folder(self, tmp_path, named):
        folder = tmp_path / "in"
        folder.mkdir()
        (tmp_path / "secret.raw").write_bytes(bytes(range(64)))
        (folder / "a.mhd").write_text(f"NDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = {named}\n")
        with pytest.raises(ValueError, match="below"):
            check_metaimage(folder / "a.mhd")
        head = f"NRRD0004\ntype: uchar\ndimension: 2\nsizes: 8 8\nencoding: raw\ndata file: {named}\n"
        (folder / "a.nhdr").write_text(head)
        with pytest.raises(ValueError, match="below"):
            check_nrrd(folder / "a.nhdr")

    def test_links_out_of_the_folder(self, tmp_path):
        folder = tmp_path / "in"
        folder.mkdir()
        (tmp_path / "secret.raw").write_bytes(bytes(range(64)))
        (folder / "a.raw").symlink_to(tmp_path / "secret.raw")
        (folder / "a.mhd").write_text("NDims = 2\nDimSize = 8 8\nElementType = MET_UCHAR\nElementDataFile = a.raw\n")
        with pytest.raises(ValueError, match="link"):
            read_image(folder / "a.mhd")

    @pytest.mark.parametrize("name", ["image.nhdr", "image.mhd"])
    def test_data_beside_their_header_are_read(self, tmp_path, name):
        image = sitk.GetImageFromArray(np.arange(64, dtype=np.float32).reshape(4, 4, 4))
        sitk.WriteImage(image, str(tmp_path / name))
        assert read_image(tmp_path / name).shape == (1, 4, 4, 4)

    def test_a_format_is_what_its_ending_says(self, tmp_path):
        """A PostScript program called .png would go to an interpreter, if its content decided."""
        (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
        with pytest.raises(ValueError, match="natural image"):
            read_image(tmp_path / "a.png")
        Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(tmp_path / "b.png")
        (tmp_path / "b.png").rename(tmp_path / "b.mha")
        with pytest.raises(ValueError, match=r"b\.mha"):
            read_image(tmp_path / "b.mha")
