"""Compiled loops on fields against plain torch, and what surrounds them: threads, forks, caches, compilers."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from medtrace import kernels
from medtrace.fields import compose, exponentiate, identity_grid, invert, jacobian_determinant, sample, warp
from medtrace.kernels import flow
from medtrace.kernels.threads import pieces
from medtrace.kernels.warp import write_gradients

SHAPES = {
    "2d": (19, 23),
    "3d": (9, 11, 13),
    "single slice": (8, 9, 1),
    "row": (1, 9),
    "column": (9, 1),
    "two": (2, 2, 2),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def tensors(shape, channels=3, batch=2, dtype=torch.float64, scale=3.0):
    """An image and a field that leaves the grid, both asking for a gradient."""
    image = torch.rand(batch, channels, *shape, dtype=dtype, requires_grad=True)
    field = (torch.randn(batch, len(shape), *shape, dtype=dtype) * scale).requires_grad_()
    return image, field


def with_gradients(call, *inputs):
    result = call(*inputs)
    weight = torch.linspace(-1, 1, result.numel(), dtype=result.dtype).reshape(result.shape)
    return (result, *torch.autograd.grad((result * weight).sum(), inputs))


def both(call, *inputs):
    with kernels.use("compiled"):
        ours = with_gradients(call, *inputs)
    with kernels.use("torch"):
        theirs = with_gradients(call, *inputs)
    return ours, theirs


@each_shape
@pytest.mark.parametrize("channels", [1, 3])
def test_warp_agrees_with_torch(shape, channels):
    for ours, theirs in zip(*both(warp, *tensors(shape, channels))):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@each_shape
def test_sample_agrees_with_torch(shape):
    image, _ = tensors(shape)
    extent = torch.tensor(shape, dtype=torch.float64).reshape(1, -1, 1, 1)
    points = (torch.rand(2, len(shape), 7, 61, dtype=torch.float64) * (extent + 4) - 2).requires_grad_()
    for ours, theirs in zip(*both(sample, image, points)):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


@each_shape
def test_compose_agrees_with_torch(shape):
    _, outer = tensors(shape)
    _, inner = tensors(shape)
    for ours, theirs in zip(*both(compose, outer, inner)):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@each_shape
def test_exponentiate_agrees_with_torch(shape):
    velocity = tensors(shape, scale=1.0)[1]
    for ours, theirs in zip(*both(lambda v: exponentiate(v, 4), velocity)):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)


@pytest.mark.parametrize("shape", [(8, 9), (4, 5, 6)])
def test_exponentiate_in_parts_of_a_batch(shape, monkeypatch):
    """Five items in parts of two: the same bytes as one after the other."""
    velocity = tensors(shape, batch=5, scale=1.0)[1]
    weight = torch.rand_like(velocity)

    def run(velocity, weight):
        result = exponentiate(velocity, 3)
        return result, *torch.autograd.grad(result, velocity, weight)

    alone = [run(velocity[n : n + 1].detach().requires_grad_(), weight[n : n + 1]) for n in range(5)]
    monkeypatch.setattr(flow, "PART", 2 * velocity[0].numel())
    for ours, expected in zip(run(velocity, weight), zip(*alone)):
        assert torch.equal(ours, torch.cat(expected))


@each_shape
def test_jacobian_agrees_with_torch(shape):
    field = tensors(shape)[1].detach()
    ours = jacobian_determinant(field)
    with kernels.use("torch"):
        torch.testing.assert_close(ours, jacobian_determinant(field))


@each_shape
@pytest.mark.parametrize("at_points", [False, True])
def test_inversion_agrees_with_torch(shape, at_points):
    """Also where the plain iteration diverges and Newton's continues, and where a field folds."""
    field = exponentiate(tensors(shape, scale=0.5)[1].detach())
    field[1] *= 1.5
    points = torch.rand(2, len(shape), 5, 3, dtype=torch.float64) * 6 if at_points else None
    ours = invert(field, points=points, tolerance=1e-9)
    with kernels.use("torch"):
        theirs = invert(field, points=points, tolerance=1e-9)
    assert ours.ddf.shape == theirs.ddf.shape
    torch.testing.assert_close(ours.residual, theirs.residual, atol=1e-9, rtol=1e-3)
    torch.testing.assert_close(ours.ddf, theirs.ddf, atol=1e-6, rtol=0)


