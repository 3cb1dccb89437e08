"""Pages show hostile names as text and run nothing of them; outputs hold nothing of what headers say of a patient."""

import base64
import gzip
import json
import re
import shutil
import zlib
from dataclasses import replace

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from PIL import Image, PngImagePlugin
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.evaluation.certificate import Certificate, Check, Status
from medtrace.io import load_trace, save_trace
from medtrace.report.certificate import certificate_html, read_certificate
from medtrace.report.viewer import ReportCase, write_report
from medtrace.trace import Trace
from medtrace.workflows.prepare import prepare
from medtrace.workflows.report import report
from tests.standins import shift_run
from tests.test_viewer import wait_for

pytestmark = pytest.mark.usefixtures("standin_methods")
PAYLOADS = (
    "</script><script>window.ran = 1</script>",
    '"><img src=x onerror="window.ran = 1">',
    "'><svg/onload=window.ran=1>",
    "\u2028window.ran = 1\u2029//",
    "<!--<script>window.ran = 1",
    "${window.ran = 1}{{window.ran = 1}}",
    "javascript:window.ran=1",
)
SECRET = "SECRET^NAME"
BIRTH = "19310507"


def small_trace(shape=(12, 10)):
    torch.manual_seed(0)
    source = torch.rand(1, *shape)
    return Trace.build(source, source * 0.9, torch.zeros(len(shape), *shape))


def hostile_certificate(text):
    check = Check(text, Status.WARN, text, {text: 1.0}, {text: {"warn": 0.5, "fail": 2.0}})
    return replace(Certificate(text, (check,)), provenance={text: text}).as_dict()


def test_a_report_shows_names_literally_and_runs_nothing(browser, tmp_path):
    cases = [
        ReportCase(text, small_trace(), method=text, notes=(text,), certificate=hostile_certificate(text))
        for text in PAYLOADS
    ]
    path = write_report(cases, tmp_path / "page.html")
    page = browser.new_page()
    dialogs = []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    wait_for(page, "Boolean(window.medtrace?.complete)")
    options = page.locator("#case option")
    assert [options.nth(k).text_content() for k in range(options.count())] == list(PAYLOADS)
    for number, text in enumerate(PAYLOADS):
        page.select_option("#case", index=number)
        wait_for(page, "text => document.getElementById('certificate').textContent.split(text).length > 3", text)
        shown = page.evaluate("document.getElementById('certificate').textContent")
        assert shown.count(text) >= 3, "name, reason and figure of a check"
        assert (
            page.evaluate("document.querySelectorAll('main img, main svg, aside script, aside img, aside svg').length")
            == 0
        )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran") is None
    assert dialogs == []
    page.close()


