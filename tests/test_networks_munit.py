"""MUNIT: grids, styles, adaptive normalization, which networks exist, and its latent reconstruction."""

import copy

import pytest
import torch
from torch.nn import functional as F

from medtrace.networks import MUNIT, Code
from medtrace.networks.blocks import (
    AdaptiveResidualBlock,
    MultiscaleDiscriminator,
    ResidualBlock,
    UpsamplingDecoder,
    adaptive_instance_norm,
)


def small(in_channels=1, out_channels=1, bidirectional=True, **options):
    options = {"channels": 4, "num_blocks": 2, "mlp_channels": 8, "discriminator_channels": 4} | options
    return MUNIT(2, in_channels, out_channels, bidirectional, **options)


def image(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("shape", [(32, 48), (37, 50), (5, 9), (1, 1)])
def test_translations_lie_on_the_images_grid(shape):
    backbone = small(1, 3)
    source, target = image(2, 1, *shape), image(2, 3, *shape)
    assert backbone(source).shape == (2, 3, *shape)
    assert backbone.translate(target, "target").shape == (2, 1, *shape)
    assert backbone(source).abs().max() <= 1


def test_a_code_is_content_on_a_coarser_grid_and_a_style():
    code = small().encode(image(2, 1, 37, 50), "target")
    assert code.content.shape == (2, 16, 10, 13)
    assert code.style.shape == (2, 8)
    assert code.shape == (37, 50)


def test_padding_is_cropped_on_the_side_where_it_was_added():
    backbone = small().eval()
    source = image(1, 1, 37, 50)
    padded = F.pad(source, (1, 1, 1, 2), mode="replicate")
    torch.testing.assert_close(backbone(padded)[..., 1:-2, 1:-1], backbone(source))


def test_a_code_without_a_shape_keeps_the_padded_grid():
    backbone = small()
    code = backbone.encode(image(1, 1, 37, 50), "source")._replace(shape=None)
    assert backbone.decode(code, "target").shape == (1, 1, 40, 52)


def test_bidirectional_decides_which_networks_exist():
    two, one = small(), small(bidirectional=False)
    assert set(two.encoders) == set(one.encoders) == {"source", "target"}
    assert set(two.decoders) == set(two.discriminators) == {"source", "target"}
    assert set(one.decoders) == set(one.discriminators) == {"target"}
    assert one.encode(image(1, 1, 16, 16), "source").style is None
    assert one.encode(image(1, 1, 16, 16), "target").style is not None


def test_one_way_refuses_to_decode_sources():
    backbone = small(bidirectional=False)
    with pytest.raises(ValueError, match="bidirectional=True"):
        backbone.translate(image(1, 1, 16, 16), "target")


def test_translation_is_deterministic_and_of_the_style_zero():
    backbone = small()
    source = image(1, 1, 32, 32)
    once = backbone.translate(source)
    assert torch.equal(once, backbone.translate(source))
    code = backbone.encode(source, "source")
    assert torch.equal(once, backbone.decode(code._replace(style=torch.zeros(1, 8)), "target"))


def test_drawn_styles_are_normal_follow_the_seed_and_change_the_image():
    backbone = small()
    code = backbone.encode(image(1, 1, 32, 32), "source")
    torch.manual_seed(3)
    first, second = backbone.drawn(code), backbone.drawn(code)
    torch.manual_seed(3)
    assert torch.equal(first.style, backbone.drawn(code).style)
    assert torch.equal(first.style, torch.randn(1, 8, generator=torch.Generator().manual_seed(3)))
    assert first.content is code.content
    assert first.shape == code.shape
    assert not torch.allclose(backbone.decode(first, "target"), backbone.decode(second, "target"), atol=1e-2)


def test_gradients_reach_every_parameter_of_the_generators_and_of_the_discriminators():
    backbone = small()
    source, target = image(2, 1, 32, 32), image(2, 1, 32, 32, seed=1)
    total = torch.zeros(())
    for seen, domain, goal in ((source, "source", "target"), (target, "target", "source")):
        code = backbone.encode(seen, domain)
        drawn = backbone.drawn(code)
        fake = backbone.decode(drawn, goal)
        again = backbone.encode(fake, goal)
        back = backbone.decode(again._replace(style=code.style), domain)
        total = total + F.l1_loss(backbone.decode(code, domain), seen) + F.l1_loss(back, seen)
        total = total + backbone.latent_cycle(drawn, again)
        total = total + sum(logits.square().mean() for logits in backbone.discriminate(fake, goal))
    total.backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 1e-12, name


def test_gradients_reach_every_parameter_one_way():
    backbone = small(bidirectional=False)
    source, target = image(2, 1, 32, 32), image(2, 1, 32, 32, seed=1)
    fake = backbone.decode(backbone.drawn(backbone.encode(source, "source")), "target")
    again = backbone.decode(backbone.encode(target, "target"), "target")
    assessed = sum(logits.square().mean() for logits in backbone.discriminate(fake, "target"))
    (assessed + F.l1_loss(again, target)).backward()
    assert [name for name, parameter in backbone.named_parameters() if parameter.grad is None] == []


def test_latent_cycle_is_l1_of_content_plus_l1_of_style():
    code = Code(torch.zeros(1, 2, 2, 2), torch.zeros(1, 8))
    again = Code(torch.full((1, 2, 2, 2), 0.5), torch.tensor([[-4.0, 0, 0, 0, 0, 0, 0, 0]]))
    assert small().latent_cycle(code, again).item() == pytest.approx(0.5 + 4 / 8)


def test_latent_cycle_refuses_codes_without_a_style():
    code = Code(torch.zeros(1, 2, 2, 2))
    with pytest.raises(ValueError, match="drawn"):
        small().latent_cycle(code, code)


def test_there_is_no_prior_term():
    backbone = small()
    assert set(backbone.internal_weights) == {"reconstruction", "latent_cycle"}
    with pytest.raises(TypeError, match="no prior"):
        backbone.prior(backbone.encode(image(1, 1, 16, 16), "source"))


def test_adaptive_norm_sets_mean_and_spread():
    features = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 7 + 5
    scale, shift = torch.tensor([[1.0, 2, -3], [0, 0.5, 4]]), torch.tensor([[0.0, 1, 2], [3, 4, 5]])
    given = adaptive_instance_norm(features, scale, shift)
    torch.testing.assert_close(given.mean(dim=(2, 3)), shift, atol=1e-5, rtol=0)
    torch.testing.assert_close(given.std(dim=(2, 3), correction=0), scale.abs(), atol=1e-5, rtol=0)
    centered = (given - shift[..., None, None])[0, 2]
    assert (centered * (features[0, 2] - features[0, 2].mean())).sum() < 0  # a negative scale mirrors


def test_adaptive_norm_by_hand():
    features = torch.tensor([1.0, 3.0, 1.0, 3.0]).reshape(1, 1, 2, 2)  # mean 2, spread 1
    given = adaptive_instance_norm(features, torch.tensor([[10.0]]), torch.tensor([[1.0]]), eps=0)
    torch.testing.assert_close(given, torch.tensor([-9.0, 11.0, -9.0, 11.0]).reshape(1, 1, 2, 2))


def test_adaptive_block_reads_first_then_second_scale_and_shift():
    block, features = AdaptiveResidualBlock(3), image(1, 3, 8, 8)
    affine = torch.zeros(1, 4, 3)
    assert torch.equal(block(features, affine), features)
    affine[:, 3] = 2  # the second shift is added to the features
    torch.testing.assert_close(block(features, affine), features + 2)
    affine = torch.tensor([[[1.0, 2, 3], [0.5, -1, 0], [4, -5, 6], [0, 1, 2]]])
    plain = ResidualBlock(3)
    plain.first[0].weight, plain.second[0].weight = block.first.weight, block.second.weight
    for layers, (scale, shift) in ((plain.first, affine[0, :2]), (plain.second, affine[0, 2:])):
        layers[1] = torch.nn.InstanceNorm2d(3, affine=True)
        layers[1].load_state_dict({"weight": scale, "bias": shift})
    torch.testing.assert_close(block(features, affine), plain(features))


def test_style_decides_every_residual_block():
    backbone = small()
    decoder = backbone.decoders["target"]
    content = backbone.encode(image(1, 1, 16, 16), "source").content
    affines = []
    for block in decoder.blocks:
        block.register_forward_pre_hook(lambda _, inputs: affines.append(inputs[1]))
    decoder(content, torch.randn(1, 8))
    first, second = affines
    assert first.shape == second.shape == (1, 4, 16)
    assert not torch.equal(first, second)


def test_upsampling_doubles_the_grid_and_halves_the_channels():
    assert UpsamplingDecoder(4, 3, 2)(torch.zeros(1, 16, 5, 6)).shape == (1, 3, 20, 24)


def test_discriminators_assess_three_scales():
    assess = MultiscaleDiscriminator(1, channels=4, num_layers=3, scales=3)
    assert [tuple(logits.shape) for logits in assess(image(2, 1, 128, 96))] == [
        (2, 1, 8, 6),
        (2, 1, 4, 3),
        (2, 1, 2, 1),
    ]
    assert [tuple(logits.shape) for logits in assess(image(1, 1, 3, 7))] == [(1, 1, 4, 4), (1, 1, 2, 2), (1, 1, 1, 1)]


def test_coarser_scales_see_the_averaged_image():
    assess = MultiscaleDiscriminator(1, channels=4, num_layers=1, scales=2)
    seen = image(1, 1, 32, 32)
    halved = F.avg_pool2d(seen, 3, stride=2, padding=1, count_include_pad=False)
    assert torch.equal(assess(seen)[1], assess.scales[1](halved))


def test_saved_weights_give_the_same_translation():
    torch.manual_seed(0)
    backbone = small()
    twin = small()
    source = image(1, 1, 32, 32)
    assert not torch.equal(backbone(source), twin(source))
    twin.load_state_dict(copy.deepcopy(backbone.state_dict()))
    assert torch.equal(backbone(source), twin(source))


def test_images_stay_float32_under_autocast():
    backbone = small()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        code = backbone.drawn(backbone.encode(image(1, 1, 32, 32), "source"))
        assert backbone.decode(code, "target").dtype == torch.float32


def test_published_sizes_are_the_default():
    with torch.device("meta"):
        backbone = MUNIT(2, 3, 3, bidirectional=False)
    decoder = backbone.decoders["target"]
    assert len(decoder.blocks) == 4
    assert decoder.blocks[0].first.weight.shape == (256, 256, 3, 3)
    assert decoder.affine[0].in_features == 8
    assert decoder.affine[0].out_features == decoder.affine[2].out_features == 256
    assert backbone.stride == 4
    styles = [layer[0].out_channels for layer in backbone.encoders["target"].style.features]
    assert styles == [64, 128, 256, 256, 256]
    assess = backbone.discriminators["target"]
    assert [layer[0].out_channels for layer in assess.scales[0]] == [64, 128, 256, 512, 1]
    assert len(assess.scales) == 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((4, 1, 1), {}, "expected 2 or 3"),
        ((2, 0, 1), {}, "in_channels"),
        ((2, 1, 0), {}, "out_channels"),
        ((2, 1, 1), {"channels": 0}, "channels"),
        ((2, 1, 1), {"num_blocks": 0}, "num_blocks"),
        ((2, 1, 1), {"downsamplings": -1}, "downsamplings"),
        ((2, 1, 1), {"style_downsamplings": -1}, "style_downsamplings"),
        ((2, 1, 1), {"style_channels": 0}, "style_channels"),
        ((2, 1, 1), {"mlp_channels": 0}, "mlp_channels"),
        ((2, 1, 1), {"discriminator_channels": 0}, "discriminator_channels"),
        ((2, 1, 1), {"discriminator_layers": -1}, "discriminator_layers"),
        ((2, 1, 1), {"discriminator_scales": 0}, "discriminator_scales"),
    ],
)
def test_wrong_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        MUNIT(*arguments, **options)


@pytest.mark.parametrize(
    ("seen", "error", "message"),
    [
        (torch.zeros(1, 2, 16, 16), ValueError, "expected 1 channel"),
        (torch.zeros(1, 1, 16, 16, 16), ValueError, "expected 2 spatial axes"),
        (torch.zeros(1, 16, 16), ValueError, "received shape"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.int32), TypeError, "floating"),
    ],
)
def test_wrong_images_are_refused(seen, error, message):
    with pytest.raises(error, match=message):
        small()(seen)


def test_an_unknown_domain_is_refused():
    with pytest.raises(ValueError, match="'source' or 'target'"):
        small().encode(image(1, 1, 16, 16), "t1")
