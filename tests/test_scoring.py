"""Scores of a case, controls and evaluation of a run, on TraceBench."""

import csv
import json
import shutil

import pytest
import torch
from monai.data import list_data_collate
from safetensors.torch import save_file

from medtrace.data import TraceBench
from medtrace.engines.runs import load_method
from medtrace.evaluation.scoring import score, score_cases
from medtrace.evaluation.tracers import identity, oracle, tracer_of
from medtrace.fields import exponentiate, warp
from medtrace.registration.independent_registration import independent_registration
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.train import train

SMOKE = ("tracebench", "smoke")
SIZE = {"data.spatial_shape": [48, 48]}


@pytest.fixture(scope="module")
def cases():
    return TraceBench("postop", (48, 48), cases=3, split="test")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("tracetrans", out=tmp_path_factory.mktemp("runs") / "run", presets=SMOKE, settings=SIZE)


def test_identity_scores_are_the_data_own(cases):
    table = score_cases(identity, cases, batch_size=2)
    assert list(table.rows) == [case["case"] for case in cases]
    for case in cases:
        row = table.rows[case["case"]]
        error = (case["source"] - case["target"]).abs().mean()
        assert row["mae"] == pytest.approx(float(error) * 127.5, rel=1e-5)
        length = case["ddf"].norm(dim=0)
        spacing = float(case["source"].affine[0, 0].abs())
        assert row["epe_deformed_mm"] == pytest.approx(float(length[length > 0.3].mean()) * spacing, rel=1e-4)
        assert row["epe_deformed_mm"] == row["zero_field_mm"]
        assert row["epe_still_mm"] == pytest.approx(float(length[length <= 0.3].mean()) * spacing, rel=1e-4)
        assert row["edge_dice"] == 1
        assert row["non_diffeomorphic_fraction"] == 0


def test_oracle_knows_most_of_the_field(cases):
    table = score_cases(oracle, cases)
    assert sum(table.values("epe_deformed_mm")) < 0.3 * sum(table.values("zero_field_mm"))


def test_true_field_scores_zero(cases):
    case = cases[0]
    from medtrace.trace import Trace

    trace = Trace.build(
        source=case["source"],
        image=case["target"],
        ddf=case["ddf"],
        inverse_ddf=case["inverse_ddf"],
        affine=case["source"].affine,
        source_affine=case["source"].affine,
    )
    row = score(trace, case["target"], case["ddf"])
    assert row["epe_mm"] == pytest.approx(0, abs=1e-6)
    assert row["mae"] == 0
    assert row["ssim"] == pytest.approx(1)


def test_a_case_without_deformation_is_undefined_there_not_an_error(cases):
    case = cases[0]
    row = score(identity(list_data_collate([case]))[0], case["target"], torch.zeros_like(case["ddf"]))
    assert row["epe_deformed_mm"] != row["epe_deformed_mm"]
    assert row["epe_mm"] == 0


def test_evaluation_writes_the_run_its_image_without_field_and_the_identity(run, cases, tmp_path):
    tables = evaluate(run, cases, tmp_path, device="cpu", progress=False)
    assert set(tables) == {"identity", "method", "no field"}
    rows = list(csv.DictReader((tmp_path / "method.csv").open()))
    assert [row["case"] for row in rows] == [case["case"] for case in cases]
    method = load_method(run, "cpu")
    trace = method.trace(list_data_collate([cases[1]]))[0]
    error = (trace.image - cases[1]["target"].as_tensor()).abs().mean()
    assert float(rows[1]["mae"]) == pytest.approx(float(error) * 127.5, rel=1e-4)
    assert (tmp_path / "method_summary.csv").is_file()


def test_landmarks_are_scored_in_millimeters(run, cases, tmp_path):
    points = torch.tensor([[3.0, -20.0, float(cases[0]["source"].affine[2, 3])]], dtype=torch.float64)
    marked = [{**cases[0], "source_landmarks": points, "target_landmarks": points + torch.tensor([3.0, 4.0, 0.0])}]
    tables = evaluate(run, marked, tmp_path, device="cpu", progress=False)
    assert tables["identity"].values("landmark_mm") == pytest.approx([5.0])


