"""The figures of a certificate, each by a number worked out by hand."""

import pytest
import torch

from medtrace.evaluation.certificate import Status, Thresholds
from medtrace.evaluation.certificate import checks as certify_checks
from medtrace.evaluation.certificate import figures as measure
from medtrace.evaluation.certificate.figures import ConsistencyFigures
from medtrace.fields import identity_grid, invert
from medtrace.trace import Trace


def identity(shape=(5, 5), **fields):
    picture = torch.arange(float(torch.tensor(shape).prod())).reshape(1, *shape)
    still = torch.zeros(len(shape), *shape)
    return Trace.build(picture, picture, fields.get("ddf", still), inverse_ddf=fields.get("inverse_ddf", still))


def one_row(moved=1.5):
    """0, 1, 2, 3 go to 0, 2.5, 2, 3: half a voxel is turned over."""
    field = torch.zeros(2, 4, 4)
    field[1, :, 1] = moved
    return field


def test_a_jump_is_measured_from_the_middle_of_the_neighbors():
    """About 10 lie 0, 1, 2 and 3, whose median is 1.5."""
    field = torch.zeros(2, 3, 3)
    field[0, 1, 1] = 10.0
    field[0, 0, 1], field[0, 2, 1], field[0, 1, 0], field[0, 1, 2] = 0.0, 3.0, 1.0, 2.0
    assert measure.largest_jump(field) == 8.5


def test_a_steady_growth_is_no_jump():
    """Also at the border, where the next one is extrapolated."""
    field = torch.zeros(2, 6, 5)
    field[0] = torch.arange(6.0).reshape(6, 1) * 3
    assert measure.largest_jump(field) == 0.0


@pytest.mark.parametrize(("border", "interior", "rest"), [(0.0, 25, None), (1.0, 9, 16), (2.0, 1, 24), (2.5, None, 25)])
def test_the_interior_begins_at_the_border_voxels(border, interior, rest):
    """Of 5 x 5 pixels, 3 x 3 lie one pixel inside, and one lies two."""
    result = measure.round_trip(identity(), border)
    assert [None if figures is None else figures.points for figures in result] == [interior, rest]


def test_points_that_leave_the_other_grid_are_in_neither():
    """A shift by one row takes one of five rows out."""
    shift = torch.zeros(2, 5, 5)
    shift[0] = 1.0
    trace = identity(ddf=-shift, inverse_ddf=shift)
    inner, outer = measure.round_trip(trace, 0.0)
    assert inner.points == 20
    assert outer is None


def test_a_round_trip_is_told_by_its_95th_percentile_and_its_worst():
    """Misses of 0, .01, ... .99 voxel, three times each; the hundredth and first ends beyond the grid."""
    inverse = torch.zeros(2, 101, 3)
    inverse[0] = torch.arange(101.0).reshape(101, 1) / 100
    inner, outer = measure.round_trip(identity((101, 3), inverse_ddf=inverse), 0.0)
    assert outer is None
    assert inner.points == 300
    assert inner.mean_mm == pytest.approx(0.495, abs=1e-6)
    assert inner.p95_voxels == pytest.approx(0.94, abs=1e-6)
    assert inner.max_voxels == pytest.approx(0.99, abs=1e-6)


def test_faint_tissue_is_foreground():
    """Otsu's threshold parts 0 and .4 from 1; what lies above half of it is tissue."""
    picture = torch.zeros(1, 22, 22)
    picture[0, 6:16, 6:16] = 1.0
    picture[0, 4, 6:8] = 0.4
    region = measure.foreground(picture, picture)
    assert int(region.sum()) == 102
    assert region[0, 4, 6:8].all()
    assert not region[0, 0].any()


@pytest.mark.parametrize(("permitted", "fraction"), [(0.4, 1.0), (0.5, 0.0), (0.6, 0.0)])
def test_a_mask_permits_from_a_half_on(permitted, fraction):
    """One pixel differs, by 4; a mask below a half permits a part of it and forbids the rest."""
    source = torch.zeros(1, 4, 4)
    image = source.clone()
    image[0, 1, 1] = 4.0
    trace = Trace.build(source, image, torch.zeros(2, 4, 4), mask=torch.full((1, 4, 4), permitted))
    result = measure.residual_share(trace, torch.ones(1, 4, 4, dtype=torch.bool))
    # The mean is 4 / 16: 15 * .0625 + 3.75 ** 2 is 15; where .4 of 4 is permitted, 2.4 ** 2 is left.
    assert result == pytest.approx(2.4**2 / 15 if fraction else 0.0)


