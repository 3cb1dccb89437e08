"""CycleGAN's networks: sizes, published counts, the interface of a backbone, and what is refused."""

import pytest
import torch
from torch import nn

from medtrace.networks import CycleGAN, ResnetGenerator
from medtrace.networks.backbone import Code


def small(in_channels=1, out_channels=1, spatial_dims=2, **options):
    torch.manual_seed(0)
    sizes = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1}
    return CycleGAN(spatial_dims, in_channels, out_channels, **{**sizes, **options})


def image(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 1.8 - 0.9


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "shape", [(32, 32), (33, 47), (5, 64), (1, 1), (4, 4), (17, 20, 24), (9, 8, 7)], ids=lambda shape: f"{shape}"
)
def test_translations_lie_on_the_images_grid(shape):
    generator = ResnetGenerator(len(shape), 1, 2, channels=4, num_blocks=1)
    translated = generator(image(2, 1, *shape))
    assert translated.shape == (2, 2, *shape)
    assert translated.dtype == torch.float32
    assert translated.abs().max() <= 1


def test_padding_is_cropped_where_it_was_added():
    """An image padded by hand on the same sides gives, cropped, the same answer."""
    generator = ResnetGenerator(2, 1, 1, channels=4, num_blocks=1)
    seen = image(1, 1, 30, 33)
    padded = nn.functional.pad(seen, (1, 2, 1, 1), mode="replicate")
    torch.testing.assert_close(generator(seen), generator(padded)[..., 1:-1, 1:-2])


def test_a_residual_block_adds_to_its_input():
    generator = ResnetGenerator(2, 1, 1, channels=4, num_blocks=1, downsamplings=2)
    without = ResnetGenerator(2, 1, 1, channels=4, num_blocks=0, downsamplings=2)
    names = iter(without.layers)
    for index, layer in enumerate(generator.layers):
        if index == 3:
            # With a second convolution of zeros the block changes nothing.
            nn.init.zeros_(layer.second[0].weight)
            nn.init.zeros_(layer.second[0].bias)
        else:
            next(names).load_state_dict(layer.state_dict())
    seen = image(1, 1, 32, 32)
    torch.testing.assert_close(generator(seen), without(seen))


def test_features_double_at_each_halving():
    for downsamplings in (0, 1, 3):
        generator = ResnetGenerator(2, 1, 1, channels=4, num_blocks=1, downsamplings=downsamplings)
        shapes = []
        generator.layers[downsamplings + 1].register_forward_hook(
            lambda _module, inputs, _output, shapes=shapes: shapes.append(inputs[0].shape)
        )
        generator(image(1, 1, 32, 32))
        assert shapes == [(1, 4 * 2**downsamplings, 32 // 2**downsamplings, 32 // 2**downsamplings)]


def test_published_sizes_are_the_default():
    # 3 to 3 channels in the published code: 11.378 M; the first and last convolution are smaller here.
    assert count(ResnetGenerator(2, 3, 3)) == 11_378_179
    assert count(ResnetGenerator(2, 1, 1)) == 11_378_179 - 2 * 2 * 49 * 64 - 2
    backbone = CycleGAN(2, 1, 1, bidirectional=False)
    # 70-pixel patches: 4-wide convolutions 1-64-128-256-512-1, biases only where no normalization follows.
    weights = 16 * (64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    assert count(backbone.discriminators) == weights + 64 + 1
    assert count(backbone) == 11_365_633 + weights + 65


def test_discriminator_sees_70_pixels():
    assess = CycleGAN(2, 1, 1, bidirectional=False, channels=4, num_blocks=0, discriminator_channels=2)
    assess = assess.discriminators["target"].eval()
    for layer in assess.modules():  # normalization reads the whole image
        for name, child in layer.named_children():
            if isinstance(child, nn.InstanceNorm2d):
                setattr(layer, name, nn.Identity())
    seen = image(1, 1, 160, 160).requires_grad_()
    (logits,) = assess(seen)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    touched = torch.nonzero(seen.grad[0, 0])
    assert (touched.max(0).values - touched.min(0).values + 1).tolist() == [70, 70]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_bidirectional_decides_which_networks_exist(bidirectional):
    backbone = small(bidirectional=bidirectional)
    domains = ("target", "source") if bidirectional else ("target",)
    assert backbone.decoded_domains == domains
    assert tuple(backbone.decoders) == tuple(backbone.discriminators) == domains
    assert len(backbone.encoders) == 0


def test_a_code_is_the_image_and_a_decoder_the_generator():
    backbone, seen = small(in_channels=1, out_channels=3), image(2, 1, 16, 16)
    code = backbone.encode(seen, "source")
    assert code == Code(seen)
    fake = backbone.decode(code, "target")
    assert torch.equal(fake, backbone.decoders["target"](seen))
    assert torch.equal(fake, backbone(seen))
    assert fake.shape[1] == 3
    assert backbone.translate(fake, "target").shape == seen.shape
    assert backbone.internal_weights == {}


@pytest.mark.parametrize(("conditional", "channels"), [(False, 3), (True, 4)])
def test_discriminators_see_the_source_where_they_are_conditional(conditional, channels):
    backbone = small(in_channels=1, out_channels=3, conditional=conditional)
    for domain, own in (("target", 3), ("source", 1)):
        (logits,) = backbone.discriminate(image(1, channels if conditional else own, 16, 16), domain)
        assert logits.shape[:2] == (1, 1)
    assert backbone.conditional == conditional


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradients_reach_every_parameter(spatial_dims):
    backbone = small(spatial_dims=spatial_dims)
    seen = image(1, 1, *[16] * spatial_dims)
    fake = backbone(seen)
    (backbone.translate(fake, "target").mean() + backbone.discriminate(fake, "target")[0].mean()).backward()
    backbone.discriminate(backbone.translate(seen, "target"), "source")[0].mean().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
    weights = [parameter for name, parameter in backbone.decoders.named_parameters() if name.endswith("weight")]
    assert all(weight.grad.abs().max() > 0 for weight in weights)


def test_image_stays_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert small()(image(1, 1, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims: expected 2 or 3, received 1"),
        ({"in_channels": 0}, "in_channels: expected a number above 0"),
        ({"channels": 0}, "channels: expected a number above 0"),
        ({"num_blocks": -1}, "num_blocks, downsamplings: expected 0 or more"),
        ({"downsamplings": -1}, "num_blocks, downsamplings: expected 0 or more"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResnetGenerator(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 1, **options})


@pytest.mark.parametrize(
    ("seen", "kind", "message"),
    [
        (torch.zeros(1, 1, 8, 8, 8), ValueError, "build the network with spatial_dims=3"),
        (torch.zeros(1, 2, 8, 8), ValueError, r"image: expected 1 channel\(s\), received 2"),
        (torch.zeros(1, 8, 8), ValueError, "image: expected .batch, channel"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), TypeError, "image: expected floating-point"),
    ],
)
def test_wrong_images_are_refused(seen, kind, message):
    with pytest.raises(kind, match=message):
        ResnetGenerator(2, 1, 1, channels=4, num_blocks=1)(seen)