def test_certificates_show_names_literally_and_run_nothing(browser, tmp_path):
    path = tmp_path / "page.html"
    body = "".join(certificate_html(hostile_certificate(text)) for text in PAYLOADS)
    path.write_text(f'<!doctype html><meta charset="utf-8"><body>{body}</body>', encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.evaluate("window.ran") is None
    text = page.evaluate("document.body.textContent")
    for payload in PAYLOADS:
        assert text.count(payload) >= 4
    assert page.evaluate("document.querySelectorAll('img, svg, script').length") == 0
    page.close()


@pytest.mark.parametrize("text", PAYLOADS[:4])
def test_a_hostile_trace_folder_and_its_name(tmp_path, text):
    """trace.json and the folder's name come from elsewhere; the page cannot be broken out of."""
    folder = tmp_path / text.replace("/", "∕")
    save_trace(small_trace(), folder, method=text, metadata={"file": text})
    page = report([folder], tmp_path / "page.html", keep_metadata=True).read_text(encoding="utf-8")
    assert "<script>window" not in page
    assert "<img" not in page
    assert "<svg" not in page
    assert "\u2028" not in page
    scene = json.loads(re.search(r'id="scene">(.*?)</script>', page, re.DOTALL)[1])["cases"][0]
    assert scene["method"] == text
    assert json.dumps(text) in scene["notes"][0]


@pytest.mark.parametrize(
    "change",
    [
        {"checks": [{"name": "x", "status": "PASS", "reason": "r", "figures": {"a": "<b>"}, "limits": {}}]},
        {"checks": [{"name": "x", "status": '"><img>', "reason": "r", "figures": {}, "limits": {}}]},
        {"verdict": "<script>"},
        {"provenance": [1]},
    ],
)
def test_a_certificate_file_from_elsewhere_is_checked(tmp_path, change):
    (tmp_path / "c.json").write_text(json.dumps({**hostile_certificate("x"), **change}))
    with pytest.raises(ValueError, match=r"c\.json"):
        read_certificate(tmp_path / "c.json")


def planted(folder):
    """A scan whose header reports a patient's name wherever NIfTI can hold one."""
    data = np.zeros((12, 10, 6), np.float32)
    data[2:10, 2:8] = np.random.default_rng(0).uniform(100, 200, (8, 6, 6))
    image = nibabel.Nifti1Image(data, np.diag([1.0, 1.0, 2.0, 1.0]))
    image.header["descrip"], image.header["aux_file"] = SECRET.encode(), SECRET.encode()
    image.header["intent_name"], image.header["db_name"] = b"SECRET^NAME", b"SECRET^NAME"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    path = folder / f"{SECRET}.nii.gz"
    nibabel.save(image, path)
    return path


def leaks(folder, word=SECRET):
    """Files below a folder that hold the secret: as they are, unpacked, or inside of base64."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        views = [path.name.encode(), content]
        views += packed_views(content)
        for text in re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", content if path.suffix == ".html" else b""):
            try:
                decoded = base64.b64decode(text)
                views.append(decoded)
                views.append(zlib.decompress(decoded))
            except (ValueError, zlib.error):
                continue
        if any(word.encode() in view or word.encode("utf-16-le") in view for view in views):
            found.append(path.name)
    return found


def packed_views(content):
    """What is packed in a file: by gzip, as NRRD does after its header, in a zip archive, or in HDF5's pieces."""
    views = []
    for place in [found.start() for found in re.finditer(rb"\x1f\x8b\x08|\x78[\x01\x5e\x9c\xda]", content)][:200]:
        try:
            views.append(zlib.decompressobj(47).decompress(content[place:]))
        except zlib.error:
            continue
    return views


def test_the_search_finds_what_is_planted(tmp_path):
    path = planted(tmp_path)
    (tmp_path / "page.html").write_text(base64.b64encode(zlib.compress(SECRET.encode() * 9)).decode())
    (tmp_path / "field.nrrd").write_bytes(b"NRRD0004\nencoding: gzip\n\n" + gzip.compress(SECRET.encode()))
    (tmp_path / "packed.h5").write_bytes(b"\x89HDF" + zlib.compress(SECRET.encode() * 9) + b"more")
    assert sorted(leaks(tmp_path)) == sorted([path.name, "page.html", "field.nrrd", "packed.h5"])


def test_traces_reports_and_exports_hold_nothing_of_the_header(tmp_path):
    (tmp_path / "in").mkdir()
    scan = planted(tmp_path / "in")
    run = shift_run(tmp_path / "run", [1.0, 0.0])
    out = tmp_path / "out"
    out.mkdir()
    to = ["--out", str(out / "certificate.json")]
    results = [
        CliRunner().invoke(app, ["translate", str(run), str(scan), "--out", str(out / "trace"), "--device", "cpu"]),
        CliRunner().invoke(app, ["report", str(out / "trace"), "--out", str(out / "page.html")]),
        CliRunner().invoke(
            app,
            ["certify", str(out / "trace"), "--input", str(scan), "--html", str(out / "certificate.html"), *to],
        ),
        *(
            CliRunner().invoke(app, ["export", str(out / "trace"), "--format", name, "--out", str(out / name)])
            for name in ("itk", "slicer", "ants", "nrrd", "fsl", "learn2reg", "tfm")
        ),
    ]
    assert [result.exit_code for result in results[:2] + results[3:]] == [0] * (len(results) - 1), results
    assert results[2].exit_code in (0, 3), results[2].output
    assert leaks(out) == []
    assert len(list(out.rglob("*"))) > 20


def planted_series(folder):
    """A DICOM series that reports a patient in text, person names, identifiers, dates, private tags and file names."""
    from tests.test_dicom import write_series

    write_series(folder / SECRET, shape=(12, 10, 6))
    for number, path in enumerate(sorted((folder / SECRET).iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.OtherPatientNames = SECRET, SECRET, SECRET
        dataset.PatientBirthDate, dataset.PatientComments, dataset.InstitutionName = BIRTH, SECRET, SECRET
        dataset.SeriesDescription = dataset.StudyDescription = dataset.ProtocolName = SECRET
        dataset.ReferringPhysicianName, dataset.AccessionNumber = SECRET, SECRET
        dataset.ImageComments = f"{SECRET} {BIRTH}"
        dataset.private_block(0x0029, SECRET, create=True).add_new(0x01, "LO", SECRET)
        dataset.private_block(0x0029, SECRET).add_new(0x02, "OB", f"{SECRET} {BIRTH}".encode())
        dataset.save_as(path.with_name(f"{SECRET}_{number}.dcm"), enforce_file_format=True)
        path.unlink()
    return folder / SECRET


def identifiers(folder):
    """What of a series is of its patient and study alone: the secrets, and the identifiers of study, series, frame."""
    first = pydicom.dcmread(next(folder.iterdir()))
    names = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID")
    return [SECRET, BIRTH, *(str(first[name].value) for name in names)]


def run_all(*commands):
    for arguments in commands:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        allowed = (0, 3) if arguments[0] in ("certify", "register") else (0,)
        assert done.exit_code in allowed, done.output


FORMATS = ("itk", "composite", "slicer", "ants", "nrrd", "nitransforms", "fsl", "learn2reg", "tfm")


def derived(trace, out, formats=FORMATS):
    """Commands that make everything from a trace that others are given."""
    return [
        ("report", trace, "--out", out / f"{trace.name}.html"),
        (
            "certify",
            trace,
            "--input",
            trace.parent.parent / SECRET,
            "--out",
            out / f"{trace.name}.json",
            "--html",
            out / f"{trace.name}_certificate.html",
        ),
        *(("export", trace, "--format", name, "--out", out / f"{trace.name}_{name}") for name in formats),
    ]


def test_what_is_made_of_a_dicom_series_holds_nothing_of_its_patient(tmp_path):
    series = planted_series(tmp_path)
    words = identifiers(series)
    assert all(leaks(tmp_path, word) for word in words), "not planted"
    run, out = shift_run(tmp_path / "run", [1.0, 0.0]), tmp_path / "out"
    out.mkdir()
    run_all(
        ("translate", run, series, "--out", out / "trace", "--device", "cpu"),
        *derived(out / "trace", out),
        ("register", series, series, "--out", out / "registered", "--refine", "1", "--device", "cpu"),
        *derived(out / "registered", out, ("slicer",)),
    )
    field = next((out / "trace_nrrd").glob("ddf*"))
    scans = ("--source", series, "--target", series)
    run_all(
        ("import", field, "--format", "nrrd", *scans, "--out", out / "imported"),
        ("report", out / "imported", "--out", out / "imported.html"),
    )
    assert {word: leaks(out, word) for word in words} == {word: [] for word in words}
    assert len([path for path in out.rglob("*") if path.is_file()]) > 40


def test_names_are_kept_when_asked(tmp_path):
    """Of a registration, an import and a certificate."""
    series, out = planted_series(tmp_path), tmp_path / "out"
    out.mkdir()
    kept = ("--keep-metadata", "--out")
    run_all(
        ("register", series, series, "--refine", "1", "--device", "cpu", "--no-report", *kept, out / "registered"),
        ("export", out / "registered", "--format", "nrrd", "--out", out / "field"),
        ("certify", out / "registered", "--input", series, *kept, out / "certificate.json"),
    )
    field = next((out / "field").glob("ddf*"))
    scans = ("--source", series, "--target", series)
    run_all(("import", field, "--format", "nrrd", *scans, *kept, out / "imported"))
    assert sorted(leaks(out)) == ["certificate.json", "trace.json", "trace.json"]


def test_data_prepared_of_dicom_hold_nothing_of_its_patient(tmp_path):
    series = planted_series(tmp_path)
    after = tmp_path / f"{SECRET}_after"
    shutil.copytree(series, after)
    for path in after.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PixelData = bytes(byte ^ 1 for byte in dataset.PixelData)
        dataset.save_as(path)
    (tmp_path / "pairs.csv").write_text(f"subject,source,target\ns0,{SECRET},{after.name}\n")
    words = identifiers(series)
    prepare(tmp_path / "pairs.csv", tmp_path / "data", slices=3, crop=None, align=False, fractions=(1, 0, 0))
    assert len(list((tmp_path / "data").rglob("*.nii.gz"))) == 6
    assert {word: leaks(tmp_path / "data", word) for word in words} == {word: [] for word in words}


def test_metadata_is_kept_when_asked(tmp_path):
    (tmp_path / "in").mkdir()
    scan = planted(tmp_path / "in")
    run = shift_run(tmp_path / "run", [1.0, 0.0])
    out = tmp_path / "out"
    command = ["translate", str(run), str(scan), "--out", str(out / "trace"), "--device", "cpu", "--no-report"]
    assert CliRunner().invoke(app, [*command, "--keep-metadata"]).exit_code == 0
    assert leaks(out) == ["trace.json"]
    report([out / "trace"], out / "stripped.html")
    report([out / "trace"], out / "kept.html", keep_metadata=True)
    assert sorted(leaks(out)) == ["kept.html", "trace.json"]


def test_prepared_data_hold_nothing_of_the_headers(tmp_path):
    (tmp_path / "in").mkdir()
    scan = planted(tmp_path / "in")
    image = sitk.ReadImage(str(scan)) * 1.5
    image.SetMetaData("patient", SECRET)
    sitk.WriteImage(image, str(tmp_path / "in" / f"{SECRET}.nrrd"))
    assert SECRET.encode() in (tmp_path / "in" / f"{SECRET}.nrrd").read_bytes()
    (tmp_path / "in" / "pairs.csv").write_text(f"subject,source,target\ns0,{SECRET}.nii.gz,{SECRET}.nrrd\n")
    prepare(tmp_path / "in" / "pairs.csv", tmp_path / "data", slices=3, crop=None, align=False, fractions=(1, 0, 0))
    assert len(list((tmp_path / "data").rglob("*.nii.gz"))) == 6
    assert leaks(tmp_path / "data") == []


def test_text_of_natural_images_stays_behind(tmp_path):
    information = PngImagePlugin.PngInfo()
    information.add_text("Patient", SECRET)
    rng = np.random.default_rng(0)
    for name in "ab":
        natural_image = Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8))
        natural_image.save(tmp_path / f"{name}.png", pnginfo=information)
    (tmp_path / "pairs.csv").write_text("subject,source,target\ns0,a.png,b.png\n")
    prepare(tmp_path / "pairs.csv", tmp_path / "data", fractions=(1, 0, 0), resize=16)
    assert leaks(tmp_path / "data") == []


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/b", "a\\b", ".hidden", "a\0b", "a\nb", "CON:x"])
@pytest.mark.parametrize("column", ["subject", "case", "contrast"])
def test_names_in_lists_cannot_lead_out(tmp_path, name, column):
    planted(tmp_path)
    row = {"subject": "s", "source": f"{SECRET}.nii.gz", "target": f"{SECRET}.nii.gz", column: name}
    (tmp_path / "pairs.json").write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=column):
        prepare(tmp_path / "pairs.json", tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("name", ["../secret.nii.gz", "/etc/passwd", "..\\x", "sub/../../x", "", None, 3, "a\0b"])
def test_names_in_indices_cannot_lead_out(tmp_path, name):
    from medtrace.data.dataset import load_dataset

    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(planted(tmp_path), tmp_path / "secret.nii.gz")
    entry = {"subject": "s", "case": "s", "source": name, "target": name}
    index = {"version": 1, "spatial_dims": 3, "channels": 1, "training": [entry]}
    (folder / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"dataset\.json"):
        load_dataset(folder)
    save_trace(small_trace(), tmp_path / "trace")
    index = json.loads((tmp_path / "trace" / "trace.json").read_text())
    index["files"]["source"] = name
    (tmp_path / "trace" / "trace.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"trace\.json: files"):
        load_trace(tmp_path / "trace")
