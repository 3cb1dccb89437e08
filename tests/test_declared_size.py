"""What a header may claim, to the last byte."""

import struct

import pytest

from medtrace.guard.declared_size import check_declared, check_metaimage, inside, memory_limit
from medtrace.guard.volume_files import check_volume

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _the_default_limit(monkeypatch):
    monkeypatch.delenv("MEDTRACE_MAX_GIB", raising=False)


def test_voxels_have_to_be_in_the_file(tmp_path):
    """10 x 20 x 30 voxels of 2 bytes are 12,000 bytes."""
    check_declared(tmp_path, (10, 20, 30), 2, 12_000, packed=False)
    check_declared(tmp_path, (10, 20, 30), 2, 12_001, packed=False)
    with pytest.raises(ValueError, match=r"claims 12000 bytes of voxels .* but the file has 11999; it is damaged"):
        check_declared(tmp_path, (10, 20, 30), 2, 11_999, packed=False)


def test_a_packed_byte_holds_1032_and_a_mebibyte_is_let_pass(tmp_path):
    """1000 bytes may become 1,032,000, and 1,048,576 more are not asked about: 2,080,576."""
    check_declared(tmp_path, (2_080_576,), 1, 1000, packed=True)
    with pytest.raises(ValueError, match=r"claims 2080577 bytes of voxels .* but the file has 1000 compressed"):
        check_declared(tmp_path, (2_080_577,), 1, 1000, packed=True)


@pytest.mark.parametrize(("given", "gib"), [(None, 16), ("1", 1), ("0.5", 0.5)])
def test_the_limit_is_the_last_size_that_is_taken(tmp_path, monkeypatch, given, gib):
    if given is not None:
        monkeypatch.setenv("MEDTRACE_MAX_GIB", given)
    assert memory_limit() == gib * GIB
    most = int(gib * GIB)
    check_declared(tmp_path, (most // 8,), 8, most, packed=False)
    with pytest.raises(ValueError, match=rf"claims {gib}.* GiB .*expected at most {gib} GiB.*MEDTRACE_MAX_GIB"):
        check_declared(tmp_path, (most + 1,), 1, most + 1, packed=False)


def test_a_limit_that_is_no_number(monkeypatch):
    monkeypatch.setenv("MEDTRACE_MAX_GIB", "16 GB")
    with pytest.raises(ValueError, match="MEDTRACE_MAX_GIB: expected a number of GiB, received '16 GB'"):
        memory_limit()


@pytest.mark.parametrize("shape", [(), (0,), (4, 0, 4), (4, -1)])
def test_sizes_begin_at_1(tmp_path, shape):
    with pytest.raises(ValueError, match="expected sizes of 1 or more"):
        check_declared(tmp_path, shape, 1, GIB, packed=False)


@pytest.mark.parametrize("name", ["a.raw", "sub/a.raw", "sub/./a.raw", "a..raw", "größe.raw"])
def test_names_below_the_folder(tmp_path, name):
    assert inside(tmp_path, name, "list") == tmp_path / name


@pytest.mark.parametrize(
    "name", ["../a", "sub/../../a", "/a", "\\a", "c:a", "C:\\a", "sub\\..\\..\\a", "..", "", "a\0b", None, 1]
)
def test_names_that_lead_out_under_any_system(tmp_path, name):
    with pytest.raises(ValueError, match=r"^list: expected "):
        inside(tmp_path, name, "list")


def metaimage(folder, spacing):
    path = folder / "a.mha"
    head = f"NDims = 2\nDimSize = 1 1\nElementType = MET_UCHAR\nElementSpacing = {spacing} 1\nElementDataFile = LOCAL\n"
    path.write_bytes(head.encode() + b"\0")
    return path


@pytest.mark.parametrize("spacing", ["1e9", "-1e9", "1e-30", "0"])
def test_a_thousand_kilometers_is_as_far_as_a_geometry_reaches(tmp_path, spacing):
    check_metaimage(metaimage(tmp_path, spacing))


@pytest.mark.parametrize("spacing", ["1.0001e9", "-1.0001e9", "nan", "inf", "1e", "one"])
def test_further_is_no_geometry(tmp_path, spacing):
    with pytest.raises(ValueError, match=r"a\.mha: ElementSpacing: expected numbers up to 1e\+09"):
        check_metaimage(metaimage(tmp_path, spacing))


def nifti(folder, offset, stored):
    head = bytearray(352)
    struct.pack_into("<i", head, 0, 348)
    struct.pack_into("<8h", head, 40, 3, 1, 1, 1, 1, 1, 1, 1)
    struct.pack_into("<2h", head, 70, 2, 8)
    struct.pack_into("<f", head, 108, offset)
    head[344:348] = b"n+1\0"
    path = folder / "a.nii"
    path.write_bytes(bytes(head) + bytes(stored))
    return path


@pytest.mark.parametrize("offset", [0, 352, 353, 256 << 20])
def test_voxels_begin_behind_the_header_and_within_256_mib(tmp_path, offset):
    check_volume(nifti(tmp_path, offset, 1))


@pytest.mark.parametrize("offset", [351, 348, 1, -1, (256 << 20) + 32])
def test_voxels_elsewhere(tmp_path, offset):
    with pytest.raises(
        ValueError, match=r"a\.nii: its header puts the voxels at byte .*; expected 352 to 268435456, or 0"
    ):
        check_volume(nifti(tmp_path, offset, 1))
