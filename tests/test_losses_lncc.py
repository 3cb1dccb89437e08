"""Local normalized cross-correlation: values from arithmetic and MONAI, exact gradients, masks."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.losses import LocalNormalizedCrossCorrelationLoss

from medtrace import kernels
from medtrace.kernels.lncc import local_signs
from medtrace.losses import LNCCLoss, lncc

each_shape = pytest.mark.parametrize("shape", [(6, 7), (4, 5, 3)], ids=["2d", "3d"])


def images(shape, dtype=torch.float64):
    return [torch.rand(2, 2, *shape, dtype=dtype, requires_grad=True) for _ in range(2)]


def test_one_window_is_the_squared_correlation_coefficient():
    x, y = torch.rand(2, 1, 1, 5, 5, dtype=torch.float64)
    mask = torch.ones(1, 1, 5, 5, dtype=torch.float64) * 1e-12
    mask[..., 2, 2] = 1  # all but the middle window weigh nothing, and its voxels all but nothing
    expected = np.corrcoef(x.flatten(), y.flatten())[0, 1] ** 2
    one_window = lncc(x, y, radius=4, floor=1e-15)
    assert float(one_window) == pytest.approx(expected, rel=1e-9)
    assert float(lncc(x, y, mask=mask)) < 1e-6


@each_shape
def test_gradient_is_exact(shape):
    x, y = images(shape)
    mask = torch.rand(2, 1, *shape, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: lncc(a, b, mask=mask, floor=1e-3), (x, y))


@each_shape
def test_compiled_agrees_with_torch(shape):
    x, y = images(shape, torch.float32)
    mask = torch.rand(2, 1, *shape)
    results = []
    for choice in ("compiled", "torch"):
        with kernels.use(choice):
            value = lncc(x, y, mask=mask)
            results.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_monais_value_away_from_the_border(dims):
    """MONAI counts zeros beyond the border; a dark frame makes both windows the same."""
    x, y = torch.zeros(2, 1, 1, *(20,) * dims)
    inner = (slice(None), slice(None), *(slice(5, -5),) * dims)
    x[inner] = torch.rand(1, 1, *(10,) * dims)
    y[inner] = torch.rand(1, 1, *(10,) * dims) + x[inner]
    theirs = LocalNormalizedCrossCorrelationLoss(dims, kernel_size=5, smooth_dr=1e-9)(x, y)
    torch.testing.assert_close(LNCCLoss(floor=1e-10)(x, y), theirs, atol=1e-5, rtol=0)


def test_what_is_masked_out_has_no_influence():
    x, y = torch.rand(2, 1, 1, 12, 12)
    mask = torch.ones(1, 1, 12, 12)
    mask[..., :5] = 0
    before = lncc(x, y, mask=mask)
    x[..., :5] = 1e3
    torch.testing.assert_close(lncc(x, y, mask=mask), before, rtol=1e-3, atol=1e-4)


def test_linear_changes_and_constants():
    x = torch.rand(1, 1, 12, 12)
    assert float(lncc(x, 2 - 3 * x, floor=1e-9)) == pytest.approx(1, abs=1e-4)
    assert float(lncc(x, torch.full_like(x, 0.3))) < 1e-6


def test_the_loss_is_minus_the_mean_and_reduces():
    x, y = images((9, 9), torch.float32)
    values = -lncc(x, y).mean(1)
    torch.testing.assert_close(LNCCLoss(reduction="none")(x, y), values)
    torch.testing.assert_close(LNCCLoss()(x, y), values.mean())
    torch.testing.assert_close(LNCCLoss(reduction="sum")(x, y), values.sum())
    assert type(LNCCLoss()(MetaTensor(x.detach()), MetaTensor(y.detach()))) is torch.Tensor


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"y": torch.rand(1, 1, 4, 5)}, ValueError, "y: expected the shape of x"),
        ({"x": torch.full((1, 1, 4, 4), torch.nan)}, ValueError, "x: expected finite numbers"),
        ({"radius": 0}, ValueError, "radius: expected at least 1"),
        ({"floor": 0.0}, ValueError, "floor: expected a number above 0"),
        ({"mask": torch.zeros(1, 1, 4, 4)}, ValueError, "mask: expected voxels"),
        ({"x": torch.zeros(1, 1, 4, 4, dtype=torch.long)}, TypeError, "x: expected floating-point values"),
    ],
)
def test_wrong_arguments(change, kind, message):
    arguments = {"x": torch.rand(1, 1, 4, 4), "y": torch.rand(1, 1, 4, 4), **change}
    with pytest.raises(kind, match=message):
        lncc(**arguments)


@each_shape
def test_signs_of_the_local_correlations(shape):
    """All of one sign where one image is the other inverted, and the same numbers compiled and by torch."""
    x, y = (torch.rand(shape) for _ in range(2))
    weight = torch.rand(shape)
    signed, whole = local_signs(x, -2 * x, weight, 2, 1e-3)
    assert signed == pytest.approx(-whole, rel=1e-5)
    results = []
    for choice in ("compiled", "torch"):
        with kernels.use(choice):
            results.append(local_signs(x, y, weight, 2, 1e-3))
    assert results[0] == pytest.approx(results[1], rel=1e-3, abs=1e-3)
    assert abs(results[0][0]) < results[0][1]
