"""TraceTrans composed: the network's promises, its terms, and what it is made of."""

import pytest
import torch
from torch.nn import functional as F

from medtrace.engines import Trainer
from medtrace.fields import exponentiate, warp
from medtrace.losses import (
    MotionMagnitudeLoss,
    ParzenDNMILoss,
    motion_magnitude,
    parzen_nmi,
    sub_voxel_pair,
    velocity_smoothness,
)
from medtrace.methods.tracetrans_composed.method import ComposedTraceTransMethod
from medtrace.networks import ComposedTraceTrans
from medtrace.networks.blocks.dead_zone import dead_zone
from medtrace.networks.blocks.isotropic_curve import IsotropicCurve


def network(dims=2, in_channels=1, out_channels=1, seed=0, **options):
    """With weights that move, change and curve."""
    torch.manual_seed(seed)
    result = ComposedTraceTrans(dims, in_channels, out_channels, channels=(4, 8), **options)
    for layer in (result.velocity_decoder.head.conv, result.change_decoder.head.conv, result.curve.network[-1]):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return result


def images(*shape, count=1, seed=1):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed)) * 1.8 - 0.9


@pytest.mark.parametrize(("shape", "channels"), [((21, 16), (1, 1)), ((21, 16), (3, 2)), ((8, 9, 12), (2, 1))])
def test_an_image_is_the_curve_of_the_warped_source_and_a_change(shape, channels):
    source = images(channels[0], *shape)
    net = network(len(shape), *channels)
    output = net(source)
    assert output.image.shape == (1, channels[1], *shape)
    assert output.ddf.abs().max() > 0.05
    torch.testing.assert_close(output.ddf, exponentiate(output.velocity, 7))
    torch.testing.assert_close(output.warped, warp(source, output.ddf))
    torch.testing.assert_close(output.explained, net.curve(output.warped))
    torch.testing.assert_close(output.image, (output.explained + output.change).clamp(-1, 1))


def test_untrained_it_moves_and_changes_nothing():
    ramp = torch.linspace(-0.9, 0.9, 24).expand(1, 1, 20, 24).contiguous()
    output = ComposedTraceTrans(2, 1, 1, channels=(4, 8))(ramp)
    assert torch.count_nonzero(output.ddf) == torch.count_nonzero(output.change) == 0
    torch.testing.assert_close(
        output.image[..., 3:-3], ramp[..., 3:-3], atol=1e-5, rtol=0
    )  # its mean about every voxel is the ramp


def test_it_is_built_without_memory_too():
    with torch.device("meta"):
        sizes = [p.numel() for p in network().parameters()]
    assert sizes == [p.numel() for p in network().parameters()]


def test_the_image_teaches_no_field_and_the_field_no_image():
    net = network()
    output = net(images(1, 16, 16))
    output.image.square().mean().backward(retain_graph=True)
    assert all(p.grad is None or not p.grad.any() for p in net.velocity_decoder.parameters())
    assert all(p.grad.any() for p in (*net.curve.parameters(), net.change_decoder.head.conv.weight))
    net.zero_grad()
    output.warped.square().mean().backward()
    assert net.velocity_decoder.head.conv.weight.grad.any()
    assert all(p.grad is None or not p.grad.any() for p in (*net.curve.parameters(), *net.change_decoder.parameters()))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_curve_cannot_displace(dims):
    """Turned and mirrored images give turned and mirrored results; a shift of the input is one of the output."""
    torch.manual_seed(0)
    curve = IsotropicCurve(dims, 1, 1)
    torch.nn.init.normal_(curve.network[-1].weight, std=1.0)
    image = images(1, *[14] * dims)
    result = curve(image)
    assert (result - curve.eval()(image)).abs().max() == 0
    for change in (lambda x: x.flip(2), lambda x: x.rot90(dims=(2, 3)), lambda x: x.transpose(2, 3)):
        torch.testing.assert_close(curve(change(image)), change(result), atol=1e-5, rtol=1e-4)
    assert (result - result.flip(2)).abs().max() > 0.05


def test_a_curve_of_an_edge_leaves_the_edge_where_it_is():
    edge = torch.where(torch.arange(32) < 15.5, -0.8, 0.7).expand(1, 1, 32, 32).contiguous()
    torch.manual_seed(3)
    curve = IsotropicCurve(2, 1, 1)
    torch.nn.init.normal_(curve.network[-1].weight, std=0.3)
    slope = curve(edge).detach()[0, 0, 16].diff().abs()
    center = float((slope * torch.arange(31)).sum() / slope.sum())
    assert center == pytest.approx(15, abs=0.6)  # between voxels 15 and 16


