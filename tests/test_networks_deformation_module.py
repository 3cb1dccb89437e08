"""The deformation module: at rest at first, an inverse either way, a stand-in for the target, and a shift learned."""

import pytest
import torch

from medtrace.fields import exponentiate, inverse_consistency, warp
from medtrace.networks import DeformationModule


def module(spatial_dims=2, channels=(8, 8), moving=True, **options):
    torch.manual_seed(0)
    built = DeformationModule(spatial_dims, 1, channels, **options)
    if moving:
        for head in (built.head, built.inverse_head):
            if head is not None:
                torch.nn.init.normal_(head.conv.weight, std=0.4)
    return built


def triple(*spatial, channels=1, count=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((count, channels, *spatial), generator=generator) * 2 - 1 for _ in range(3)]


@pytest.mark.parametrize("inverse", ["negated", "predicted"])
@pytest.mark.parametrize("spatial", [(16, 16), (9, 13), (2, 3), (16, 16, 16), (5, 6, 9)], ids=lambda shape: f"{shape}")
def test_untrained_module_deforms_nothing_whatever_the_size(spatial, inverse):
    built, (source, target, noise) = module(len(spatial), moving=False, inverse=inverse), triple(*spatial)
    for output in (built(source, target, noise), built(source)):
        for field in output[:4]:
            assert field.shape == (2, len(spatial), *spatial)
            assert field.dtype == torch.float32
            assert torch.count_nonzero(field) == 0
        assert output.surrogate.shape == (2, 8, *spatial)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_fields_are_the_exponentials_of_the_velocities(spatial_dims):
    built, images = module(spatial_dims, inverse="predicted", integration_steps=5), triple(*[16] * spatial_dims)
    output = built(*images)
    torch.testing.assert_close(output.ddf, exponentiate(output.velocity, 5))
    torch.testing.assert_close(output.inverse_ddf, exponentiate(output.inverse_velocity, 5))
    assert output.ddf.std() > 0.1
    assert not torch.allclose(output.inverse_velocity, -output.velocity, atol=0.05)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_the_negated_velocity_gives_the_inverse(spatial_dims):
    built, images = module(spatial_dims, velocity_downsampling=1), triple(*[16] * spatial_dims)
    output = built(*images)
    assert built.inverse_head is None
    assert torch.equal(output.inverse_velocity, -output.velocity)
    assert output.ddf.norm(dim=1).mean() > 0.2
    inside = (Ellipsis, *[slice(3, -3)] * spatial_dims)
    miss = inverse_consistency(output.ddf, output.inverse_ddf)[inside]
    assert miss.mean() < 0.1 * output.ddf.norm(dim=1).mean()


def test_input_layer_is_one_convolution_of_source_target_and_noise_kept_in_two_parts():
    built, (source, target, noise) = module(), triple(16, 16)
    assert built.source_stem.conv.weight.shape == (8, 1, 3, 3)
    assert built.target_stem.conv.weight.shape == (8, 2, 3, 3)
    expected = torch.nn.functional.conv2d(
        torch.cat([target, noise], dim=1), built.target_stem.conv.weight, built.target_stem.conv.bias, padding=1
    )
    torch.testing.assert_close(built(source, target, noise).features, expected)


def test_without_a_target_the_surrogate_takes_its_place():
    """Where the alignment block hits the target's features exactly, the target is not missed."""
    built, (source, target, noise) = module(), triple(16, 16)
    paired, alone = built(source, target, noise), built(source)
    assert alone.features is None
    assert torch.equal(alone.surrogate, paired.surrogate)
    assert not torch.allclose(alone.velocity, paired.velocity, atol=1e-3)
    built.alignment.forward = lambda _: paired.features
    torch.testing.assert_close(built(source).ddf, paired.ddf)


def test_alignment_block_is_the_papers_four_layers():
    built = DeformationModule(2, 1)
    shapes = [tuple(layer.conv.weight.shape) for layer in built.alignment]
    assert shapes == [(64, 64, 3, 3)] * 4
    assert [tuple(level.conv.weight.shape[:2]) for level in built.encoder.levels] == [
        (64, 64),
        (128, 64),
        (256, 128),
        (512, 256),
    ]
    predicted = DeformationModule(2, 1, inverse="predicted")
    for head in (predicted.head, predicted.inverse_head):
        assert tuple(head.conv.weight.shape) == (2, 64, 1, 1)
    assert built.integration_steps == 7


def test_the_alignment_loss_trains_the_block_alone():
    built, images = module(), triple(16, 16)
    output = built(*images)
    (output.surrogate - output.features.detach()).abs().mean().backward()
    trained = {name for name, parameter in built.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in built.alignment.named_parameters(prefix="alignment")}


