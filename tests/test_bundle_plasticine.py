"""The Plasticine bundle: every method trains, resumes, evaluates and infers, and MONAI's checks of a bundle pass."""

import csv
import json
import re
import shutil
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medtrace.data import RandomPartner, TraceBench
from medtrace.engines.distributed import DistributedNetwork
from medtrace.io import load_trace
from medtrace.io.compact import FIELD_ERROR
from medtrace.io.nifti import write_image
from medtrace.networks import DiffusionTranslator
from medtrace.networks.output_field import OutputField
from medtrace.objectives import DDIBObjective, PaletteObjective, PlasticineObjective
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.runs import load_objective
from medtrace.workflows.train import bundle_folder, train
from tests.test_bundle_tracetrans import same

BUNDLE = bundle_folder("plasticine")
CONFIGS = BUNDLE / "configs"
SMOKE = ("tracebench", "smoke")
METHODS = {"plasticine": PlasticineObjective, "palette": PaletteObjective, "ddib": DDIBObjective}
SIZES = {
    "noise_channels": [8, 16],
    "residual_blocks": 1,
    "head_channels": 8,
    "norm_groups": 8,
    "prediction": "velocity",
    "noise_weighting": "velocity",
    "refinements": 1,
    "structure_gamma": 3e-4,
    "deformation_channels": [8, 16],
    "velocity_halvings": 1,
    "average_decay": 0.998,
    "dropout": 0.0,
    "steps": 3,
    "spacing": 1.5,
    "sampler": "ddim",
}
NETWORKS = {
    "plasticine": {"networks.noise_estimator", "networks.deformation"},
    "palette": {"networks.noise_estimator"},
    "ddib": {"networks.source", "networks.target"},
}


def files(*names):
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def run_bundle(*names, **values):
    monai.bundle.run(config_file=files(*names), logging_file=False, bundle_root=str(BUNDLE), **values)


def weights(run):
    return torch.load(Path(run) / "checkpoints" / "final.pt", weights_only=True)["objective"]


def history(run):
    return list(csv.DictReader((Path(run) / "history.csv").open()))


