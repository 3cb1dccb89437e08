"""The TraceTrans networks: shapes, sizes the strides do not divide, identity at the start, errors."""

import pytest
import torch

from medtrace.fields import exponentiate, warp
from medtrace.networks import DualDecoderGAN, TraceTrans, TraceTransOutput
from medtrace.networks.blocks import ConditionalPatchDiscriminator, Decoder, Encoder, pad_to_multiple


def small(spatial_dims=2, in_channels=1, out_channels=1, **options):
    return TraceTrans(spatial_dims, in_channels, out_channels, channels=(8, 16, 16), **options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(32, 32), (37, 50), (8, 8), (16, 24, 17)])
def test_output_lies_on_the_sources_grid(shape, channels):
    source = torch.rand(2, channels, *shape) * 2 - 1
    output = small(len(shape), channels, channels)(source)
    assert isinstance(output, TraceTransOutput)
    assert output.image.shape == source.shape
    assert output.warped.shape == source.shape
    assert output.ddf.shape == output.velocity.shape == (2, len(shape), *shape)
    assert output.image.abs().max() <= 1


def test_channel_counts_may_differ():
    assert small(2, 2, 3)(torch.zeros(1, 2, 16, 16)).image.shape == (1, 3, 16, 16)


def test_untrained_network_deforms_nothing():
    source = torch.rand(1, 1, 30, 41) * 2 - 1
    output = small()(source)
    assert torch.count_nonzero(output.ddf) == 0
    torch.testing.assert_close(output.warped, source, atol=1e-5, rtol=0)


def test_ddf_is_the_exponential_of_velocity_and_warps_the_source():
    network = small()
    torch.nn.init.normal_(network.velocity_decoder.head.conv.weight, std=0.2)
    source = torch.rand(1, 1, 32, 32) * 2 - 1
    output = network(source)
    assert output.ddf.abs().max() > 0.1
    torch.testing.assert_close(output.ddf, exponentiate(output.velocity, 7))
    torch.testing.assert_close(output.warped, warp(source, output.ddf))


def test_deform_off_runs_the_image_stream_only():
    network = small().eval()
    source = torch.rand(1, 1, 32, 32) * 2 - 1
    both, one = network(source), network(source, deform=False)
    torch.testing.assert_close(both.image, one.image)
    assert one.warped is source
    assert torch.count_nonzero(one.ddf) == 0


def test_separate_encoders_share_no_parameter_and_deepen_the_count():
    shared, separate = small(), small(shared_encoder=False)
    count = sum(p.numel() for p in shared.encoder.parameters())
    extra = sum(p.numel() for p in separate.parameters()) - sum(p.numel() for p in shared.parameters())
    assert extra == count > 0


def test_the_papers_widths_are_the_default():
    network = TraceTrans(2, 1, 1)
    assert [level.conv.out_channels for level in network.encoder.levels] == [64, 128, 256, 512, 512]
    assert network.stride == 32
    assert network.integration_steps == 7


@pytest.mark.parametrize("shape", [(32, 48), (37, 50), (16, 24, 17)])
def test_a_coarser_velocity_is_interpolated_to_the_images_grid(shape):
    network = small(len(shape), velocity_downsampling=2)
    torch.nn.init.normal_(network.velocity_decoder.head.conv.weight, std=0.2)
    velocity = network(torch.rand(1, 1, *shape) * 2 - 1).velocity
    assert velocity.shape[2:] == shape
    second = velocity[0, :, 4:-4].diff(dim=1).diff(dim=1).abs() > 1e-5
    assert second.float().mean() < 0.75  # linear in at least every fourth step


def test_gradients_reach_every_parameter():
    network = small()
    torch.nn.init.normal_(network.velocity_decoder.head.conv.weight, std=0.1)
    output = network(torch.rand(2, 1, 32, 32) * 2 - 1)
    (output.image.square().mean() + output.warped.square().mean()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())


def test_velocity_stays_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = small()(torch.rand(1, 1, 16, 16))
    assert all(value.dtype == torch.float32 for value in output)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (torch.zeros(1, 2, 16, 16), "expected 1 channel"),
        (torch.zeros(1, 1, 16, 16, 16), "spatial_dims=3"),
        (torch.zeros(1, 16, 16), "received shape"),
    ],
)
def test_wrong_sources_are_refused_with_the_remedy(source, message):
    with pytest.raises(ValueError, match=message):
        small()(source)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 1, 1), "spatial_dims"),
        ((2, 0, 1), "in_channels"),
        ((2, 1, 0), "out_channels"),
        ((2, 1, 1, ()), "channels"),
        ((2, 1, 1, (4, 8), 7, "batch", True, 2), "velocity_downsampling"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        TraceTrans(*arguments)


def test_gan_holds_two_conditional_discriminators():
    networks = DualDecoderGAN(2, 1, 1, channels=(8, 16), discriminator_channels=8)
    image = torch.rand(2, 1, 64, 64)
    logits = networks.translation_discriminator(image, image)
    assert logits.shape[:2] == (2, 1)
    assert logits.shape[2] > 1
    assert networks.translation_discriminator is not networks.warp_discriminator


def test_discriminator_sees_its_condition():
    assess = ConditionalPatchDiscriminator(2, 1, 1, channels=8)
    image = torch.rand(1, 1, 64, 64)
    assert not torch.equal(assess(image, image), assess(torch.rand(1, 1, 64, 64), image))


@pytest.mark.parametrize("size", [8, 16, 20, 23, 24, 33])
def test_discriminator_assesses_small_grids(size):
    assess = ConditionalPatchDiscriminator(2, 1, 1, channels=8)
    assert torch.isfinite(assess(torch.rand(1, 1, size, size), torch.rand(1, 1, size, size))).all()


def test_padding_repeats_the_border_and_crops_back_exactly():
    image = torch.arange(15.0).reshape(1, 1, 3, 5)
    padded, crop = pad_to_multiple(image, 4, minimum=8)
    assert padded.shape == (1, 1, 8, 8)
    assert padded[0, 0, 0, 0] == image[0, 0, 0, 0]
    assert torch.equal(crop(padded), image)
    same, keep = pad_to_multiple(padded, 4)
    assert same is padded
    assert keep(padded) is padded


def test_encoder_halves_and_decoder_restores():
    encoder, decoder = Encoder(3, 1, (4, 8), "instance"), Decoder(3, 1, 3, (4, 8), "instance", zero_init=True)
    features = encoder(torch.rand(1, 1, 8, 8, 16))
    assert [tuple(f.shape[2:]) for f in features] == [(8, 8, 16), (4, 4, 8), (2, 2, 4)]
    assert torch.equal(decoder(features), torch.zeros(1, 3, 8, 8, 16))
