"""NICE-GAN: the blocks against arithmetic and torch, decoupled training, grids, one way, errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medtrace.networks import NICEGAN, Code
from medtrace.networks.blocks.class_activation import ClassActivationAttention
from medtrace.networks.nice_gan import AdaptiveLayerInstanceNorm, LayerInstanceNorm, NICEDiscriminator


def small(in_channels=1, out_channels=1, bidirectional=True, **options):
    sizes = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, **options}
    return NICEGAN(2, in_channels, out_channels, bidirectional, **sizes)


def image(*shape):
    return torch.rand(*shape) * 2 - 1


def blend_at(rho_logit, channels=3):
    norm = AdaptiveLayerInstanceNorm(channels).double()
    nn.init.constant_(norm.rho_logit, rho_logit)
    return norm


@pytest.fixture
def features():
    # Means and spreads differ between channels, or both normalizations would agree.
    torch.manual_seed(0)
    offset = torch.tensor([0.0, 4.0, -2.0], dtype=torch.float64)[:, None, None]
    return torch.randn(2, 3, 5, 4, dtype=torch.float64) * (offset.abs() + 1) + offset


ONES, ZEROS = torch.ones(2, 3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)


def test_blend_is_torchs_instance_norm_at_rho_one(features):
    torch.testing.assert_close(blend_at(50.0)(features, ONES, ZEROS), nn.InstanceNorm2d(3)(features))


def test_blend_is_torchs_layer_norm_at_rho_zero(features):
    expected = nn.LayerNorm([3, 5, 4], elementwise_affine=False)(features)
    torch.testing.assert_close(blend_at(-50.0)(features, ONES, ZEROS), expected)
    assert not torch.allclose(expected, nn.InstanceNorm2d(3)(features), atol=0.1)


def test_blend_in_between_is_the_weighted_sum_with_scale_and_shift(features):
    scale, shift = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    rho = torch.sigmoid(torch.tensor(1.0, dtype=torch.float64))
    mixed = rho * F.instance_norm(features) + (1 - rho) * F.layer_norm(features, (3, 5, 4))
    expected = mixed * scale[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(blend_at(1.0)(features, scale, shift), expected)


def test_blends_start_where_they_are_said_to():
    torch.testing.assert_close(torch.sigmoid(AdaptiveLayerInstanceNorm(2).rho_logit), torch.full((2,), 0.9))
    own = LayerInstanceNorm(3)
    torch.testing.assert_close(torch.sigmoid(own.blend.rho_logit), torch.full((3,), 0.1))
    given = image(2, 3, 4, 4)
    expected = own.blend(given, torch.ones(3), torch.zeros(3))
    assert torch.equal(own(given), expected)


def test_blend_passes_gradcheck(features):
    norm = blend_at(0.3)
    scale, shift = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    inputs = [value.clone().requires_grad_() for value in (features[..., :2], scale, shift)]
    assert torch.autograd.gradcheck(norm, inputs)


def test_blend_of_a_constant_image_is_its_shift():
    result = AdaptiveLayerInstanceNorm(2)(torch.full((1, 2, 4, 4), 7.0), torch.ones(1, 2), torch.full((1, 2), 0.5))
    torch.testing.assert_close(result, torch.full_like(result, 0.5), atol=1e-3, rtol=0)


def known_attention(gamma):
    """One channel; classifier weights (0.6, 0.8), whose norm is 1; A adds the two halves, with a bias of 1."""
    attention = ClassActivationAttention(1)
    with torch.no_grad():
        attention.classifier.weight = torch.tensor([[0.6, 0.8]])
        attention.mixing.weight.fill_(1.0)
        attention.mixing.bias.fill_(1.0)
        attention.gamma.fill_(gamma)
    return attention


def test_attention_of_known_values():
    given = torch.tensor([[[[1.0, 2.0], [3.0, -6.0]]]])  # mean 0, maximum 3
    attended, logits = known_attention(0.5)(given)
    torch.testing.assert_close(logits, torch.full((1, 1, 1, 1), 0.6 * 0.0 + 0.8 * 3.0))
    # z + 0.5·(1.4·z + 1) = 1.7·z + 0.5, leaky below zero
    torch.testing.assert_close(attended, torch.tensor([[[[2.2, 3.9], [5.6, 0.2 * -9.7]]]]))


def test_attention_starts_switched_off():
    attention, given = ClassActivationAttention(3), image(2, 3, 4, 4)
    torch.testing.assert_close(attention(given)[0], F.leaky_relu(given, 0.2))


def test_attention_weighs_each_channel_by_its_own_weights():
    attention = ClassActivationAttention(2)
    with torch.no_grad():
        attention.classifier.weight = torch.tensor([[1.0, 0.0, 0.0, 0.0]])  # the mean of the first channel
        attention.mixing.weight.copy_(torch.eye(2).repeat(1, 2)[:, :, None, None])
        attention.mixing.bias.zero_()
        attention.gamma.fill_(1.0)
    given = torch.rand(1, 2, 3, 3)
    attended, logits = attention(given)
    torch.testing.assert_close(attended, given * torch.tensor([2.0, 1.0])[:, None, None])
    torch.testing.assert_close(logits.squeeze(), given[0, 0].mean())


@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (5, 7), (1, 3)])
def test_translation_and_reconstruction_lie_on_the_images_grid(shape):
    backbone, source, target = small(2, 3), image(2, 2, *shape), image(2, 3, *shape)
    translated = backbone(source)
    assert translated.shape == target.shape
    assert translated.dtype == torch.float32
    assert translated.abs().max() <= 1
    assert backbone.translate(target, "target").shape == source.shape
    assert backbone.decode(backbone.encode(target, "target"), "target").shape == target.shape


def test_code_is_a_latent_at_a_quarter_of_the_grid():
    code = small().encode(image(1, 1, 30, 32), "source")
    assert code.content.shape == (1, 8, 8, 8)
    assert code.style is None
    assert code.shape == (30, 32)


def test_padding_is_undone_where_it_was_done():
    # The latent of an odd grid is that of the image padded by its border, and the result its middle.
    backbone, odd = small().eval(), image(1, 1, 13, 14)
    padded = F.pad(odd, (1, 1, 1, 2), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(backbone(odd), backbone(padded)[:, :, 1:14, 1:15])


def test_a_code_without_a_grid_decodes_to_the_latents():
    backbone = small()
    assert backbone.decode(Code(torch.rand(1, 8, 5, 6)), "target").shape == (1, 1, 20, 24)


@pytest.mark.parametrize(
    ("size", "patches"), [(256, (30, 6)), (128, (14, 2)), (97, (10, 1)), (16, (1, 1)), (3, (1, 1))]
)
def test_every_scale_and_the_activation_assess(size, patches):
    logits = small().discriminate(image(2, 1, size, size), "target")
    assert [tuple(scale.shape) for scale in logits] == [(2, 1, n, n) for n in (*patches, 1)]
    assert all(torch.isfinite(scale).all() for scale in logits)


@pytest.mark.parametrize("layers", [(1,), (0, 1, 1)])
def test_number_of_scales_is_a_parameter(layers):
    backbone = small(discriminator_layers=layers)
    assert len(backbone.discriminate(image(1, 1, 32, 32), "source")) == len(layers) + 1


def test_patches_see_70_and_286_pixels():
    assess = NICEDiscriminator(1, 2, 2, (1, 2)).eval()
    seen = image(1, 1, 512, 512).requires_grad_()
    for logits, extent in zip(assess(seen), (70, 286)):
        middle = logits.shape[2] // 2
        (gradient,) = torch.autograd.grad(logits[0, 0, middle, middle], seen, retain_graph=True)
        rows = gradient[0, 0].abs().sum(1).nonzero()
        # The attention is off at the start, so that nothing else is seen.
        assert rows.max() - rows.min() + 1 == extent


def test_discriminators_weights_have_a_spectral_norm_of_one():
    assess = NICEDiscriminator(1, 8, 2, (1, 2))
    bounded = [m for m in assess.modules() if isinstance(m, nn.Conv2d) and nn.utils.parametrize.is_parametrized(m)]
    assert len(bounded) == 2 + 3 + 2 + 2
    for convolution in bounded:
        convolution.weight  # noqa: B018 - every access in training is one power iteration
        norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), ord=2)
        assert 0.9 < norm < 1.1
    torch.testing.assert_close(assess.attention.classifier.weight.norm(), torch.tensor(1.0))


def test_encoder_learns_nothing_in_the_generators_turn_but_passes_gradients():
    backbone = small()
    for parameter in backbone.discriminators.parameters():
        parameter.requires_grad_(False)
    source = image(1, 1, 32, 32)
    fake = backbone.decode(backbone.encode(source, "source"), "target")
    # Only through the target's encoder does the cycle reach the target's generator.
    back = backbone.decode(backbone.encode(fake, "target"), "source")
    back.square().mean().backward()
    assert all(p.grad is None for p in backbone.discriminators.parameters())
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.decoders.parameters())
    assert backbone.decoders["target"].head.weight.grad.abs().max() > 0


def test_encoder_learns_in_the_discriminators_turn():
    backbone = small()
    torch.nn.init.constant_(backbone.discriminators["target"].attention.gamma, 0.5)
    logits = backbone.discriminate(image(1, 1, 32, 32), "target")
    torch.stack([(scale - 1).square().mean() for scale in logits]).sum().backward()
    assess = backbone.discriminators["target"]
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in assess.parameters())
    assert all(p.grad is None for p in backbone.decoders.parameters())


def test_blocks_add_to_what_they_are_given():
    block = small().decoders["target"].blocks[0]
    given, none = image(1, 16, 4, 4), torch.zeros(1, 16)
    assert torch.equal(block(given, none, none), given)
    assert not torch.allclose(block(given, none + 1, none), given, atol=0.1)


def test_there_are_no_encoders_and_a_domains_discriminator_encodes_it():
    backbone, given = small().eval(), image(1, 1, 16, 16)
    assert len(backbone.encoders) == 0
    for domain in ("source", "target"):
        expected = backbone.discriminators[domain].encode(given)
        assert torch.equal(backbone.encode(given, domain).content, expected)
    assert not torch.equal(backbone.encode(given, "source").content, backbone.encode(given, "target").content)


def test_one_way_has_one_of_each_and_encodes_sources_with_it():
    backbone, given = small(bidirectional=False).eval(), image(1, 1, 16, 16)
    assert list(backbone.decoders) == list(backbone.discriminators) == ["target"]
    assert torch.equal(backbone.encode(given, "source").content, backbone.encode(given, "target").content)
    assert backbone(given).shape == given.shape
    with pytest.raises(ValueError, match="bidirectional=True"):
        backbone.decode(backbone.encode(given, "target"), "source")


def test_published_term():
    assert dict(NICEGAN.internal_weights) == {"reconstruction": 10.0}


def test_published_sizes():
    # Guards the widths of the defaults, in millions of weights: two generators and two discriminators of color images,
    # the light version, which the authors say their paper's counts are of. Counted here; its table was not at hand.
    with torch.device("meta"):
        assess = NICEDiscriminator(3, 64, 2, (1, 2))
        backbone_decoder = NICEGAN(2, 3, 3, bidirectional=False, discriminator_channels=64).decoders["target"]
    assert round(2 * sum(p.numel() for p in backbone_decoder.parameters()) / 1e6, 1) == 16.2
    assert round(2 * sum(p.numel() for p in assess.parameters()) / 1e6, 1) == 93.7


def test_state_dict_round_trip_gives_the_same_answer():
    first, second, given = small(), small(), image(1, 1, 21, 16)
    first(given)  # moves the power iteration's vectors, which are part of the state
    second.load_state_dict(first.state_dict())
    first.eval(), second.eval()
    with torch.no_grad():
        assert torch.equal(first(given), second(given))
        for one, other in zip(first.discriminate(given, "source"), second.discriminate(given, "source")):
            assert torch.equal(one, other)


def test_image_stays_float32_under_autocast():
    backbone, given = small(), image(1, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        translated = backbone(given)
        assert all(torch.isfinite(scale).all() for scale in backbone.discriminate(given, "target"))
    assert translated.dtype == torch.float32
    assert torch.isfinite(translated).all()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NICEGAN(4, 1, 1), "spatial_dims: expected 2 or 3"),
        (lambda: small(1, 2, bidirectional=False), "received 1 and 2; set bidirectional=True"),
        (lambda: small(in_channels=0), "in_channels"),
        (lambda: small(channels=0), "channels"),
        (lambda: small(downsamplings=0), "downsamplings"),
        (lambda: small(num_blocks=-1), "num_blocks"),
        (lambda: small(discriminator_layers=()), "discriminator_layers"),
        (lambda: small(discriminator_layers=(1, -1)), "discriminator_layers"),
    ],
)
def test_wrong_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_one_number_of_layers_is_refused():
    with pytest.raises(TypeError, match=r"received 3; the published one is \(1, 2\)"):
        small(discriminator_layers=3)


def test_wrong_images_and_domains_are_refused():
    backbone = small()
    with pytest.raises(ValueError, match="expected 1 channel"):
        backbone.encode(image(1, 2, 8, 8), "source")
    with pytest.raises(ValueError, match="expected 2 spatial axes"):
        backbone.encode(image(1, 1, 8, 8, 8), "source")
    with pytest.raises(ValueError, match="domain"):
        backbone.encode(image(1, 1, 8, 8), "T1")
    with pytest.raises(TypeError, match="tensor"):
        backbone.encode(image(1, 1, 8, 8).numpy(), "source")
