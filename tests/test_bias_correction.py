"""A coil's bias field taken out of scans: in a data set, in a translation, in what is scored; never of a CT."""

from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor

from medtrace.data import Preparation, bias
from medtrace.data.bias import corrected_contrasts, in_corrected_intensities
from medtrace.data.scan_files import read_scan_files
from medtrace.evaluation.certificate.provenance import provenance_check
from medtrace.evaluation.true_scans import TrueScans
from medtrace.inference import sources
from medtrace.inference.scan_pair import ScanPair
from medtrace.io import load_trace
from medtrace.io.nifti import write_image
from medtrace.methods.base import Abilities, Prediction
from medtrace.trace import Contrast, Trace
from medtrace.workflows import certify, report
from medtrace.workflows.prepare import prepare
from medtrace.workflows.registration import trained
from medtrace.workflows.translate import translate
from tests.standins import shift_run
from tests.test_units import T1_OF, T2_OF, anatomy, computed, magnetic, save, settings, write_list

pytestmark = pytest.mark.usefixtures("standin_methods")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(bias, "ITERATIONS", (50, 50, 50))
    monkeypatch.setattr(bias, "SHRINK_MM", 12.0)


def under_coil(image, strength=0.8):
    """Brighter to one side by e^strength."""
    ramp = np.linspace(-strength / 2, strength / 2, image.shape[1])[None, :, None]
    return (image * np.exp(ramp)).astype(np.float32)


def unevenness(image):
    """Relative standard deviation of what is white matter."""
    white = np.asarray(image).squeeze()[anatomy()[0][2] > 0.95]
    return white.std() / white.mean()


@pytest.fixture
def uneven(tmp_path):
    """A pair list of T1 and T2 under a coil, of three subjects."""
    sources = [under_coil(magnetic(T1_OF, gain), strength) for gain, strength in ((1, 0.8), (1.3, 0.6), (0.8, -0.8))]
    targets = [under_coil(magnetic(T2_OF, gain), -0.5) for gain in (1, 1.1, 0.9)]
    return write_list(tmp_path / "raw", sources, targets)


@pytest.mark.slow
def test_a_data_set_and_its_translations_are_corrected_alike(uneven, tmp_path):
    named = {"source_contrast": "T1", "target_contrast": "T2"}
    summary = prepare(uneven, tmp_path / "data", bias_correction=["T1"], **named, **settings())
    assert any(note.startswith("T1: corrected for the bias field that N4 finds") for note in summary.notes)
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert [preparation.contrasts[name].bias_corrected for name in ("T1", "T2")] == [True, False]
    stored = nibabel.load(tmp_path / "data" / "images" / "S2_source.nii.gz").get_fdata()
    raw = nibabel.load(uneven.parent / "2a.nii.gz").get_fdata()
    assert unevenness(raw) > 0.1
    in_units = preparation.contrasts["T1"].intensity_map().inverse(torch.from_numpy(2 * stored - 1).float()[None])
    assert unevenness(in_units) < 0.4 * unevenness(raw)

    run = shift_run(tmp_path / "run", [0.0] * 3, preparation)
    scan = uneven.parent / "2a.nii.gz"
    translate(run, scan, tmp_path / "out", progress=False, report=False)
    trace = load_trace(tmp_path / "out")
    assert str(trace.source_contrasts[0]) == "T1 (a.u., bias-corrected)"
    assert unevenness(trace.source) < 0.4 * unevenness(raw)
    normalized, _ = preparation.normalize(trace.source)
    inside = anatomy()[1] > 0
    np.testing.assert_allclose((normalized[0].numpy()[inside] + 1) / 2, stored.squeeze()[inside], atol=2e-3)
    # The certificate knows that the scan was corrected, and still tells another one.
    for file, differs in ((scan, False), (uneven.parent / "1a.nii.gz", True)):
        check = provenance_check(trace, {"trace": {"method": "x"}}, file)
        assert ("differs" in check.reason) == differs


@pytest.mark.slow
def test_a_true_target_is_corrected_as_its_data_set_is(uneven, tmp_path):
    named = {"source_contrast": "T1", "target_contrast": "T2"}
    prepare(uneven, tmp_path / "data", bias_correction=["all"], **named, **settings())
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert all(contrast.bias_corrected for contrast in preparation.contrasts.values())
    name, files = next(iter(read_scan_files(tmp_path / "data").items()))
    true = TrueScans.read(tmp_path / "data", name, files, preparation)
    assert unevenness(true.targets["T2"]) < 0.5 * unevenness(nibabel.load(files.of("target")[0].path).get_fdata())


def test_a_ct_and_an_unknown_contrast_are_refused(tmp_path):
    pairs = write_list(tmp_path / "raw", [magnetic(T1_OF, 1 + k) for k in range(3)], [computed() + k for k in range(3)])
    named = {"source_contrast": "T1", "target_contrast": "CT"}
    with pytest.raises(ValueError, match=r"contrasts in arbitrary units, received CT \(HU\)"):
        prepare(pairs, tmp_path / "data", bias_correction=["CT"], **named, **settings())
    with pytest.raises(ValueError, match=r"'all' or some of 'T1', 'CT', received 'T3'"):
        prepare(pairs, tmp_path / "data", bias_correction=["T3"], **named, **settings())
    contrasts = corrected_contrasts({"T1": Contrast.of("T1"), "CT": Contrast.of("CT")}, ["all"])
    assert [one.bias_corrected for one in contrasts.values()] == [True, False]
    with pytest.raises(ValueError, match="expected a contrast in arbitrary units, received none"):
        corrected_contrasts({"CT": Contrast.of("CT")}, ["all"])
    with pytest.raises(ValueError, match="bias_corrected: expected False, or True in arbitrary units"):
        Contrast.from_dict({**Contrast.of("CT").as_dict(), "bias_corrected": True})


