"""Exponential, composition and inversion against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F

from medtrace.fields import (
    compose,
    exponentiate,
    identity_grid,
    inside_grid,
    inverse_consistency,
    invert,
    jacobian_determinant,
    non_diffeomorphic_fraction,
    sample,
    warp,
)

SHAPES = {"2d": (32, 28), "3d": (14, 16, 12), "single slice": (20, 18, 1)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def smooth(batch, shape, amplitude, width=7):
    """Smooth noise (batch, D, *shape), still along axes of length 1."""
    field = torch.randn(batch, len(shape), *shape, dtype=torch.float64)
    sizes = [width if size > 1 else 1 for size in shape]
    for _ in range(3):
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        field = pool(field, sizes, 1, [size // 2 for size in sizes])
    for axis, size in enumerate(shape):
        if size == 1:
            field[:, axis] = 0
    return field / field.abs().max() * amplitude


def linear(matrix, shape):
    """The field p -> matrix · (p - center)."""
    center = torch.tensor([(size - 1) / 2 for size in shape], dtype=torch.float64)
    points = identity_grid(shape, dtype=torch.float64) - center.reshape(-1, *(1,) * len(shape))
    return torch.einsum("ij,j...->i...", matrix, points)[None]


def middle(field, margin):
    return field[(slice(None), slice(None), *(slice(margin, -margin) for _ in field.shape[2:]))]


@each_shape
@pytest.mark.parametrize("steps", [0, 1, 7])
def test_constant_velocity_is_a_translation_up_to_the_border(shape, steps):
    velocity = torch.tensor([3.25, -4.5, 1.75][: len(shape)], dtype=torch.float64)
    velocity = velocity.reshape(1, -1, *(1,) * len(shape)).expand(1, -1, *shape)
    torch.testing.assert_close(exponentiate(velocity, steps), velocity, atol=1e-12, rtol=0)


@pytest.mark.parametrize("shape", [(33, 35), (17, 19, 15)])
def test_linear_velocity_is_the_matrix_exponential(shape):
    matrix = torch.tensor([[0.05, -0.2, 0.03], [0.15, -0.1, 0.02], [0.02, 0.05, 0.08]], dtype=torch.float64)
    matrix = matrix[: len(shape), : len(shape)]
    eye = torch.eye(len(shape), dtype=torch.float64)
    expected = linear(torch.linalg.matrix_exp(matrix) - eye, shape)
    errors = [
        (middle(exponentiate(linear(matrix, shape), steps) - expected, 7)).abs().max().item() for steps in (4, 7, 10)
    ]
    assert errors[1] < 0.01
    assert errors[2] < errors[1] / 6 < errors[0] / 36  # first order: halved with every squaring


def test_rotation():
    shape, angle = (41, 41), math.radians(20)
    generator = torch.tensor([[0.0, -angle], [angle, 0.0]], dtype=torch.float64)
    c, s = math.cos(angle), math.sin(angle)
    expected = linear(torch.tensor([[c - 1, -s], [s, c - 1]], dtype=torch.float64), shape)
    assert middle(exponentiate(linear(generator, shape), 12) - expected, 8).abs().max() < 1e-3


@each_shape
def test_exponential_is_repeated_composition(shape):
    velocity = smooth(2, shape, 2.0)
    flow = velocity / 2**5
    for _ in range(5):
        flow = compose(flow, flow)
    torch.testing.assert_close(exponentiate(velocity, 5), flow, atol=1e-10, rtol=0)


@each_shape
def test_group_property_and_negation(shape):
    velocity = smooth(1, shape, 1.0, width=9)
    whole, half = exponentiate(velocity), exponentiate(velocity / 2)
    assert (compose(half, half) - whole).abs().max() < 0.02
    miss = inverse_consistency(whole, exponentiate(-velocity))
    assert miss.shape == (1, 1, *shape)
    assert miss.max() < 0.05 < whole.abs().max()


def test_zero_steps_returns_the_velocity():
    velocity = smooth(1, (8, 9), 2.0).float()
    assert torch.equal(exponentiate(velocity, steps=0), velocity)


@each_shape
def test_composition_is_warping_twice(shape):
    # A linear image is interpolated exactly, so that only the border could distinguish the two.
    coefficients = torch.tensor([0.3, -0.7, 0.2][: len(shape)], dtype=torch.float64)
    image = torch.einsum("j,j...->...", coefficients, identity_grid(shape, dtype=torch.float64))[None, None]
    outer, inner = smooth(1, shape, 1.5), smooth(1, shape, 1.5)
    ddf = compose(outer, inner)
    inside = inside_grid(identity_grid(shape, dtype=torch.float64) + ddf, shape)
    inside &= inside_grid(identity_grid(shape, dtype=torch.float64) + inner, shape)
    near = warp((~inside_grid(identity_grid(shape) + outer, shape)).double(), inner) > 0
    inside &= ~near
    assert inside.double().mean() > 0.4
    difference = warp(image, ddf) - warp(warp(image, outer), inner)
    assert difference[inside].abs().max() < 1e-10
    assert (warp(image, ddf) - warp(warp(image, inner), outer))[inside].abs().max() > 1e-3


@each_shape
def test_inverse_of_a_translation(shape):
    ddf = torch.full((1, len(shape), *shape), 1.5)
    for axis, size in enumerate(shape):
        if size == 1:
            ddf[:, axis] = 0
    result = invert(ddf)
    torch.testing.assert_close(result.ddf, -ddf)
    assert result.residual.shape == (1,)
    assert result.residual.max() < 1e-5


def test_inverse_of_a_linear_map_is_its_matrix_inverse():
    matrix = torch.tensor([[1.9, 0.4], [-0.3, 0.6]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    shape = (31, 33)
    result = invert(linear(matrix - eye, shape), tolerance=1e-9)
    expected = linear(torch.linalg.inv(matrix) - eye, shape)
    inside = inside_grid(identity_grid(shape, dtype=torch.float64) + expected, shape)
    assert inside.double().mean() > 0.3
    assert (result.ddf - expected).abs().amax(1, keepdim=True)[inside].max() < 1e-6
    assert result.residual.max() <= 1e-9


@each_shape
def test_inverse_of_strong_flows_reaches_its_tolerance(shape):
    """Slopes far above 1, where the plain fixed point diverges."""
    ddf = exponentiate(smooth(2, shape, 4.0, width=5))
    assert non_diffeomorphic_fraction(ddf).max() == 0
    assert (jacobian_determinant(ddf) - 1).abs().max() > 1
    result = invert(ddf.float())
    assert result.residual.shape == (2,)
    assert result.residual.max() <= 1e-3
    inside = inside_grid(identity_grid(shape) + result.ddf, shape)
    assert inverse_consistency(ddf.float(), result.ddf)[inside].max() <= 1.1e-3


def test_residual_tells_of_too_few_iterations():
    strong = exponentiate(smooth(2, (32, 32), 4.0, width=5))
    strong[0] = 0
    residual = invert(strong, iterations=1).residual
    assert residual[0] == 0
    assert residual[1] > 0.1


def test_a_fold_has_no_inverse_for_every_point():
    ddf = torch.zeros(1, 2, 16, 16)
    ddf[0, 0, 6:10] = torch.tensor([6.0, -6.0, 6.0, -6.0]).reshape(4, 1)
    assert inverse_consistency(invert(ddf).ddf, ddf).max() > 1


@pytest.mark.parametrize("gradients", [False, True], ids=["compiled", "differentiable"])
def test_a_point_that_leaves_the_grid_has_no_inverse_to_miss(gradients):
    """One step takes (0, 8) to (-3, 2), where the border has (3, 0): 6 are left, and do not count; (10, 8) stays."""
    ddf = torch.zeros(1, 2, 16, 16)
    ddf[0, 0, 0] = 3.0
    ddf[0, 1, 0, 8] = 6.0
    points = torch.tensor([[0.0, 8.0], [10.0, 8.0]]).T[None]
    result = invert(ddf.requires_grad_(gradients), iterations=1, points=points)
    assert result.ddf[0].T.tolist() == [[-3.0, -6.0], [0.0, 0.0]]
    assert (result.ddf + sample(ddf, points + result.ddf))[0].T.tolist() == [[0.0, -6.0], [0.0, 0.0]]
    assert result.residual.tolist() == [0.0]


def test_inverse_at_given_points():
    shape = (24, 26)
    ddf = exponentiate(smooth(1, shape, 2.0))
    points = torch.rand(1, 2, 3, 5, dtype=torch.float64) * 10 + 6
    result = invert(ddf, tolerance=1e-8, points=points)
    assert result.ddf.shape == points.shape
    assert (result.ddf + sample(ddf, points + result.ddf)).abs().max() < 1e-7
    on_grid = identity_grid(shape, dtype=torch.float64)[None]
    torch.testing.assert_close(invert(ddf, points=on_grid).ddf, invert(ddf).ddf)


@pytest.mark.parametrize("shape", [(5, 6), pytest.param((4, 3, 4), marks=pytest.mark.slow)])
def test_gradients(shape):
    velocity = smooth(1, shape, 0.6, width=3).requires_grad_()
    other = smooth(1, shape, 0.4, width=3).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: exponentiate(v, 3), velocity)
    assert torch.autograd.gradcheck(compose, (velocity, other))
    assert torch.autograd.gradcheck(lambda u: invert(u, tolerance=1e-13).ddf, velocity, atol=1e-4)


def test_autocast_and_half_stay_in_float32():
    velocity = smooth(1, (48, 48), 2.0).float()
    expected = exponentiate(velocity)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flow = exponentiate(velocity)
        twice = compose(flow, flow)
        back = invert(flow)
    assert flow.dtype == twice.dtype == back.ddf.dtype == torch.float32
    assert torch.equal(flow, expected)
    assert torch.equal(twice, compose(expected, expected))
    assert back.residual.max() <= 1e-3
    assert exponentiate(velocity.bfloat16()).dtype == torch.float32


def test_agrees_with_monai_in_float32():
    import monai.networks.blocks as monai

    velocity = smooth(2, (40, 36), 3.0).float()
    theirs = monai.DVF2DDF(num_steps=7, mode="bilinear", padding_mode="border")(velocity)
    torch.testing.assert_close(exponentiate(velocity), theirs, atol=1e-4, rtol=0)


def test_monai_tensors_are_taken():
    import monai.data as data

    velocity = smooth(1, (12, 14), 1.0).float()
    ddf = exponentiate(data.MetaTensor(velocity))
    expected = exponentiate(velocity)
    assert torch.equal(torch.as_tensor(ddf), expected)
    assert torch.equal(torch.as_tensor(invert(ddf).ddf), invert(expected).ddf)
    assert torch.equal(torch.as_tensor(warp(data.MetaTensor(velocity), ddf)), warp(velocity, expected))


FIELD = torch.zeros(1, 2, 4, 5)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: exponentiate(FIELD, steps=-1), ValueError, "steps: expected 0 or more squarings, received -1"),
        (lambda: exponentiate(FIELD, steps=2.0), TypeError, "steps: expected an integer, received float"),
        (lambda: exponentiate(FIELD[:, :1]), ValueError, "velocity: expected 2 channels"),
        (lambda: compose(FIELD, FIELD[..., 1:]), ValueError, "inner: expected the shape of outer"),
        (lambda: compose(FIELD, None), TypeError, "inner: expected a torch tensor, received NoneType"),
        (lambda: invert(FIELD, iterations=0), ValueError, "iterations: expected at least 1"),
        (lambda: invert(FIELD, tolerance=0.0), ValueError, "tolerance: expected a number above 0"),
        (lambda: invert(FIELD, points=torch.zeros(1, 3, 4)), ValueError, r"points: expected \(1, 2\)"),
        (lambda: inverse_consistency(FIELD, FIELD[:, :, 1:]), ValueError, "inverse_ddf: expected the shape of ddf"),
    ],
)
def test_errors_say_what_was_expected(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
