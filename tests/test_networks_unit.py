"""UNIT: grids, the shared layers, the noise on the code, its prior, and which networks exist."""

import copy

import pytest
import torch
from torch.nn import functional as F

from medtrace.networks import UNIT, Code, translation_backbone


def small(in_channels=1, out_channels=1, bidirectional=True, **options):
    return UNIT(
        2,
        in_channels,
        out_channels,
        bidirectional,
        **{"channels": 4, "num_blocks": 2, "discriminator_channels": 4} | options,
    )


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(32, 48), (37, 50), (5, 9), (1, 1)])
def test_translations_lie_on_the_images_grid(shape):
    backbone = small(1, 3).eval()
    assert backbone(image(2, 1, *shape)).shape == (2, 3, *shape)
    assert backbone.translate(image(2, 3, *shape), "target").shape == (2, 1, *shape)
    assert backbone(image(2, 1, *shape)).abs().max() <= 1


def test_a_code_is_the_mean_on_a_coarser_grid():
    backbone = small().train()
    code = backbone.encode(image(2, 1, 37, 50), "target")
    assert code.content.shape == (2, 16, 10, 13)
    assert code.style is None
    assert code.shape == (37, 50)
    assert torch.equal(code.content, backbone.encode(image(2, 1, 37, 50), "target").content)
    assert backbone.drawn(code) is code


def test_bidirectional_decides_which_networks_exist():
    two, one = small(), small(bidirectional=False)
    assert set(two.encoders) == set(one.encoders) == {"source", "target"}
    assert set(two.decoders) == set(two.discriminators) == {"source", "target"}
    assert set(one.decoders) == set(one.discriminators) == {"target"}
    with pytest.raises(ValueError, match="bidirectional=True"):
        one.translate(image(1, 1, 16, 16), "target")


def test_high_level_layers_are_one_module_and_counted_once():
    backbone = small()
    source, target = backbone.encoders["source"], backbone.encoders["target"]
    assert source[2] is target[2]
    assert source[1] is not target[1]
    assert backbone.decoders["source"][0] is backbone.decoders["target"][0]
    assert backbone.decoders["source"][1] is not backbone.decoders["target"][1]
    block = 2 * 16 * 16 * 9
    assert count(source[2]) == count(backbone.decoders["source"][0]) == block
    assert count(backbone.encoders) == count(source) + count(target) - block
    apart = small(shared_blocks=0)
    assert count(apart) - count(backbone) == 2 * block
    assert count(apart.encoders["source"]) == count(source)


def test_a_step_of_one_domain_changes_the_others_shared_layers():
    backbone = small()
    shared = backbone.encoders["target"][2]
    backbone.prior(backbone.encode(image(1, 1, 16, 16), "source")).backward()
    assert all(parameter.grad is not None for parameter in shared.parameters())
    assert all(parameter.grad is None for parameter in backbone.encoders["target"][1].parameters())


def test_noise_of_unit_variance_is_added_in_training_only():
    backbone = small(channels=8)
    seen = []
    backbone.decoders["target"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    code = backbone.encode(image(2, 1, 64, 64), "source")
    torch.manual_seed(5)
    backbone.train().decode(code, "target")
    backbone.eval().decode(code, "target")
    noise = (seen[0] - code.content).detach()
    torch.manual_seed(5)
    torch.testing.assert_close(noise, torch.randn_like(code.content), atol=1e-5, rtol=0)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert seen[1] is code.content


def test_evaluation_is_deterministic_and_training_follows_the_seed():
    backbone, source = small(), image(1, 1, 32, 32)
    backbone.eval()
    assert torch.equal(backbone.translate(source), backbone.translate(source))
    backbone.train()
    torch.manual_seed(1)
    first, second = backbone.translate(source), backbone.translate(source)
    torch.manual_seed(1)
    assert torch.equal(first, backbone.translate(source))
    assert not torch.equal(first, second)


def test_prior_is_the_mean_square_and_latent_cycle_that_of_the_second_code():
    backbone = small()
    code = Code(torch.tensor([1.0, -3.0, 0.0, 2.0]).reshape(1, 1, 2, 2))
    again = Code(torch.full((1, 1, 2, 2), -0.5))
    assert backbone.prior(code).item() == pytest.approx(14 / 4)
    assert backbone.latent_cycle(code, again).item() == pytest.approx(0.25)


def test_prior_is_twice_the_divergence_per_latent_value():
    mean = torch.randn(1, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    distance = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, torch.ones_like(mean)),
        torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean)),
    )
    torch.testing.assert_close(small().prior(Code(mean)), 2 * distance.mean())


def test_internal_weights_name_every_term():
    assert small().internal_weights == {"reconstruction": 10.0, "prior": 0.01, "latent_cycle": 0.01}


