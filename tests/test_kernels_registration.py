"""Compiled operations of compositional registration against plain torch, and against what they are derivatives of."""

import numpy as np
import pytest
import torch

from medtrace import kernels
from medtrace.fields import compose, folded_voxels, warp
from medtrace.kernels import threads
from medtrace.kernels.greedy import operations
from medtrace.kernels.greedy_interface import BINS, gaussian
from medtrace.kernels.greedy_torch import TorchOperations
from medtrace.kernels.information import FLOOR, information, smoothing_matrix
from medtrace.kernels.point_information import PointInformation
from medtrace.kernels.point_loops import normalized_information

SHAPES = {"2d": (19, 23), "3d": (9, 11, 13), "single slice": (8, 9, 1), "row": (1, 9), "slab": (1, 7, 8)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture
def thread_limit():
    yield threads.limit
    threads.limit(None)


def close(ours, theirs, tolerance=2e-5):
    ours, theirs = (torch.as_tensor(np.asarray(value)).double() for value in (ours, theirs))
    torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, float(theirs.abs().max())), rtol=0)


class Both:
    """The same arrays for the compiled operations and, in float64, for plain torch."""

    def __init__(self, shape):
        self.shape, self.dims = shape, len(shape)
        self.ours, self.theirs = operations(shape), TorchOperations(shape, torch.device("cpu"), torch.float64)

    def volumes(self, count):
        values = [torch.rand(self.shape) for _ in range(count)]
        return [[ops.volume(value) for value in values] for ops in (self.ours, self.theirs)]

    def field(self, scale):
        value = torch.randn(self.dims, *self.shape) * scale
        return self.ours.field(value.clone()), self.theirs.field(value.clone()), value


@each_shape
def test_warp_slopes_and_composition_agree_with_torch(shape):
    both = Both(shape)
    (image,), (twin,) = both.volumes(1)
    field, twin_field, ddf = both.field(2.0)
    (ours, ours_slope), (theirs, theirs_slope) = both.ours.warp(image, field), both.theirs.warp(twin, twin_field)
    close(both.ours.tensor(ours), both.theirs.tensor(theirs))
    close(both.ours.tensor(ours_slope), both.theirs.tensor(theirs_slope))
    close(
        both.ours.tensor(ours), warp(torch.from_numpy(image).reshape(1, 1, *shape).double(), ddf[None].double())[0, 0]
    )
    close(both.ours.slopes(image), both.theirs.slopes(twin))
    update, twin_update, moved = both.field(1.0)
    ours, theirs = both.ours.compose(field, update), both.theirs.compose(twin_field, twin_update)
    close(both.ours.tensor(ours), both.theirs.tensor(theirs))
    close(both.ours.tensor(ours), compose(ddf[None].double(), moved[None].double())[0])


@each_shape
@pytest.mark.parametrize("similarity", ["difference", "lncc", "mi", "nmi"])
def test_similarities_and_forces_agree_with_torch(shape, similarity):
    both = Both(shape)
    ours, theirs = both.volumes(4)
    field, twin_field, _ = both.field(1.0)
    results = []
    for ops, arrays, moved in ((both.ours, ours, field), (both.theirs, theirs, twin_field)):
        slopes = measure(ops, similarity, *arrays)
        by_space = ops.warp(arrays[0], moved)[1]
        force = ops.force(slopes, by_space, ops.slopes(arrays[1]), 0.4)
        results.append((slopes.value, slopes.by_x, slopes.by_y, force))
    for one, other in zip(*results):
        close(one, other, 1e-4)


def measure(ops, similarity, x, y, weight, centers):
    if similarity == "difference":
        return ops.difference(x, y, weight)
    if similarity == "lncc":
        return ops.lncc(x, y, weight, centers, ops.windows(y, weight, 2), 2, 1e-3, True)
    return ops.information(x, y, weight, similarity == "nmi", True)


