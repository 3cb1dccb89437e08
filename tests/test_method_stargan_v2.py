"""StarGAN v2: styles, the fading diversity, R1, and what a translation takes for a style."""

import pytest
import torch

from medtrace.engines import build_optimizers
from medtrace.methods import build_method, method_class, resolve
from medtrace.methods.stargan_v2.method import gradient_penalty
from medtrace.networks.stargan_v2 import StarGANv2

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


def test_the_mapping_network_learns_at_a_hundredth_of_the_rate(method):
    settings = method_class("stargan_v2").settings_type()
    optimizer = build_optimizers(method, settings)["generator"]
    others, mapping = optimizer.param_groups
    assert (others["lr"], mapping["lr"]) == pytest.approx((1e-4, 1e-6))
    assert others["weight_decay"] == mapping["weight_decay"] == 1e-4
    assert {id(p) for p in mapping["params"]} == {id(p) for p in method.networks.mapping.parameters()}
    stepped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(stepped) == sorted(id(p) for p in method.parameters_of("generator"))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_second_step_trains_the_generator_alone_by_references_whatever_the_seed(method, seed):
    for by_noise in (True, False, True):
        torch.manual_seed(seed)
        method.zero_grad()
        terms = method.generator_terms(method.phase("generator"), batch(), {})
        sum(terms.values()).backward()
        for network in (method.networks.mapping, method.networks.style_encoder):
            learning = [parameter.grad is not None for parameter in network.parameters()]
            assert all(learning) if by_noise else not any(learning)
        assert all(parameter.grad is not None for parameter in method.networks.generator.parameters())
        method.after_step()


def test_one_case_has_two_styles_too(method):
    method.after_step()
    single = {name: image[:1] for name, image in batch().items()}
    assert method.generator_terms(method.phase("generator"), single, {})["diversity"] < 0


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
    assert max(values[:2]) < 0
    assert values[::2] == pytest.approx([values[0], 0.5 * values[0], 0], abs=1e-6)  # styles from noise
    assert values[1::2] == pytest.approx([values[1], values[1] / 3, 0], abs=1e-6)  # styles of references


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
    for preset in ("full", "gpu"):
        wide = resolve(type(settings), ("tracebench", "default", preset))
        assert (wide.networks, wide.diversity_steps) == (settings.networks, 100_000)
        assert wide.optimizer.learning_rate == 1e-4
        assert (wide.training.batch_size, wide.training.ema_decay) == (8, 0.999)