def config(*names, **values):
    parser = ConfigParser()
    parser.read_config(files(*names))
    parser.update(values)
    return parser


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs by method, of the Python call."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(method="plasticine"):
        if method not in runs:
            runs[method] = train("plasticine", smoke=True, out=parent / method, overrides={"method": method})
        return runs[method]

    return run


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_translates(method, trained):
    run = trained(method)
    assert [row["epoch"] for row in history(run)] == ["1", "2"]
    objective = load_objective(run, "cpu")
    assert type(objective) is METHODS[method]
    trace = objective.trace({"source": torch.rand(1, 1, 33, 40) * 2 - 1})[0]
    assert trace.image.shape == (1, 33, 40)
    assert (trace.ddf.abs().max() > 0) == (method == "plasticine")
    averages = [name for name in weights(run) if name.endswith("updates")]
    assert [int(weights(run)[name]) for name in averages] == [4] * len(averages)
    assert len(averages) == (2 if method == "ddib" else 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_training_ends_with_the_same_bits(method, tmp_path):
    values = {"method": method, "val_interval": 0}
    whole = train("plasticine", smoke=True, out=tmp_path / "whole", overrides=values)
    cut = train("plasticine", smoke=True, out=tmp_path / "cut", overrides={**values, "max_epochs": 1})
    assert not same(weights(whole), weights(cut))
    train("plasticine", out=cut, resume=True, overrides={"max_epochs": 2})
    assert same(weights(whole), weights(cut))
    assert (whole / "history.csv").read_text() == (cut / "history.csv").read_text()


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    run_bundle("train", *SMOKE, run_dir=str(tmp_path))
    assert same(weights(trained()), weights(tmp_path))
    assert history(trained()) == history(tmp_path)


def test_ablations(tmp_path):
    """The combination of Table IV, no estimated noise (Table V), and the two inverses."""
    values = {"use_noise": False, "inverse": "predicted", "mode": "combination", "max_epochs": 1, "val_interval": 0}
    run = train("plasticine", smoke=True, out=tmp_path / "run", overrides=values)
    objective = load_objective(run, "cpu")
    module = objective.networks.deformation
    assert (module.use_noise, module.inverse, objective.mode) == (False, "predicted", "combination")
    assert objective.sampling.start == 0.5
    expected = {"noise_l1", "forward_similarity", "inverse_similarity", "smoothness", "alignment"}
    expected |= {"stand_in_similarity", "stand_in_smoothness"}
    assert set(history(run)[0]) == {"epoch", "loss"} | expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sr3"}, "method: expected one of 'plasticine', 'palette', 'ddib', received 'sr3'"),
        ({"mode": "both"}, "mode: expected one of 'joint', 'combination', received 'both'"),
        ({"method": "ddib", "mode": "combination"}, "mode: expected one of 'joint', received 'combination'"),
        ({"partners": "any"}, "partners: expected one of 'fixed', 'redrawn', received 'any'"),
    ],
)
def test_a_wrong_choice_trains_nothing(values, message, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        train("plasticine", smoke=True, out=tmp_path / "run", overrides=values)
    assert message in str(caught.value.__cause__)
    assert not (tmp_path / "run").exists()


def test_train_is_the_papers_setting():
    parser = config("train", noise_channels=[32], deformation_channels=[8])
    objective = parser.get_parsed_content("objective")
    weights_of = {"forward_similarity": 1, "inverse_similarity": 1, "smoothness": 1, "alignment": 1}
    assert {name: value for name, value in objective.phase("deformation").weights.items() if value} == weights_of
    assert objective.networks.schedule.steps == 2000
    assert float(objective.networks.schedule.gammas[1]) == pytest.approx(1 - 1e-6)
    assert (objective.sampling.sampler, objective.sampling.steps, objective.sampling.start) == ("ancestral", 50, 1.0)
    assert (parser["noise_learning_rate"], parser["deformation_learning_rate"], parser["batch_size"]) == (1e-4, 2e-4, 3)
    assert (parser["noise_warmup_steps"], parser["deformation_warmup_steps"]) == (10000, 200)
    assert objective.average.decay == 0.9999
    for name in ("noise_channels", "deformation_channels"):
        assert config("train", "tracebench", "full")[name] == config("train")[name]


# The data


def test_domains_have_partners_of_other_subjects_and_maps_made_once(monkeypatch):
    made = []
    parser = config("train", *SMOKE)
    structures = parser.get_parsed_content("structures")
    monkeypatch.setattr(type(structures.transform), "_bright", counted(type(structures.transform)._bright, made))
    training = parser.get_parsed_content("data#training")
    assert isinstance(training, RandomPartner)
    for _ in range(2):
        for item in training:
            assert item["partner"] != item["subject"]
            assert item["source_structure"].unique().tolist() == [0, 1]
            assert {"source", "target", "target_structure"} <= set(item)
    assert len(made) == 2 * len(training)
    cases = parser.get_parsed_content("data#cases")
    assert isinstance(cases, TraceBench)
    assert cases.settings.pairing == "random"
    assert {"target_labels", "source_labels"} <= set(cases[0])
    test = parser.get_parsed_content("data#test")[0]
    torch.testing.assert_close(test["target"], test["translation"])


def counted(function, calls):
    def call(*args):
        calls.append(1)
        return function(*args)

    return call


def test_same_subject_pairs_stay_as_they_are():
    parser = config("train", *SMOKE, pairing="subject", augmentation=None)
    training, cases = parser.get_parsed_content("data#training"), parser.get_parsed_content("data#cases")
    for item, case in zip(training, cases):
        assert torch.equal(item["target"], case["translation"])
        assert torch.equal(item["source"], case["source"])


def test_rivals_need_no_structure_maps():
    training = config("train", *SMOKE, method="ddib").get_parsed_content("data#training")
    assert not any("structure" in key for key in training[0])


def test_surgery_of_tracebench(tmp_path):
    values = {"spatial_shape": [32, 32], "train_cases": 2, "max_epochs": 1, "val_interval": 0}
    run = train("plasticine", smoke=True, overlays=("postop",), out=tmp_path / "run", overrides=values)
    parser = ConfigParser()
    parser.read_config(str(run / "config.yaml"))
    assert parser["partners"] == "$'redrawn' if @pairing == 'random' else 'fixed'"
    assert parser.get_parsed_content("partners") == "fixed"
    assert parser.get_parsed_content("data#test")[0]["case"] == "postop-test-0000"


@pytest.mark.parametrize("partners", ["fixed", "redrawn"])
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
    data = config("train", dataset_dir=str(folder), partners=partners).get_parsed_content("data#training")
    for item in data:
        assert item["target_structure"].shape == (1, 20, 24)
        assert item.get("partner") != item["subject"]
        assert ("partner" in item) == (partners == "redrawn")


def test_volumes(tmp_path):
    values = {"spatial_shape": [16, 18, 16], "train_cases": 2, "max_epochs": 1, "val_interval": 0}
    run = train("plasticine", smoke=True, out=tmp_path / "run", overrides=values)
    trace = load_objective(run, "cpu").trace({"source": torch.rand(1, 1, 16, 17, 18) * 2 - 1})[0]
    assert trace.ddf.shape == (3, 16, 17, 18)


def test_readme_names_every_configuration():
    text = (BUNDLE / "docs" / "README.md").read_text()
    assert {f"`{path.name}`" for path in CONFIGS.glob("*.yaml")} <= set(re.findall(r"`[a-z_]+\.yaml`", text))
    assert all(f"`{method}`" in text for method in METHODS)


# MONAI's own checks


@pytest.mark.parametrize("method", ["plasticine", "ddib"])
@pytest.mark.parametrize(
    ("kind", "names"), [("train", ("train",)), ("infer", ("train", "evaluate")), ("infer", ("inference",))]
)
def test_has_the_properties_of_a_bundle(kind, names, method, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(*names, *SMOKE),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        method=method,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.network_def, DiffusionTranslator if method == "plasticine" else torch.nn.ModuleDict)
    assert workflow.version == "0.1.0"
    assert len(workflow.train_dataset if kind == "train" else workflow.dataset) > 0


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_gives_what_the_metadata_says(name):
    monai.bundle.verify_net_in_out(
        net_id="network_in_out",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files(name),
        device="cpu",
        any=33,
        **SIZES,
    )
    assert isinstance(config(name, **SIZES).get_parsed_content("network_in_out"), OutputField)


def test_metadata_holds_what_the_specification_asks_for():
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    versions = {"version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    others = {"schema", "changelog", "task", "description", "authors", "copyright", "intended_use", "references"}
    assert versions | others | {"network_data_format"} <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    reggan = json.loads((bundle_folder("reggan") / "configs" / "metadata.json").read_text())
    assert {key: metadata[key] for key in versions} == {key: reggan[key] for key in versions}


def test_inference_describes_the_network_of_the_training():
    configs = {name: config(name) for name in ("train", "inference")}
    shared = ["method", "mode", "use_noise", "inverse", "spatial_dims", "in_channels", "noise_channels"]
    shared += ["residual_blocks", "attention_levels", "head_channels", "norm_groups", "dropout", "deformation_channels"]
    shared += ["velocity_halvings", "binary_structure", "schedule_steps", "first_beta", "last_beta", "average_decay"]
    shared += ["structure_method", "structure_gamma", "sampler", "steps", "start", "samples", "clip", "sampling_seed"]
    shared += ["noise_estimator", "schedule", "translator", "sampling", "objective", "network", "network_in_out"]
    shared += ["objectives#palette", "objectives#ddib", "objectives#plasticine#structure"]
    for key in shared:
        assert configs["train"][key] == configs["inference"][key], key


# Evaluation and inference


@pytest.mark.parametrize("method", METHODS)
def test_evaluation_tells_what_medtrace_evaluate_tells(method, trained, tmp_path):
    run = trained(method)
    run_bundle("train", "evaluate", *SMOKE, run_dir=str(run), output_dir=str(tmp_path), method=method)
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in cases] == ["domain-test-0000", "domain-test-0001"]
    test = config("train", *SMOKE).get_parsed_content("data#test")
    expected = evaluate(run, test, out=tmp_path / "python", progress=False)["method"]
    assert "epe_mm" in cases[0]
    for row in cases:
        for column, value in expected.rows[row["case"]].items():
            assert float(row[column]) == pytest.approx(value, rel=1e-4, nan_ok=True), column


@pytest.mark.parametrize("method", ["plasticine", "ddib"])
def test_inference_writes_the_trace_of_every_source(method, trained, tmp_path):
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)
    folder = tmp_path / "dataset" / "images"
    folder.mkdir(parents=True)
    images = torch.rand(2, 1, 20, 28)
    for number, image in enumerate(images):
        write_image(folder / f"scan-{number}_source.nii.gz", image[..., None], affine)
    run, out = trained(method), tmp_path / "out"
    options = {"run_dir": str(run), "dataset_dir": str(tmp_path / "dataset"), "output_dir": str(out)}
    run_bundle("inference", method=method, **options, **SIZES)
    expected = load_objective(run, "cpu").trace({"source": images * 2 - 1})
    for number, trace in enumerate(expected):
        saved = load_trace(out / f"scan-{number}")
        torch.testing.assert_close(saved.affine, affine)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-4, rtol=0)
        torch.testing.assert_close(saved.ddf, trace.ddf, atol=1.1 * FIELD_ERROR, rtol=0)
    shutil.rmtree(out)
    with pytest.raises(RuntimeError):
        run_bundle("inference", method="palette", **options, **SIZES)
    assert not out.exists()


# Several devices


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:Local rank information")
@pytest.mark.parametrize("method", METHODS)
def test_each_network_is_distributed(method, trained, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files("train", *SMOKE, "multi_gpu_train"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        method=method,
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    objective = workflow.parser.get_parsed_content("network")
    wrapped = {name for name, module in objective.named_modules() if isinstance(module, DistributedNetwork)}
    assert wrapped == NETWORKS[method]
    assert weights(tmp_path).keys() == weights(trained(method)).keys()
