"""Partners in the pose of their sources: place, orientation and size, with the domains' ratio kept."""

import math

import pytest
import torch

from medtrace.fields import identity_grid, warp
from medtrace.methods.common.partner_pose import PartnerPose, _moments
from medtrace.methods.plasticine.settings import PlasticineSettings
from tests.test_method_plasticine import make_method

SHAPES = [(64, 72), (36, 40, 44)]


def body(shape, middle, semi_axes, angle=0.0, inside=0.2):
    """An ellipse or ellipsoid (1, 1, *shape) in air, turned in the plane of the first two axes."""
    grid = identity_grid(shape, dtype=torch.float64)
    away = grid - torch.tensor(middle, dtype=torch.float64).reshape(-1, *[1] * len(shape))
    turned = away.clone()
    turned[0] = math.cos(angle) * away[0] + math.sin(angle) * away[1]
    turned[1] = math.cos(angle) * away[1] - math.sin(angle) * away[0]
    radius = sum((part / length) ** 2 for part, length in zip(turned, semi_axes))
    return torch.where(radius < 1, inside, -1.0).float()[None, None]


def case(shape, scale=0.75):
    """A source, and a partner that is it moved, turned by .3 and `scale` as large."""
    middle = [size / 2 for size in shape]
    lengths = [0.3 * size * factor for size, factor in zip(shape, (0.8, 1.0, 0.6))]
    source = body(shape, middle, lengths, 0.1)
    partner = body(shape, [place + 2 for place in middle], [scale * one for one in lengths], 0.4)
    return source, partner


def overlap(first, second):
    first, second = first > -0.5, second > -0.5
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_a_moved_turned_and_scaled_partner_is_brought_back(shape):
    source, partner = case(shape)
    assert overlap(source, partner) < 0.85
    pose = PartnerPose().eval()
    assert overlap(source, warp(partner, pose(source, partner))) > 0.95


@pytest.mark.parametrize("shape", SHAPES, ids=["2d", "3d"])
def test_what_all_pairs_have_in_common_is_kept(shape):
    pose, generator = PartnerPose().train(), torch.Generator().manual_seed(0)
    for _ in range(20):
        scales = 0.75 * torch.exp(0.1 * torch.randn(4, generator=generator))
        cases = [case(shape, float(scale)) for scale in scales]
        pose(torch.cat([one for one, _ in cases]), torch.cat([one for _, one in cases]))
    assert float(pose.log_ratio.exp()) == pytest.approx(0.75, abs=0.05)
    source, partner = case(shape, 0.9)  # large for its domain
    moved = warp(partner, pose.eval()(source, partner))
    grid = identity_grid(shape, dtype=torch.float64)
    (center, _, size), (moved_center, _, moved_size) = _moments(source, grid), _moments(moved, grid)
    assert float((moved_center - center).norm()) < 0.5
    assert float(moved_size / size) == pytest.approx(float(pose.log_ratio.exp()), rel=0.05)


def test_a_round_body_is_not_turned_and_an_empty_image_is_left_where_it_is():
    shape = (48, 48)
    source, partner = body(shape, (24, 24), (15, 15.2)), body(shape, (24, 24), (15.2, 15))
    empty = torch.full_like(source, -1.0)
    field = PartnerPose().eval()(torch.cat([source, empty]), torch.cat([partner, empty]))
    assert float(field.abs().max()) < 0.5


def test_plasticine_compares_with_the_partner_in_pose():
    source, partner = case((32, 36))
    method = make_method(partner_pose=True)
    context = {"noise": torch.randn(1, 1, 32, 36)}
    terms = method.terms("deformation", {"source": source, "target": partner}, context)
    pose = PartnerPose()
    field = pose(source, partner)
    plain = make_method()
    moved = {"noise": warp(context["noise"], field)}
    expected = plain.terms("deformation", {"source": source, "target": warp(partner, field)}, moved)
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)
    assert torch.equal(method.state_dict()["partner_pose.log_ratio"], pose.log_ratio)
    assert not any(name.startswith("partner_pose") for name in plain.state_dict())


def test_patches_have_no_pose():
    with pytest.raises(ValueError, match="partner_pose: expected entire images"):
        PlasticineSettings(partner_pose=True, data={"kind": "prepared", "patch": (32, 32)})
