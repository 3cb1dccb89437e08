"""Trainings of the diffusion methods: each trains, resumes, evaluates and infers; their data and their settings."""

import json
import shutil

import pytest
import torch

from medtrace.data import Preparation, RandomPartner, TraceBench, sources
from medtrace.engines.runs import load_method, read_run
from medtrace.io import load_trace
from medtrace.io.nifti import write_image
from medtrace.methods import build_method, method_class, resolve
from medtrace.methods.plasticine.method import PlasticineMethod
from medtrace.networks.output_field import OutputField
from medtrace.transforms import StructureMap
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
    train_in_group,
    weights,
)

NETWORKS = {
    "plasticine": {"networks.noise_estimator", "networks.deformation"},
    "palette": {"networks.noise_estimator"},
    "ddib": {"networks.source", "networks.target"},
}
TRAINED = ("plasticine", *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS if name != "plasticine"))
"""The method of both kinds of networks in the default run, the others in the slow one."""
PLASTICINE = method_class("plasticine").settings_type


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by method."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(method="plasticine"):
        if method not in runs:
            runs[method] = train(method, out=parent / method, presets=SMOKE)
        return runs[method]

    return run


@pytest.mark.parametrize("name", TRAINED)
def test_trains_and_translates(name, trained):
    run = trained(name)
    assert [row["epoch"] for row in epochs(run)] == ["1", "2"]
    method = load_method(run, "cpu")
    assert type(method) is method_class(name)
    trace = method.trace({"source": torch.rand(1, 1, 33, 40) * 2 - 1})[0]
    assert trace.image.shape == (1, 33, 40)
    assert (trace.ddf.abs().max() > 0) == (name == "plasticine")
    averages = [name for name in weights(run) if name.endswith("n_averaged")]
    assert [int(weights(run)[name]) for name in averages] == [1 + 4] * len(averages)  # the copy and the steps
    assert len(averages) == (2 if name == "ddib" else 1)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.slow
def test_a_resumed_training_ends_with_the_same_bits(name, tmp_path):
    values = {"training.val_interval": 0}
    whole = train(name, out=tmp_path / "whole", presets=SMOKE, settings=values)
    cut = train(name, out=tmp_path / "cut", presets=SMOKE, settings={**values, "training.max_epochs": 1})
    assert not same(weights(whole), weights(cut))
    train(name, out=cut, resume=True, settings={"training.max_epochs": 2})
    assert same(weights(whole), weights(cut))
    assert (whole / "history.csv").read_text() == (cut / "history.csv").read_text()


