"""Trainings of RegGAN and the translators: every backbone in every mode trains, saves, resumes and infers."""

import re
from types import SimpleNamespace

import pytest
import torch

from medtrace.data import sources
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.bench.study import two_domain
from medtrace.io import load_trace
from medtrace.methods import build_method, method_class, resolve
from medtrace.methods.settings import names_of
from medtrace.networks import CycleGAN
from medtrace.networks.backbones import BACKBONES
from medtrace.workflows.bundle import BUNDLES, bundle
from medtrace.workflows.train import train
from tests.trainings import (
    AFFINE,
    SMOKE,
    bundle_of,
    check_equal,
    check_evaluation,
    check_properties,
    checkpoint,
    epochs,
    prepared_images,
    run_bundle,
    same,
    train_in_group,
    weights,
)

QUICK = {
    ("cyclegan", "NC+R"),
    ("cyclegan", "C"),
    ("munit", "C+R"),
    ("unit", "NC"),
    ("nice_gan", "NC"),
    ("cyclegan", "pix2pix"),
}
"""Combinations of the default run: each host, each mode."""


def some_slow(*pairs):
    """The combinations that the default run trains anyway, and the others with the slow tests."""
    return [pair if pair in QUICK else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]


# With a pool of 3 images a training of 8 swaps some.
SMALL_POOL = {"pool_size": 3}
REGGAN = method_class("reggan").settings_type


def networks(backbone, mode):
    """Paths of the networks that there must be."""
    domains = ("source", "target") if mode in ("C", "C+R") else ("target",)
    paths = {f"networks.{kind}.{domain}" for kind in ("decoders", "discriminators") for domain in domains}
    if backbone in ("munit", "unit"):
        paths |= {"networks.encoders.source", "networks.encoders.target"}
    return paths | ({"correction.network"} if mode.endswith("+R") else set())