@pytest.mark.parametrize("inverse", ["negated", "predicted"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_gradients_reach_every_parameter(spatial_dims, inverse):
    built, (source, target, noise) = module(spatial_dims, inverse=inverse), triple(*[8] * spatial_dims)
    output = built(source, target, noise)
    loss = (warp(source, output.ddf) - target).abs().mean() + (warp(target, output.inverse_ddf) - source).abs().mean()
    (loss + (output.surrogate - output.features.detach()).abs().mean()).backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_without_a_target_gradients_pass_through_the_surrogate():
    built, (source, target, _) = module(), triple(16, 16)
    (warp(source, built(source).ddf) - target).abs().mean().backward()
    for name, parameter in built.named_parameters():
        if name.startswith("target_stem"):
            assert parameter.grad is None
        else:
            assert parameter.grad.abs().max() > 0, name


def test_noise_and_target_each_matter_and_noise_can_be_left_out():
    built, (source, target, noise) = module(), triple(16, 16)
    velocity = built(source, target, noise).velocity
    for other in ((source, -target, noise), (source, target, -noise), (-source, target, noise)):
        assert (built(*other).velocity - velocity).abs().max() > 0.01
    silent = module(use_noise=False)
    assert silent.target_stem.conv.weight.shape == (8, 1, 3, 3)
    assert silent(source, target).velocity.std() > 0.01


def test_padding_is_cropped_where_it_was_added():
    built, images = module(), triple(15, 14)
    padded = [torch.nn.functional.pad(image, (1, 1, 0, 1), mode="replicate") for image in images]
    output, wide = built(*images), built(*padded)
    for name in ("velocity", "features", "surrogate"):
        torch.testing.assert_close(getattr(output, name), getattr(wide, name)[..., :-1, 1:-1])


def test_halvings_make_the_velocity_coarser():
    bend = []
    for downsampling in (0, 2):
        velocity = module(channels=(8, 8, 8), velocity_downsampling=downsampling)(*triple(32, 32)).velocity
        bend.append((velocity.diff(n=2, dim=2).abs().mean() / velocity.std()).item())
    assert bend[1] < 0.3 * bend[0]


@pytest.mark.parametrize("norm", ["INSTANCE", ("INSTANCE", {"affine": True}), ("GROUP", {"num_groups": 2}), "BATCH"])
def test_other_normalizations(norm):
    output = module(norm=norm)(*triple(4, 4))
    assert output.velocity.std() > 0


def test_autocast_leaves_fields_in_float32():
    built, images = module(), triple(16, 16)
    exact = built(*images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = built(*images)
    for name, value in rough._asdict().items():
        assert value.dtype == torch.float32, name
    assert 0 < (rough.ddf - exact.ddf).abs().max() < 0.2 * exact.ddf.abs().max()


def blobs(spatial_dims, shift):
    axes = torch.meshgrid(*[torch.arange(12.0)] * spatial_dims, indexing="ij")
    squared = sum((axis - 5.5 - (shift if index == 0 else 0)) ** 2 for index, axis in enumerate(axes))
    return (2 * torch.exp(-squared / 12) - 1).expand(1, 1, *squared.shape)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_shift_is_learned_and_the_surrogate_learns_to_do_without_the_target(spatial_dims):
    built = module(spatial_dims, moving=False, velocity_downsampling=1)
    source, target = blobs(spatial_dims, 0), blobs(spatial_dims, 2)
    noise = triple(*[12] * spatial_dims, count=1)[2]
    optimizer = torch.optim.Adam(built.parameters(), 8e-3)
    for _ in range(30):
        output = built(source, target, noise)
        miss = (warp(source, output.ddf) - target).square().mean()
        back = (warp(target, output.inverse_ddf) - source).square().mean()
        aligned = (output.surrogate - output.features.detach()).abs().mean()
        optimizer.zero_grad()
        (miss + back + aligned).backward()
        optimizer.step()
    start = (source - target).square().mean()
    assert miss < 0.1 * start
    assert back < 0.1 * start
    alone = built(source)
    assert (warp(source, alone.ddf) - target).square().mean() < 0.4 * start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 1}, "spatial_dims: expected 2 or 3, received 1"),
        ({"in_channels": 0}, "in_channels: expected a number above 0"),
        ({"channels": ()}, "channels: expected at least one"),
        ({"inverse": "both"}, "inverse: expected one of 'negated', 'predicted', received 'both'"),
        ({"integration_steps": -1}, "integration_steps: expected 0 or more, received -1"),
        ({"velocity_downsampling": 2}, "velocity_downsampling: expected 0 to 1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DeformationModule(**{"spatial_dims": 2, "in_channels": 1, "channels": (8, 8), **options})


SOURCE, TARGET, NOISE = triple(8, 8)


@pytest.mark.parametrize(
    ("options", "arguments", "kind", "message"),
    [
        ({}, triple(4, 4, 4), ValueError, "source: expected 2 spatial axes.*spatial_dims=3"),
        ({}, triple(8, 8, channels=2), ValueError, r"source: expected 1 channel\(s\)"),
        ({}, (SOURCE.long(),), TypeError, "source: expected floating-point values"),
        ({}, (SOURCE, TARGET[:1], NOISE), ValueError, "target: expected the batch and grid of source"),
        ({}, (SOURCE, TARGET, NOISE[..., :4]), ValueError, "noise: expected the shape of target"),
        ({}, (SOURCE, TARGET), ValueError, "noise: expected the noise .* received None"),
        ({}, (SOURCE, None, NOISE), ValueError, "noise: expected None without a target"),
        ({"use_noise": False}, (SOURCE, TARGET, NOISE), ValueError, "noise: expected None since .*use_noise=False"),
    ],
)
def test_images_that_do_not_fit_are_refused(options, arguments, kind, message):
    with pytest.raises(kind, match=message):
        module(**options)(*arguments)
