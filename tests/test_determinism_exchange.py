"""Commands that certify a trace or take it elsewhere give the same bytes again.

Exempt, as the formats ask: when DICOM and HDF5 say that they were written, and DICOM's new identifiers, which have to
be unique. These are compared by the order in which they appear.
"""

import shutil
import time
from pathlib import Path

import pydicom
import pytest

from medtrace.io import save_trace
from tests.test_determinism import command, contents
from tests.test_dicom import make_trace, write_series

FORMATS = ("itk", "composite", "tfm", "ants", "nrrd", "slicer", "nitransforms", "learn2reg", "fsl")
LENGTH = "FileMetaInformationGroupLength"
"""Of what has identifiers in it, some of them a digit longer than others."""
WHEN = ("SeriesDate", "SeriesTime", "ContentDate", "ContentTime", "InstanceCreationDate", "InstanceCreationTime")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A DICOM series, a trace of it, and what ITK is to read again."""
    folder = tmp_path_factory.mktemp("exchange")
    write_series(folder / "series", shape=(12, 10, 6))
    save_trace(make_trace(folder / "series"), folder / "trace", method="Method")
    command("export", folder / "trace", "--format", "nrrd", "--out", folder / "field")
    return folder


def again(given, make):
    """What two runs of a command leave in the same folder, a day apart by Python's clock."""
    result, clock = [], time.time
    for day in range(2):
        work = given / "work"
        work.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda day=day: clock() + 86_400 * day)
            make(work)
        result.append(_plain_dicom(contents(work), work))
        shutil.rmtree(work)
    assert result[0], "the command wrote nothing"
    return result


def _plain_dicom(files, work):
    """The same with DICOM files read, without their times, and identifiers as numbers."""
    numbers = {}
    told = {}
    for name in sorted(files):
        if not name.endswith(".dcm"):
            told[name] = files[name]
            continue
        dataset = pydicom.dcmread(work / name)
        entries = []
        for element in [*dataset.file_meta, *dataset.iterall()]:
            if element.keyword in (*WHEN, LENGTH) or element.VR == "SQ":
                continue
            value = element.value
            if element.VR == "UI":
                value = numbers.setdefault(str(value), len(numbers))
            entries.append((str(element.tag), element.VR, value if isinstance(value, bytes | int) else str(value)))
        told[name] = entries
    return told


def same(first, second):
    assert sorted(first) == sorted(second)
    assert [name for name in first if first[name] != second[name]] == []


@pytest.mark.parametrize("name", FORMATS)
def test_export(given, name):
    same(*again(given, lambda work: command("export", given / "trace", "--format", name, "--out", work / "out")))


def test_import(given):
    field = next(path for path in (given / "field").iterdir() if path.name.startswith("ddf"))
    scans = ("--source", given / "trace" / "source.nii.gz", "--target", given / "trace" / "image.nii.gz")
    first, second = again(
        given, lambda work: command("import", field, "--format", "nrrd", *scans, "--out", work / "trace")
    )
    same(first, second)
    assert "trace/trace.json" in first


def test_dicom(given):
    first, second = again(
        given, lambda work: command("dicom", given / "trace", given / "series", "--warped", "--out", work / "out")
    )
    same(first, second)
    assert sum(name.endswith(".dcm") for name in first) == 6 + 6 + 2


def test_certify(given):
    def make(work):
        written = ("--out", work / "certificate.json", "--html", work / "page.html")
        command("certify", given / "trace", *written, "--device", "cpu", codes=(0, 3))

    first, second = again(given, make)
    same(first, second)
    assert set(first) == {"certificate.json", "page.html"}


def test_what_differs_is_found(given):
    made = []

    def make(work):
        made.append(work)
        (work / "file.txt").write_text(str(len(made)))

    with pytest.raises(AssertionError, match=r"file\.txt"):
        same(*again(given, make))
    with pytest.raises(AssertionError, match="wrote nothing"):
        again(given, Path.exists)


def test_report(given):
    same(*again(given, lambda work: command("report", given / "trace", "--out", work / "page.html")))
