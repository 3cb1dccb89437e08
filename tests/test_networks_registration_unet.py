"""The registration network of RegGAN: starts at rest, takes any size, learns a shift, and refuses what does not fit."""

import pytest
import torch

from medtrace.fields import warp
from medtrace.networks import RegistrationUNet


def network(spatial_dims=2, channels=(4, 8, 8), moving=True, **options):
    torch.manual_seed(0)
    built = RegistrationUNet(spatial_dims, 1, channels, **options)
    if moving:
        torch.nn.init.normal_(built.head.weight, std=0.5)
    return built


def pair(*spatial, channels=1, count=2):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand((count, channels, *spatial), generator=generator) * 2 - 1 for _ in range(2)]


@pytest.mark.parametrize("downsampling", [0, 2])
@pytest.mark.parametrize("spatial", [(32, 32), (33, 47), (3, 5), (17, 20, 24)], ids=lambda shape: f"{shape}")
def test_untrained_network_deforms_nothing_whatever_the_size(spatial, downsampling):
    ddf = network(len(spatial), moving=False, downsampling=downsampling)(*pair(*spatial))
    assert ddf.shape == (2, len(spatial), *spatial)
    assert ddf.dtype == torch.float32
    assert torch.count_nonzero(ddf) == 0


@pytest.mark.parametrize("spatial", [(33, 47), (17, 20, 24)], ids=lambda shape: f"{shape}")
def test_any_size_once_it_moves(spatial):
    ddf = network(len(spatial))(*pair(*spatial))
    assert ddf.shape == (2, len(spatial), *spatial)
    assert ddf.std() > 0.01


def test_padding_is_cropped_where_it_was_added():
    built, (moving, fixed) = network(), pair(30, 31)
    padded = [torch.nn.functional.pad(image, (0, 1, 1, 1), mode="replicate") for image in (moving, fixed)]
    torch.testing.assert_close(built(moving, fixed), built(*padded)[..., 1:-1, :-1])


def test_order_of_the_images_matters_and_so_does_each():
    built, (moving, fixed) = network(), pair(16, 16)
    ddf = built(moving, fixed)
    assert not torch.allclose(ddf, built(fixed, moving))
    assert not torch.allclose(ddf, built(moving, -fixed))
    assert not torch.allclose(ddf, built(-moving, fixed))


def test_published_size_is_the_default():
    built = RegistrationUNet(2, 1)
    assert [level.entry.out_channels for level in built.down] == [32, 64, 64, 64, 64, 64, 64]

    def level(before, after, normalizations=2):
        return 9 * after * (before + 2 * after) + 3 * after + normalizations * 2 * after

    down = level(2, 32) + level(32, 64) + 5 * level(64, 64)
    up = 5 * level(128, 64) + level(96, 32)
    expected = down + up + 9 * 2 * 32 + 2
    assert sum(parameter.numel() for parameter in built.parameters()) == expected
    assert expected / 1e6 == pytest.approx(1.45, abs=0.01)
    bare = sum(parameter.numel() for parameter in RegistrationUNet(2, 1, norm=None).parameters())
    assert expected - bare == 4 * (11 * 64 + 2 * 32)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("downsampling", [0, 1])
def test_gradients_reach_every_parameter(spatial_dims, downsampling):
    built, (moving, fixed) = network(spatial_dims, downsampling=downsampling), pair(*[16] * spatial_dims)
    moving.requires_grad_()
    (warp(moving, built(moving, fixed)) - fixed).abs().mean().backward()
    for name, parameter in built.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    assert moving.grad.abs().max() > 0


def test_at_rest_the_head_alone_learns():
    built, (moving, fixed) = network(moving=False), pair(16, 16)
    (warp(moving, built(moving, fixed)) - fixed).abs().mean().backward()
    assert built.head.weight.grad.abs().max() > 0
    assert built.down[0].entry.weight.grad.abs().max() == 0


def test_halvings_make_the_field_coarser_and_the_network_smaller():
    built, images = (
        [network(channels=(4, 4, 4, 4), downsampling=downsampling) for downsampling in range(4)],
        pair(32, 32),
    )
    for downsampling in (2, 3):
        bend = built[downsampling](*images).diff(n=2, dim=2).abs().amax((0, 1, 3))
        # Interpolated linearly, the field bends only from one cell of the coarse grid to the next.
        cell = ((torch.arange(32) + 0.5) / 2**downsampling - 0.5).floor()
        within = cell[:-2] == cell[2:]
        assert within.sum() > 10
        assert bend[within].max() < 1e-4
        assert bend[~within].min() > 1e-3
    sizes = [sum(parameter.numel() for parameter in one.parameters()) for one in built]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


def test_it_learns_a_shift():
    """Pull convention, in voxels: fixed shows at p what moving shows at p + (2, -1)."""
    lines = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    moving = torch.exp(-((lines[0] - 13) ** 2 + (lines[1] - 11) ** 2) / 30)[None, None] * 2 - 1
    fixed = warp(moving, torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1).expand(1, 2, 24, 24).contiguous())
    built = network(moving=False, downsampling=1)
    optimizer = torch.optim.Adam(built.parameters(), 1e-2)
    for _ in range(40):
        ddf = built(moving, fixed)
        loss = (warp(moving, ddf) - fixed).abs().mean() + 0.1 * ddf.diff(dim=2).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    result = ddf[0, :, fixed[0, 0] > 0].mean(1)
    torch.testing.assert_close(result, torch.tensor([2.0, -1.0]), atol=0.5, rtol=0)


def test_norm_none_leaves_the_images_levels_in():
    """Without normalization a network of biases 0 is homogeneous: twice the images, twice the displacement."""
    for norm, same in ((None, False), (("GROUP", {"num_groups": 2}), True)):
        built, images = network(norm=norm), pair(16, 16)
        for name, parameter in built.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.zeros_(parameter)
        once, twice = built(*images), built(*(2 * image for image in images))
        torch.testing.assert_close(twice, once if same else 2 * once, atol=1e-3, rtol=1e-3)


def test_displacement_stays_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network()(*pair(16, 16)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected 2 or 3, received 4"),
        ({"channels": ()}, "channels: expected at least one level"),
        ({"channels": (4, 4), "downsampling": 2}, "downsampling: expected 0 to 1, fewer than the levels, received 2"),
        ({"downsampling": -1}, "downsampling: expected 0 to 6"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RegistrationUNet(**{"spatial_dims": 2, "in_channels": 1, **options})


@pytest.mark.parametrize(
    ("moving", "fixed", "kind", "message"),
    [
        ((1, 1, 8, 8), (1, 2, 8, 8), ValueError, r"fixed: expected 1 channel\(s\), received 2"),
        ((1, 1, 8, 8), (1, 1, 8, 9), ValueError, "fixed: expected the batch and grid of moving"),
        ((2, 1, 8, 8), (1, 1, 8, 8), ValueError, "fixed: expected the batch and grid of moving"),
        ((1, 1, 8, 8, 8), (1, 1, 8, 8, 8), ValueError, "moving: expected 2 spatial axes.*spatial_dims=3"),
    ],
)
def test_wrong_images_are_refused(moving, fixed, kind, message):
    with pytest.raises(kind, match=message):
        network()(torch.zeros(moving), torch.zeros(fixed))
    with pytest.raises(TypeError, match="moving: expected floating-point"):
        network()(torch.zeros(1, 1, 8, 8, dtype=torch.int64), torch.zeros(1, 1, 8, 8))