@each_shape
def test_at_the_border_the_gradient_stops_as_in_grid_sample(shape):
    """Positions on the border voxels' centers, a little inside, and beyond."""
    image, _ = tensors(shape)
    offsets = torch.tensor([0.0, 0.25, -0.25, 50.0, -50.0], dtype=torch.float64)
    for axis, offset in itertools.product(range(len(shape)), offsets):
        field = torch.full((2, len(shape), *shape), 0.3, dtype=torch.float64)
        field[:, axis] = offset
        field.requires_grad_()
        (_, _, ours), (_, _, theirs) = both(warp, image, field)
        differs = (ours - theirs).abs() > 1e-9
        # Only where a whole coordinate is rounded to the cell before in torch's normalized numbers may they differ.
        whole = ((identity_grid(shape, dtype=torch.float64) + field) % 1 == 0).any(1, keepdim=True)
        assert not (differs & ~whole).any()
        first = ours.select(2 + axis, 0)[:, axis]
        assert (first.abs().max() > 0) == (offset == 0.25 and shape[axis] > 1)


def test_float32_lies_closer_to_the_truth_than_torch():
    image, field = tensors((40, 50), dtype=torch.float32)
    truth = warp(image.double(), field.double())
    with kernels.use("torch"):
        theirs = (warp(image, field) - truth).abs().max()
    ours = (warp(image, field) - truth).abs().max()
    assert ours < 1e-5
    assert ours <= theirs


def test_nan_and_infinite_positions_stay_inside():
    """NaN reads voxel 0 of its axis, where grid_sample reads any; infinity the border; the rest is untouched."""
    image, field = tensors((6, 7, 8), dtype=torch.float32, scale=0.4)
    with torch.no_grad():
        field[0, 0, 1, 1, 1], field[0, 1, 2, 2, 2], field[1, 2, 3, 3, 3] = float("nan"), float("inf"), -float("inf")
        field[1, 0, 0, 0, 0] = 3e38
    (ours, *ours_grads), (theirs, *theirs_grads) = both(warp, image, field)
    theirs[0, :, 1, 1, 1] = warp(image.detach(), field.detach().nan_to_num(-1e9))[0, :, 1, 1, 1]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in ours_grads)
    torch.testing.assert_close(ours_grads[1][1], theirs_grads[1][1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("shape", [(150, 160), (51000, 1), (30, 42, 40)])
def test_same_bytes_with_any_number_of_threads(shape, batch, threads):
    """Threads own whole images of a batch of three, and parts of a single one."""
    image, field = tensors(shape, batch=batch, dtype=torch.float32, scale=4.0)
    threads(3)
    assert len(pieces(batch * shape[0], image.numel())) > 1
    velocity = (field * 0.2).detach().requires_grad_()
    calls = {
        "warp": (warp, image, field),
        "sample": (sample, image, (identity_grid(shape) + field).detach().flatten(2).requires_grad_()),
        "compose": (compose, velocity, field),
        "exponentiate": (lambda v: exponentiate(v, 3), velocity),
        "jacobian": (jacobian_determinant, velocity),
        "invert": (lambda u: invert(u, iterations=3).ddf, velocity),
    }
    for name, (call, *inputs) in calls.items():
        results = []
        for count in (1, 2, 3, 1):
            threads(count)
            results.append(with_gradients(call, *inputs))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other)), name


