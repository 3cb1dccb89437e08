"""Trainings of TraceTrans: what they leave, its presets, and its bundle with other settings."""

import monai.bundle
import pytest
import torch

from medtrace.engines.runs import load_method, read_run
from medtrace.io import load_trace
from medtrace.methods import build_method
from medtrace.workflows.bundle import bundle
from medtrace.workflows.train import train
from tests.trainings import (
    AFFINE,
    ROUNDED,
    SMOKE,
    bundle_of,
    check_evaluation,
    check_properties,
    epochs,
    prepared_images,
    run_bundle,
    same,
    weights,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train("tracetrans", out=tmp_path_factory.mktemp("run") / "python", presets=SMOKE)


@pytest.fixture(scope="module")
def small(trained, tmp_path_factory):
    return bundle_of(trained, tmp_path_factory.mktemp("bundle") / "tracetrans")


def test_history_names_every_term(trained):
    first = (trained / "history.csv").read_text()
    assert first.splitlines()[0].startswith("epoch,loss,translation_l1")
    assert [row["epoch"] for row in epochs(trained)] == ["1", "2"]


def test_monai_loads_the_weights_of_a_run(trained):
    loaded = monai.bundle.load(
        name=trained.name,
        bundle_dir=str(trained.parent),
        source="github",
        model=build_method("tracetrans", read_run(trained).settings),
        model_file="checkpoints/final.pt",
        key_in_ckpt="method",
        device="cpu",
    )
    assert same(loaded.state_dict(), weights(trained))


def test_the_preset_pix2pix_leaves_one_stream(tmp_path):
    run = train("tracetrans", out=tmp_path / "run", presets=(*SMOKE, "pix2pix"))
    terms = ["translation_l1", "translation_adversarial", "translation_discriminator"]
    rates = ["learning_rate_generator", "learning_rate_discriminator"]
    assert list(epochs(run)[0])[2:] == [*terms, *rates, "validation_mae"]
    folder = bundle("tracetrans", tmp_path / "bundle", presets=(*SMOKE, "pix2pix"))
    workflow = check_properties(folder, tmp_path / "other")
    assert workflow.parser.get_parsed_content("method").alpha == 1


def test_evaluation_tells_what_medtrace_evaluate_tells(small, trained, tmp_path):
    check_evaluation(trained, small, tmp_path, {"mae", "psnr", "ssim", "epe_mm", "edge_dice"})


def test_inference_writes_the_trace_of_every_source(small, trained, tmp_path):
    images = prepared_images(tmp_path / "data")["source"]
    places = {"dataset_dir": str(tmp_path / "data"), "run_dir": str(trained)}
    check_properties(small, trained, "infer", ("inference",), dataset_dir=places["dataset_dir"])
    run_bundle(small, "inference", **places, output_dir=str(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subject-0", "subject-1"]
    expected = load_method(trained, "cpu").trace({"source": images * 2 - 1})
    for number, trace in enumerate(expected):
        saved = load_trace(tmp_path / "out" / f"subject-{number}")
        torch.testing.assert_close(saved.affine, AFFINE)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-5, rtol=0)
        torch.testing.assert_close(saved.ddf, trace.ddf, atol=ROUNDED, rtol=0)