@pytest.mark.parametrize("similarity", ["difference", "lncc", "mi", "nmi"])
def test_slopes_are_the_derivatives_of_the_value(similarity):
    ops = TorchOperations((6, 7, 5), torch.device("cpu"), torch.float64)
    x, y, weight, centers = (torch.rand(6, 7, 5, dtype=torch.float64) for _ in range(4))
    slopes = measure(ops, similarity, x, y, weight, centers)
    for image, slope in ((x, slopes.by_x), (y, slopes.by_y)):
        for place in ((0, 0, 0), (3, 2, 4), (5, 6, 1)):
            before, step = float(image[place]), 1e-6
            values = []
            for side in (1, -1):
                image[place] = before + side * step
                values.append(measure(ops, similarity, x, y, weight, centers).value)
            image[place] = before
            assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(slope[place]), rel=1e-4, abs=1e-7)


def test_a_window_without_weight_gives_no_nan():
    ops = operations((12, 14))
    x, y = (ops.volume(torch.rand(12, 14)) for _ in range(2))
    nothing = ops.volume(torch.zeros(12, 14))
    slopes = ops.lncc(x, y, nothing, nothing, ops.windows(y, nothing, 2), 2, 1e-5, True)
    assert slopes.value == 0
    assert not slopes.by_x.any()
    assert ops.information(x, y, nothing, True, True).value == 0


@each_shape
def test_smoothing_agrees_with_torch_and_keeps_constants(shape):
    both = Both(shape)
    field, twin_field, _ = both.field(1.0)
    sigmas = (1.5, 0.7, 1.1)[: len(shape)]
    (ours, longest), (theirs, twin_longest) = both.ours.smooth(field, sigmas), both.theirs.smooth(twin_field, sigmas)
    close(both.ours.tensor(ours), both.theirs.tensor(theirs))
    assert longest == pytest.approx(twin_longest, rel=1e-5)
    ones, _ = both.ours.smooth(both.ours.volume(torch.ones(shape)), sigmas)
    close(ones, np.ones_like(ones))


def test_gaussian_is_scipys():
    from scipy.ndimage import gaussian_filter1d

    kernel = np.array(gaussian(2.0))
    impulse = gaussian_filter1d(np.eye(1, 41, 20)[0], 2.0, truncate=3.0)
    np.testing.assert_allclose(kernel, impulse[20 : 20 + len(kernel)], atol=6e-3)
    assert gaussian(0.0) == [1.0]


@each_shape
def test_affine_displacement_agrees_with_torch(shape):
    both = Both(shape)
    matrix = tilted(both.dims)
    close(both.ours.tensor(both.ours.affine(matrix)), both.theirs.tensor(both.theirs.affine(matrix)))


def tilted(dims):
    matrix = np.eye(dims + 1)
    matrix[:-1] += 0.1 * np.random.default_rng(0).normal(size=matrix[:-1].shape)
    return matrix


@each_shape
@pytest.mark.parametrize("parted", [False, True])
def test_information_at_points_agrees_with_torch(shape, parted):
    random, dims = np.random.default_rng(1), len(shape)
    image, share = torch.rand(shape), torch.rand(shape) if parted else None
    points = random.uniform(-1, max(shape), (dims, 700))
    known, weights = torch.rand(700), torch.rand(700)
    results = []
    for version in ("auto", "torch"):
        with kernels.use(version):
            information = PointInformation(image, share, points, known, weights)
            results.append(information.compare(tilted(dims)))
            assert information.values_of([np.eye(dims + 1), tilted(dims)])[1] == pytest.approx(results[-1][0], rel=1e-9)
    close(results[0][0], results[1][0], 1e-5)
    close(results[0][1], results[1][1], 1e-5)


def test_compiled_information_is_that_of_the_table():
    table = np.random.default_rng(0).uniform(0, 3, (BINS, BINS))
    table[:4] = 0
    parts = np.stack([0.25 * table, 0.75 * table])
    by_entry = np.empty_like(table)
    value, mass = normalized_information(parts, smoothing_matrix(BINS), FLOOR, True, by_entry)
    expected = information(table, True)
    assert mass == pytest.approx(table.sum())
    assert normalized_information(parts, smoothing_matrix(BINS), FLOOR, False, by_entry)[0] == value
    assert value == pytest.approx(expected.value, rel=1e-9)
    np.testing.assert_allclose(by_entry, expected.by_entry, atol=1e-9)