def test_only_the_gradients_that_are_asked_for():
    image, field = tensors((8, 9))
    (a, b) = torch.autograd.grad(warp(image, field).sum(), (image, field))
    torch.testing.assert_close(torch.autograd.grad(warp(image, field.detach()).sum(), image)[0], a)
    torch.testing.assert_close(torch.autograd.grad(warp(image.detach(), field).sum(), field)[0], b)
    assert not warp(image.detach(), field.detach()).requires_grad


def test_any_strides():
    image, field = tensors((8, 9, 10), dtype=torch.float32)
    image, field = image.detach(), field.detach()
    expected = warp(image, field)
    last = torch.channels_last_3d
    assert torch.equal(warp(image.to(memory_format=last), field.to(memory_format=last)), expected)
    assert torch.equal(warp(image.mT.contiguous().mT, field.mT.contiguous().mT), expected)
    wide = torch.zeros(2, 3, 8, 9, 20)
    wide[..., ::2] = image
    assert torch.equal(warp(wide[..., ::2], field), expected)
    one = image[:1].expand(2, -1, -1, -1, -1)
    assert torch.equal(warp(one, field), warp(one.contiguous(), field))
    flipped = image.flip(2).requires_grad_()
    (gradient,) = torch.autograd.grad(warp(flipped, field).sum(), flipped)
    assert gradient.shape == image.shape


def test_expanded_gradients_and_sums_arrive():
    """`sum().backward()` hands back one number expanded over the grid."""
    image, field = tensors((8, 9))
    (gradient,) = torch.autograd.grad(warp(image, field).sum(), image)
    torch.testing.assert_close(gradient.sum(), torch.tensor(8.0 * 9 * 3 * 2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(8, 9), (4, 5, 6)])
def test_no_points(shape):
    image, _ = tensors(shape)
    points = torch.zeros(2, len(shape), 0, dtype=torch.float64, requires_grad=True)
    result = sample(image, points)
    assert result.shape == (2, 3, 0)
    to_image, to_points = torch.autograd.grad(result.sum(), (image, points))
    assert torch.equal(to_image, torch.zeros_like(image))
    assert to_points.shape == points.shape


@pytest.mark.parametrize("shape", [(40, 70), (9, 10, 11)])
def test_gradients_overwrite_what_memory_held(shape):
    """The operators take unset memory, which may hold anything."""
    image, field = (tensor.detach() for tensor in tensors(shape, dtype=torch.float32))
    grad = torch.rand_like(image)
    results = []
    for filling in (0.0, float("nan")):
        to_image, to_field = torch.full_like(image, filling), torch.full_like(field, filling)
        write_gradients(grad, image, field, to_image, to_field, displaced=True, add=False)
        both_at_once = torch.full_like(field, filling)
        write_gradients(field, field, field, both_at_once, both_at_once, displaced=True, add=True)
        results.append((to_image, to_field, both_at_once))
    for ours, expected in zip(*results):
        assert torch.equal(ours, expected)
    apart = torch.empty_like(field), torch.empty_like(field)
    write_gradients(field, field, field, *apart, displaced=True, add=True)
    torch.testing.assert_close(both_at_once, sum(apart), atol=1e-4, rtol=1e-5)


def test_transforms_of_torch_func_still_work():
    image, field = tensors((5, 6), channels=1)
    image, field = image.detach(), field.detach()
    stack = torch.stack([field, field * 0.5])
    batched = torch.vmap(lambda f: warp(image, f))(stack)
    torch.testing.assert_close(batched, torch.stack([warp(image, f) for f in stack]))
    gradient = torch.func.grad(lambda f: warp(image, f).sum())(field)
    leaf = field.clone().requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(warp(image, leaf).sum(), leaf)[0])


