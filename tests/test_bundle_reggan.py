"""The RegGAN bundle: every host in every mode trains, resumes and infers, and MONAI's checks of a bundle pass."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from medtrace.engines.distributed import DistributedNetwork
from medtrace.io import load_trace
from medtrace.io.nifti import write_image
from medtrace.networks import CycleGAN
from medtrace.networks.backbone import TranslationBackbone
from medtrace.networks.backbones import BACKBONES
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.runs import load_method
from medtrace.workflows.train import bundle_folder, train
from tests.test_bundle_tracetrans import same

BUNDLE = bundle_folder("reggan")
CONFIGS = BUNDLE / "configs"
SMOKE = ("tracebench", "smoke")
COMBINATIONS = [(host, mode) for host in BACKBONES for mode in ("C", "C+R", "NC", "NC+R")] + [("cyclegan", "pix2pix")]
# With a pool of 3 images a training of 8 swaps some.
SMALL_POOL = {"method#pool_size": 3}


def files(*names):
    return [str(CONFIGS / f"{name}.yaml") for name in names]


def run_bundle(*names, **values):
    monai.bundle.run(config_file=files(*names), logging_file=False, bundle_root=str(BUNDLE), **values)


def command(*names, launcher=("-m", "monai.bundle"), **values):
    """`python -m monai.bundle run` in a process of its own."""
    values = {"bundle_root": BUNDLE, **values}
    options = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    line = [sys.executable, *launcher, "run", "--config_file", str(files(*names)), *options]
    done = subprocess.run(line, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def checkpoint(run):
    return torch.load(Path(run) / "checkpoints" / "final.pt", weights_only=True)


def weights(run):
    return {name: value for name, value in checkpoint(run)["method"].items() if isinstance(value, torch.Tensor)}


def check_equal(first, second, path="checkpoint"):
    """Two nested checkpoints, bit by bit."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), path
    elif isinstance(first, dict):
        assert first.keys() == second.keys(), path
        for key, value in first.items():
            check_equal(value, second[key], f"{path}/{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), path
        for index, (one, another) in enumerate(zip(first, second)):
            check_equal(one, another, f"{path}/{index}")
    else:
        assert first == second, path


def epochs(run):
    return list(csv.DictReader((run / "history.csv").open()))


def networks(host, mode):
    """Paths of the networks that there must be."""
    domains = ("source", "target") if mode in ("C", "C+R") else ("target",)
    paths = {f"networks.{kind}.{domain}" for kind in ("decoders", "discriminators") for domain in domains}
    if host in ("munit", "unit"):
        paths |= {"networks.encoders.source", "networks.encoders.target"}
    return paths | ({"correction.network"} if mode.endswith("+R") else set())


def terms(host, mode):
    """Names of the terms that there must be."""
    both_ways = mode in ("C", "C+R")
    domains = ("source", "target") if both_ways else ("target",)
    names = {f"{domain}_{kind}" for domain in domains for kind in ("adversarial", "discriminator")}
    names |= {"cycle"} if both_ways else set()
    names |= {"correction", "smoothness", "centring"} if mode.endswith("+R") else set()
    names |= {"paired_l1"} if mode == "pix2pix" else set()
    own = set(BACKBONES[host].internal_weights)
    return names | (own if both_ways else own - {"latent_cycle"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a host and a mode that stopped after its first epoch and went on to the second."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(host="cyclegan", mode="NC+R"):
        if (host, mode) not in runs:
            values = {"host": host, "mode": mode, "max_epochs": 1, **SMALL_POOL}
            folder = train("reggan", smoke=True, out=parent / f"{host}-{mode}", overrides=values)
            first = {"first_epoch": epochs(folder)[0], "first_weights": weights(folder)}
            train("reggan", out=folder, resume=True, overrides={"max_epochs": 2})
            runs[host, mode] = SimpleNamespace(folder=folder, **first)
        return runs[host, mode]

    return run


# Every host in every mode


@pytest.mark.parametrize(("host", "mode"), COMBINATIONS)
def test_trains_saves_resumes_and_infers(host, mode, trained):
    run = trained(host, mode)
    assert [row["epoch"] for row in epochs(run.folder)] == ["1", "2"]
    assert epochs(run.folder)[0] == run.first_epoch
    assert set(run.first_epoch) - {"epoch", "loss"} == terms(host, mode)
    before, after = run.first_weights, weights(run.folder)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    for network in networks(host, mode):
        assert any(name.startswith(network) for name in moved), network

    method = load_method(run.folder, "cpu")
    assert type(method.networks) is BACKBONES[host]
    pair = {key: torch.rand(2, 1, 33, 40) * 2 - 1 for key in ("source", "target")}
    for trace in method.trace(pair):
        assert trace.image.shape == (1, 33, 40)
        assert torch.isfinite(trace.image).all()
        assert torch.count_nonzero(trace.ddf) == 0
    assert method.registers == mode.endswith("+R")
    if method.registers:
        assert method.register(pair["source"], pair["target"])[0].ddf.abs().max() > 0


@pytest.mark.parametrize(
    ("host", "mode"), [("cyclegan", "NC+R"), ("cyclegan", "C"), ("munit", "C+R"), ("unit", "NC"), ("nice_gan", "C+R")]
)
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not_cut_off(host, mode, trained, tmp_path):
    """Weights, pools, optimisers and random states."""
    resumed = trained(host, mode).folder
    whole = train("reggan", smoke=True, out=tmp_path / "run", overrides={"host": host, "mode": mode, **SMALL_POOL})
    assert epochs(whole) == epochs(resumed)
    check_equal(checkpoint(whole), checkpoint(resumed))


def test_pools_hold_what_the_discriminators_were_shown(trained):
    state = checkpoint(trained("cyclegan", "C").folder)["method"]
    for domain in ("source", "target"):
        images = state[f"pools.{domain}._extra_state"]["images"]
        assert images.shape == (3, 1, 32, 32)
        assert images.std() > 0


def test_pix2pix_sees_source_and_image(trained):
    method = load_method(trained("cyclegan", "pix2pix").folder, "cpu")
    assert method.networks.conditional
    assert dict(method.phase("generator").weights)["paired_l1"] == 100
    first = next(iter(method.networks.discriminators["target"].parameters()))
    assert first.shape[1] == 2


def test_a_wrong_mode_or_host_trains_nothing(tmp_path):
    for values, message in (
        ({"mode": "NC-R"}, "mode: expected one of 'C', 'C+R', 'NC', 'NC+R', 'pix2pix', received 'NC-R'"),
        ({"host": "stargan"}, "host: expected one of 'cyclegan', 'munit', 'unit', 'nice_gan', received 'stargan'"),
        ({"host": "unit", "mode": "pix2pix"}, "host of pix2pix: expected one of 'cyclegan', received 'unit'"),
    ):
        with pytest.raises(RuntimeError) as caught:
            train("reggan", smoke=True, out=tmp_path / "run", overrides=values)
        assert message in str(caught.value.__cause__)
        assert not (tmp_path / "run").exists()


def test_cyclegan_trains_volumes(tmp_path):
    values = {"spatial_shape": [16, 20, 16], "train_cases": 2, "validation_cases": 1, "max_epochs": 1}
    run = train("reggan", smoke=True, out=tmp_path / "run", overrides=values)
    trace = load_method(run, "cpu").trace({"source": torch.rand(1, 1, 18, 16, 17)})[0]
    assert trace.image.shape == (1, 18, 16, 17)


def test_unpaired_training(tmp_path):
    run = train("reggan", smoke=True, out=tmp_path / "run", overrides={"unpaired": True, "max_epochs": 1})
    assert len(epochs(run)) == 1


def test_surgery_of_tracebench(tmp_path):
    values = {"spatial_shape": [32, 32], "train_cases": 2, "max_epochs": 1, "host": "munit", "mode": "C"}
    run = train("reggan", smoke=True, overlays=("postop",), out=tmp_path / "run", overrides=values)
    parser = ConfigParser()
    parser.read_config(str(run / "config.yaml"))
    assert parser.get_parsed_content("data#test")[0]["case"] == "postop-test-0000"


def test_readme_names_every_configuration():
    text = (BUNDLE / "docs" / "README.md").read_text()
    assert {f"`{path.name}`" for path in CONFIGS.glob("*.yaml")} <= set(re.findall(r"`[a-z_]+\.yaml`", text))
    assert all(f"`{host}`" in text for host in BACKBONES)


# MONAI's own checks


@pytest.mark.parametrize(
    ("kind", "names", "values"),
    [
        ("train", ("train",), {}),
        ("train", ("train",), {"mode": "C+R", "host": "unit"}),
        ("train", ("train",), {"mode": "pix2pix"}),
        ("infer", ("train", "evaluate"), {}),
        ("infer", ("inference",), {}),
        ("infer", ("inference",), {"mode": "C+R", "host": "munit"}),
    ],
)
def test_has_the_properties_of_a_bundle(kind, names, values, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files(*names, *SMOKE),
        logging_file=False,
        workflow_type=kind,
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        **values,
    )
    workflow.initialize()
    assert workflow.check_properties() == []
    assert isinstance(workflow.network_def, TranslationBackbone)
    assert workflow.version == "0.1.0"
    assert len(workflow.train_dataset if kind == "train" else workflow.dataset) > 0


@pytest.mark.parametrize("name", ["train", "inference"])
def test_network_gives_what_the_metadata_says(name):
    """The host answers with one tensor, so that it is the network of `network_data_format` itself."""
    sizes = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4}
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=files(name),
        device="cpu",
        any=33,
        **{f"host_options#cyclegan#{key}": value for key, value in sizes.items()},
    )


def test_metadata_holds_what_the_specification_asks_for(tmp_path):
    # MONAI reads a schema that lies at `filepath` and downloads it only otherwise.
    text, obj = {"type": "string", "minLength": 1}, {"type": "object", "minProperties": 1}
    tensor = {
        "type": "object",
        "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range", "is_patch_data"],
        "properties": {"num_channels": {"type": "integer", "minimum": 1}, "channel_def": obj},
    }
    io = {
        name: {"type": "object", "required": [key], "properties": {key: tensor}}
        for name, key in (("inputs", "image"), ("outputs", "pred"))
    }
    texts = ["schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description"]
    texts += ["authors", "copyright"]
    schema = {
        "type": "object",
        "required": [*texts, "changelog", "required_packages_version", "intended_use", "references"],
        "properties": {
            **dict.fromkeys(texts, text),
            "changelog": obj,
            "required_packages_version": obj,
            "references": {"type": "array", "minItems": 1, "items": text},
            "network_data_format": {"type": "object", "required": list(io), "properties": io},
        },
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    monai.bundle.verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(path))
    metadata = json.loads((CONFIGS / "metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]


def test_inference_and_full_describe_the_network_of_the_training():
    configs = {}
    for name in ("train", "inference", "full"):
        configs[name] = ConfigParser()
        configs[name].read_config(files(name))
    sizes = ["host_options", "registration_channels", "registration_downsampling"]
    for key in sizes:
        assert configs["full"][key] == configs["train"][key], key
    shared = ["host", "mode", "spatial_dims", "in_channels", "out_channels", "network_def", "network"]
    parts = ["_target_", "networks", "cycle#_disabled_", "correction#_disabled_", "correction#network"]
    for key in [*sizes, *shared, *(f"method#{part}" for part in parts)]:
        assert configs["train"][key] == configs["inference"][key], key


def test_overlays_size_every_host():
    for name in ("tracebench", "smoke", "full"):
        parser = ConfigParser()
        parser.read_config(files("train", name))
        assert set(parser["host_options"]) == set(BACKBONES)
        assert parser["host_options#cyclegan#conditional"] == "$@mode == 'pix2pix'"


# One training, two ways in; evaluation and inference


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    command("train", *SMOKE, run_dir=tmp_path, host="munit", mode="C+R", **SMALL_POOL)
    run = trained("munit", "C+R").folder
    assert same(weights(run), weights(tmp_path))
    assert (run / "history.csv").read_text() == (tmp_path / "history.csv").read_text()


@pytest.mark.parametrize(("host", "mode"), [("cyclegan", "NC+R"), ("unit", "C")])
def test_evaluation_tells_what_medtrace_evaluate_tells(host, mode, trained, tmp_path):
    run, values = trained(host, mode).folder, {"host": host, "mode": mode}
    run_bundle("train", "evaluate", *SMOKE, run_dir=str(run), output_dir=str(tmp_path), **values)
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert [row["case"] for row in cases] == ["misaligned-test-0000", "misaligned-test-0001"]
    parser = ConfigParser()
    parser.read_config(files("train", *SMOKE))
    expected = evaluate(run, parser.get_parsed_content("data#test"), out=tmp_path / "python")["method"]
    shared = set(cases[0]) & set(expected.rows[cases[0]["case"]])
    assert {"mae", "psnr"} <= shared
    for row in cases:
        for column in shared:
            value = expected.rows[row["case"]][column]
            assert float(row[column]) == pytest.approx(value, rel=1e-5, nan_ok=True), column


@pytest.fixture
def prepared(tmp_path):
    """Two prepared sources, in [0, 1], with a grid of their own."""
    affine = torch.tensor([[0.0, -2, 0, 5], [3, 0, 0, -7], [0, 0, 4, 1], [0, 0, 0, 1]], dtype=torch.float64)
    (tmp_path / "dataset" / "images").mkdir(parents=True)
    images = torch.rand(2, 1, 20, 28, 1)
    for number, image in enumerate(images):
        write_image(tmp_path / "dataset" / "images" / f"subject-{number}_source.nii.gz", image, affine)
    return SimpleNamespace(folder=tmp_path / "dataset", images=images[..., 0], affine=affine)


def infer(run, folder, out, **values):
    parser = ConfigParser()
    parser.read_config(files(*SMOKE))
    sizes = {key: parser[key] for key in ("host_options", "registration_channels", "registration_downsampling")}
    options = {"run_dir": str(run), "dataset_dir": str(folder), "output_dir": str(out)}
    run_bundle("inference", **{**options, **sizes, **values})


@pytest.mark.parametrize(("host", "mode"), [("cyclegan", "NC+R"), ("munit", "C"), ("cyclegan", "pix2pix")])
def test_inference_writes_the_trace_of_every_source(host, mode, trained, prepared, tmp_path):
    infer(trained(host, mode).folder, prepared.folder, tmp_path / "out", host=host, mode=mode)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subject-0", "subject-1"]
    expected = load_method(trained(host, mode).folder, "cpu").trace({"source": prepared.images * 2 - 1})
    for number, trace in enumerate(expected):
        saved = load_trace(tmp_path / "out" / f"subject-{number}")
        torch.testing.assert_close(saved.affine, prepared.affine)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-5, rtol=0)
        assert torch.count_nonzero(saved.ddf) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [({"host": "unit"}, "Missing key"), ({"mode": "C+R"}, "Missing key"), ({"mode": "NC"}, "Unexpected key")],
)
def test_inference_refuses_the_weights_of_another_network(values, message, trained, prepared, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        infer(trained().folder, prepared.folder, tmp_path / "out", **values)
    assert message in str(caught.value.__cause__)
    assert not (tmp_path / "out").exists()


# Several devices


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:Local rank information")
@pytest.mark.parametrize(("host", "mode"), [("cyclegan", "NC+R"), ("munit", "C"), ("unit", "C+R"), ("nice_gan", "NC")])
def test_each_network_is_distributed_by_itself(host, mode, trained, tmp_path):
    workflow = ConfigWorkflow(
        config_file=files("train", *SMOKE, "multi_gpu_train"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLE),
        run_dir=str(tmp_path),
        host=host,
        mode=mode,
        device="cpu",
    )
    workflow.initialize()
    workflow.run()
    method = workflow.parser.get_parsed_content("network")
    wrapped = {name for name, module in method.named_modules() if isinstance(module, DistributedNetwork)}
    assert wrapped == networks(host, mode)
    trainable = {id(parameter) for parameter in method.parameters()}
    inside = {id(parameter) for name in wrapped for parameter in method.get_submodule(name).parameters()}
    assert trainable == inside
    assert checkpoint(tmp_path)["method"].keys() == checkpoint(trained(host, mode).folder)["method"].keys()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["NC+R", "C+R", "pix2pix"])
