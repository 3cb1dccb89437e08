"""UNSB: the bridge's steps, its energy, and one translation for one image."""

import math

import pytest
import torch
from torch import nn

from medtrace.methods import build_method, method_class, resolve
from medtrace.networks.unsb import UNSB, TimedPatches, time_features

SIZES = {"channels": 4, "num_blocks": 1, "noise_channels": 4, "mlp_channels": 8, "head_features": 8}
SMOKE = ("tracebench", "smoke")


@pytest.fixture(scope="module")
def bridge():
    torch.manual_seed(0)
    return UNSB(2, 1, 1, discriminator_channels=4, discriminator_layers=1, **SIZES).eval()


def test_a_step_is_that_of_a_pinned_brownian_motion(bridge):
    """Mean and variance of Kim et al. at t = 2/5: s = 1/3, variance s (1 − s) τ (1 − t)."""
    image, end = torch.full((1, 1, 200, 200), 0.9), torch.full((1, 1, 200, 200), -0.3)
    moved = bridge.onward(image, end, 2, torch.randn(image.shape, generator=torch.Generator().manual_seed(0)))
    assert float(moved.mean()) == pytest.approx(0.9 + (-0.3 - 0.9) / 3, abs=1e-3)
    assert float(moved.std()) == pytest.approx(math.sqrt(1 / 3 * 2 / 3 * 0.01 * 3 / 5), rel=0.02)
    assert torch.equal(bridge.onward(image, end, 4, torch.randn(image.shape)), end)


def test_a_walk_starts_at_the_source_and_ends_at_a_guess(bridge):
    source = torch.rand(2, 1, 16, 20) * 2 - 1
    image, end = bridge.walk(source, 0)
    assert image is end is source
    with torch.no_grad():
        image, end = bridge.walk(source, 5)
    assert torch.equal(image, end)
    assert end.abs().max() <= 1


def test_networks_know_the_time(bridge):
    assert len(torch.unique(time_features(torch.arange(5) / 5), dim=0)) == 5
    source, noise = torch.rand(1, 1, 16, 16), torch.zeros(1, 4)
    with torch.no_grad():
        assert not torch.allclose(bridge.guess(source, 0, noise), bridge.guess(source, 3, noise), atol=1e-5)
        patches = TimedPatches(2, 1, channels=4, num_layers=1)
        assert not torch.equal(patches(source, torch.zeros(1)), patches(source, torch.full((1,), 0.6)))


class Energy(nn.Module):
    """The mean of what it is shown second."""

    def forward(self, pairs, time):
        return pairs[:, 2:3]


def test_the_entropys_bound_is_that_of_donsker_and_varadhan():
    torch.manual_seed(0)
    method = build_method("unsb", resolve(method_class("unsb").settings_type, SMOKE))
    method.networks.energy = Energy()
    pair, beside = torch.zeros(2, 2, 8, 8), torch.zeros(2, 2, 8, 8)
    pair[0, 0], beside[0, 0], beside[1, 0] = 3.0, 1.0, 2.0
    own, apart = method._energies(pair, beside, 0)
    assert float(own) == 1.5
    assert float(apart) == pytest.approx(math.log((math.e + math.e**2) / 2))
    context = {"pair": pair, "beside": beside, "step": 0}
    terms = method.energy_terms(method.phase("energy"), {}, context)
    assert float(terms["energy"]) == pytest.approx(float(apart) - 1.5)
    weights = method.phase("generator").weights
    assert (weights["transport"], weights["entropy"]) == (0.01, 0.01)


def test_patches_are_compared_as_they_are_at_the_start(monkeypatch):
    torch.manual_seed(0)
    method, times = build_method("unsb", resolve(method_class("unsb").settings_type, SMOKE)), []
    features = method.networks.generator.features

    def seen(image, time, noise):
        times.append(float(time[0]))
        return features(image, time, noise)

    monkeypatch.setattr(method.networks.generator, "features", seen)
    method._nce(torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16))
    assert times == [0, 0]


def test_one_image_has_one_translation_and_another_seed_another():
    torch.manual_seed(0)
    method = build_method("unsb", resolve(method_class("unsb").settings_type, SMOKE))
    source = torch.rand(2, 1, 16, 16) * 2 - 1
    first, again = (method.trace({"source": source})[1].image for _ in range(2))
    assert torch.equal(first, again)
    method.seed = 1
    assert not torch.equal(method.trace({"source": source})[1].image, first)


def test_papers_settings_and_what_is_refused():
    settings = method_class("unsb").settings_type()
    assert (settings.steps, settings.tau, settings.bridge_weight, settings.nce_weight) == (5, 0.01, 1, 1)
    with pytest.raises(ValueError, match="out_channels: expected in_channels=1"):
        UNSB(2, 1, 2, **SIZES)