@pytest.mark.slow
def test_operators_pass_torchs_own_checks():
    from medtrace.kernels import inversion, jacobian
    from medtrace.kernels import warp as operators

    for shape in [(5, 6), (3, 4, 5)]:
        image, field = tensors(shape)
        square = field.detach().clone().requires_grad_()
        for inputs in [
            (image, field, True, False),
            (square, field, True, True),
            (image, field.flatten(2), False, False),
        ]:
            torch.library.opcheck(operators._read, inputs)
        torch.library.opcheck(
            operators._read_backward,
            (torch.rand_like(image), image.detach(), field.detach(), True, False, True, True),
        )
        torch.library.opcheck(flow._exponentiate, (square, 2))
        torch.library.opcheck(inversion.solve, (field.detach(), None, 3, 2, 1e-3))
    torch.library.opcheck(jacobian.determinant, (field.detach(),))


def test_torch_compile_takes_a_whole_module():
    image, velocity = tensors((10, 12), dtype=torch.float32, scale=0.5)

    def call(image, velocity):
        flow = exponentiate(velocity, 3)
        return warp(image, compose(flow, flow)).square()

    whole = torch.compile(call, backend="aot_eager", fullgraph=True)
    for ours, plain in zip(with_gradients(whole, image, velocity), with_gradients(call, image, velocity)):
        assert torch.equal(ours, plain)


def test_two_python_threads_at_once(threads):
    threads(2)
    image, field = tensors((48, 50, 30), dtype=torch.float32)
    expected = with_gradients(warp, image, field)
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda _: with_gradients(warp, image, field), range(6)):
            assert all(torch.equal(a, b) for a, b in zip(result, expected))


class Warped(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        # torch's own loops would hang with two threads here, which is why a loader's workers have one
        torch.set_num_threads(2)
        image = torch.from_numpy(np.full((1, 1, 300, 300), index, np.float32))
        return warp(image, torch.from_numpy(np.zeros((1, 2, 300, 300), np.float32)))[0, 0, 0, 0]


def test_forked_workers_do_not_hang(threads):
    threads(2)
    warp(torch.zeros(1, 1, 300, 300), torch.zeros(1, 2, 300, 300))  # the pool exists before the fork
    loader = torch.utils.data.DataLoader(Warped(), num_workers=2, multiprocessing_context="fork", timeout=60)
    assert [float(batch) for batch in loader] == [0, 1, 2, 3]


def test_numba_is_not_imported_before_it_is_needed_and_needs_no_folder_to_cache_in():
    """A function that lies in no file has none: it is compiled for this process, and nothing is said."""
    code = (
        "import sys, warnings, medtrace.fields; print('numba' in sys.modules)\n"
        "warnings.simplefilter('error')\n"
        "from medtrace.kernels.compiling import compiled; print(compiled(lambda x: x + 1)(1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n2\n", "")


def test_choice():
    assert kernels.current() == "auto"
    image, field = tensors((8, 9), dtype=torch.float32)
    with kernels.use("torch"):
        assert kernels.current() == "torch"
        assert "GridSampler" in warp(image, field).grad_fn.name()
        assert set(kernels.paths().values()) == {"torch"}
    assert "GridSampler" not in warp(image, field).grad_fn.name()
    assert all(text.startswith("compiled") for text in kernels.paths().values())
    with pytest.raises(ValueError, match="choice: expected one of 'auto', 'compiled', 'torch', received 'fast'"):
        kernels.use("fast")


def test_a_thread_that_fails_says_so(threads):
    from medtrace.kernels.threads import run

    threads(2)
    ranges = pieces(10, 1 << 20)
    assert ranges == [(0, 5), (5, 10)]
    assert pieces(10, 100) == [(0, 10)]

    def task(begin, _end):
        if begin == 0:
            raise ArithmeticError("first half")

    with pytest.raises(ArithmeticError, match="first half"):
        run(task, ranges)


def test_numbers_by_hand():
    image = torch.arange(6.0).reshape(1, 1, 2, 3)
    field = torch.zeros(1, 2, 2, 3)
    field[0, 0, 0], field[0, 1, :, 1] = 0.5, 0.25
    expected = torch.tensor([[1.5, 2.75, 3.5], [3.0, 4.25, 5.0]])
    np.testing.assert_allclose(warp(image, field)[0, 0].numpy(), expected.numpy(), rtol=1e-6)
