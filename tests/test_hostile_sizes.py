"""A configuration from elsewhere that asks for networks larger than there is memory is refused before any is made."""

import resource
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from medtrace.guard import configurations
from medtrace.guard.declared_networks import MAX_NUMBER, check_networks, check_shapes
from medtrace.workflows.runs import load_objective
from medtrace.workflows.train import train
from tests.test_hostile import NAMES, merged, run_of

ROOM = 2 << 30
"""Bytes that a process may take beside what it has."""
LARGE = [
    ("tracetrans", "channels", [10**9]),
    ("tracetrans", "channels", [90_000, 90_000]),
    ("tracetrans", "discriminator_layers", 10**18),
    ("tracetrans", "discriminator_layers", 10**5),
    ("metaregnet", "channels", [10**9]),
    ("plasticine", "residual_blocks", 10**18),
    ("reggan", "host_options#cyclegan#num_blocks", 10**9),
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


def changed(bundle, place, value):
    """A run's small configuration with one value in it."""
    config = merged(bundle, "tracebench", "smoke")
    parser = ConfigParser()
    parser.read_config(config)
    assert place.split("#")[0] in config
    parser[place] = value
    return {key: entry for key, entry in parser.get().items() if key != "_meta_"}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize(("bundle", "place", "value"), LARGE)
def test_networks_that_cannot_be_are_refused(tmp_path, bundle, place, value):
    run = run_of(tmp_path / "run", changed(bundle, place, value))
    with pytest.raises(ValueError, match=r"config\.yaml: .*(whole number|networks|GiB)"):
        load_objective(run, "cpu")


@pytest.mark.usefixtures("little_memory")
def test_a_resumed_training_is_checked_too(tmp_path):
    run = run_of(tmp_path / "run", changed("tracetrans", "channels", [90_000, 90_000]))
    with pytest.raises(ValueError, match=r"would take .* GiB; expected at most 16 GiB.*MEDTRACE_MAX_GIB"):
        train("tracetrans", out=run, resume=True)


def test_the_limit_can_be_set(tmp_path, monkeypatch):
    config = merged("tracetrans", "tracebench", "smoke")
    check_networks(config, tmp_path)
    monkeypatch.setenv("MEDTRACE_MAX_GIB", "0.00001")
    with pytest.raises(ValueError, match=r"would take 1\.37e-05 GiB"):
        check_networks(config, tmp_path)


def test_other_shapes_than_the_weights_are_refused_before_networks_are_made(tmp_path):
    run = run_of(tmp_path / "run", changed("tracetrans", "channels", [8, 8]))
    states = objective_of(merged("tracetrans", "tracebench", "smoke")).state_dict()
    torch.save({"objective": states}, run / "checkpoints" / "final.pt")
    with pytest.raises(
        ValueError, match=r"final\.pt holds no weights of this configuration \(networks.*: expected shape"
    ):
        load_objective(run, "cpu")


def objective_of(config):
    parser = ConfigParser()
    parser.read_config(config)
    return parser.get_parsed_content("objective")


@pytest.mark.parametrize("bundle", NAMES)
def test_what_is_shipped_is_accepted_without_drawing_a_number(tmp_path, bundle):
    config = merged(bundle, "tracebench", "smoke")
    before = torch.get_rng_state()
    objective = check_networks(config, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert {member.device.type for member in objective.parameters()} == {"meta"}


def test_seeds_and_epochs_may_be_large(tmp_path):
    config = merged("tracetrans", "tracebench", "smoke") | {"seed": 10**9, "max_epochs": 10**9}
    check_networks(config, tmp_path)
    with pytest.raises(ValueError, match=f"channels#0: expected a whole number up to {MAX_NUMBER}, received 100001"):
        check_networks(config | {"channels": [MAX_NUMBER + 1]}, tmp_path)


def test_a_seed_of_the_objective_may_be_large(tmp_path):
    check_networks(merged("plasticine", "tracebench", "smoke") | {"sampling_seed": 10**9}, tmp_path)


def test_the_file_holds_what_the_test_changed(tmp_path):
    run = run_of(tmp_path / "run", changed("reggan", "host_options#cyclegan#num_blocks", 10**9))
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["host_options"]["cyclegan"]["num_blocks"] == 10**9


@pytest.mark.parametrize(("number", "taken"), [(100_000, True), (-100_000, True), (100_001, False), (-100_001, False)])
def test_the_largest_number_that_networks_are_built_of(tmp_path, number, taken):
    config = changed("tracetrans", "objective#warp_bins", number)
    text = f"objective#warp_bins: expected a whole number up to 100000, received {number}"
    if taken and number > 0:
        check_networks(config, tmp_path)
        return
    with pytest.raises(ValueError) as refusal:
        check_networks(config, tmp_path)
    assert (text in str(refusal.value)) is not taken


def test_weights_of_more_than_the_networks_are_refused(tmp_path):
    objective = torch.nn.Linear(2, 3)
    check_shapes(objective, objective.state_dict(), tmp_path)
    for states, text in (
        ({**objective.state_dict(), "more": torch.zeros(1)}, r"more: expected shape none, received \(1,\)"),
        ({"weight": torch.zeros(3, 2)}, r"bias: expected shape \(3,\), received none"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(3)}, r"weight: expected shape \(3, 2\), received \(2, 3\)"),
        (None, "expected shape"),
    ):
        with pytest.raises(ValueError, match=text):
            check_shapes(objective, states, tmp_path)