def test_ablations(tmp_path):
    """The combination of Table IV, no estimated noise (Table V), and the two inverses."""
    values = {"deformation.use_noise": False, "deformation.inverse": "predicted", "mode": "combination"}
    values |= {"training.max_epochs": 1, "training.val_interval": 0}
    run = train("plasticine", out=tmp_path / "run", presets=SMOKE, settings=values)
    method = load_method(run, "cpu")
    module = method.networks.deformation
    assert (module.use_noise, module.inverse, method.mode) == (False, "predicted", "combination")
    assert method.sampling.start == 0.5
    expected = {"noise_l1", "forward_similarity", "inverse_similarity", "smoothness", "alignment"}
    expected |= {"surrogate_similarity", "surrogate_smoothness"}
    expected |= {"learning_rate_noise", "learning_rate_deformation"}
    assert set(epochs(run)[0]) == {"epoch", "loss"} | expected


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("sr3", {}, "method: 'sr3' is not one; expected one of .*ddib.*palette.*plasticine"),
        ("plasticine", {"mode": "both"}, "mode: input should be 'joint' or 'combination', received 'both'"),
        ("ddib", {"mode": "combination"}, "mode: is not a setting"),
        (
            "plasticine",
            {"data.kind": "prepared", "data.partners": "any"},
            "data.partners: input should be 'fixed' or 'resampled', received 'any'",
        ),
    ],
)
def test_a_wrong_choice_trains_nothing(name, values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(name, out=tmp_path / "run", presets=SMOKE, settings=values)
    assert not (tmp_path / "run").exists()


def test_the_defaults_are_the_papers_setting():
    settings = PLASTICINE()
    small = {"estimator.channels": [32], "deformation.channels": [8]}
    method = build_method("plasticine", resolve(PLASTICINE, (), small))
    weights_of = {"forward_similarity": 1, "inverse_similarity": 1, "smoothness": 1, "alignment": 1}
    assert {name: value for name, value in method.phase("deformation").weights.items() if value} == weights_of
    assert method.networks.schedule.steps == 2000
    assert float(method.networks.schedule.gammas[1]) == pytest.approx(1 - 1e-6)
    assert (method.sampling.sampler, method.sampling.steps, method.sampling.start) == ("ancestral", 50, 1.0)
    assert (settings.noise_optimizer.learning_rate, settings.deformation_optimizer.learning_rate) == (1e-4, 2e-4)
    assert (settings.noise_optimizer.warmup_steps, settings.deformation_optimizer.warmup_steps) == (10000, 200)
    assert settings.training.batch_size == 3
    assert method.average.decay == 0.9999
    full = resolve(PLASTICINE, ("tracebench", "full"))
    assert (full.estimator.channels, full.deformation.channels) == (
        settings.estimator.channels, settings.deformation.channels,
    )  # fmt: skip


# The data


def data_of(name="plasticine", **values):
    """The data of the smallest training, with values by their last name."""
    kind = method_class(name)
    settings = resolve(kind.settings_type, SMOKE, {f"data.{key}": value for key, value in values.items()})
    return sources(settings, None, kind.case_transform(settings))


def test_domains_have_partners_of_other_subjects_and_maps_made_once(monkeypatch):
    made = []
    monkeypatch.setattr(StructureMap, "_classes", counted(StructureMap._classes, made))
    training = data_of().training()
    assert isinstance(training, RandomPartner)
    for _ in range(2):
        for item in training:
            assert item["partner"] != item["subject"]
            assert item["source_structure"].unique().tolist() == [0, 1]
            assert {"source", "target", "target_structure"} <= set(item)
    assert len(made) == 2 * len(training)
    test = data_of().test()
    assert isinstance(test, TraceBench)
    assert test.settings.pairing == "subject"
    assert {"target_labels", "source_labels"} <= set(test[0])
    torch.testing.assert_close(test[0]["target"], test[0]["translation"])


def counted(function, calls):
    def call(*args):
        calls.append(1)
        return function(*args)

    return call


def test_same_subject_pairs_stay_as_they_are():
    training = data_of(pairing="subject", flip=False).training()
    cases = TraceBench("domain", (32, 32), 4, 0, "training", settings={"pairing": "subject"})
    assert len(training) == len(cases) == 4
    for item, case in zip(training, cases):
        assert torch.equal(item["target"], case["translation"])
        assert torch.equal(item["source"], case["source"])


def test_flips_mirror_a_case_as_a_whole():
    """Images and their structure maps together, and each reading anew."""
    plain = data_of(pairing="subject", flip=False).training()[0]
    flipped = data_of(pairing="subject", flip=True).training()
    readings = [flipped[0] for _ in range(16)]
    keys = ("source", "target", "source_structure", "target_structure")
    turned = []
    for item in readings:
        ways = {
            key: "as it is" if torch.equal(item[key], plain[key]) else "mirrored" for key in keys
        }  # fmt: skip
        assert len(set(ways.values())) == 1
        turned.append(ways["source"])
        if ways["source"] == "mirrored":
            assert all(torch.equal(item[key].as_tensor(), plain[key].as_tensor().flip(1)) for key in keys)
    assert set(turned) == {"as it is", "mirrored"}


def test_rivals_need_no_structure_maps():
    for name in ("ddib", "palette"):
        assert not any("structure" in key for key in data_of(name).training()[0])


def test_surgery_of_tracebench(tmp_path):
    values = {"data.train_cases": 2, "training.max_epochs": 1, "training.val_interval": 0}
    run = train("plasticine", out=tmp_path / "run", presets=("tracebench", "postop", "smoke"), settings=values)
    settings = read_run(run).settings
    assert settings.data.pairing == "subject"
    training = sources(settings, None, PlasticineMethod.case_transform(settings)).training()
    assert not isinstance(training, RandomPartner)
    assert "partner" not in training[0]
    assert sources(settings).test()[0]["case"] == "postop-test-0000"


@pytest.mark.parametrize("partners", ["fixed", "resampled"])
def test_prepared_pairs(partners, tmp_path):
    folder, affine = tmp_path / "dataset", torch.eye(4, dtype=torch.float64)
    (folder / "images").mkdir(parents=True)
    index = {"version": 1, "spatial_dims": 2, "channels": 1, "training": [], "validation": [], "test": []}
    for number in range(3):
        names = {key: f"images/s{number}_{key}.nii.gz" for key in ("source", "target")}
        for file in names.values():
            write_image(folder / file, torch.rand(1, 20, 24, 1), affine)
        index["training"].append({"subject": f"s{number}", "case": f"s{number}", **names})
    (folder / "dataset.json").write_text(json.dumps(index))
    Preparation(2).save(folder / "preparation.json")
    settings = resolve(PLASTICINE, (), {"data.partners": partners})
    data = sources(settings, folder, PlasticineMethod.case_transform(settings)).training()
    for item in data:
        assert item["target_structure"].shape == (1, 20, 24)
        assert item.get("partner") != item["subject"]
        assert ("partner" in item) == (partners == "resampled")


@pytest.mark.slow
def test_volumes(tmp_path):
    values = {"data.spatial_shape": [16, 18, 16], "data.train_cases": 2}
    values |= {"training.max_epochs": 1, "training.val_interval": 0}
    run = train("plasticine", out=tmp_path / "run", presets=SMOKE, settings=values)
    trace = load_method(run, "cpu").trace({"source": torch.rand(1, 1, 16, 17, 18) * 2 - 1})[0]
    assert trace.ddf.shape == (3, 16, 17, 18)


# Bundles


@pytest.mark.parametrize("name", ["plasticine", pytest.param("ddib", marks=pytest.mark.slow)])
def test_has_the_properties_of_a_bundle(name, tmp_path):
    folder = bundle(name, tmp_path / "bundle", presets=SMOKE)
    workflow = check_properties(folder, tmp_path, "infer", ("train", "evaluate"))
    assert isinstance(workflow.network_def, OutputField) == (name == "plasticine")
    prepared_images(tmp_path / "data")
    check_properties(folder, tmp_path, "infer", ("inference",), dataset_dir=str(tmp_path / "data"))


@pytest.mark.parametrize("name", TRAINED)
def test_evaluation_tells_what_medtrace_evaluate_tells(name, trained, tmp_path):
    run = trained(name)
    check_evaluation(run, bundle_of(run, tmp_path / "of-run"), tmp_path, {"mae", "epe_mm"}, rel=1e-4)


@pytest.mark.parametrize("name", ["plasticine", pytest.param("ddib", marks=pytest.mark.slow)])
def test_inference_writes_the_trace_of_every_source(name, trained, tmp_path):
    images = prepared_images(tmp_path / "data")["source"]
    run, out = trained(name), tmp_path / "out"
    options = {"run_dir": str(run), "dataset_dir": str(tmp_path / "data"), "output_dir": str(out)}
    run_bundle(bundle_of(run, tmp_path / "bundle"), "inference", **options)
    for number, trace in enumerate(load_method(run, "cpu").trace({"source": images * 2 - 1})):
        saved = load_trace(out / f"subject-{number}")
        torch.testing.assert_close(saved.affine, AFFINE)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-4, rtol=0)
        torch.testing.assert_close(saved.ddf, trace.ddf, atol=ROUNDED, rtol=0)
    shutil.rmtree(out)
    with pytest.raises(RuntimeError):
        run_bundle(bundle("palette", tmp_path / "other", presets=SMOKE), "inference", **options)
    assert not out.exists()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:Local rank information")
@pytest.mark.parametrize("name", TRAINED)
def test_each_network_is_distributed(name, trained, tmp_path):
    run = trained(name)
    assert train_in_group(bundle_of(run, tmp_path / "bundle"), tmp_path / "run") == NETWORKS[name]
    assert weights(tmp_path / "run").keys() == weights(run).keys()
