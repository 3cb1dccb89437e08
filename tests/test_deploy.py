"""The operator of MONAI Deploy, on the SDK's interface as it is published (the SDK itself needs Holoscan)."""

import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np
import pydicom
import pytest

from medtrace.data.reading import read_image
from medtrace.io import read_dicom_registration
from medtrace.workflows import deploy
from tests.standins import shift_run
from tests.test_dicom import write_series


class ConditionType(Enum):
    NONE = 0


class Port:
    def __init__(self):
        self.conditions = []

    def condition(self, kind):
        self.conditions.append(kind)
        return self


class Spec:
    """`OperatorSpec`, as far as ports go."""

    def __init__(self):
        self.inputs, self.outputs = {}, {}

    def input(self, name):
        return self.inputs.setdefault(name, Port())

    def output(self, name):
        return self.outputs.setdefault(name, Port())


class Operator:
    """The base class: its constructor takes the fragment and calls `setup`."""

    def __init__(self, fragment, *args, name="", **kwargs):
        self.fragment, self.name, self.spec = fragment, name, Spec()
        self.setup(self.spec)


@pytest.fixture
def operator(monkeypatch):
    sdk, core = ModuleType("monai.deploy"), ModuleType("monai.deploy.core")
    core.Operator, core.ConditionType = Operator, ConditionType
    monkeypatch.setitem(sys.modules, "monai.deploy", sdk)
    monkeypatch.setitem(sys.modules, "monai.deploy.core", core)
    monkeypatch.delitem(vars(deploy), deploy.OPERATOR, raising=False)
    yield deploy.TraceOperator
    vars(deploy).pop(deploy.OPERATOR, None)


def selected(folder):
    """What `DICOMSeriesSelectorOperator` emits for one series."""
    headers = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    instances = [SimpleNamespace(get_native_sop_instance=lambda header=header: header) for header in headers]
    series = SimpleNamespace(
        get_sop_instances=lambda: instances, get_series_instance_uid=lambda: headers[0].SeriesInstanceUID
    )
    return [SimpleNamespace(selected_series=[SimpleNamespace(series=series)])], str(headers[0].SeriesInstanceUID)


def test_without_the_sdk_the_remedy_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.deploy", None)
    with pytest.raises(ModuleNotFoundError, match="pip install monai-deploy-app-sdk"):
        _ = deploy.TraceOperator


def test_ports(operator, tmp_path):
    spec = operator("app", run=tmp_path, output_folder=tmp_path / "out", name="trace").spec
    assert list(spec.inputs) == ["study_selected_series_list"]
    assert spec.outputs["dicom_folder"].conditions == [ConditionType.NONE]


@pytest.mark.usefixtures("standin_methods")
def test_a_selected_series_becomes_image_and_registrations(operator, tmp_path):
    write_series(tmp_path / "series")
    run = shift_run(tmp_path / "run", [0.0, 1.0])
    studies, uid = selected(tmp_path / "series")
    sent = {}
    made = operator("app", run=run, output_folder=tmp_path / "out")
    made.compute(
        SimpleNamespace(receive={"study_selected_series_list": studies}.get),
        SimpleNamespace(emit=lambda value, name: sent.update({name: value})),
        None,
    )
    assert sent == {"dicom_folder": tmp_path / "out"}
    folder = tmp_path / "out" / uid
    assert {path.name for path in folder.iterdir()} == {"image", "ddf.dcm", "inverse_ddf.dcm"}
    image, source = read_image(folder / "image"), read_image(tmp_path / "series")
    assert image.shape == source.shape
    np.testing.assert_allclose(image.affine, source.affine, atol=1e-3)
    header = pydicom.dcmread(folder / "ddf.dcm")
    assert header.SOPClassUID.name == "Deformable Spatial Registration Storage"
    ddf = read_dicom_registration(folder / "ddf.dcm").ddf
    assert float(ddf.abs().max()) > 0.5


def test_nothing_selected_is_told(operator, tmp_path):
    made = operator("app", run=tmp_path, output_folder=tmp_path / "out")
    with pytest.raises(ValueError, match="expected a selected series, received none"):
        made.compute(SimpleNamespace(receive=lambda _: []), None, None)
