"""Units: CT in HU through prepare, translate, trace, DICOM and certificate; no difference of two units."""

import json
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import CTImageStorage, MRImageStorage

from medtrace.data import Preparation
from medtrace.data.contrasts import contrasts_of, doubt_units, looks_like_hounsfield
from medtrace.data.lists.pair_list import Pair
from medtrace.data.tracebench.anatomy import load_template
from medtrace.evaluation.certificate import Status, certify_trace
from medtrace.guard.notices import Caution
from medtrace.io import load_trace, save_trace
from medtrace.report.viewer.scene import ReportCase, scene_of
from medtrace.trace import Contrast, Intensity, Trace, expected_image
from medtrace.workflows.many.parallel import CasesFailedError
from medtrace.workflows.prepare import prepare
from medtrace.workflows.translate import translate
from tests.standins import shift_run
from tests.test_dicom import write_series

pytestmark = pytest.mark.usefixtures("standin_methods")

HU_OF = (15.0, 38.0, 28.0)
"""Of CSF, gray and white matter."""
T1_OF, T2_OF = (160.0, 440.0, 640.0), (860.0, 540.0, 380.0)
BONE = 900.0


@lru_cache(maxsize=1)
def anatomy():
    """Tissue fractions (3, X, Y, Z) at 4 mm and the depth below the brain's surface in mm."""
    maps = load_template(2.0).maps[:, ::4, ::4, ::4].numpy()
    return maps[:3] / np.maximum(maps[:3].sum(0), 1.0), maps[4]


def magnetic(means, gain=1.0):
    tissues, depth = anatomy()
    return np.where(depth > -1, gain * np.tensordot(means, tissues, 1), 0.0).astype(np.float32)


def computed():
    """A head in HU: brain, a shell of bone, air."""
    tissues, depth = anatomy()
    brain = np.tensordot(HU_OF, tissues, 1) - 1000 * (1 - tissues.sum(0))
    return np.where(depth > 0, brain, np.where(depth > -8, BONE, -1000.0)).astype(np.float32)


def save(path, data):
    nibabel.save(nibabel.Nifti1Image(data, np.diag([4.0, 4.0, 4.0, 1.0])), path)


