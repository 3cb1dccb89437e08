"""MetaRegNet's network: its equations, the operator norms of its blocks, and its zero start."""

import pytest
import torch
from torch.nn import functional as F

from medtrace.fields import compose, exponentiate, warp
from medtrace.networks import DiffeomorphicVoxelMorph, MetamorphicRegNet, MetaRegNet
from medtrace.networks.blocks import LipschitzResidual, convolution_bound

GRIDS = {2: [(8, 8), (17, 9), (32, 32), (1, 40)], 3: [(6, 6, 6), (11, 5, 8)]}


def network(spatial_dims=2, in_channels=1, **options):
    torch.manual_seed(0)
    return MetamorphicRegNet(spatial_dims, in_channels, **{"channels": (4, 8), "num_blocks": 3, **options})


def woken(spatial_dims=2, in_channels=1, std=0.3, **options):
    """A network whose flows and blocks are not at their zero start."""
    built = network(spatial_dims, in_channels, **options)
    for name, parameter in built.named_parameters():
        if "final_conv_out" in name or "gather" in name:
            torch.nn.init.normal_(parameter, std=std)
    return built


def head(built):
    """The U-Net's last convolution: the flow's channels and then the intensity's."""
    return built.unet.net[-1].final_conv_out.conv


def pair(spatial_dims=2, channels=1, size=16, batch=2):
    shape = (batch, channels, *[size] * spatial_dims)
    source, target = torch.rand(shape) * 1.8 - 0.9, torch.rand(shape) * 1.8 - 0.9
    return source, target, torch.rand(batch, 1, *shape[2:]) > 0.6


def operator_norm(weight, grid, iterations=200):
    """Largest singular value of the zero-padded convolution, by power iteration on the operator itself."""
    forth, back = (F.conv2d, F.conv_transpose2d) if weight.ndim == 4 else (F.conv3d, F.conv_transpose3d)
    padding = weight.shape[-1] // 2
    vector = torch.randn(1, weight.shape[1], *grid, dtype=weight.dtype)
    for _ in range(iterations):
        vector = vector / vector.norm().clamp_min(1e-30)
        image = forth(vector, weight, padding=padding)
        vector = back(image, weight, padding=padding)
    return float(image.norm())


# --- the bound of a convolution -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "norm"),
    [
        (torch.ones(1, 1, 3, 3) / 9, 1.0),  # averaging keeps a constant
        (torch.tensor([[[[0.0, 0, 0], [0, 0, -2], [0, 0, 0]]]]), 2.0),  # a shift times −2
        (torch.ones(1, 1, 3, 3, 3), 27.0),
        (torch.diag(torch.tensor([3.0, 4.0]))[:, :, None, None], 4.0),
    ],
)
def test_bound_is_exact_where_the_norm_is_known(kernel, norm):
    assert float(convolution_bound(kernel)) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 2, 3, 3), (2, 16, 1, 1), (5, 7, 3, 3), (16, 3, 3, 3, 3), (1, 1, 3, 3)])
def test_bound_is_above_the_operator_on_every_grid(shape):
    weight = torch.randn(shape, dtype=torch.float64)
    bound = float(convolution_bound(weight))
    measured = [operator_norm(weight, grid) for grid in GRIDS[len(shape) - 2]]
    assert max(measured) <= bound * (1 + 1e-9)
    taps = torch.linalg.matrix_norm(weight.flatten(2).movedim(2, 0), ord=2).sum()
    assert bound <= float(taps) * (1 + 1e-9)


def test_the_reshaped_kernel_would_not_bound():
    weight = torch.ones(1, 1, 3, 3)
    assert float(torch.linalg.matrix_norm(weight.flatten(1), ord=2)) == pytest.approx(3)
    assert operator_norm(weight, (32, 32)) > 8.8


def test_bound_is_differentiable_also_at_zero():
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolution_bound, weight)
    block = LipschitzResidual(2, 2, 4)
    block(torch.randn(1, 2, 8, 8)).sum().backward()
    assert torch.isfinite(block.gather.convolution.weight.grad).all()
    assert block.gather.convolution.weight.grad.abs().max() > 0


# --- the blocks -----------------------------------------------------------------------------------------------------


def residuals(built):
    return [*built.flow_blocks, *built.intensity_blocks]


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_operator_norms_stay_below_one_before_and_after_random_updates(spatial_dims):
    built = network(spatial_dims, block_channels=6)
    for spread in (0.0, 0.1, 3.0):
        with torch.no_grad():
            for block in residuals(built):
                for parameter in block.parameters():
                    parameter.add_(spread * torch.randn_like(parameter))
        for block in residuals(built):
            for part in (block.spread, block.gather):
                weight = part.bounded_weight().detach()
                assert max(operator_norm(weight, grid, 60) for grid in GRIDS[spatial_dims]) <= 0.97 * (1 + 1e-5)


