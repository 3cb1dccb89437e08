"""ParzenDNMILoss against a dense reference, closed forms and its contracts."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.interpolate import BSpline

from medtrace.kernels import parzen_torch
from medtrace.losses import ParzenDNMILoss, ParzenKernel, ParzenWindow, joint_histogram, parzen_nmi

SHAPES = [(2, 1, 9, 7), (2, 3, 6, 5), (1, 2, 4, 5, 6)]


def uniform(shape, dtype=torch.float64, low=-1.0, high=1.0):
    return torch.rand(shape, dtype=dtype) * (high - low) + low


def dense_weights(values, num_bins, kernel, sigma, value_range):
    """(voxels, bins) window weights, written from the definition: every bin for every voxel."""
    low, high = value_range
    reach = 2 if kernel == "cubic" else max(1, int(np.ceil(3 * sigma)))
    position = (reach - 1) + (values - low) / (high - low) * (num_bins - 2 * reach + 1)
    distance = position[:, None] - torch.arange(num_bins, dtype=values.dtype)
    if kernel == "cubic":
        u = distance.abs()
        inner = (4 - 6 * u**2 + 3 * u**3) / 6
        outer = (2 - u).clamp_min(0) ** 3 / 6
        return torch.where(u < 1, inner, outer)
    left = position.detach().floor().clamp(reach - 1, num_bins - reach - 1)[:, None]
    bins = torch.arange(num_bins, dtype=values.dtype)
    near = (bins >= left - reach + 1) & (bins <= left + reach)
    heights = torch.exp(-0.5 * (distance / sigma) ** 2) * near
    return heights / heights.sum(1, keepdim=True)


def dense_nmi(x, y, num_bins=32, kernel="cubic", sigma=0.5, value_range=(-1.0, 1.0), mask=None):
    rows = []
    for item in range(x.shape[0]):
        for channel in range(x.shape[1]):
            weight = torch.ones_like(x[item, 0]) if mask is None else mask[item, 0].to(x.dtype)
            a = dense_weights(x[item, channel].flatten(), num_bins, kernel, sigma, value_range)
            b = dense_weights(y[item, channel].flatten(), num_bins, kernel, sigma, value_range)
            joint = torch.einsum("va,vb,v->ab", a, b, weight.flatten()) / weight.sum()

            def entropy(p):
                p = p[p > 1e-14]
                return -(p * p.log()).sum()

            rows.append((entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint))
    return torch.stack(rows).view(x.shape[:2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("kernel", "sigma", "bins"), [("cubic", 0.5, 4), ("cubic", 0.5, 13), ("gaussian", 0.5, 13), ("gaussian", 0.9, 20)]
)
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients_are_those_of_a_dense_histogram(shape, kernel, sigma, bins, masked):
    x = uniform(shape).requires_grad_()
    y = (0.6 * x.detach() + 0.4 * uniform(shape)).requires_grad_()
    mask = torch.rand(shape[0], 1, *shape[2:]) if masked else None
    ours = parzen_nmi(x, y, num_bins=bins, kernel=kernel, sigma=sigma, mask=mask)
    theirs = dense_nmi(x, y, bins, kernel, sigma, mask=mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    upstream = torch.rand_like(ours)
    got = torch.autograd.grad(ours, (x, y), upstream)
    want = torch.autograd.grad(theirs, (x, y), upstream)
    for g, w in zip(got, want):
        assert w.abs().max() > 1e-5
        torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-9 * float(w.abs().max()))


@pytest.mark.parametrize("bins", [16, 32, 256])
def test_float32_gradients_are_within_1e_4_of_float64(bins):
    x, y = uniform((1, 1, 64, 64)), uniform((1, 1, 64, 64))
    y = 0.7 * x + 0.3 * y
    gradients = {}
    for dtype in (torch.float64, torch.float32):
        a, b = (image.to(dtype, copy=True).requires_grad_() for image in (x, y))
        ParzenDNMILoss(num_bins=bins)(a, b).backward()
        gradients[dtype] = torch.cat([a.grad, b.grad]).double()
    error = (gradients[torch.float32] - gradients[torch.float64]).norm() / gradients[torch.float64].norm()
    assert error < 1e-4
    x0, y0 = x.float().double().requires_grad_(), y.float().double().requires_grad_()
    if bins <= 32:
        (-dense_nmi(x0, y0, bins)).sum().backward()
        dense = torch.cat([x0.grad, y0.grad])
        assert (gradients[torch.float32] - dense).norm() / dense.norm() < 1e-4


@pytest.mark.parametrize("shape", [(2, 1, 4, 5), (1, 2, 3, 2, 3)])
@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
def test_gradcheck(shape, kernel):
    x, y = uniform(shape).requires_grad_(), uniform(shape).requires_grad_()
    mask = torch.rand(shape[0], 1, *shape[2:])

    def value(a, b):
        return parzen_nmi(a, b, num_bins=8, kernel=kernel, mask=mask)

    assert torch.autograd.gradcheck(value, (x, y))


def test_only_the_wanted_gradient_is_made():
    x, y = uniform((1, 1, 5, 5)).requires_grad_(), uniform((1, 1, 5, 5))
    ParzenDNMILoss()(x, y).backward()
    assert y.grad is None
    both = x.detach().clone().requires_grad_(), y.clone().requires_grad_()
    ParzenDNMILoss()(*both).backward()
    torch.testing.assert_close(x.grad, both[0].grad, rtol=0, atol=0)
    z = y.clone().requires_grad_()
    ParzenDNMILoss()(x.detach(), z).backward()
    torch.testing.assert_close(z.grad, both[1].grad, rtol=0, atol=0)


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
def test_window_weights_are_a_partition_of_unity_with_matching_slopes(kernel):
    window = ParzenWindow(16, (-1.0, 1.0), ParzenKernel(kernel), 0.6)
    fraction = torch.linspace(0, 1, 21, dtype=torch.float64).requires_grad_()
    weights = torch.stack(window.weights(fraction))
    torch.testing.assert_close(weights.sum(0), torch.ones_like(fraction))
    for k, slope in enumerate(window.slopes(fraction.detach())):
        (auto,) = torch.autograd.grad(torch.stack(window.weights(fraction))[k].sum(), fraction)
        torch.testing.assert_close(slope, auto)


def test_cubic_window_is_scipys_b_spline():
    basis = BSpline.basis_element([-2, -1, 0, 1, 2])
    fraction = np.linspace(0, 1, 11)
    window = ParzenWindow(16, (-1.0, 1.0), ParzenKernel.CUBIC, 0.5)
    for offset, weight in zip((-1, 0, 1, 2), window.weights(torch.as_tensor(fraction))):
        expected = basis(np.clip(fraction - offset, -2, 2))
        np.testing.assert_allclose(weight.numpy(), expected, atol=1e-12)


def test_the_range_ends_meet_the_documented_bins():
    window = ParzenWindow(10, (0.0, 2.0), ParzenKernel.CUBIC, 0.5)
    ends = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    table = joint_histogram(ends, ends, window)
    sixths = torch.tensor([1.0, 4.0, 1.0], dtype=torch.float64) / 6
    expected = torch.zeros(2, 10, dtype=torch.float64)
    expected[0, 0:3] = sixths  # low is on bin 1
    expected[1, 7:10] = sixths  # high is on bin num_bins - 2
    torch.testing.assert_close(table.sum(2), expected)
    torch.testing.assert_close(table[1], expected[1][:, None] * expected[1][None])


@pytest.mark.parametrize(("bins", "expected"), [(32, 1.47), (256, 1.64)])
def test_uniform_noise_with_itself(bins, expected):
    x = uniform((1, 1, 512, 512), torch.float32)
    assert parzen_nmi(x, x, num_bins=bins).item() == pytest.approx(expected, abs=0.01)


def test_independent_images_tend_to_one_from_above_with_sample_size():
    values = [parzen_nmi(uniform((1, 1, n, n)), uniform((1, 1, n, n)), num_bins=32).item() - 1 for n in (16, 64, 512)]
    assert values[0] > 5 * values[1] > 25 * values[2] > 0
    assert values[2] < 2e-4


def test_self_similarity_rises_with_bins_and_beats_every_other_image():
    x, y = uniform((1, 1, 64, 64)), uniform((1, 1, 64, 64))
    values = [parzen_nmi(x, x, num_bins=bins).item() for bins in (8, 16, 32, 64)]
    assert values == sorted(values)
    assert values[-1] < 2
    assert parzen_nmi(x, x).item() > parzen_nmi(x, 0.9 * x + 0.1 * y).item() > parzen_nmi(x, y).item()


@pytest.mark.parametrize(("kernel", "sigma"), [("cubic", 0.5), ("gaussian", 0.5), ("gaussian", 0.02)])
@pytest.mark.parametrize("value", [-1.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_images_are_worth_one_without_gradient(kernel, sigma, value, dtype):
    constant = torch.full((1, 1, 8, 8), value, dtype=dtype)
    for partner in (constant.clone(), uniform((1, 1, 8, 8), dtype)):
        x, y = constant.clone().requires_grad_(), partner.requires_grad_()
        result = parzen_nmi(x, y, kernel=kernel, sigma=sigma)
        result.sum().backward()
        assert result.item() == pytest.approx(1, abs=1e-6)
        assert x.grad.abs().max() < 1e-7
        assert y.grad.abs().max() < 1e-7


def test_negative_half_of_the_range_gets_gradient():
    x = uniform((1, 1, 32, 32), low=-1, high=0).requires_grad_()
    y = (0.8 * x.detach() + 0.05 * torch.randn_like(x)).clamp(-1, 1)
    ParzenDNMILoss()(x, y).backward()
    assert (x.grad.abs() > 1e-8).double().mean() > 0.99


def test_a_gradient_step_raises_the_information():
    x, y = uniform((1, 1, 32, 32), low=-0.9, high=0.9).requires_grad_(), uniform((1, 1, 32, 32))
    loss = ParzenDNMILoss()
    before = loss(x, y)
    (step,) = torch.autograd.grad(before, x)
    after = loss((x - 1e-3 * step / step.abs().max()).detach(), y)
    assert after < before


@pytest.mark.parametrize("kernel", ["cubic", "gaussian"])
def test_symmetric_in_its_images_and_under_reversal_of_intensity(kernel):
    x, y = uniform((2, 2, 11, 7)), uniform((2, 2, 11, 7))
    forward = parzen_nmi(x, y, kernel=kernel)
    torch.testing.assert_close(forward, parzen_nmi(y, x, kernel=kernel), rtol=1e-12, atol=0)
    torch.testing.assert_close(forward, parzen_nmi(x, -y, kernel=kernel), rtol=1e-9, atol=0)
    moved = parzen_nmi(x * 50 + 100, y * 50 + 100, kernel=kernel, value_range=(50, 150))
    torch.testing.assert_close(forward, moved, rtol=1e-9, atol=0)


@pytest.mark.parametrize("chunk", [1, 7, 30, 64])
def test_the_chunk_size_changes_nothing(monkeypatch, chunk):
    x, y = uniform((3, 2, 5, 6)).requires_grad_(), uniform((3, 2, 5, 6)).requires_grad_()
    mask = torch.rand(3, 1, 5, 6)
    results = []
    for size in (chunk, 1 << 16):
        monkeypatch.setattr(parzen_torch, "CHUNK", size)
        value = parzen_nmi(x, y, mask=mask)
        results.append((value, *torch.autograd.grad(value.sum(), (x, y))))
    for small, large in zip(*results):
        torch.testing.assert_close(small, large, rtol=1e-11, atol=1e-14)


def test_what_is_kept_for_the_gradient_does_not_grow_with_voxels_times_bins():
    x, y = uniform((1, 1, 64, 64)).requires_grad_(), uniform((1, 1, 64, 64)).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        ParzenDNMILoss(num_bins=32)(x, y)
    assert sum(kept) < 2 * x.numel() + 20 * 32**2


def test_reductions_and_the_mean_over_channels():
    x, y = uniform((3, 2, 8, 8)), uniform((3, 2, 8, 8))
    per_channel = parzen_nmi(x, y)
    assert per_channel.shape == (3, 2)
    none = ParzenDNMILoss(reduction="none")(x, y)
    torch.testing.assert_close(none, -per_channel.mean(1))
    torch.testing.assert_close(ParzenDNMILoss()(x, y), none.mean())
    torch.testing.assert_close(ParzenDNMILoss(reduction="sum")(x, y), none.sum())
    single = parzen_nmi(x[1:2, 1:2], y[1:2, 1:2])
    torch.testing.assert_close(single[0, 0], per_channel[1, 1])


def test_a_binary_mask_is_the_image_of_its_voxels():
    x, y = uniform((1, 1, 8, 9)), uniform((1, 1, 8, 9))
    mask = torch.zeros(1, 1, 8, 9, dtype=torch.bool)
    mask[..., 2:6, 1:7] = True
    masked = ParzenDNMILoss()(x, y, mask)
    torch.testing.assert_close(masked, ParzenDNMILoss()(x[..., 2:6, 1:7], y[..., 2:6, 1:7]))
    torch.testing.assert_close(masked, ParzenDNMILoss()(x, y, mask.double() * 0.25))
    a = x.clone().requires_grad_()
    ParzenDNMILoss()(a, y, mask).backward()
    assert (a.grad[~mask] == 0).all()
    assert (a.grad[mask] != 0).any()


def test_whole_weights_are_repeated_voxels():
    x, y = uniform((1, 1, 2, 3)), uniform((1, 1, 2, 3))
    mask = torch.tensor([[[[1.0, 2, 0], [3, 1, 1]]]])
    times = mask.flatten().long()
    repeated = [image.flatten().repeat_interleave(times).view(1, 1, 2, 4) for image in (x, y)]
    torch.testing.assert_close(parzen_nmi(x, y, mask=mask), parzen_nmi(*repeated))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_and_half_inputs_are_computed_in_full_precision(dtype):
    x, y = uniform((2, 1, 16, 16), torch.float32), uniform((2, 1, 16, 16), torch.float32)
    plain = ParzenDNMILoss()(x, y)
    with torch.autocast("cpu", dtype=dtype):
        inside = ParzenDNMILoss()(x, y)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)
    half_x = x.to(dtype).requires_grad_()
    value = ParzenDNMILoss()(half_x, y)
    value.backward()
    assert half_x.grad.dtype == dtype
    torch.testing.assert_close(value.detach(), ParzenDNMILoss()(half_x.detach().float(), y), rtol=0, atol=0)


def test_same_input_same_bytes_and_other_memory_layouts():
    x, y = uniform((2, 3, 16, 12), torch.float32), uniform((2, 3, 16, 12), torch.float32)
    first = parzen_nmi(x, y)
    assert torch.equal(first, parzen_nmi(x, y))
    assert torch.equal(first, parzen_nmi(x.to(memory_format=torch.channels_last), y))
    flipped = parzen_nmi(x.transpose(2, 3), y.transpose(2, 3))
    torch.testing.assert_close(first, flipped)


def test_metadata_stays_outside():
    x, y = uniform((1, 1, 8, 8)), uniform((1, 1, 8, 8))
    value = ParzenDNMILoss()(MetaTensor(x), MetaTensor(y))
    assert type(value) is torch.Tensor
    torch.testing.assert_close(value, ParzenDNMILoss()(x, y))


def test_second_derivatives_are_refused():
    x, y = uniform((1, 1, 5, 5)).requires_grad_(), uniform((1, 1, 5, 5))
    (gradient,) = torch.autograd.grad(parzen_nmi(x, y).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        gradient.square().sum().backward()


class TestRange:
    def test_values_outside_are_an_error_that_tells_the_range(self):
        x = torch.linspace(0, 255, 64).view(1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"y: expected values in \[-1, 1\], received \[0, 255\]; .*value_range"):
            parzen_nmi(x / 255, x)
        assert parzen_nmi(x, x, value_range=(0, 255)).item() > 1.2

    def test_round_off_is_accepted_and_keeps_its_gradient(self):
        x = uniform((1, 1, 8, 8))
        x[0, 0, 0, :2] = torch.tensor([1 + 1e-4, -1 - 1e-4], dtype=torch.float64)
        x.requires_grad_()
        y = uniform((1, 1, 8, 8))
        value = parzen_nmi(x, y)
        value.sum().backward()
        torch.testing.assert_close(value, parzen_nmi(x.detach().clamp(-1, 1), y))
        assert (x.grad[0, 0, 0, :2] != 0).all()
        with pytest.raises(ValueError, match="received"):
            parzen_nmi(x.detach() * 1.001, y)

    def test_clamping_is_explicit_and_stops_the_gradient(self):
        x, y = (2 * uniform((1, 1, 8, 8))).requires_grad_(), uniform((1, 1, 8, 8))
        value = ParzenDNMILoss(out_of_range="clamp")(x, y)
        value.backward()
        torch.testing.assert_close(value.detach(), ParzenDNMILoss()(x.detach().clamp(-1, 1), y))
        outside = x.detach().abs() > 1
        assert outside.any()
        assert (x.grad[outside] == 0).all()

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    @pytest.mark.parametrize("rule", ["error", "clamp"])
    def test_not_a_number_is_an_error(self, bad, rule):
        x = torch.zeros(1, 1, 4, 4)
        x[0, 0, 1, 1] = bad
        with pytest.raises(ValueError, match="x: expected finite numbers"):
            parzen_nmi(x, torch.zeros(1, 1, 4, 4), out_of_range=rule)


class TestArguments:
    x = torch.zeros(2, 1, 4, 4)

    def test_unequal_channel_counts(self):
        with pytest.raises(ValueError, match=r"y: expected the shape of x \(2, 1, 4, 4\), received \(2, 3, 4, 4\)"):
            parzen_nmi(self.x, torch.zeros(2, 3, 4, 4))

    def test_kinds(self):
        with pytest.raises(TypeError, match="x: expected a torch tensor"):
            parzen_nmi(np.zeros((1, 1, 4, 4)), self.x)
        with pytest.raises(TypeError, match=r"call \.float"):
            parzen_nmi(self.x.long(), self.x)
        with pytest.raises(ValueError, match="received shape"):
            parzen_nmi(self.x[0], self.x[0])

    def test_masks(self):
        mask = torch.ones(2, 1, 4, 4)
        mask[1] = 0
        with pytest.raises(ValueError, match=r"empty mask in item\(s\) \[1\]"):
            parzen_nmi(self.x, self.x, mask=mask)
        with pytest.raises(ValueError, match=r"mask: expected shape \(2, 1, 4, 4\).*received \(2, 1, 4, 5\)"):
            parzen_nmi(self.x, self.x, mask=torch.ones(2, 1, 4, 5))
        with pytest.raises(ValueError, match="at least 0"):
            parzen_nmi(self.x, self.x, mask=-torch.ones(2, 1, 4, 4))
        with pytest.raises(TypeError, match="mask"):
            parzen_nmi(self.x, self.x, mask=[1])

    @pytest.mark.parametrize(
        ("settings", "kind", "text"),
        [
            ({"num_bins": 3}, ValueError, "num_bins: expected at least 4"),
            ({"num_bins": 32.0}, TypeError, "num_bins"),
            ({"value_range": (1, -1)}, ValueError, "value_range"),
            ({"kernel": "box"}, ValueError, "kernel: expected one of 'cubic', 'gaussian', received 'box'"),
            ({"reduction": "median"}, ValueError, "reduction"),
            ({"kernel": "gaussian", "sigma": 0}, ValueError, "sigma"),
            ({"kernel": "gaussian", "sigma": 3, "num_bins": 16}, ValueError, "num_bins: expected at least 18"),
            ({"out_of_range": "wrap"}, ValueError, "out_of_range"),
        ],
    )
    def test_settings_are_checked_when_the_module_is_made(self, settings, kind, text):
        with pytest.raises(kind, match=text):
            ParzenDNMILoss(**settings)
