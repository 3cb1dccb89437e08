"""Joint histograms: the compiled and the plain version against the definition and each other."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import forward_ad
from torch.library import opcheck
from torch.utils.data import DataLoader

from medtrace.kernels import choice, parzen, parzen_torch, use
from medtrace.kernels.parzen_window import CUBIC_POWERS, ParzenKernel, ParzenWindow
from medtrace.losses import ParzenDNMILoss, joint_histogram

VERSIONS = ["compiled", "torch"]


def window(bins=13, kernel="cubic", value_range=(-1.0, 1.0)):
    return ParzenWindow(bins, value_range, ParzenKernel(kernel), 0.5)


def pair(rows=2, voxels=60, dtype=torch.float64):
    x = torch.rand(rows, voxels, dtype=torch.float64) * 2 - 1
    y = 0.7 * x + 0.3 * (torch.rand_like(x) * 2 - 1)
    x[:, 0], y[:, 1] = -1, 1  # the ends of the range
    return x.to(dtype), y.to(dtype)


def by_definition(x, y, mask, bins, value_range=(-1.0, 1.0)):
    """Counts of every bin pair from every voxel, with the cubic B-spline written out."""

    def weights(values):
        position = 1 + (values - value_range[0]) / (value_range[1] - value_range[0]) * (bins - 3)
        u = (position[..., None] - torch.arange(bins, dtype=values.dtype)).abs()
        return torch.where(u < 1, (4 - 6 * u**2 + 3 * u**3) / 6, (2 - u).clamp_min(0) ** 3 / 6)

    return torch.einsum("rva,rvb,rv->rab", weights(x), weights(y), torch.ones_like(x) if mask is None else mask)


def results(version, x, y, mask, settings, upstream):
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    with use(version):
        table = parzen.counts(x, y, mask, settings)
        return table.detach(), *torch.autograd.grad(table, (x, y), upstream)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("bins", "rows"), [(4, 3), (16, 1), (70, 2)])
def test_counts_and_gradients_are_those_of_the_definition(version, masked, bins, rows):
    x, y = pair(rows)
    mask = torch.rand_like(x) * 3 if masked else None
    upstream = torch.rand(rows, bins, bins, dtype=torch.float64)
    got = results(version, x, y, mask, window(bins), upstream)
    x.requires_grad_(), y.requires_grad_()
    table = by_definition(x, y, mask, bins)
    want = table, *torch.autograd.grad(table, (x, y), upstream)
    for ours, theirs in zip(got, want):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bins", [16, 256])
def test_the_versions_agree_in_float32(masked, bins):
    x, y = pair(3, 5000, torch.float32)
    mask = torch.rand_like(x) if masked else None
    upstream = torch.rand(3, bins, bins, dtype=torch.float64)
    fast, plain = (results(version, x, y, mask, window(bins), upstream) for version in VERSIONS)
    torch.testing.assert_close(fast[0], plain[0], rtol=1e-10, atol=1e-9)
    exact = results("torch", x.double(), y.double(), None if mask is None else mask.double(), window(bins), upstream)
    for version in (fast, plain):
        for ours, theirs in zip(version[1:], exact[1:]):
            assert ours.dtype == torch.float32
            assert (ours - theirs).norm() < 1e-4 * theirs.norm()  # a random table: real ones are smoother


def test_the_powers_are_the_weights():
    fraction = torch.linspace(0, 1, 9, dtype=torch.float64)
    powers = torch.stack([(fraction - 0.5) ** k for k in range(4)])
    expected = torch.stack(window().weights(fraction))
    torch.testing.assert_close(torch.tensor(CUBIC_POWERS, dtype=torch.float64) @ powers, expected)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_lies_outside_counts_at_the_ends(version):
    x, y = pair(1)
    outside = x.clone()
    outside[0, :4] = torch.tensor([-1e30, -1.5, 1.01, 1e30], dtype=x.dtype)
    with use(version):
        found = parzen.counts(outside, y, None, window())
        torch.testing.assert_close(found, parzen.counts(outside.clamp(-1, 1), y, None, window()))
        assert parzen.counts(torch.full_like(x, torch.nan), y, None, window()).shape == (1, 13, 13)


@pytest.mark.parametrize("version", VERSIONS)
def test_strides_do_not_matter(version):
    x, y = pair(6, 40, torch.float32)
    upstream = torch.rand(6, 13, 13, dtype=torch.float64)
    strided = results(version, x.t().contiguous().t(), y[:, None].expand(6, 2, 40)[:, 1], None, window(), upstream)
    for ours, theirs in zip(strided, results(version, x, y, None, window(), upstream)):
        assert torch.equal(ours, theirs)


def test_the_number_of_threads_changes_no_byte():
    x, y = pair(1, 1 << 18, torch.float32)
    upstream = torch.rand(1, 13, 13, dtype=torch.float64)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(results("compiled", x, y, None, window(), upstream))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


def test_rows_in_pieces_add_up(monkeypatch):
    x, y = pair(3, 1000)
    upstream = torch.rand(3, 13, 13, dtype=torch.float64)
    whole = results("compiled", x, y, None, window(), upstream)
    monkeypatch.setattr(parzen, "PIECE", 7)
    for ours, theirs in zip(results("compiled", x, y, None, window(), upstream), whole):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_two_threads_may_ask_at_once():
    images = [pair(2, 1 << 16, torch.float32) for _ in range(4)]
    upstream = torch.rand(2, 13, 13, dtype=torch.float64)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda pair: results("auto", *pair, None, window(), upstream), images))
    for images_of_one, result in zip(images, found):
        again = results("auto", *images_of_one, None, window(), upstream)
        assert all(torch.equal(a, b) for a, b in zip(result, again))


class LossesOfPairs(torch.utils.data.Dataset):
    """What a worker computes."""

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return joint_histogram(*self.pairs[index], window())


def test_a_forked_worker_computes_what_its_parent_does():
    pairs = LossesOfPairs([pair(1, 1 << 17, torch.float32) for _ in range(2)])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)  # the parent's threads are running when it forks
        expected = [pairs[0], pairs[1]]
    finally:
        torch.set_num_threads(before)
    loader = DataLoader(pairs, batch_size=None, num_workers=1, multiprocessing_context="fork", timeout=60)
    for found, own in zip(loader, expected, strict=True):
        assert torch.equal(found, own)


class TestAccelerators:
    """What runs there, as far as it can be seen without one."""

    @pytest.fixture
    def whole_numbers(self, monkeypatch):
        monkeypatch.setattr(parzen_torch, "_adds_whole_numbers", lambda *_: True)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
    @pytest.mark.usefixtures("whole_numbers")
    def test_sums_are_right_and_do_not_depend_on_the_order(self, masked, kernel):
        x, y = pair(2, 3000)
        mask = torch.rand_like(x) * 7 if masked else None
        found = parzen_torch.counts(x, y, mask, window(kernel=kernel))
        order = torch.randperm(3000)
        shuffled = parzen_torch.counts(
            x[:, order], y[:, order], None if mask is None else mask[:, order], window(kernel=kernel)
        )
        assert torch.equal(found, shuffled)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parzen_torch, "_adds_whole_numbers", lambda *_: False)
            expected = parzen_torch.counts(x, y, mask, window(kernel=kernel))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("masked", [False, True])
    @pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
    def test_the_host_reads_no_number(self, masked, kernel):
        # a tensor on "meta" has a shape and no numbers: to read one is an error
        x, y = torch.empty(3, 500, device="meta"), torch.empty(3, 500, device="meta")
        mask = torch.empty(3, 500, device="meta") if masked else None
        table = parzen_torch.counts(x, y, mask, window(kernel=kernel))
        assert (table.shape, table.dtype, table.device.type) == ((3, 13, 13), torch.float64, "meta")
        gradients = parzen_torch.gradients(x, y, mask, table, window(kernel=kernel), (True, False))
        assert [(each.shape, each.device.type) for each in gradients] == [((3, 500), "meta"), ((0,), "meta")]

    @pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
    @pytest.mark.usefixtures("whole_numbers")
    def test_deterministic_algorithms_may_be_asked_for(self, kernel):
        x, y = pair()
        upstream = torch.rand(2, 13, 13, dtype=torch.float64)
        usual = results("torch", x, y, None, window(kernel=kernel), upstream)
        torch.use_deterministic_algorithms(True)
        try:
            strict = results("torch", x, y, None, window(kernel=kernel), upstream)
        finally:
            torch.use_deterministic_algorithms(False)
        assert all(torch.equal(a, b) for a, b in zip(usual, strict))


class TestOperator:
    @pytest.mark.parametrize("version", VERSIONS)
    def test_opcheck(self, version):
        x, y = pair(2, 30, torch.float32)
        table = torch.rand(2, 8, 8, dtype=torch.float64)
        # tracing does not reach into the operator, and takes long: once is enough
        tests = {"test_utils": ("test_schema", "test_faketensor")} if version == "torch" else {}
        with use(version):
            opcheck(parzen._counts, (x.requires_grad_(), y, torch.rand(2, 30), 8, -1.0, 1.0, "cubic", 0.5), **tests)
            opcheck(parzen._gradients, (x.detach(), y, None, table, -1.0, 1.0, "cubic", 0.5, True, False), **tests)

    def test_a_compiled_graph_holds_it_whole(self):
        x, y = pair(1, 50, torch.float32)
        x.requires_grad_()
        graph = torch.compile(lambda a, b: joint_histogram(a, b, window()), backend="aot_eager", fullgraph=True)
        found, expected = graph(x, y), joint_histogram(x, y, window())
        torch.testing.assert_close(found, expected)
        upstream = torch.rand_like(expected)
        for ours, theirs in zip(torch.autograd.grad(found, x, upstream), torch.autograd.grad(expected, x, upstream)):
            torch.testing.assert_close(ours, theirs)

    def test_a_compiled_module_with_the_loss(self):
        loss = ParzenDNMILoss()
        x, y = torch.rand(2, 1, 8, 8).requires_grad_(), torch.rand(2, 1, 8, 8)
        found, expected = torch.compile(loss, backend="aot_eager")(x, y), loss(x, y)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(torch.autograd.grad(found, x), torch.autograd.grad(expected, x))

    def test_forward_mode_is_refused(self):
        x, y = pair()
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, torch.ones_like(x))
            with pytest.raises(NotImplementedError, match="without forward-mode tangents"):
                parzen.counts(dual, y, None, window())
            assert parzen.counts(x, y, None, window()).shape == (2, 13, 13)
        with pytest.raises(RuntimeError, match="functorch transforms"):
            torch.func.grad(lambda a: parzen.counts(a, y, None, window()).sum())(x)


class TestChoice:
    def test_without_a_compiler_torch_takes_over(self, monkeypatch):
        x, y = pair()
        expected = parzen_torch.counts(x, y, None, window())
        monkeypatch.setattr(choice, "_compiler", False)
        monkeypatch.setattr(parzen, "_counts_by_loops", None)  # calling it would be an error
        assert torch.equal(parzen.counts(x, y, None, window()), expected)

    @pytest.mark.parametrize(("switch", "compiles"), [("1", False), ("0", True), ("", True)])
    def test_numbas_own_switch_is_obeyed(self, monkeypatch, switch, compiles):
        monkeypatch.setenv("NUMBA_DISABLE_JIT", switch)
        assert choice._has_compiler() is compiles

    def test_the_cubic_window_is_compiled_and_the_gaussian_is_not(self, monkeypatch):
        x, y = pair()
        calls = []
        by_loops = parzen._counts_by_loops
        monkeypatch.setattr(parzen, "_counts_by_loops", lambda *given: calls.append(given) or by_loops(*given))
        for version, kernel, count in [("auto", "cubic", 1), ("auto", "gaussian", 1), ("torch", "cubic", 1)]:
            with use(version):
                parzen.counts(x, y, None, window(kernel=kernel))
            assert len(calls) == count
        assert any("joint histogram" in name for name in choice.paths())
