"""Folding of a field and diffusion of an intensity, against values from arithmetic."""

import pytest
import torch

from medtrace.fields import jacobian_determinant, non_diffeomorphic_fraction
from medtrace.losses import IntensityDiffusionLoss, JacobianFoldingLoss, intensity_diffusion, jacobian_folding


def ramp(shape, slope, axis=0):
    """Displacement slope·x along one axis: J = 1 + slope everywhere."""
    field = torch.zeros(1, len(shape), *shape)
    line = torch.arange(shape[axis], dtype=torch.float32) * slope
    field[:, axis] = line.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return field


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 6)])
@pytest.mark.parametrize(("slope", "expected"), [(-3.0, 2.0), (-1.5, 0.5), (-1.0, 0.0), (-0.9, 0.0), (2.0, 0.0)])
def test_folding_of_a_uniform_field(shape, slope, expected):
    field = ramp(shape, slope, axis=1)
    voxels = field[0, 0].numel()
    assert float(jacobian_folding(field)) == pytest.approx(expected * voxels)
    assert float(jacobian_folding(field, "mean")) == pytest.approx(expected)
    assert torch.allclose(jacobian_folding(field, "none"), torch.full((1, 1, *shape), expected))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_folding_is_the_printed_equation(spatial_dims):
    field = 2 * torch.randn(3, spatial_dims, *[7] * spatial_dims)
    determinant = jacobian_determinant(field)
    printed = 0.5 * (determinant.abs() - determinant)
    assert printed.max() > 0
    torch.testing.assert_close(jacobian_folding(field, "none"), printed)
    torch.testing.assert_close(jacobian_folding(field), printed.sum() / 3)
    torch.testing.assert_close(JacobianFoldingLoss("mean")(field), printed.mean())


def test_simplices_see_the_fold_of_one_voxel():
    field = torch.zeros(1, 2, 9, 9)
    field[:, 0, 4, 4] = 1.5  # beyond its neighbor
    assert float(non_diffeomorphic_fraction(field)) > 0
    assert float(jacobian_folding(field)) == 0
    assert float(jacobian_folding(field, measure="simplices")) > 0
    torch.testing.assert_close(
        jacobian_folding(field, "mean", "simplices") * 81, JacobianFoldingLoss(measure="simplices")(field)
    )
    # a field that is turned over as a whole folds the area between the voxels' centers
    assert float(jacobian_folding(ramp((6, 5), -2.0), measure="simplices")) == pytest.approx(5 * 4)


@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("measure", ["central", "simplices"])
def test_folding_gradient(spatial_dims, measure):
    field = (2 * torch.randn(1, spatial_dims, *[3] * spatial_dims, dtype=torch.float64)).requires_grad_()
    assert float(jacobian_folding(field, measure=measure)) > 0
    assert torch.autograd.gradcheck(lambda x: jacobian_folding(x, measure=measure), field)


def test_descending_folding_unfolds():
    field = (0.8 * torch.randn(1, 2, 12, 12)).requires_grad_()
    first = float(jacobian_folding(field, measure="simplices").detach())
    optimizer = torch.optim.SGD([field], 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        jacobian_folding(field, measure="simplices").backward()
        optimizer.step()
    assert float(jacobian_folding(field, measure="simplices").detach()) < 0.02 * first


def test_folding_refuses():
    field = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="reduction: expected one of 'sum', 'mean', 'none'"):
        jacobian_folding(field, "max")
    with pytest.raises(ValueError, match="measure: expected one of"):
        JacobianFoldingLoss(measure="forward")
    with pytest.raises(ValueError, match="simplices"):
        jacobian_folding(field, "none", "simplices")
    with pytest.raises(ValueError, match="ddf: expected 2 channels"):
        jacobian_folding(torch.zeros(1, 1, 4, 4))
    with pytest.raises(TypeError, match="ddf: expected a torch tensor"):
        jacobian_folding([1.0])


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_diffusion_of_a_ramp(spatial_dims):
    slope, size = 0.5, 5
    image = slope * torch.arange(size, dtype=torch.float32).reshape(1, 1, size, *[1] * (spatial_dims - 1))
    image = image.expand(2, 3, *[size] * spatial_dims)
    assert float(intensity_diffusion(image)) == pytest.approx(slope**2 / spatial_dims)
    pairs = 3 * (size - 1) * size ** (spatial_dims - 1)
    assert float(intensity_diffusion(image, "sum")) == pytest.approx(slope**2 * pairs)
    assert float(IntensityDiffusionLoss()(torch.ones(1, 1, *[4] * spatial_dims))) == 0


def test_diffusion_counts_the_edge_of_the_mask():
    image = torch.zeros(1, 1, 4, 4)
    image[..., 1, 1] = 2.0
    assert float(intensity_diffusion(image, "sum")) == pytest.approx(4 * 2.0**2)


def test_diffusion_gradient_types_and_errors():
    image = torch.randn(1, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(intensity_diffusion, image)
    assert intensity_diffusion(image.detach().to(torch.bfloat16)).dtype == torch.float32
    assert float(intensity_diffusion(torch.ones(1, 1, 1, 1))) == 0
    with pytest.raises(ValueError, match="reduction: expected one of"):
        intensity_diffusion(image, "none")
    with pytest.raises(ValueError, match="intensity: expected"):
        intensity_diffusion(torch.zeros(4, 4))