def test_dead_zone_by_hand():
    lengths = torch.tensor([0.0, 0.19, 0.2, 0.3, 0.4, 3.0])
    field = torch.stack([0.6 * lengths, 0.8 * lengths]).view(1, 2, 1, 6).requires_grad_()
    result = dead_zone(field, 0.2, 0.4)
    expected = torch.tensor([0.0, 0.0, 0.0, 0.15, 0.4, 3.0])
    torch.testing.assert_close(result.norm(dim=1).flatten(), expected)
    torch.testing.assert_close(result[0, 0] * 0.8, result[0, 1] * 0.6)
    result.sum().backward()
    assert torch.equal(field.grad, torch.ones_like(field)), "straight through"
    assert dead_zone(field, 0.0, 0.0) is field


@pytest.mark.parametrize("dims", [2, 3])
def test_within_reach_of_a_long_vector_short_ones_stay(dims):
    lengths = torch.full([11] * dims, 0.3)
    lengths[(2,) * dims] = 3.0
    field = torch.zeros(1, dims, *lengths.shape)
    field[0, 1] = lengths
    result = dead_zone(field, 1.0, 2.0, reach=3)
    expected = torch.zeros_like(lengths)
    expected[(slice(0, 6),) * dims] = lengths[(slice(0, 6),) * dims]
    assert torch.equal(result[0, 1], expected)
    assert not result[0, 0].any()
    for reach, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="reach: expected"):
            dead_zone(field, 1.0, 2.0, reach)


@pytest.mark.parametrize("zone", [(0.5, 0.2), (-0.1, 0.3), (0.2, 0.2), (0.1, float("inf"))])
def test_a_dead_zone_that_is_none_is_refused(zone):
    with pytest.raises(ValueError, match="dead_zone: expected 0 <= lower < upper"):
        ComposedTraceTrans(2, 1, 1, channels=(4, 8), dead_zone=zone)


def test_training_and_inference_have_their_dead_zones():
    net = network(dead_zone=(0.1, 0.2), inference_dead_zone=(50.0, 60.0))
    source = images(1, 16, 16)
    assert net.train()(source).ddf.any()
    assert not net.eval()(source).ddf.any()
    velocity = net.train()(source).velocity.norm(dim=1).detach()
    zones = {"dead_zone": (0.0, 1e-6), "inference_dead_zone": (float(velocity.median()), float(velocity.max()))}
    kept = network(**zones, inference_reach=16).eval()(source).velocity
    alone = network(**zones).eval()(source).velocity
    assert (kept != 0).float().mean() > 0.99 > 0.7 > (alone != 0).float().mean()
    same = network(dead_zone=(50.0, 60.0))
    assert not same.train()(source).ddf.any()
    assert not same.eval()(source).ddf.any()


@pytest.mark.parametrize("dims", [2, 3])
def test_interpolation_favors_neither_image_of_a_pair(dims):
    """Images that differ in noise alone: read at voxels, a small shift raises NMI; read between, it does not."""
    generator = torch.Generator().manual_seed(0)
    size = 64 if dims == 2 else 24
    scene = torch.linspace(-2, 2, size).view(*[1] * (dims + 1), size).expand(1, 1, *[size] * dims).sin() * 0.6
    source, target = ((scene + 0.15 * torch.randn(scene.shape, generator=generator)).clamp(-1, 1) for _ in range(2))
    none, shift = torch.zeros(1, dims, *[size] * dims), torch.full((1, dims, *[size] * dims), 0.15)

    def gain(pair):
        return float(parzen_nmi(*pair(shift)) - parzen_nmi(*pair(none)))

    plain = gain(lambda ddf: (warp(source, ddf), target))
    seeded = torch.Generator().manual_seed(1)
    jittered = [gain(lambda ddf: sub_voxel_pair(source, ddf, target, seeded)) for _ in range(16)]
    assert plain > 0.002
    assert abs(sum(jittered) / 16) < 0.3 * plain