def write_list(folder, sources, targets):
    folder.mkdir()
    rows = ["subject,source,target,split"]
    for number, (source, target) in enumerate(zip(sources, targets)):
        save(folder / f"{number}a.nii.gz", source)
        save(folder / f"{number}b.nii.gz", target)
        rows.append(f"S{number},{number}a.nii.gz,{number}b.nii.gz,{'training' if number < 2 else 'test'}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def settings(**more):
    return {"align": False, "crop": None, "progress": False, "spatial_dims": 3, **more}


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    """A data set from T1 to CT, of four subjects that differ."""
    folder = tmp_path_factory.mktemp("crossed")
    scans = [computed() + shift for shift in range(4)]
    pairs = write_list(folder / "raw", [magnetic(T1_OF, gain) for gain in (1, 1.5, 0.7, 2)], scans)
    summary = prepare(pairs, folder / "data", source_contrast="T1", target_contrast="CT", **settings())
    return folder / "data", summary


def test_a_ct_keeps_its_units_in_every_subject(crossed):
    data, summary = crossed
    preparation = Preparation.load(data / "preparation.json")
    ct = preparation.target()
    assert (ct.unit, ct.rule, ct.limits, ct.background) == ("HU", Intensity.WINDOW, (-1024.0, 3071.0), -1000.0)
    assert preparation.contrast().rule is Intensity.STANDARDIZED
    assert list(preparation.standards) == ["T1"]
    index = json.loads((data / "dataset.json").read_text())
    inside = anatomy()[1] > 12
    for number, item in enumerate(index["training"] + index["test"]):
        stored = nibabel.load(data / item["target"]).get_fdata()
        back = ct.intensity_map().inverse(torch.from_numpy(2 * stored - 1)[None].float())[0].numpy()
        np.testing.assert_allclose(back[inside], (computed() + number)[inside], atol=0.1)
    table = [line.split() for line in summary.notes if line.startswith(("T1", "CT"))]
    assert [row[1:3] for row in table] == [["a.u.", "standardized"], ["HU", "window"]]


def test_identity_round_trip_of_a_ct_keeps_soft_tissue(tmp_path):
    """38 HU come back within 5 HU through prepare and translate."""
    scans = [computed() + shift for shift in (0, 1, 2)]
    pairs = write_list(tmp_path / "raw", scans, [scan + 7 for scan in scans])
    prepare(pairs, tmp_path / "data", source_contrast="CT=HU", target_contrast="CT=HU", **settings())
    run = shift_run(tmp_path / "run", [0.0] * 3, Preparation.load(tmp_path / "data" / "preparation.json"))
    trace = translate(run, tmp_path / "raw" / "0a.nii.gz", tmp_path / "out", progress=False, report=False)
    gray = anatomy()[0][1] > 0.9
    assert gray.sum() > 20
    before, after = computed()[gray], trace.image[0].numpy()[gray]
    np.testing.assert_allclose(after, before, atol=0.5)
    assert abs(float(after.mean()) - 38) < 5
    assert float(trace.image.min()) == pytest.approx(-1000, abs=0.5)


def test_a_ct_made_of_an_mr_is_in_hu_with_air_around_it(crossed, tmp_path):
    data, _ = crossed
    run = shift_run(tmp_path / "run", [0.0] * 3, Preparation.load(data / "preparation.json"))
    save(tmp_path / "scan.nii.gz", magnetic(T1_OF, 1.3))
    trace = translate(run, tmp_path / "scan.nii.gz", tmp_path / "out", progress=False)
    assert [str(contrast) for contrast in (*trace.source_contrasts, *trace.contrasts)] == ["T1 (a.u.)", "CT (HU)"]
    outside = magnetic(T1_OF) == 0
    assert bool((trace.image[0].numpy()[outside] == -1000).all())
    normalized, _ = Preparation.load(data / "preparation.json").normalize(trace.source)
    expected = -1024 + (normalized[0].numpy() + 1) / 2 * 4095
    np.testing.assert_allclose(trace.image[0].numpy()[~outside], expected[~outside], atol=0.1)
    again = load_trace(tmp_path / "out")
    assert (again.contrasts, again.source_contrasts) == (trace.contrasts, trace.source_contrasts)
    assert json.loads((tmp_path / "out" / "trace.json").read_text())["version"] == 3


def test_a_standardized_target_is_on_the_scale_of_the_mean_training_scan(tmp_path):
    gains = (1.0, 3.0, 1.0)
    pairs = write_list(tmp_path / "raw", [magnetic(T1_OF)] * 3, [magnetic(T2_OF, gain) for gain in gains])
    for number in range(3):  # no two scans have the same voxels
        save(tmp_path / "raw" / f"{number}a.nii.gz", magnetic(T1_OF, 1 + number / 10))
    save(tmp_path / "raw" / "2b.nii.gz", magnetic(T2_OF, 1.1))
    summary = prepare(pairs, tmp_path / "data", source_contrast="T1", target_contrast="T2", **settings())
    assert "T1 to T2: a translation's numbers are relative" in summary.notes[3]
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    maps = [preparation.normalize(torch.from_numpy(magnetic(T2_OF, gain))[None], "T2")[1] for gain in gains[:2]]
    values = torch.linspace(-0.9, 0.9, 19)[None]
    mean = (maps[0].inverse(values) + maps[1].inverse(values)) / 2
    result = preparation.target("T1").intensity_map().inverse(values)
    torch.testing.assert_close(result, mean, rtol=0.01, atol=2)


def test_a_file_in_hu_is_asked_about(tmp_path):
    scans = [computed() + shift for shift in range(3)]
    assert looks_like_hounsfield(torch.from_numpy(scans[0])[None])
    assert not looks_like_hounsfield(torch.from_numpy(magnetic(T1_OF))[None])
    assert not looks_like_hounsfield(torch.randn(1, 20, 20) * 1000)
    pairs = write_list(tmp_path / "raw", [magnetic(T1_OF, gain) for gain in (1, 2, 3)], scans)
    with pytest.raises(CasesFailedError) as caught:
        prepare(pairs, tmp_path / "data", source_contrast="T1", target_contrast="scan", **settings())
    assert "0b.nii.gz: holds values from -1000 to 9" in caught.value.failures[0]
    assert "--target-contrast CT=HU" in caught.value.failures[0]
    named = {"source_contrast": "T1", "target_contrast": "scan=a.u."}
    assert prepare(pairs, tmp_path / "data", **named, **settings()).counts["training"] == 2


def test_values_that_a_unit_does_not_have_are_doubted(crossed, tmp_path):
    """A CT stored with an offset of 1024, and one given to a run that reads T1."""
    scans = [computed() + 1024 + shift for shift in range(3)]
    pairs = write_list(tmp_path / "raw", [magnetic(T1_OF, gain) for gain in (1, 2, 3)], scans)
    with pytest.warns(Caution, match=r"0b.nii.gz: holds values from 24 to .*, without air .* read as CT \(HU\)"):
        prepare(pairs, tmp_path / "data", source_contrast="T1", target_contrast="CT", **settings())
    run = shift_run(tmp_path / "run", [0.0] * 3, Preparation.load(crossed[0] / "preparation.json"))
    save(tmp_path / "scan.nii.gz", computed())
    with pytest.warns(Caution, match=r"like a CT in HU, but is read as T1 \(a.u.\)"):
        translate(run, tmp_path / "scan.nii.gz", tmp_path / "out", progress=False, report=False)
    kept = json.loads((tmp_path / "out" / "trace.json").read_text())["metadata"]["notices"]
    assert any("like a CT in HU" in line for line in kept)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Caution)
        for values, contrast in ((computed(), CT), (magnetic(T1_OF), T1), (computed(), Contrast.of("scan=a.u."))):
            doubt_units(Path("scan.nii"), torch.from_numpy(values)[None], contrast)