@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_a_residual_contracts(scale):
    """Power iteration on the Jacobian of r, at a random point and at 0, where tanh is steepest."""
    block = LipschitzResidual(2, 2, 8, scale=scale)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    for point in (torch.zeros(1, 2, 12, 12), torch.randn(1, 2, 12, 12)):
        direction = torch.randn_like(point)
        for _ in range(50):
            direction = direction / direction.norm()
            _, image = torch.autograd.functional.jvp(block, point, direction)
            _, direction = torch.autograd.functional.vjp(block, point, image)
        norm = float(image.norm())
        assert 0.01 < norm <= 0.97**2 / 2 * (1 + 1e-5)
    assert torch.count_nonzero(block(torch.zeros(1, 2, 8, 8))) == 0


def test_a_kernel_within_the_bound_is_left_alone():
    block = LipschitzResidual(2, 1, 2)
    with torch.no_grad():
        block.spread.convolution.weight.mul_(1e-3)
    torch.testing.assert_close(block.spread.bounded_weight(), block.spread.convolution.weight)


# --- the network ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, 19), (3, 9)])
@pytest.mark.parametrize("integration", ["euler", "residual"])
def test_shapes_and_the_contract(spatial_dims, size, integration):
    source, target, mask = pair(spatial_dims, 2, size)
    output = woken(spatial_dims, 2, std=0.05, integration=integration)(source, target, mask)
    assert output.image.shape == output.warped.shape == output.intensity.shape == source.shape
    assert output.ddf.shape == (2, spatial_dims, *source.shape[2:])
    torch.testing.assert_close(output.warped, warp(source, output.ddf))
    torch.testing.assert_close(output.image, output.warped + output.intensity)
    assert torch.count_nonzero(output.intensity * ~mask) == 0
    assert output.intensity.abs().max() > 1e-3
    assert output.ddf.abs().max() > 1e-3


@pytest.mark.parametrize("integration", ["euler", "residual"])
def test_the_untrained_network_changes_nothing_and_learns(integration):
    built = network(integration=integration)
    source, target, mask = pair()
    output = built(source, target, mask)
    assert torch.count_nonzero(output.ddf) == torch.count_nonzero(output.intensity) == 0
    torch.testing.assert_close(output.image, source, atol=1e-5, rtol=0)
    optimizer = torch.optim.SGD(built.parameters(), 1.0)
    for step in range(2):
        optimizer.zero_grad()
        F.mse_loss(built(source, target, mask).image, target).backward()
        if step == 0:
            flow, rate = head(built).weight.grad.split((2, 1))
            assert flow.abs().max() > 0
            assert rate.abs().max() > 0
        optimizer.step()
    assert all(bool(torch.isfinite(p.grad).all()) for p in built.parameters())
    assert all(block.gather.convolution.weight.grad.abs().max() > 0 for block in residuals(built))
    assert next(built.unet.parameters()).grad.abs().max() > 0


def test_without_a_mask_or_with_an_empty_one_intensity_is_exactly_zero():
    built = woken()
    source, target, mask = pair()
    plain = built(source, target)
    empty = built(source, target, torch.zeros_like(mask))
    for output in (plain, empty):
        assert torch.count_nonzero(output.intensity) == 0
        assert torch.equal(output.image, output.warped)
    assert torch.equal(plain.ddf, empty.ddf)


def test_euler_is_equation_3():
    """φ_k = φ_{k−1} + v_k∘φ_{k−1} / N with v_k = v_{k−1} + r_k(v_{k−1}), written out."""
    built = woken(std=0.1)
    source, target, mask = pair()
    velocity, rate = built.unet(torch.cat([source, target], 1)).split((2, 1), dim=1)
    ddf, intensity = torch.zeros_like(velocity), torch.zeros_like(rate)
    for step in range(3):
        velocity = velocity + built.flow_blocks[step](velocity)
        rate = rate + built.intensity_blocks[step](rate)
        ddf = ddf + warp(velocity, ddf) / 3
        intensity = intensity + rate / 3
    output = built(source, target, mask)
    torch.testing.assert_close(output.ddf, ddf)
    torch.testing.assert_close(output.intensity, intensity * mask)


def test_resting_blocks_integrate_a_stationary_velocity():
    built = network(num_blocks=64)
    grid = torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="ij"))
    velocity = (3 * torch.sin(grid.flip(0) / 6) * torch.exp(-((grid - 16) ** 2).sum(0) / 100))[None]
    ddf = built._displacements(built._evolve(velocity, built.flow_blocks))[-1]
    expected = exponentiate(velocity, 8)
    assert (ddf - expected).abs().max() < 0.05 < (velocity - expected).abs().max()


@pytest.mark.parametrize("integration", ["euler", "residual"])
def test_displacement_is_not_capped_by_the_blocks(integration):
    built = network(integration=integration)
    with torch.no_grad():
        head(built).bias.copy_(torch.tensor([40.0, -25.0, 0.0]))
    source, target, _ = pair()
    ddf = built(source, target).ddf
    torch.testing.assert_close(ddf, torch.tensor([40.0, -25.0])[None, :, None, None].expand_as(ddf))