def test_a_pair_is_read_at_one_shift_within_half_a_voxel():
    ramp = torch.arange(20.0).view(1, 1, 20, 1).expand(2, 1, 20, 8).contiguous()
    moving, fixed = sub_voxel_pair(ramp, torch.zeros(2, 2, 20, 8), 3 * ramp, torch.Generator().manual_seed(0))
    inner = slice(2, -2)
    shift = (moving - ramp)[:, :, inner]
    torch.testing.assert_close(3 * moving, fixed, atol=1e-4, rtol=0)
    assert shift.abs().max() <= 0.5 + 1e-5
    assert shift[0].std() < 1e-4 < abs(float(shift[0].mean() - shift[1].mean()))
    half = torch.full((2, 2, 20, 8), 1.5)
    pulled, _ = sub_voxel_pair(ramp, half, ramp, torch.Generator().manual_seed(0))
    torch.testing.assert_close((pulled - moving)[:, :, inner], torch.full((2, 1, 16, 8), 1.5), atol=1e-4, rtol=0)


def test_motion_magnitude_by_hand():
    field = torch.zeros(1, 2, 1, 2)
    field[0, :, 0, 0] = torch.tensor([0.3, 0.4])
    assert float(motion_magnitude(field, 0.1)) == pytest.approx(((0.25 + 0.01) ** 0.5 - 0.1) / 2)
    assert float(MotionMagnitudeLoss(0.1)(field.double())) == pytest.approx(float(motion_magnitude(field, 0.1)))
    with pytest.raises(ValueError, match="floor"):
        MotionMagnitudeLoss(0.0)
    double = (torch.rand(1, 3, 2, 2, 2, dtype=torch.float64) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(motion_magnitude, (double,))


def test_terms_and_weights_are_those_of_the_docstring():
    net = network()
    method = ComposedTraceTransMethod(net, 0.7, 3.0, 0.4, 16, 0.3, 0.02, 0.06)
    assert dict(method.phase("generator").weights) == pytest.approx(
        {
            "image_l1": 0.7,
            "image_squared": 2.1,
            "warp_dnmi": 0.4,
            "smoothness": 0.3,
            "motion": 0.02,
            "change": 0.06,
        }
    )
    source, target = images(1, 16, 20, count=2), images(1, 16, 20, count=2, seed=2)
    torch.manual_seed(5)
    terms = method.terms("generator", {"source": source, "target": target}, {})
    output = net(source)
    torch.manual_seed(5)
    pair = sub_voxel_pair(source, output.ddf, target)
    expected = {
        "image_l1": (output.image - target).abs().mean(),
        "image_squared": (output.image - target).square().mean(),
        "warp_dnmi": ParzenDNMILoss(16)(*pair),
        "smoothness": velocity_smoothness(output.velocity),
        "motion": motion_magnitude(output.velocity),
        "change": output.change.abs().mean(),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)


@pytest.mark.parametrize("name", ["image_weight", "similarity_weight", "motion_weight", "change_weight"])
def test_a_weight_below_zero_is_refused(name):
    with pytest.raises(ValueError, match=r"weight of .*: expected at least 0, received -1"):
        ComposedTraceTransMethod(network(), **{name: -1.0})


def test_a_term_of_weight_zero_is_not_computed():
    method = ComposedTraceTransMethod(network(), similarity_weight=0.0, change_weight=0.0)
    batch = {"source": images(1, 16, 16), "target": images(1, 16, 16, seed=2)}
    assert set(method.terms("generator", batch, {})) == {"image_l1", "image_squared", "smoothness", "motion"}


def test_it_learns_a_shift_as_a_shift_and_not_as_an_image():
    """A square that has moved and changed its contrast: the field moves it, the curve recolors it, nothing is drawn."""
    torch.manual_seed(0)
    rows = torch.arange(32).view(32, 1).expand(32, 32)
    source = torch.full((1, 1, 32, 32), -0.6)
    source[..., 8:20, 8:24] = 0.6
    source = source + 0.002 * rows
    target = -warp(source, torch.stack([torch.full((32, 32), 2.0), torch.zeros(32, 32)])[None])
    net = ComposedTraceTrans(2, 1, 1, channels=(8, 16), velocity_downsampling=1)
    method = ComposedTraceTransMethod(net, smoothness_weight=0.02, motion_weight=0.001, change_weight=0.4)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    Trainer("cpu", 1, [{"source": source, "target": target}] * 100, method, {"generator": optimizer}).run()
    output = net.eval()(source)
    near = (F.max_pool2d(target, 3, 1, 1) + F.max_pool2d(-target, 3, 1, 1)) > 1
    moved = output.ddf[:, :1][near]
    assert moved.mean() > 1.2
    assert (output.explained - target).abs().mean() < 0.25 * (source - target).abs().mean()
    assert output.change.abs().mean() < 0.2 * (source - target).abs().mean()