def test_dicom_tells_a_ct(tmp_path):
    for name, kind in (("ct", CTImageStorage), ("mr", MRImageStorage)):
        write_series(tmp_path / name, kind=kind)
    pair = Pair("S", "S", tmp_path / "mr", tmp_path / "ct")
    pairs, contrasts = contrasts_of([pair])
    assert (pairs[0].contrast, pairs[0].target_contrast) == ("image", "CT")
    assert (contrasts["CT"].unit, contrasts["CT"].origin) == ("HU", "DICOM modality CT")
    with pytest.raises(ValueError, match="'PET' was declared, but no image in the list has it"):
        contrasts_of([replace(pair, contrast="t1", target_contrast="t2")], ["PET=SUV", "t1=a.u."])
    with pytest.raises(ValueError, match="its DICOM series are CT, which is in HU"):
        contrasts_of([pair], (), ["CT=a.u."])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected NAME, NAME=UNIT"),
        ("CT=HU:1", "expected NAME, NAME=UNIT"),
        ("CT=HU:a:b", "expected NAME, NAME=UNIT"),
        ("x=mm", "expected limits for the unit 'mm'"),
        ("CT=HU:5:1", "expected increasing numbers"),
    ],
)
def test_declarations_are_checked(text, message):
    with pytest.raises(ValueError, match=message):
        Contrast.of(text)
    assert [Contrast.of(f"x={unit}").unit for unit in ("hu", "suv", "A.U.")] == ["HU", "SUV", "a.u."]
    assert Contrast.of("CT=HU:-160:240").intensity_map().forward(torch.tensor([[40.0]])).tolist() == [[0.0]]