@pytest.mark.parametrize("bidirectional", [True, False])
def test_gradients_reach_every_parameter(bidirectional):
    backbone = small(bidirectional=bidirectional).train()
    images = {"source": image(2, 1, 32, 32), "target": image(2, 1, 32, 32, seed=1)}
    codes = {domain: backbone.encode(seen, domain) for domain, seen in images.items()}
    total = backbone.prior(codes["source"]) + backbone.prior(codes["target"])
    for domain in backbone.decoded_domains:
        other = "source" if domain == "target" else "target"
        fake = backbone.decode(backbone.drawn(codes[other]), domain)
        total = total + F.l1_loss(backbone.decode(codes[domain], domain), images[domain])
        total = total + sum(logits.square().mean() for logits in backbone.discriminate(fake, domain))
        if bidirectional:
            again = backbone.encode(fake, domain)
            total = total + backbone.latent_cycle(codes[other], again)
            total = total + F.l1_loss(backbone.decode(again, other), images[other])
    total.backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-12, name


def test_saved_weights_give_the_same_translation_and_keep_the_sharing():
    backbone, twin = small().eval(), small().eval()
    source = image(1, 1, 32, 32)
    assert not torch.equal(backbone(source), twin(source))
    twin.load_state_dict(copy.deepcopy(backbone.state_dict()))
    assert torch.equal(backbone(source), twin(source))
    assert twin.encoders["source"][2] is twin.encoders["target"][2]


def test_copies_keep_the_sharing():
    twin = copy.deepcopy(small())
    assert twin.encoders["source"][2] is twin.encoders["target"][2]


def test_images_stay_float32_under_autocast():
    backbone = small().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = backbone.encode(image(1, 1, 32, 32), "source")
        assert backbone.decode(code, "target").dtype == torch.float32
        assert backbone.prior(code).dtype == torch.float32


def test_published_sizes_are_the_default():
    with torch.device("meta"):
        backbone = UNIT(2, 3, 3, bidirectional=False)
    down, own, shared = backbone.encoders["source"]
    assert [layer[0].out_channels for layer in down] == [64, 128, 256]
    assert [layer[0].kernel_size for layer in down] == [(7, 7), (4, 4), (4, 4)]
    assert (len(own), len(shared)) == (3, 1)
    assert [len(part) for part in backbone.decoders["target"][:2]] == [1, 3]
    assert [layer[0].out_channels for layer in backbone.discriminators["target"].scales[0]] == [64, 128, 256, 512, 1]
    assert len(backbone.discriminators["target"].scales) == 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 1, 1), {}, "expected 2 or 3"),
        ((2, 0, 1), {}, "in_channels"),
        ((2, 1, 0), {}, "out_channels"),
        ((2, 1, 1), {"channels": 0}, "channels"),
        ((2, 1, 1), {"downsamplings": -1}, "downsamplings"),
        ((2, 1, 1), {"num_blocks": 0}, "num_blocks"),
        ((2, 1, 1), {"shared_blocks": 5}, "shared_blocks"),
        ((2, 1, 1), {"shared_blocks": -1}, "shared_blocks"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        UNIT(*arguments, **options)


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (torch.zeros(1, 2, 16, 16), "expected 1 channel"),
        (torch.zeros(1, 1, 16, 16, 16), "expected 2 spatial axes"),
    ],
)
def test_wrong_images_are_refused(seen, message):
    with pytest.raises(ValueError, match=message):
        small()(seen)


@pytest.mark.parametrize("name", ["munit", "unit", "nice_gan"])
def test_volumes_are_translated_and_assessed_as_images_are(name):
    """What is constant along the third axis, mirrored at its ends, is translated to what is constant along it."""
    torch.manual_seed(0)
    options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4}
    backbone = translation_backbone(name, 3, 1, 2, options=options).eval()
    slices = torch.rand(2, 1, 16, 12, 1) * 2 - 1
    translated = backbone(slices.expand(-1, -1, -1, -1, 8))
    assert translated.shape == (2, 2, 16, 12, 8)
    if name != "nice_gan":  # whose shuffled voxels differ by their place in a block
        torch.testing.assert_close(translated, translated[..., :1].expand_as(translated), atol=1e-4, rtol=0)
    assert all(logits.ndim == 5 for logits in backbone.discriminate(translated, "target"))
    assert backbone.translate(translated, "target").shape == (2, 1, 16, 12, 8)


def test_a_translation_starts_as_the_reconstruction():
    for same in (True, False):
        torch.manual_seed(0)
        network = small(same_start=same).eval()
        seen = torch.rand(1, 1, 16, 16) * 2 - 1
        equal = torch.equal(network(seen), network.decode(network.encode(seen, "source"), "source"))
        assert equal == same
    encoders = small().encoders
    first = [next(iter(encoders[domain].parameters())) for domain in ("source", "target")]
    assert first[0] is not first[1], "the domains part while they learn"