def test_two_processes_train_as_one(mode, tmp_path):
    """Two halves of a batch on two processes take the steps of the whole batch on one."""
    floor = {f"optimizers#{phase}#eps": 1e-1 for phase in ("generator", "discriminator")}
    values = {"mode": mode, "train_cases": 2, "max_epochs": 3, **floor}
    # Ranks keep pools and running means of their own.
    values |= {"method#pool_size": 0, "centring_weight": 0.0}
    run_bundle("train", *SMOKE, run_dir=str(tmp_path / "one"), **values)
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "monai.bundle")
    split = {**values, "batch_size": 1, "run_dir": tmp_path / "two"}
    command("train", *SMOKE, "multi_gpu_train", launcher=torchrun, **split)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    run_bundle("train", *SMOKE, run_dir=str(tmp_path / "start"), **{**values, "learning_rate": 0.0})
    start = weights(tmp_path / "start")
    assert one.keys() == two.keys()
    moved = max((one[name] - start[name]).abs().max() for name in one)
    apart = max((one[name] - two[name]).abs().max() for name in one)
    assert apart < 1e-3 * moved
    assert len((tmp_path / "two" / "history.csv").read_text().splitlines()) == 4


def test_default_host_is_cyclegan_one_way():
    parser = ConfigParser()
    parser.read_config(files("train", *SMOKE))
    host = parser.get_parsed_content("network_def")
    assert isinstance(host, CycleGAN)
    assert not host.both_ways