def test_contrasts_come_back_from_json():
    for contrast in (
        Contrast.of("CT"),
        Contrast("t2", rule=Intensity.STANDARDIZED, curve=((0.0, 3.0, 9.0), (-1.0, 0.5, 1.0)), background=0.0),
    ):
        assert Contrast.from_dict(json.loads(json.dumps(contrast.as_dict()))) == contrast
    for spoiled in ({"name": ""}, {"limits": "ab"}, {"curve": [[1, 2]]}, {"rule": "guess"}, {"new": 1}):
        with pytest.raises(ValueError, match=r"expected|guess"):
            Contrast.from_dict({**Contrast.of("CT").as_dict(), **spoiled})


CT = Contrast.with_unit("CT", "HU")
T1 = Contrast("T1", rule=Intensity.STANDARDIZED, curve=((100.0, 700.0), (-1.0, 1.0)), background=0.0)
T2 = Contrast("T2", rule=Intensity.STANDARDIZED, curve=((300.0, 900.0), (-1.0, 1.0)), background=0.0, deviation=150.0)


def made(image, contrast):
    """The trace of a slice with the zero field, which is the true one."""
    source, shown = (torch.from_numpy(values[None, :, :, 24].copy()) for values in (magnetic(T1_OF), image))
    zero = torch.zeros(2, *source.shape[1:])
    return Trace.build(source, shown, zero, source_contrasts=(T1,), contrasts=(contrast,))


def test_no_difference_of_two_units():
    trace = made(computed(), CT)
    assert not trace.same_unit
    torch.testing.assert_close(trace.appearance, expected_image(trace.warped, trace.image))
    ledger = trace.ledger()
    torch.testing.assert_close(trace.appearance + ledger.residual, trace.image)
    assert ledger.summary.change is None
    assert 0 < ledger.summary.explained_fraction < 1
    same = Trace.build(trace.source, trace.image, trace.ddf, source_contrasts=(T1,), contrasts=(T1,))
    apart = (same.appearance + same.warped - trace.appearance).abs()
    assert float((apart > 0.1).float().mean()) < 0.01  # beyond the outermost bins either stays what it is
    scene, _ = scene_of(ReportCase("case", trace))
    assert (scene["units"], scene["sameUnit"]) == ({"source": "T1 (a.u.)", "image": "CT (HU)"}, False)
    assert scene["appearance"]["kind"] in ("curve", "stored")
    with pytest.raises(ValueError, match=r"contrasts: expected one per channel \(1\), received 2"):
        replace(trace, contrasts=(CT, CT))


@pytest.mark.parametrize("contrast", [T2, CT], ids=str)
def test_the_true_answer_with_the_true_field_passes(contrast):
    image = computed() if contrast is CT else magnetic(T2_OF)
    certificate = certify_trace(made(image, contrast))
    assert certificate.verdict in (Status.PASS, Status.WARN), [c for c in certificate.checks if c.status == "FAIL"]
    assert certificate.check("intensity").status is Status.PASS
    wrong = certify_trace(made(magnetic(T2_OF) * 8, contrast))
    assert wrong.check("intensity").status is Status.FAIL


def test_each_of_several_targets_is_judged_by_its_own_rule():
    def of(ct):
        t2, shown = made(magnetic(T2_OF), T2), made(ct, CT)
        image, known = torch.cat([t2.image, shown.image]), (T2, replace(CT, deviation=300.0))
        trace = Trace.build(t2.source, image, t2.ddf, source_contrasts=(T1,), contrasts=known)
        return certify_trace(trace).check("intensity")

    true = of(computed())
    assert true.status is Status.PASS
    assert true.reason == "the image's values lie in the range of T2 (a.u.), CT (HU)"
    assert true.figures["image_low_CT"] == pytest.approx(-1000)
    assert true.figures["image_low_T2"] == pytest.approx(0)
    assert of(np.where(computed() > -900, 9000, -1000).astype(np.float32)).status is not Status.PASS
    assert of(np.full_like(computed(), 700)).status is not Status.PASS  # in the range of T2, but no CT


