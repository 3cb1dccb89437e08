"""Settings from elsewhere that ask for networks larger than there is memory are refused before any is made."""

import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from medtrace.engines.runs import RECORD, WEIGHTS, load_method, read_run
from medtrace.guard import configurations
from medtrace.guard.bounds import MAX_NUMBER
from medtrace.guard.method_size import check_shapes, check_size
from medtrace.methods import method_class, resolve, settings_of
from medtrace.workflows.train import train
from tests.standins import make_run
from tests.test_hostile import NAMES

ROOM = 2 << 30
"""Bytes that a process may take beside what it has."""
SMOKE = ("tracebench", "smoke")
LARGE = [
    ("tracetrans", "channels", [10**9]),
    ("tracetrans", "channels", [90_000, 90_000]),
    ("tracetrans", "discriminator_layers", 10**18),
    ("tracetrans", "discriminator_layers", 10**5),
    ("metaregnet", "channels", [10**9]),
    ("plasticine", "estimator.residual_blocks", 10**18),
    pytest.param("reggan", "networks.cyclegan.num_blocks", 10**9, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def _nothing_is_allowed(monkeypatch):
    monkeypatch.delenv(configurations.ALLOW, raising=False)


@pytest.fixture
def little_memory():
    """Allocating more than ROOM fails in this process, rather than filling the machine's memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def small(name, **overrides):
    """A method's smallest settings."""
    return resolve(method_class(name).settings_type, SMOKE, overrides)


def run_of(folder, name):
    """A run with the smallest settings and the method's first weights."""
    return make_run(folder, name, presets=SMOKE)


def change(run, place, value):
    """Put a value at a dotted name of a run's settings, as somebody else might have."""
    content = json.loads((run / RECORD).read_text())
    *parts, last = place.split(".")
    holder = content["settings"]
    for part in parts:
        holder = holder[part]
    assert last in holder
    holder[last] = value
    (run / RECORD).write_text(json.dumps(content))
    return run


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("name", "place", "value"), LARGE)
def test_networks_that_cannot_be_are_refused(tmp_path, name, place, value):
    run = change(run_of(tmp_path / "run", name), place, value)
    with pytest.raises(ValueError, match=r"run\.json: .*(less than or equal to|networks|GiB)") as refusal:
        load_method(run, "cpu")
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("little_memory")
def test_a_resumed_training_is_checked_too(tmp_path):
    run = change(run_of(tmp_path / "run", "tracetrans"), "channels", [90_000, 90_000])
    with pytest.raises(ValueError, match=r"would take .* GiB; expected at most .* GiB.*MEDTRACE_MAX_GIB"):
        train("tracetrans", out=run, resume=True, device="cpu")


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    settings = small("tracetrans")
    check_size(lambda: method_class("tracetrans").from_settings(settings), tmp_path)
    monkeypatch.setenv("MEDTRACE_MAX_GIB", "0.00001")
    with pytest.raises(ValueError, match=r"would take 1\.37e-05 GiB"):
        check_size(lambda: method_class("tracetrans").from_settings(settings), tmp_path)


def test_other_shapes_than_the_weights_are_refused_before_networks_are_made(tmp_path):
    run = change(run_of(tmp_path / "run", "tracetrans"), "channels", [8, 8])
    with pytest.raises(
        ValueError, match=r"weights\.safetensors holds no weights of these settings \(networks.*: expected shape"
    ):
        load_method(run, "cpu")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shipped_is_accepted_without_drawing_a_number(tmp_path, name):
    settings = small(name)
    before = torch.get_rng_state()
    method = check_size(lambda: method_class(name).from_settings(settings), tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert {member.device.type for member in method.parameters()} == {"meta"}


def test_seeds_and_epochs_may_be_large():
    settings = small("tracetrans", **{"training.seed": 10**9, "training.max_epochs": 10**7})
    assert (settings.training.seed, settings.training.max_epochs) == (10**9, 10**7)


def test_a_seed_of_the_sampling_may_be_large():
    assert small("plasticine", **{"sampling.seed": 10**9}).sampling.seed == 10**9


@pytest.mark.parametrize(("number", "taken"), [(100_000, True), (0, False), (-100_000, False), (100_001, False)])
def test_the_largest_number_that_networks_are_built_of(number, taken):
    assert MAX_NUMBER == 100_000
    for values in ({"warp_bins": number}, {"channels": [number]}):
        if taken:
            settings_of("tracetrans", values)
            continue
        with pytest.raises(ValueError, match="than or equal to"):
            settings_of("tracetrans", values)


def test_weights_of_more_than_the_networks_are_refused(tmp_path):
    method = torch.nn.Linear(2, 3)
    check_shapes(method, method.state_dict(), tmp_path)
    for states, text in (
        ({**method.state_dict(), "more": torch.zeros(1)}, r"more: expected shape none, received \(1,\)"),
        ({"weight": torch.zeros(3, 2)}, r"bias: expected shape \(3,\), received none"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, r"weight: expected shape \(3, 2\), received \(2, 3\)"),
    ):
        with pytest.raises(ValueError, match=text):
            check_shapes(method, states, tmp_path)


def test_weights_of_another_group_alone_are_refused(tmp_path):
    run = run_of(tmp_path / "run", "tracetrans")
    tensors = load_file(run / WEIGHTS)
    save_file({name.replace("method.", "other.", 1): value for name, value in tensors.items()}, run / WEIGHTS)
    with pytest.raises(ValueError, match=r"holds no weights of these settings .* received none"):
        load_method(run, "cpu")


def test_the_file_holds_what_the_test_changed(tmp_path):
    run = run_of(tmp_path / "run", "reggan")
    assert read_run(run).settings.networks["cyclegan"]["num_blocks"] == 1
    change(run, "networks.cyclegan.num_blocks", 10**9)
    written = json.loads((run / RECORD).read_text())
    assert written["settings"]["networks"]["cyclegan"]["num_blocks"] == 10**9
