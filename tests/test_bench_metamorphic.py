"""The studies of metamorphic registration: what is checked of every method, and what a study writes."""

import json

import pytest
import torch
from monai.data import list_data_collate

from medtrace.data import TraceBench
from medtrace.evaluation.bench import STUDIES, metamorphic
from medtrace.evaluation.registration_scores import score_registration
from medtrace.methods import method_class, resolve
from medtrace.methods.metaregnet.method import MetaRegNetMethod
from medtrace.methods.voxelmorph.method import VoxelMorphMethod
from medtrace.metrics import CaseTable
from medtrace.networks import DiffeomorphicVoxelMorph, MetamorphicRegNet
from medtrace.workflows.bench import bench


@pytest.fixture(scope="module")
def batch():
    return list_data_collate([TraceBench("metamorphic", (32, 32), cases=1, split="test")[0]])


def stirred(method):
    """Weights that deform and change intensity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return method.eval()


@pytest.mark.parametrize(
    "method",
    [
        MetaRegNetMethod(MetamorphicRegNet(2, 1, channels=(4, 8), num_blocks=2)),
        pytest.param(VoxelMorphMethod(DiffeomorphicVoxelMorph(2, 1, (4, 4, 4, 4), (4,))), marks=pytest.mark.slow),
    ],
    ids=["metaregnet", "voxelmorph"],
)
def test_checks_are_of_the_methods_own_answers(method, batch):
    untrained = metamorphic.checks(method.eval(), batch)
    assert untrained["unmoved_voxels"] == untrained["intensity_without_mask"] == 0
    result = metamorphic.checks(stirred(method), batch)
    source = batch["source"].as_tensor()
    trace = method.trace_pair(source, source)[0]
    length = torch.linalg.vector_norm(trace.ddf, dim=0)[batch["source_head"].as_tensor()[0, 0]].mean()
    assert result["unmoved_voxels"] == pytest.approx(float(length), rel=1e-5)
    assert result["unmoved_voxels"] > 0.01
    assert result["intensity_without_mask"] == 0
    assert result["time_ms"] > 0


def test_the_true_field_has_no_error(batch):
    case = TraceBench("metamorphic", (32, 32), cases=1, split="test")[0]
    values = score_registration(metamorphic.true_field(batch)[0], case)
    assert values["epe_head_mm"] == pytest.approx(0, abs=1e-6)
    assert values["ssd_healthy"] < values["ssd_total"]


def test_shares_leave_out_cases_without_a_lesion():
    table = CaseTable()
    nan = float("nan")
    for case, near, zero in (("a", 1.0, 4.0), ("b", nan, nan), ("c", 2.0, 4.0)):
        whole = {f"{kind}_{region}_mm": 1.0 for kind in ("epe", "zero") for region in ("healthy", "head")}
        table.add(case, {"epe_near_lesion_mm": near, "zero_near_lesion_mm": zero, **whole})
    result = metamorphic.fractions({"row": table})
    assert result["share_of_zero_field_near"] == {"row": 3 / 8}
    assert result["share_of_zero_field_head"] == {"row": 1}


@pytest.mark.slow
def test_rivals_are_trained_scored_and_drawn(tmp_path):
    results = bench("metamorphic", "smoke", out=tmp_path, device="cpu", progress=False)
    folder = tmp_path / "metamorphic" / "rivals"
    rows = results["rows"]
    assert rows.keys() == {*metamorphic.CONTROLS, "MetaRegNet", "VM-CFM", "VoxelMorph"}
    assert json.loads((folder / "results.json").read_text())["rows"].keys() == rows.keys()
    table = (folder / "table.md").read_text()
    assert all(heading in table for heading in (*metamorphic.COLUMNS.values(), *metamorphic.COSTS.values()))
    assert results["share_of_zero_field_head"]["identity"] == 1
    assert results["share_of_zero_field_head"]["true field"] == 0
    assert "time_ms" not in rows["identity"]
    for row in (metamorphic.CLASSICAL, "MetaRegNet", "VM-CFM", "VoxelMorph"):
        assert rows[row]["time_ms"]["mean"] > 0
    for row in ("MetaRegNet", "VM-CFM", "VoxelMorph"):
        assert rows[row]["intensity_without_mask"]["mean"] == 0
    names = {path.name for path in (folder / "figures").iterdir()}
    assert {"comparison.png", "training.png", "metaregnet_metamorphosis.png"} <= names
    assert (folder / "traces" / "metaregnet" / "metamorphic-test-0000" / "trace.json").is_file()


def test_the_ablation_changes_one_thing_a_row_and_goes_back_to_the_paper():
    rows = dict(STUDIES["metamorphic"]["ablation"].rows)
    assert STUDIES["metamorphic"]["rivals"].rows["MetaRegNet"] == rows.pop("MetaRegNet")
    paper = rows.pop("as in the paper's text").settings
    assert all(len(method.settings) == 1 for method in rows.values())
    kind = method_class("metaregnet").settings_type
    defaults, bench_settings = kind(), resolve(kind, ("tracebench",))
    assert paper == {name: getattr(defaults, name) for name in paper}
    budget = {"training", "optimizer", "data"}
    changed = {name for name in kind.model_fields if getattr(defaults, name) != getattr(bench_settings, name)}
    assert set(paper) == changed - budget


@pytest.mark.slow
def test_a_volume_is_registered_by_instance_optimization(tmp_path):
    results = bench("metamorphic", "smoke", "volume", out=tmp_path, device="cpu", progress=False)
    folder = tmp_path / "metamorphic" / "volume"
    rows = results["rows"]
    assert next(iter(rows)) == "identity"
    masked, metamorphosis = rows["instance, masked"], rows["instance, metamorphosis"]
    assert masked["epe_head_mm"] == metamorphosis["epe_head_mm"] < rows["identity"]["epe_head_mm"]
    assert metamorphosis["ssd_total"] < masked["ssd_total"]
    assert all(values["peak_gib"] > 0 for values in rows.values())
    assert json.loads((folder / "results.json").read_text())["shape"] == [24, 24, 24]
    assert "peak memory" in (folder / "table.md").read_text()
    assert (folder / "figures" / "metamorphosis.png").is_file()
    assert (folder / "traces" / "instance-metamorphosis" / "ddf.nii.gz").is_file()