@pytest.mark.parametrize("integration", ["euler", "residual"])
def test_trajectory_ends_at_the_answer(integration):
    built = woken(std=0.1, integration=integration)
    source, target, mask = pair()
    trajectory, output = built.trajectory(source, target, mask), built(source, target, mask)
    for name, members in trajectory._asdict().items():
        assert len(members) == 4
        torch.testing.assert_close(members[-1], getattr(output, name))
    if integration == "euler":
        torch.testing.assert_close(trajectory.image[0], source, atol=1e-5, rtol=0)
        assert torch.count_nonzero(trajectory.ddf[0]) == torch.count_nonzero(trajectory.intensity[0]) == 0


def test_source_mask_travels_with_the_source():
    built = network()
    with torch.no_grad():
        head(built).bias.copy_(torch.tensor([3.0, 0.0, 0.5]))
    source, target, _ = pair()
    source_mask, mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool), torch.zeros(2, 1, 16, 16)
    source_mask[:, :, 8, 8], mask[:, :, 2, 2] = True, 1.0
    intensity = built(source, target, mask, source_mask).intensity
    expected = torch.zeros_like(intensity)
    expected[:, :, 5, 8] = expected[:, :, 2, 2] = 0.5
    torch.testing.assert_close(intensity, expected)
    torch.testing.assert_close(built(source, target, None, source_mask).intensity[:, :, 5, 8], expected[:, :, 5, 8])


def test_shared_blocks_are_one_block():
    shared = network(share_blocks=True, num_blocks=5)
    assert len(shared.flow_blocks) == len(shared.intensity_blocks) == 1
    assert len(network(num_blocks=5).flow_blocks) == 5
    assert len(shared.trajectory(*pair()).ddf) == 6
    assert MetaRegNet is MetamorphicRegNet


def test_fields_are_float32_under_autocast():
    source, target, mask = pair()
    with torch.autocast("cpu", torch.bfloat16):
        output = woken(std=0.1)(source, target, mask)
    assert {member.dtype for member in output} == {torch.float32}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected 2 or 3"),
        ({"channels": ()}, "channels: expected at least one"),
        ({"num_blocks": 0}, "num_blocks: expected a number above 0"),
        ({"integration": "rk4"}, "integration: expected one of 'euler', 'residual'"),
        ({"flow_downsampling": 2}, "flow_downsampling: expected 0 to 1"),
        ({"coefficient": 1.0}, r"coefficient: expected an operator norm in \(0, 1\)"),
        ({"flow_scale": 0}, "scale: expected a number above 0"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        network(**options)


def test_wrong_inputs_are_refused():
    built = network()
    source, target, mask = pair()
    with pytest.raises(ValueError, match="source: expected 2 spatial axes"):
        built(source[..., None], target[..., None])
    with pytest.raises(ValueError, match="target: expected the shape of source"):
        built(source, target[..., 1:])
    with pytest.raises(ValueError, match="mask: expected the batch and grid of ddf"):
        built(source, target, mask[..., 1:])
    with pytest.raises(ValueError, match=r"mask: expected intensities in \[0, 1\]"):
        built(source, target, mask * 255.0)
    with pytest.raises(TypeError, match="source_mask: expected a torch tensor, received ndarray"):
        built(source, target, mask, mask.numpy())


# --- the rival ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, 21), (3, 10)])
@pytest.mark.parametrize("downsampling", [0, 1])
def test_voxelmorph_starts_at_the_identity_and_exponentiates(spatial_dims, size, downsampling):
    torch.manual_seed(0)
    built = DiffeomorphicVoxelMorph(spatial_dims, 1, (8, 8, 8, 8), (8,), velocity_downsampling=downsampling)
    source, target, _ = pair(spatial_dims, size=size, batch=1)
    still = built(source, target)
    assert torch.count_nonzero(still.ddf) == 0
    torch.testing.assert_close(still.warped, source, atol=1e-5, rtol=0)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    output = built(source, target)
    assert output.velocity.abs().max() > 0.1
    torch.testing.assert_close(output.ddf, exponentiate(output.velocity, 7))
    torch.testing.assert_close(output.warped, warp(source, output.ddf))
    assert compose(output.ddf, output.ddf).shape == (1, spatial_dims, *source.shape[2:])


def test_a_coarse_velocity_varies_linearly_between_coarse_voxels():
    built = DiffeomorphicVoxelMorph(2, 1, (8, 8), (8,), velocity_downsampling=2)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    source, target, _ = pair(size=16, batch=1)
    bend = built(source, target).velocity.diff(dim=2, n=2)
    # kinks only where the interpolation passes a coarse voxel's center, between voxels 4i+1 and 4i+2
    assert bend[:, :, 2].abs().max() < 1e-5
    assert bend[:, :, 1].abs().max() > 1e-4


def test_voxelmorph_refuses_wrong_arguments():
    with pytest.raises(ValueError, match="velocity_downsampling: expected 0 or more"):
        DiffeomorphicVoxelMorph(2, 1, velocity_downsampling=-1)
    built = DiffeomorphicVoxelMorph(2, 1, (8, 8), (8,))
    source, target, _ = pair()
    with pytest.raises(ValueError, match="source: expected 2 spatial axes"):
        built(source[..., None], target[..., None])
    with pytest.raises(ValueError, match="target: expected the shape of source"):
        built(source, target[..., 1:])
