"""StarGAN v2: styles, the fading diversity, R1, and what a translation takes for a style."""

import pytest
import torch
from torch import nn

from medtrace.methods import build_method, method_class, resolve
from medtrace.methods.stargan_v2.method import gradient_penalty
from medtrace.networks.stargan_v2 import SlowLinear, StarGANv2

SIZES = {
    "channels": 4, "downsamplings": 1, "assessing_downsamplings": 2, "style_channels": 4, "noise_channels": 4,
    "hidden_channels": 8,
}  # fmt: skip


@pytest.fixture
def method():
    torch.manual_seed(0)
    return build_method("stargan_v2", resolve(method_class("stargan_v2").settings_type, ("tracebench", "smoke")))


def batch():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(2, 1, 16, 24, generator=generator) * 2 - 1 for name in ("source", "target")}


def test_a_slow_layer_is_a_linear_one_that_adam_moves_less():
    torch.manual_seed(0)
    slow, plain = SlowLinear(3, 2, rate=0.01), nn.Linear(3, 2)
    with torch.no_grad():
        plain.weight.copy_(slow.weight * 0.01)
        plain.bias.copy_(slow.bias * 0.01)
    given = torch.randn(5, 3)
    before = slow(given).detach()
    torch.testing.assert_close(before, plain(given))
    for layer in (slow, plain):
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
        layer(given).sum().backward()
        optimizer.step()
    moved, fast = (slow.weight * 0.01).detach() - plain.weight.detach(), 0.1
    assert (slow(given) - before).abs().max() < 0.1 * (plain(given) - before).abs().max()
    torch.testing.assert_close(moved.abs(), torch.full((2, 3), fast - 0.001), rtol=1e-3, atol=1e-5)


def test_a_translation_has_the_domains_central_style(method):
    networks, source = method.networks.eval(), batch()["source"]
    styles = torch.stack([networks.mapping(noise[None], 1)[0] for noise in networks.center])
    expected = networks.translate(source, styles.mean(0).expand(2, -1))
    torch.testing.assert_close(networks(source), expected)
    other = networks.translate(source, networks.central_style(2, 0))
    assert not torch.allclose(other, expected, atol=1e-3)


def test_diversity_fades_over_its_steps(method):
    method.diversity_steps = 4
    values = []
    for _ in range(6):
        torch.manual_seed(3)
        values.append(float(method.generator_terms(method.phase("generator"), batch(), {})["diversity"].detach()))
        method.after_step()
    assert values[0] < 0
    assert values == pytest.approx([values[0] * left for left in (1, 0.75, 0.5, 0.25, 0, 0)], abs=1e-6)


def test_r1_is_half_the_squared_gradient():
    images = torch.randn(2, 1, 4, 4, requires_grad=True)
    weight = torch.randn(16, 1)
    penalty = gradient_penalty(images.flatten(1) @ weight, images)
    torch.testing.assert_close(penalty, 0.5 * weight.square().sum())


def test_more_domains_than_two():
    network = StarGANv2(2, 1, 1, num_domains=3, **SIZES)
    styles = [network.central_style(1, domain) for domain in range(3)]
    assert network.discriminator(torch.zeros(1, 1, 16, 16), 2).shape == (1, 1)
    assert not torch.equal(styles[1], styles[2])


def test_papers_settings_and_what_is_refused():
    settings = method_class("stargan_v2").settings_type()
    weights = (settings.style_weight, settings.diversity_weight, settings.cycle_weight, settings.penalty_weight)
    assert weights == (1, 1, 1, 1)
    assert (settings.training.batch_size, settings.training.ema_decay, settings.optimizer.betas) == (
        8,
        0.999,
        (0, 0.99),
    )
    with pytest.raises(ValueError, match="out_channels: expected in_channels=1"):
        StarGANv2(2, 1, 2, **SIZES)