@pytest.mark.parametrize(("difference", "own"), [(0.0009, True), (0.0011, False), (0.05, False)])
def test_a_thousandth_of_the_range_makes_an_image_more_than_its_warped_source(difference, own):
    source = torch.linspace(0, 10, 16).reshape(1, 4, 4)
    trace = Trace.build(source, source + 10 * difference, torch.zeros(2, 4, 4))
    assert certify_checks._own_warped(trace) is own


@pytest.mark.parametrize("name", ["ddf", "inverse_ddf"])
def test_either_field_may_fold(name):
    """Three cells in a column of four pixels: three halves of a voxel."""
    trace = identity((4, 4), **{name: one_row()})
    check = certify_checks.folding(trace, Thresholds())
    assert check.figures["folded_volume_voxels"] == pytest.approx(1.5)
    assert check.status == Status.FAIL


@pytest.mark.parametrize("name", ["ddf", "inverse_ddf"])
def test_either_field_may_jump(name):
    field = torch.zeros(2, 7, 7)
    field[0, 3, 3] = 0.75
    check = certify_checks.smoothness(identity((7, 7), **{name: field}), Thresholds())
    assert check.figures["largest_jump_voxels"] == 0.75
    assert check.status == Status.WARN


def test_an_inverse_bends_as_sharply_as_the_field_compresses():
    """The field squeezes a disk to a thirtieth: its exact inverse jumps, which is no fault; a voxel alone is one."""
    away = identity_grid((60, 60)) - 30.0
    field = -0.97 * away * torch.exp(-away.square().sum(0) / 16**2)
    inverse = invert(field[None], tolerance=1e-4).ddf[0]
    limits = Thresholds()
    assert measure.largest_jump(inverse) > limits.largest_jump_voxels.fail
    whole = certify_checks.smoothness(identity((60, 60), ddf=field, inverse_ddf=inverse), limits)
    assert whole.status == Status.PASS
    assert whole.figures["inverse_ddf_jump_voxels"] < 0.1
    inverse[1, 5, 4] += 2.0
    spoiled = certify_checks.smoothness(identity((60, 60), ddf=field, inverse_ddf=inverse), limits)
    assert spoiled.status == Status.FAIL


def test_the_worse_of_bidirectional_counts(monkeypatch):
    ways = {True: ConsistencyFigures(0.4, 0.2, 0.9, 10), False: ConsistencyFigures(0.1, 0.3, 0.5, 5)}
    monkeypatch.setattr(measure, "round_trip", lambda *_, to_target_first: (ways[to_target_first], None))
    figures = certify_checks.inverse_consistency(identity(), Thresholds()).figures
    assert figures == {
        "interior_mean_mm": 0.4,
        "interior_p95_voxels": 0.3,
        "interior_max_voxels": 0.9,
        "interior_points": 15,
    }


def test_soft_tissue_of_a_ct_is_told_apart_by_its_ranks():
    """Between air and bone 32 bins see one tissue; by ranks brain that the source shows is recognized."""
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, 48, 48, generator=generator)
    image = 20 + 20 * source
    image[:, :4], image[:, -4:] = -1000.0, 1500.0
    region = torch.ones_like(image, dtype=torch.bool)
    region[:, :2] = False
    ranks = measure.equalized(image, region)
    assert 0 == float(ranks.min()) < float(ranks.max()) <= 1
    order = image[0, 4:-4].flatten().argsort()
    assert (ranks[0, 4:-4].flatten()[order].diff() >= 0).all()
    other = torch.rand(1, 48, 48, generator=generator)
    plain, ranked = (
        measure.similarity(source, values, region) - measure.similarity(other, values, region)
        for values in (image, ranks)
    )
    assert ranked > 3 * plain