def terms(backbone, mode):
    """Names of the terms that there must be."""
    bidirectional = mode in ("C", "C+R")
    domains = ("source", "target") if bidirectional else ("target",)
    names = {f"{domain}_{kind}" for domain in domains for kind in ("adversarial", "discriminator")}
    names |= {"cycle"} if bidirectional else set()
    names |= {"correction", "smoothness", "mean_displacement"} if mode.endswith("+R") else set()
    names |= {"paired_l1"} if mode == "pix2pix" else set()
    own = set(BACKBONES[backbone].internal_weights)
    return names | (own if bidirectional else own - {"latent_cycle"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run of a backbone and a mode that stopped after its first epoch and went on to the second."""
    parent, runs = tmp_path_factory.mktemp("runs"), {}

    def run(backbone="cyclegan", mode="NC+R"):
        if (backbone, mode) not in runs:
            name, chosen = two_domain(backbone, mode)
            values = {**chosen, "training.max_epochs": 1, **SMALL_POOL}
            folder = train(name, out=parent / f"{backbone}-{mode}", presets=SMOKE, settings=values)
            first = {"first_epoch": epochs(folder)[0], "first_weights": weights(folder)}
            train(name, out=folder, resume=True, settings={"training.max_epochs": 2})
            runs[backbone, mode] = SimpleNamespace(folder=folder, **first)
        return runs[backbone, mode]

    return run


# Every backbone in every mode


@pytest.mark.parametrize(
    ("backbone", "mode"),
    some_slow(*((host, mode) for host in BACKBONES for mode in ("C", "C+R", "NC", "NC+R")), ("cyclegan", "pix2pix")),
)
def test_trains_saves_resumes_and_infers(backbone, mode, trained):
    run = trained(backbone, mode)
    assert [row["epoch"] for row in epochs(run.folder)] == ["1", "2"]
    assert epochs(run.folder)[0] == run.first_epoch
    beside = {"epoch", "loss", "learning_rate_generator", "learning_rate_discriminator", "validation_mae"}
    assert set(run.first_epoch) == terms(backbone, mode) | beside
    before, after = run.first_weights, weights(run.folder)
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    for network in networks(backbone, mode):
        assert any(name.startswith(network) for name in moved), network

    method = load_method(run.folder, "cpu")
    assert type(method) is method_class(two_domain(backbone, mode)[0])
    assert type(method.networks) is BACKBONES[backbone]
    pair = {key: torch.rand(2, 1, 33, 40) * 2 - 1 for key in ("source", "target")}
    for trace in method.trace(pair):
        assert trace.image.shape == (1, 33, 40)
        assert torch.isfinite(trace.image).all()
        assert torch.count_nonzero(trace.ddf) == 0
    assert method.registers == mode.endswith("+R")
    if method.registers:
        assert method.trace_pair(pair["source"], pair["target"])[0].ddf.abs().max() > 0


@pytest.mark.parametrize(
    ("backbone", "mode"),
    [
        ("cyclegan", "NC+R"),
        ("munit", "C+R"),
        *(
            pytest.param(*pair, marks=pytest.mark.slow)
            for pair in (("cyclegan", "C"), ("unit", "NC"), ("nice_gan", "C+R"))
        ),
    ],
)
def test_a_resumed_training_ends_with_the_bits_of_one_that_was_not_cut_off(backbone, mode, trained, tmp_path):
    """Weights, pools, optimizers and random states."""
    resumed = trained(backbone, mode).folder
    name, chosen = two_domain(backbone, mode)
    whole = train(name, out=tmp_path / "run", presets=SMOKE, settings={**chosen, **SMALL_POOL})
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


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cycle": "NC-R"}, "cycle: input should be a valid boolean.*received 'NC-R'"),
        ({"mode": "NC-R"}, "mode: is not a setting"),
        (
            {"backbone": "stargan"},
            "backbone: input should be 'cyclegan', 'munit', 'unit' or 'nice_gan', received 'stargan'",
        ),
        ({"backbone": "unit", "paired": True}, "backbone: expected cyclegan with paired, received 'unit'"),
        ({"cycle": True, "paired": True}, "paired: expected cycle off"),
    ],
)
def test_a_wrong_mode_or_backbone_trains_nothing(values, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train("reggan", out=tmp_path / "run", presets=SMOKE, settings=values)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_cyclegan_trains_volumes(tmp_path):
    values = {"data.spatial_shape": [16, 20, 16], "data.train_cases": 2, "data.validation_cases": 1}
    values["training.max_epochs"] = 1
    run = train("reggan", out=tmp_path / "run", presets=SMOKE, settings=values)
    trace = load_method(run, "cpu").trace({"source": torch.rand(1, 1, 18, 16, 17)})[0]
    assert trace.image.shape == (1, 18, 16, 17)


def test_unpaired_training(tmp_path):
    values = {"data.pairing": "random", "training.max_epochs": 1}
    run = train("reggan", out=tmp_path / "run", presets=SMOKE, settings=values)
    assert len(epochs(run)) == 1


def test_surgery_of_tracebench(tmp_path):
    values = {"data.train_cases": 2, "training.max_epochs": 1}
    run = train("munit", out=tmp_path / "run", presets=("tracebench", "postop", "smoke"), settings=values)
    assert sources(read_run(run).settings).test()[0]["case"] == "postop-test-0000"


# Its settings


def test_presets_size_every_backbone():
    for presets in ((), ("tracebench",), SMOKE, ("tracebench", "full")):
        assert set(resolve(REGGAN, presets).networks) == set(BACKBONES)
    for name, paired in (("reggan", False), ("cyclegan", False), ("pix2pix", True)):
        method = build_method(name, resolve(method_class(name).settings_type, SMOKE))
        assert method.networks.conditional == paired


def test_full_is_the_network_of_the_paper():
    full, paper = resolve(REGGAN, ("tracebench", "full")), REGGAN()
    for name in ("networks", "registration_channels", "registration_downsampling"):
        assert getattr(full, name) == getattr(paper, name), name


def test_one_size_of_a_backbone_is_changed_by_its_dotted_name():
    settings = resolve(REGGAN, (), {"networks.munit.channels": 4})
    paper = REGGAN().networks
    assert settings.networks == {**paper, "munit": {**paper["munit"], "channels": 4}}


def test_default_backbone_is_cyclegan_one_way():
    backbone = build_method("reggan", resolve(REGGAN, SMOKE)).networks
    assert isinstance(backbone, CycleGAN)
    assert not backbone.bidirectional


# Its bundle with other settings


@pytest.mark.parametrize(("backbone", "mode"), [("unit", "C+R"), ("munit", "C+R"), ("cyclegan", "pix2pix")])
def test_has_the_properties_of_a_bundle(backbone, mode, tmp_path):
    name, chosen = two_domain(backbone, mode)
    folder = bundle(name, tmp_path / "bundle", presets=SMOKE, settings=chosen)
    for kind, names in (("train", ("train",)), ("infer", ("train", "evaluate"))):
        assert isinstance(check_properties(folder, tmp_path, kind, names).network_def, BACKBONES[backbone])
    prepared_images(tmp_path / "data")
    check_properties(folder, tmp_path, "infer", ("inference",), dataset_dir=str(tmp_path / "data"))


def test_monai_bundle_run_gives_the_weights_of_the_python_call(trained, tmp_path):
    run = trained("munit", "C+R").folder
    run_bundle(bundle_of(run, tmp_path / "bundle"), "train", run_dir=str(tmp_path / "run"))
    assert same(weights(run), weights(tmp_path / "run"))
    assert (run / "history.csv").read_text() == (tmp_path / "run" / "history.csv").read_text()


@pytest.mark.parametrize(("backbone", "mode"), some_slow(("cyclegan", "NC+R"), ("unit", "NC"), ("unit", "C")))
def test_evaluation_tells_what_medtrace_evaluate_tells(backbone, mode, trained, tmp_path):
    run = trained(backbone, mode).folder
    check_evaluation(run, bundle_of(run, tmp_path / "of-run"), tmp_path, {"mae", "psnr"})


@pytest.mark.parametrize(
    ("backbone", "mode"),
    some_slow(("cyclegan", "NC+R"), ("munit", "C+R"), ("munit", "C"), ("cyclegan", "pix2pix")),
)
def test_inference_writes_the_trace_of_every_source(backbone, mode, trained, tmp_path):
    run = trained(backbone, mode).folder
    images = prepared_images(tmp_path / "data")["source"]
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    run_bundle(bundle_of(run, tmp_path / "bundle"), "inference", run_dir=str(run), **places)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["subject-0", "subject-1"]
    for number, trace in enumerate(load_method(run, "cpu").trace({"source": images * 2 - 1})):
        saved = load_trace(tmp_path / "out" / f"subject-{number}")
        torch.testing.assert_close(saved.affine, AFFINE)
        torch.testing.assert_close(saved.image, trace.image, atol=1e-5, rtol=0)
        assert torch.count_nonzero(saved.ddf) == 0


@pytest.mark.parametrize(
    ("backbone", "mode", "message"),
    [("unit", "NC+R", "Missing key"), ("cyclegan", "C+R", "Missing key"), ("cyclegan", "NC", "Unexpected key")],
)
def test_inference_refuses_the_weights_of_another_network(backbone, mode, message, trained, tmp_path):
    name, chosen = two_domain(backbone, mode)
    folder = bundle(name, tmp_path / "bundle", presets=SMOKE, settings=chosen)
    prepared_images(tmp_path / "data")
    places = {"dataset_dir": str(tmp_path / "data"), "output_dir": str(tmp_path / "out")}
    with pytest.raises(RuntimeError) as caught:
        run_bundle(folder, "inference", run_dir=str(trained().folder), **places)
    assert message in str(caught.value.__cause__)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("process_group")
@pytest.mark.filterwarnings("ignore:Local rank information")
@pytest.mark.parametrize(
    ("backbone", "mode"),
    some_slow(
        ("cyclegan", "NC+R"), ("munit", "C+R"), ("munit", "C"), ("unit", "NC"), ("unit", "C+R"), ("nice_gan", "NC")
    ),
)
def test_each_network_is_distributed_by_itself(backbone, mode, trained, tmp_path):
    run = trained(backbone, mode).folder
    wrapped = train_in_group(bundle_of(run, tmp_path / "bundle"), tmp_path / "run")
    assert wrapped == networks(backbone, mode)
    assert checkpoint(tmp_path / "run")["method"].keys() == checkpoint(run)["method"].keys()


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
def test_the_readme_of_a_bundle_names_every_configuration_and_choice(name):
    text = (BUNDLES / name / "docs" / "README.md").read_text()
    assert {path.name for path in (BUNDLES / name / "configs").glob("*.yaml")} <= set(re.findall(r"\w+\.yaml", text))
    choices = {"reggan": (*BACKBONES, "pix2pix"), "plasticine": ("palette", "ddib"), "metaregnet": ("voxelmorph",)}
    assert all(f"`{choice}`" in text for choice in choices.get(name, ()))
    known = names_of(method_class(name).settings_type)
    table = re.findall(r"^\| `([a-z_.]+)` \|", text, flags=re.MULTILINE)
    assert set(table) <= set(known), "settings that the table reports of exist"