@pytest.mark.parametrize("missing", ["run.json", "checkpoints/weights.safetensors"])
def test_a_run_without_its_files_is_refused(run, tmp_path, missing):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / missing).unlink()
    with pytest.raises(FileNotFoundError, match="medtrace train"):
        load_method(copy)


def test_weights_of_another_network_are_refused(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    weights = copy / "checkpoints" / "weights.safetensors"
    save_file({"method.other": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match="no weights of these settings"):
        load_method(copy)
    weights.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no weights that can be read"):
        load_method(copy)


def test_train_refuses_what_it_cannot_do(run, tmp_path):
    with pytest.raises(ValueError, match=r"'zzz' is not one; expected one of .*tracetrans"):
        train("zzz", out=tmp_path / "a")
    with pytest.raises(ValueError, match="medtrace prepare"):
        train("tracetrans", out=tmp_path / "a")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        train("tracetrans", tmp_path / "missing", out=tmp_path / "a")
    with pytest.raises(FileExistsError, match="resume"):
        train("tracetrans", out=run, presets=SMOKE)
    with pytest.raises(ValueError, match=r"preset: expected one of .*tracebench.*received 'nothing'"):
        train("tracetrans", out=tmp_path / "a", presets=(*SMOKE, "nothing"))
    index = {"version": 1, "spatial_dims": 2, "training": [], "validation": [], "test": []}
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="expected none, since the settings train on TraceBench"):
        train("tracetrans", tmp_path, out=tmp_path / "a", presets=SMOKE)
    assert not (tmp_path / "a").exists()


def test_tracer_of_gives_what_the_method_gives(run, cases):
    method = load_method(run, "cpu")
    batch = list_data_collate([cases[0]])
    torch.testing.assert_close(tracer_of(method)(batch)[0].image, method.trace(batch)[0].image)


@pytest.mark.parametrize(
    ("shape", "backend"),
    [((48, 56), "simpleitk"), pytest.param((24, 24, 20), "simpleitk", marks=pytest.mark.slow), ((48, 56), "ants")],
)
def test_independent_registration_finds_a_known_deformation(shape, backend):
    if backend == "ants":
        pytest.importorskip("ants", reason="ANTsPy is not installed")
    generator = torch.Generator().manual_seed(2)
    mode = "bicubic" if len(shape) == 2 else "trilinear"

    def smooth(channels, knots, scale):
        coarse = torch.randn(1, channels, *[knots] * len(shape), generator=generator) * scale
        return torch.nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True)

    source = smooth(1, 10, 1.0)
    truth = exponentiate(smooth(len(shape), 6 - len(shape), 1.2))
    image = torch.tanh(warp(source, truth))  # another contrast
    result = independent_registration(source, image, backend=backend, control_spacing=7)
    inner = (0, slice(None), *[slice(5, -5)] * len(shape))
    assert (result - truth)[inner].norm(dim=0).mean() < 0.35 * truth[inner].norm(dim=0).mean()
    if backend == "simpleitk":
        assert torch.equal(result, independent_registration(source, image, control_spacing=7))


def test_independent_registration_of_a_constant_image_is_the_identity():
    assert torch.count_nonzero(independent_registration(torch.zeros(1, 1, 16, 16), torch.rand(1, 1, 16, 16))) == 0


@pytest.mark.parametrize(
    ("source", "image", "message"),
    [
        (torch.zeros(1, 2, 16, 16), torch.zeros(1, 2, 16, 16), "expected 1 channel"),
        (torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 15), "image"),
        (torch.full((1, 1, 16, 16), float("nan")), torch.zeros(1, 1, 16, 16), "finite"),
    ],
)
def test_independent_registration_refuses(source, image, message):
    with pytest.raises(ValueError, match=message):
        independent_registration(source, image)