def test_corrected_and_uncorrected_intensities_are_not_of_one_unit(tmp_path):
    plain = Contrast.of("T1")
    corrected = corrected_contrasts({"T1": plain}, ["T1"])["T1"]
    assert not plain.shares_unit(corrected)
    assert corrected.shares_unit(corrected)
    assert Contrast.from_dict(corrected.as_dict()) == corrected
    assert "bias_corrected" not in plain.as_dict()
    image = torch.from_numpy(under_coil(magnetic(T1_OF)))[None]
    scan = MetaTensor(image, affine=torch.diag(torch.tensor([4.0, 4, 4, 1])))
    found = in_corrected_intensities(scan, corrected)
    assert torch.equal(found.affine, scan.affine)
    assert torch.equal(found.as_tensor() == 0, image == 0)
    one_slice = scan[..., 20:21]
    assert in_corrected_intensities(one_slice, corrected).shape == one_slice.shape
    save(tmp_path / "empty.nii.gz", np.zeros((8, 8, 8), np.float32))
    with pytest.raises(ValueError, match="bias correction: N4 finds no field"):
        in_corrected_intensities(MetaTensor(torch.zeros(1, 8, 8, 8), affine=torch.eye(4)), corrected)


AFFINE = torch.diag(torch.tensor([4.0, 4.0, 4.0, 1.0], dtype=torch.float64))


@pytest.fixture
def halved(monkeypatch):
    """Images whose correction halves them: T1 and T2, as they were read."""
    monkeypatch.setattr(bias, "without_bias", lambda image, _mask: sitk.Cast(image / 2, sitk.sitkFloat32))
    return torch.rand(2, 1, 8, 7, 6, generator=torch.Generator().manual_seed(0)) + 1


def corrected_preparation(**settings):
    names = ("T1", "T2")
    contrasts = {name: Contrast(name, "a.u.", "percentile", bias_corrected=True) for name in names}
    return Preparation(3, contrasts=contrasts, targets={"T1": "T2"}, **settings)


class Still:
    """Registers nothing."""

    abilities = Abilities(tasks=("register",))

    def register(self, source, target):
        return Prediction(source, torch.zeros(1, 3, *source.shape[2:]))


def test_a_registration_by_a_run_corrects_both_scans(halved, monkeypatch):
    preparation = corrected_preparation(source_contrast="T1")
    chosen = trained._Method(Still(), preparation, torch.device("cpu"))
    monkeypatch.setattr(trained, "_method", lambda *_given: chosen)
    monkeypatch.setattr(trained, "_verdict", lambda *_given: None)
    unaligned = SimpleNamespace(kind="none", matrix=torch.eye(4, dtype=torch.float64))
    monkeypatch.setattr(trained, "align", lambda *_given, **_settings: unaligned)
    pair = ScanPair(*halved, AFFINE, AFFINE, None, None, False)
    descent = trained.Descent("run", None, 1.0, None, "cpu")
    bar = SimpleNamespace(add_task=lambda *_given, **_settings: 0)
    made = trained.register_trained(pair, descent, alignment="none", spacing=None, match=False, bar=bar)
    for found, image in zip(made.maps, halved):
        assert found.scan == preparation.normalize(image / 2)[1].scan
    torch.testing.assert_close(made.trace.source, halved[0] / 2)
    assert str(made.trace.source_contrasts[0]) == str(made.trace.contrasts[0]) == "T1 (a.u., bias-corrected)"
    # As the page shows it, beside the corrected image.
    torch.testing.assert_close(made.target, made.maps[0].inverse(made.maps[1].forward(halved[1] / 2)))


def test_a_target_given_later_is_corrected_as_the_image_is(halved, tmp_path):
    write_image(tmp_path / "target.nii.gz", halved[1], AFFINE)
    before, after = ((contrast,) for contrast in corrected_preparation().contrasts.values())
    grids = {"affine": AFFINE, "source_contrasts": before, "contrasts": after}
    trace = Trace.build(*halved, torch.zeros(3, *halved.shape[2:]), **grids)
    for read in (certify._read_target, report._target):
        torch.testing.assert_close(read(tmp_path / "target.nii.gz", trace, tmp_path), halved[1] / 2)


def test_sources_are_aligned_to_the_corrected_first(halved, monkeypatch):
    references = []

    def onto_reference(_names, scan, reference, tissue, _mask):
        references.append(reference.as_tensor())
        return scan.as_tensor(), tissue, None

    monkeypatch.setattr(sources, "onto_reference", onto_reference)
    scans = {name: MetaTensor(image, affine=AFFINE) for name, image in zip(("T1", "T2"), halved)}
    preparation = corrected_preparation(sources=("T1", "T2"), align=True)
    sources.several_sources(preparation, {name: Path(name) for name in scans}, scans, None, False)
    torch.testing.assert_close(references, [halved[0] / 2])