def test_translate_writes_a_ct_of_an_mr_series(crossed, tmp_path):
    write_series(tmp_path / "mr")
    preparation = replace(Preparation.load(crossed[0] / "preparation.json"), spacing=None, spatial_shape=None)
    run = shift_run(tmp_path / "run", [0.0] * 3, preparation)
    trace = translate(run, tmp_path / "mr", tmp_path / "out", dicom=tmp_path / "dcm", progress=False, report=False)
    files = sorted((tmp_path / "dcm" / "image").glob("*.dcm"))
    assert len(files) == trace.image.shape[-1]
    for index, file in enumerate(files):
        dataset = pydicom.dcmread(file)
        assert (dataset.Modality, dataset.SOPClassUID, dataset.RescaleType) == ("CT", CTImageStorage, "HU")
        values = dataset.pixel_array.T * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        np.testing.assert_allclose(values, trace.image[0, ..., index].numpy(), atol=0.51)
        assert not {"EchoTime", "ScanningSequence"} & {element.keyword for element in dataset}
    write_series(tmp_path / "ct", kind=CTImageStorage)
    with pytest.raises(ValueError, match=r"DICOM series of modality CT, but T1 \(a.u.\) is expected"):
        translate(run, tmp_path / "ct", tmp_path / "out2", progress=False, report=False)


def test_older_traces_have_no_contrasts(tmp_path):
    folder = Path(__file__).parent / "data" / "trace_format_1"
    assert load_trace(folder / "volume").contrasts is None
    save_trace(made(computed(), CT), tmp_path / "trace")
    index = json.loads((tmp_path / "trace" / "trace.json").read_text())
    for change, message in (
        ({"contrasts": None}, "contrasts: expected those of source and image"),
        ({"contrasts": {"source": 1, "image": None}}, "source: expected a list"),
        ({"contrasts": {"source": [{"name": "a", "unit": 5}], "image": None}}, "unit: expected 1 to 64"),
    ):
        (tmp_path / "trace" / "trace.json").write_text(json.dumps({**index, **change}))
        with pytest.raises(ValueError, match=message):
            load_trace(tmp_path / "trace")
    del index["contrasts"]
    (tmp_path / "trace" / "trace.json").write_text(json.dumps({**index, "version": 2}))
    assert load_trace(tmp_path / "trace").same_unit


@pytest.mark.real_data
def test_fat_and_liver_of_a_real_ct_come_back(real_data, tmp_path):
    scan = nibabel.load(real_data / "abdomen" / "CT.nii.gz")
    values = scan.get_fdata().astype(np.float32)
    other = values[::-1].copy()
    (tmp_path / "raw").mkdir()
    for name, data in (("a", values), ("b", other), ("c", values + 1), ("d", other + 1)):
        nibabel.save(nibabel.Nifti1Image(data, scan.affine), tmp_path / "raw" / f"{name}.nii.gz")
    (tmp_path / "raw" / "pairs.csv").write_text(
        "subject,source,target,split\nS,a.nii.gz,b.nii.gz,training\nT,c.nii.gz,d.nii.gz,test"
    )
    prepare(tmp_path / "raw" / "pairs.csv", tmp_path / "data", source_contrast="CT=HU", **settings())
    run = shift_run(tmp_path / "run", [0.0] * 3, Preparation.load(tmp_path / "data" / "preparation.json"))
    trace = translate(run, tmp_path / "raw" / "a.nii.gz", tmp_path / "out", progress=False, report=False)
    for low, high in ((-110, -86), (34, 58)):  # fat about -98, liver about 46 HU
        tissue = (values > low) & (values < high)
        assert tissue.sum() > 1000
        apart = np.abs(trace.image[0].numpy() - values)[tissue]
        assert apart.max() < 5
