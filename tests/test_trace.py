"""The record: where points come from and go to, and where the change of the image went."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from medtrace.fields import exponentiate, identity_grid, invert, sample, warp
from medtrace.trace import Trace, contrast_change

EYE = torch.eye(4, dtype=torch.float64)
SHAPES = {"2d": (26, 24), "3d": (14, 16, 12), "single slice": (20, 18, 1)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


def smooth(channels, shape, amplitude=1.0, width=5):
    noise = torch.randn(1, channels, *shape)
    sizes = [width if size > 1 else 1 for size in shape]
    for _ in range(2):
        pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
        noise = pool(noise, sizes, 1, [size // 2 for size in sizes])
    return noise[0] / noise.abs().max() * amplitude


def flow(shape, amplitude=2.0):
    velocity = smooth(len(shape), shape, amplitude, width=7)
    for axis, size in enumerate(shape):
        if size == 1:
            velocity[axis] = 0
    return exponentiate(velocity[None])[0]


def rotated(angle, spacing, origin):
    """A grid turned about the third axis, with its own spacing and place."""
    c, s = math.cos(angle), math.sin(angle)
    affine = torch.eye(4, dtype=torch.float64)
    affine[:2, :2] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    affine[:3, :3] *= torch.tensor(spacing, dtype=torch.float64)
    affine[:3, 3] = torch.tensor(origin, dtype=torch.float64)
    return affine


TARGET = rotated(0.3, (1.2, -0.8, 2.0), (5.0, 30.0, -7.0))
SOURCE = rotated(0.1, (0.9, 1.1, 2.0), (-3.0, 7.0, -7.0))


def two_grids(shape, channels=1, **options):
    source_shape = (shape[0] + 14, shape[1] + 12, *shape[2:])
    return Trace.build(
        smooth(channels, source_shape),
        smooth(channels, shape),
        flow(shape),
        affine=TARGET,
        source_affine=SOURCE,
        **options,
    )


def random_points(trace, which, count=60, margin=4):
    """Points in mm well within a grid, and their voxel coordinates (count, 3)."""
    affine = trace.source_affine if which == "source" else trace.affine
    shape = (trace.source if which == "source" else trace.image).shape[1:]
    low = torch.tensor([margin if size > 2 * margin else 0 for size in (*shape, 1)[:3]], dtype=torch.float64)
    high = torch.tensor([*shape, 1][:3], dtype=torch.float64) - 1 - low
    voxels = low + torch.rand(count, 3, dtype=torch.float64) * (high - low)
    return voxels @ affine[:3, :3].T + affine[:3, 3], voxels


@each_shape
def test_build_on_one_grid(shape):
    source, image, ddf = smooth(2, shape), smooth(2, shape), flow(shape)
    trace = Trace.build(source, image, ddf)
    assert trace.spatial_dims == len(shape)
    assert trace.same_grid
    assert torch.equal(trace.warped, warp(source[None], ddf[None])[0])
    torch.testing.assert_close(trace.inverse_ddf, invert(ddf[None]).ddf[0])
    assert torch.equal(trace.affine, EYE)
    assert torch.equal(trace.source_affine, EYE)
    assert "largest displacement" in repr(trace)
    assert trace.to("cpu").ledger().summary == trace.ledger().summary


@each_shape
def test_warped_follows_the_formula_across_two_grids(shape):
    """source voxel = source_affine⁻¹ · affine · (p + ddf(p)), voxel by voxel."""
    trace = two_grids(shape)
    assert not trace.same_grid
    to_source = np.linalg.inv(SOURCE.numpy()) @ TARGET.numpy()
    for _ in range(25):
        index = tuple(int(torch.randint(size, ())) for size in shape)
        moved = np.array(index, dtype=float) + trace.ddf[(slice(None), *index)].numpy()
        voxel = to_source @ [*moved, *([0.0] if len(shape) == 2 else []), 1.0]
        point = torch.tensor(voxel[: len(shape)], dtype=torch.float32).reshape(1, -1, 1)
        expected = sample(trace.source[None], point)[0, :, 0]
        torch.testing.assert_close(trace.warped[(slice(None), *index)], expected, atol=1e-4, rtol=0)


@each_shape
def test_locate_and_origin_follow_the_formulas(shape):
    trace = two_grids(shape)
    dims = len(shape)
    points, voxels = random_points(trace, "source", margin=0)
    moved = voxels.clone()
    moved[:, :dims] += sample(trace.inverse_ddf[None], voxels[:, :dims].T[None].float())[0].T
    torch.testing.assert_close(trace.locate(points), moved @ SOURCE[:3, :3].T + SOURCE[:3, 3], atol=1e-4, rtol=0)
    points, voxels = random_points(trace, "target", margin=0)
    moved = voxels.clone()
    moved[:, :dims] += sample(trace.ddf[None], voxels[:, :dims].T[None].float())[0].T
    torch.testing.assert_close(trace.origin(points), moved @ TARGET[:3, :3].T + TARGET[:3, 3], atol=1e-4, rtol=0)


@each_shape
@pytest.mark.parametrize("grids", ["one", "two"])
def test_origin_undoes_locate(shape, grids):
    trace = two_grids(shape) if grids == "two" else Trace.build(smooth(1, shape), smooth(1, shape), flow(shape))
    points, _ = random_points(trace, "source", count=200)
    there = trace.locate(points)
    inside = trace.in_target(there)
    assert inside.sum() > 50
    miss = (trace.origin(there) - points).norm(dim=1)[inside]
    # Exact at voxels; between them the inverse is interpolated.
    assert miss.max() < 0.25
    assert miss.mean() < 0.08
    assert (there - points).norm(dim=1).max() > 1


def test_inverse_is_exact_at_the_sources_voxels():
    trace = two_grids((26, 24))
    grid = identity_grid(trace.source.shape[1:], dtype=torch.float64).flatten(1).T
    voxels = torch.cat([grid, torch.zeros(len(grid), 1)], dim=1)
    points = voxels @ SOURCE[:3, :3].T + SOURCE[:3, 3]
    there = trace.locate(points)
    inside = trace.in_target(there)
    assert inside.float().mean() > 0.2
    assert (trace.origin(there) - points).norm(dim=1)[inside].max() < 2e-3


def test_a_translation_by_hand():
    """The image moved by +3 voxels of 2 mm along axis 0: what is at x is now at x + 6 mm, and pulls by -3."""
    source = torch.zeros(1, 12, 5)
    source[0, 4, 2] = 1.0
    ddf = torch.zeros(2, 12, 5)
    ddf[0] = -3.0
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    trace = Trace.build(source, source, ddf, affine=affine)
    assert trace.warped[0, 7, 2] == pytest.approx(1.0, abs=1e-5)
    point = torch.tensor([[8.0, 2.0, 0.25]])
    torch.testing.assert_close(trace.locate(point), torch.tensor([[14.0, 2.0, 0.25]], dtype=torch.float64))
    torch.testing.assert_close(trace.origin([[14.0, 2.0, 0.25]]), point.double())
    assert trace.covered[0, :, 0].tolist() == [False] * 3 + [True] * 9


def test_points_off_the_grid_move_as_the_border_and_are_told():
    ddf = torch.zeros(2, 8, 8)
    ddf[0, -1] = 0.5
    trace = Trace.build(torch.rand(1, 8, 8), torch.rand(1, 8, 8), ddf)
    far = torch.tensor([[20.0, 3.0, 0.0], [3.0, 3.0, 0.0], [3.0, 3.0, 2.0]])
    torch.testing.assert_close(trace.origin(far)[0], torch.tensor([20.5, 3.0, 0.0], dtype=torch.float64))
    assert trace.in_source(far).tolist() == [False, True, False]
    assert trace.in_target(far).tolist() == [False, True, False]


@each_shape
def test_transfer(shape):
    trace = two_grids(shape)
    soft = torch.softmax(smooth(3, trace.source.shape[1:], 4.0), dim=0)
    labels = soft.argmax(0, keepdim=True)
    result = trace.transfer(labels)
    assert result.shape == (1, *shape)
    assert result.dtype == torch.int64
    assert set(result.unique().tolist()) <= {0, 1, 2}
    assert trace.transfer(labels == 1).dtype == torch.bool
    torch.testing.assert_close(trace.transfer(trace.source), trace.warped)
    carried = trace.transfer(soft)
    torch.testing.assert_close(carried.sum(0), torch.ones(shape))
    assert (carried.argmax(0) == result[0]).float().mean() > 0.9


@each_shape
@pytest.mark.parametrize("mask", [False, True])
def test_ledger_adds_up(shape, mask):
    permitted = smooth(1, shape) > 0 if mask else None
    trace = Trace.build(smooth(2, shape), smooth(2, shape), flow(shape), mask=permitted)
    ledger = trace.ledger(target=trace.image + 0.25)
    torch.testing.assert_close(trace.warped + ledger.appearance + ledger.residual, trace.image)
    torch.testing.assert_close(trace.source + ledger.deformation, trace.warped)
    torch.testing.assert_close(ledger.error, torch.full_like(trace.image, 0.25), atol=1e-6, rtol=0)
    assert ledger.summary.error == pytest.approx(0.25, abs=1e-6)
    assert ledger.summary.residual == pytest.approx(float(ledger.residual.abs().mean()), rel=1e-4)
    if mask:
        assert torch.equal(ledger.residual * permitted, torch.zeros_like(ledger.residual))
        assert torch.equal(ledger.appearance * ~permitted, torch.zeros_like(ledger.residual))


def test_ledger_summary_by_hand():
    source = torch.zeros(1, 1, 4)
    image = torch.tensor([[[0.0, 2.0, 4.0, -2.0]]])
    permitted = torch.tensor([[[0, 1, 1, 0]]])
    trace = Trace.build(source, image, torch.zeros(2, 1, 4), mask=permitted)
    summary = trace.ledger().summary
    assert summary.change == 2.0
    assert summary.deformation == 0.0
    assert summary.appearance == 1.5
    assert summary.residual == 0.5
    assert summary.error is None
    assert summary.explained_fraction == pytest.approx(1 - 4 / 24)
    region = torch.tensor([[[0, 0, 1, 1]]])
    summary = trace.ledger(region=region).summary
    assert (summary.change, summary.residual) == (3.0, 1.0)
    assert summary.explained_fraction == pytest.approx(1 - 4 / 20)
    assert Trace.build(source, source, torch.zeros(2, 1, 4)).ledger().summary.explained_fraction is None


def test_ledger_where_grids_or_channels_differ():
    ledger = two_grids((26, 24)).ledger()
    assert ledger.deformation is None
    assert ledger.summary.change is None
    assert ledger.residual is not None
    trace = Trace.build(smooth(3, (9, 8)), smooth(1, (9, 8)), flow((9, 8)))
    assert trace.appearance is None
    assert trace.ledger().residual is None
    assert trace.ledger().deformation.shape == (3, 9, 8)


def test_contrast_change_is_a_conditional_mean():
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    index = torch.randint(4, (1, 64, 64))
    warped, noise = values[index], torch.randn(1, 64, 64) * 0.3
    image = torch.tensor([0.2, -0.7, 0.9, 0.1])[index] + noise
    change = contrast_change(warped, image)
    for k, value in enumerate(values):
        expected = image[index == k].mean() - value
        torch.testing.assert_close(change[index == k], expected.expand(int((index == k).sum())))


def test_contrast_change_follows_a_linear_change_and_an_unchanged_image():
    warped = torch.rand(1, 40, 40, 8)
    change = contrast_change(warped, 1.5 * warped + 0.1)
    expected = 0.5 * warped + 0.1
    within = (warped > 1 / 64) & (warped < 63 / 64)
    torch.testing.assert_close(change[within], expected[within], atol=1e-4, rtol=0)
    torch.testing.assert_close(change, expected, atol=0.5 / 64, rtol=0)
    assert torch.equal(contrast_change(warped, warped), torch.zeros_like(warped))


def test_contrast_change_stays_beyond_the_outermost_means():
    """Two bins, (0, 1) and (2, 3), with means .5 and 2.5, at which the difference is 1 and 5: 2 in each unit."""
    warped, image = torch.tensor([[[0.0, 1.0, 2.0, 3.0]]]), torch.tensor([[[0.0, 3.0, 6.0, 9.0]]])
    assert contrast_change(warped, image, bins=2).tolist() == [[[1.0, 2.0, 4.0, 5.0]]]


def test_contrast_change_of_a_constant_image_is_the_mean_difference():
    image = torch.rand(2, 6, 7)
    change = contrast_change(torch.full_like(image, 0.25), image)
    expected = image.mean(dim=(1, 2), keepdim=True) - 0.25
    torch.testing.assert_close(change, expected.expand_as(change))


def test_unexplained_texture_stays_in_the_residual():
    shape = (40, 40)
    source = smooth(1, shape)
    texture = torch.randn(1, *shape) * 0.1
    trace = Trace.build(source, -source + texture, torch.zeros(2, *shape))
    assert trace.ledger().residual.std() == pytest.approx(0.1, rel=0.1)
    assert trace.ledger().summary.explained_fraction > 0.9


def test_build_takes_what_networks_and_monai_give():
    source = MetaTensor(torch.rand(1, 8, 9), affine=torch.eye(4))
    ddf = (torch.rand(2, 8, 9) * 0.2).bfloat16().requires_grad_()
    trace = Trace.build(source, torch.rand(1, 8, 9).half(), ddf, mask=torch.ones(1, 8, 9, dtype=torch.uint8))
    for name in ("source", "image", "ddf", "inverse_ddf", "warped", "appearance", "mask"):
        value = getattr(trace, name)
        assert type(value) is torch.Tensor
        assert value.dtype == torch.float32
        assert not value.requires_grad
    assert trace.affine.dtype == torch.float64


def test_given_inverse_and_velocity_are_kept():
    velocity = smooth(2, (12, 13), 2.0)
    inverse = exponentiate(-velocity[None])[0]
    ddf = exponentiate(velocity[None])[0]
    trace = Trace.build(ddf[:1], ddf[:1], ddf, inverse_ddf=inverse, velocity=velocity)
    assert torch.equal(trace.inverse_ddf, inverse)
    assert torch.equal(trace.velocity, velocity)


def test_an_inverse_that_misses_is_told():
    ddf = torch.randn(2, 20, 20, generator=torch.Generator().manual_seed(1)) * 6
    with pytest.warns(UserWarning, match=r"its inverse is off by up to \d+\.\d+ voxels"):
        Trace.build(torch.rand(1, 20, 20), torch.rand(1, 20, 20), ddf)


def test_a_trace_is_frozen():
    trace = Trace.build(torch.rand(1, 5, 6), torch.rand(1, 5, 6), torch.zeros(2, 5, 6))
    with pytest.raises(AttributeError):
        trace.image = trace.source


IMAGE, FIELD = torch.rand(1, 5, 6), torch.zeros(2, 5, 6)
TILTED = torch.tensor([[1, 0, 0, 0], [0, 0.8, -0.6, 0], [0, 0.6, 0.8, 0], [0, 0, 0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda: Trace.build(IMAGE[None, None], IMAGE, FIELD), ValueError, r"source: .*unbatched and not empty"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD[:, :4]), ValueError, r"ddf: expected shape \(2, 5, 6\)"),
        (lambda: Trace.build(IMAGE, IMAGE[..., None], FIELD), ValueError, "image: expected 2 spatial axes"),
        (lambda: Trace.build(IMAGE.numpy(), IMAGE, FIELD), TypeError, "source: expected a torch tensor"),
        (lambda: Trace.build(IMAGE.long(), IMAGE, FIELD), TypeError, "source: expected floating-point"),
        (lambda: Trace.build(IMAGE / 0, IMAGE, FIELD), ValueError, "source: expected finite numbers"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD / 0), ValueError, "ddf: expected finite numbers"),
        (lambda: Trace.build(torch.rand(1, 7, 7), IMAGE, FIELD), ValueError, "pass affine and source_affine"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD, mask=IMAGE[0]), ValueError, r"mask: expected shape \(1, 5, 6\)"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD, mask=IMAGE * 3 + 1), ValueError, r"mask: .*in \[0, 1\]"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD, affine=torch.eye(3)), ValueError, "affine: expected shape"),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD, affine=EYE * 2), ValueError, "affine: expected the last row"),
        (
            lambda: Trace.build(IMAGE, IMAGE, FIELD, affine=torch.diag(torch.tensor([1.0, 0, 1, 1]))),
            ValueError,
            "affine: expected an invertible",
        ),
        (
            lambda: Trace.build(IMAGE, IMAGE, FIELD, affine=TILTED, source_affine=EYE),
            ValueError,
            "target slice in the source's plane",
        ),
        (
            lambda: Trace.build(IMAGE, IMAGE, FIELD, inverse_ddf=FIELD[:, :4]),
            ValueError,
            "inverse_ddf: expected shape",
        ),
        (lambda: Trace.build(IMAGE, IMAGE, FIELD, velocity=FIELD[:1]), ValueError, "velocity: expected shape"),
    ],
)
def test_build_errors_say_what_was_expected(call, kind, text):
    with pytest.raises(kind, match=text):
        call()


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        (lambda t: t.locate(torch.zeros(4, 2)), ValueError, r"points_mm: expected shape \(N, 3\)"),
        (lambda t: t.origin("here"), TypeError, "points_mm: expected numbers"),
        (lambda t: t.locate([[math.nan, 0.0, 0.0]]), ValueError, "points_mm: expected finite"),
        (lambda t: t.transfer(torch.zeros(5, 6)), ValueError, "labels: expected .*the source's grid"),
        (lambda t: t.transfer([1]), TypeError, "labels: expected a torch tensor"),
        (lambda t: t.ledger(target=IMAGE[:, :4]), ValueError, "target: expected the shape of image"),
        (lambda t: t.ledger(region=torch.zeros(1, 5, 6)), ValueError, "region: expected at least one voxel"),
        (lambda t: t.ledger(region=torch.zeros(5, 6)), ValueError, r"region: expected shape \(1, 5, 6\)"),
    ],
)
def test_method_errors_say_what_was_expected(call, kind, text):
    trace = Trace.build(IMAGE, IMAGE, FIELD)
    with pytest.raises(kind, match=text):
        call(trace)