@pytest.mark.parametrize("shape", [(13, 15), (9, 11, 10)], ids=["2d", "3d"])
def test_displacements_between_grids_agree_with_torch(shape):
    from medtrace.registration.working import total_field, total_inverse

    dims = len(shape)
    ddf = torch.nn.functional.interpolate(
        torch.randn(1, dims, *[4] * dims), shape, mode="bilinear" if dims == 2 else "trilinear"
    )[0]
    ddf = 0.3 * ddf
    working, matrix, other = (tilted(dims) @ np.diag([size] * dims + [1.0]) for size in (1.0, 1.1, 0.8))
    for call in (total_field, total_inverse):
        found = []
        for version in ("auto", "torch"):
            with kernels.use(version):
                found.append(call(ddf, working, matrix, other, [size + 2 for size in shape]))
        assert float((found[0] - found[1]).norm(dim=0).max()) < 5e-3


@each_shape
@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_folds_are_those_of_fields(shape, scale):
    both = Both(shape)
    field, twin_field, ddf = both.field(scale)
    marks, count = both.ours.folded(field)
    twin_marks, twin_count = both.theirs.folded(twin_field)
    close(marks, twin_marks)
    assert count == twin_count
    if min(shape) > 1:
        assert torch.equal(both.ours.tensor(marks) > 0, folded_voxels(ddf[None])[0, 0])


def test_same_bytes_with_any_number_of_threads(thread_limit, monkeypatch):
    monkeypatch.setattr(threads, "pieces", in_three)
    x, y = torch.rand(2, 24, 20, 18)
    ddf = torch.randn(3, 24, 20, 18)
    shared = run_all(operations(x.shape), x, y, ddf)
    monkeypatch.undo()
    thread_limit(1)
    for one, other in zip(shared, run_all(operations(x.shape), x, y, ddf)):
        assert np.array_equal(one, other)


def in_three(count, _work):
    return [(k * count // 3, (k + 1) * count // 3) for k in range(3)]


def run_all(ops, x, y, ddf):
    first, second, field = ops.volume(x), ops.volume(y), ops.field(ddf.clone())
    one = ops.volume(torch.ones_like(x))
    warped, by_space = ops.warp(first, field)
    lncc = ops.lncc(warped, second, one, one, ops.windows(second, one, 2), 2, 1e-3, True)
    force = ops.force(lncc, by_space, ops.slopes(second), 0.5).copy()
    information = ops.information(warped, second, one, True, True)
    smooth, longest = ops.smooth(force.copy(), (1.5,) * 3)
    return [warped, force, lncc.value, information.value, information.by_x, smooth, longest, ops.compose(field, force)]


def test_limit_of_threads_is_not_torchs(thread_limit):
    thread_limit(3)
    assert len(threads.pieces(100, 1 << 20)) == 3
    thread_limit(None)
    assert len(threads.pieces(100, 1 << 20)) == min(torch.get_num_threads(), 100)
    with pytest.raises(ValueError, match="count: expected at least 1"):
        thread_limit(0)


def test_the_choice_decides_which_operations_run():
    with kernels.use("torch"):
        assert isinstance(operations((4, 5)), TorchOperations)
    assert isinstance(operations((4, 5), dtype=torch.float64), TorchOperations)


def test_information_of_a_diagonal_table():
    """Equal images of four equally frequent, far apart intensities: log 4 nats but for the smoothing."""
    table = np.zeros((32, 32))
    table[[2, 11, 20, 29], [2, 11, 20, 29]] = 5.0
    assert information(table, False).value == pytest.approx(np.log(4), abs=2e-3)
    independent = np.ones((32, 32))
    assert information(independent, False).value == pytest.approx(0, abs=1e-3)
    # of independent images H_x + H_y = H_xy
    assert information(independent, True).value == pytest.approx(1, abs=1e-3)
