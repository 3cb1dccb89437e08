"""Rigid and affine alignment, the whole of a registration, and its verdict, on heads of ellipsoids."""

import math

import numpy as np
import pytest
import torch

from medtrace.fields import identity_grid, sample
from medtrace.registration import Deformable, align, deform, explain, register_images
from medtrace.registration.affine_search import Candidate, Search, refine, refine_all, refine_by_torch
from medtrace.registration.alignment import Content
from medtrace.registration.frames import Frame
from medtrace.registration.levels import make_levels, side
from medtrace.registration.plausibility import plausibility
from medtrace.registration.starts import orientations
from medtrace.registration.verdict import (
    MIRRORED,
    SHARP,
    OtherStart,
    assess,
    likeness,
    measure,
    shapes_agree,
    sharpness,
)
from medtrace.registration.working import working_pair

SHAPES = {"2d": (48, 52), "3d": (30, 34, 28)}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
EYE = torch.eye(4, dtype=torch.float64)


def phantom(shape, affine=EYE, matrix=EYE, contrast=(1.0, 0.5, 1.6, 0.2)):
    """A lopsided head of ellipsoids in mm about the origin of RAS, and its grid's affine about its middle.

    `matrix` maps RAS points of this image to the head's own.
    """
    dims = len(shape)
    middle = torch.tensor([(size - 1) / 2 for size in shape] + [0.0] * (3 - dims), dtype=torch.float64)
    affine = affine.clone()
    affine[:3, 3] = -affine[:3, :3] @ middle
    grid = identity_grid(shape, dtype=torch.float64)
    if dims == 2:
        grid = torch.cat([grid, torch.zeros_like(grid[:1])])
    whole = matrix.double() @ affine
    points = torch.tensordot(whole[:3, :3], grid, 1) + whole[:3, 3].reshape(3, *[1] * dims)
    parts = [
        ((0, 0, 0), (15, 19, 12), contrast[0]),
        ((4, 7, 2), (6, 5, 6), contrast[1] - contrast[0]),
        ((-6, -6, 3), (4, 7, 5), contrast[2] - contrast[0]),
        ((7, -9, -4), (3, 3, 4), contrast[3] - contrast[0]),
    ]
    image = torch.zeros(shape, dtype=torch.float64)
    for center, radii, value in parts:
        radii = radii if dims == 3 else (*radii[:2], 1e9)
        inside = sum(((points[k] - center[k]) / radii[k]) ** 2 for k in range(3))
        image += value * torch.sigmoid((1 - inside) * 12)
    return image.float()[None], affine


def turn(dims, axis, degrees, shift=(0.0, 0.0, 0.0)):
    angle = math.radians(degrees)
    i, j = (0, 1) if dims == 2 else [k for k in range(3) if k != axis]
    matrix = EYE.clone()
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    matrix[:3, 3] = torch.tensor(shift, dtype=torch.float64) * torch.tensor([1.0, 1.0, float(dims == 3)])
    return matrix


def distance(found, truth, dims):
    """Mean distance in mm over the head of where two maps put its points."""
    points = torch.tensor(np.random.default_rng(0).uniform(-10, 10, (200, 3)))
    if dims == 2:
        points[:, 2] = 0
    change = found - truth
    return float((points @ change[:3, :3].T + change[:3, 3]).norm(dim=1).mean())


@each_shape
@pytest.mark.parametrize(
    ("axis", "degrees", "shift"),
    [(0, 20, (3, -2, 2)), (1, 45, (5, 0, 0)), (2, 90, (0, 0, 0)), (0, 180, (0, 6, -3)), (2, 135, (-7, 4, 2))],
)
def test_turns_and_shifts_are_found_across_contrasts(shape, axis, degrees, shift):
    fixed, fixed_affine = phantom(shape)
    moving, moving_affine = phantom(shape, contrast=(0.6, 1.5, 0.3, 1.0))
    truth = turn(len(shape), axis, degrees, shift)
    found = align(moving, fixed, truth @ moving_affine, fixed_affine, kind="rigid")
    assert distance(found.matrix, truth, len(shape)) < 0.6
    assert found.similarity > found.similarity_before


@each_shape
def test_scale_needs_the_affine_and_one_head_does_not(shape):
    fixed, fixed_affine = phantom(shape)
    moving, moving_affine = phantom(shape, contrast=(0.6, 1.5, 0.3, 1.0))
    scale = torch.diag(torch.tensor([1.25] * len(shape) + [1.0] * (4 - len(shape)), dtype=torch.float64))
    truth = scale @ turn(len(shape), 2, 15, (4, 2, 0))
    found = align(moving, fixed, truth @ moving_affine, fixed_affine)
    assert found.kind == "affine"
    assert "more than 1 %" in found.reason
    assert found.plausibility.scale == pytest.approx(1.25, abs=0.03)
    assert distance(found.matrix, truth, len(shape)) < 0.8
    same = align(moving, fixed, turn(len(shape), 2, 15) @ moving_affine, fixed_affine, kind="rigid")
    assert same.plausibility.scale == pytest.approx(1)
    assert same.plausibility.rotation_degrees == pytest.approx(15, abs=2)


@each_shape
def test_gradient_of_the_information_by_the_matrix(shape):
    """In float64 by central differences, and the compiled value beside it."""
    fixed, fixed_affine = phantom(shape)
    moving, moving_affine = phantom(shape, contrast=(0.6, 1.5, 0.3, 1.0))
    level = make_levels(side(moving, None), side(fixed, None), Frame(fixed_affine, moving_affine, len(shape)))[0]
    matrix = np.eye(len(shape) + 1)
    matrix[:-1] += 0.03 * np.random.default_rng(1).normal(size=matrix[:-1].shape)
    value, slope = level.compare(matrix)
    assert value == pytest.approx(level.score(matrix), rel=1e-6)
    for place, step in (((0, -1), 0.02), ((1, 0), 2e-3), ((1, -1), 0.02)):
        values = []
        for sign in (1, -1):
            moved = matrix.copy()
            moved[place] += sign * step
            values.append(level.score(moved))
        assert (values[0] - values[1]) / (2 * step) == pytest.approx(slope[place], rel=0.15, abs=2e-4)


@each_shape
@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_climbing_ends_where_scipy_does(shape, kind):
    """Compiled BFGS beside L-BFGS, several starts at once as one by one, and what is said of an end is so."""
    fixed, fixed_affine = phantom(shape)
    moving, moving_affine = phantom(shape, contrast=(0.6, 1.5, 0.3, 1.0))
    level = make_levels(side(moving, None), side(fixed, None), Frame(fixed_affine, moving_affine, len(shape)))[0]
    axes = [*range(len(shape)), 3]
    starts = [
        Candidate("a start", turn(len(shape), 2, degrees, (2, 1, -1)).numpy()[np.ix_(axes, axes)], 0.0)
        for degrees in (5, -5)
    ]
    search = Search(kind, 40)
    ends = refine_all(level, starts, search)
    for start, end in zip(starts, ends):
        expected = refine_by_torch(level, start, search)
        assert end.score > expected.score - 2e-3
        assert end.score == pytest.approx(level.score(end.matrix), rel=1e-6)
        np.testing.assert_array_equal(refine(level, start, search).matrix, end.matrix)
        if kind == "rigid":
            linear = end.matrix[:-1, :-1]
            np.testing.assert_allclose(linear @ linear.T, np.eye(len(shape)), atol=1e-6)


def test_orientations_are_rotations_that_leave_no_gap():
    for dims, count, widest in ((2, 24, 8.0), (3, 240, 35.0)):
        found = orientations(dims, count)
        assert len(found) == count
        for matrix in found:
            np.testing.assert_allclose(matrix @ matrix.T, np.eye(dims), atol=1e-9)
            assert np.linalg.det(matrix) == pytest.approx(1)
        random = np.random.default_rng(0)
        for _ in range(50):
            q, _ = np.linalg.qr(random.normal(size=(dims, dims)))
            q[:, 0] *= np.sign(np.linalg.det(q))
            traces = [np.trace(q.T @ matrix) for matrix in found]
            cosine = max(traces) / 2 if dims == 2 else (max(traces) - 1) / 2
            assert math.degrees(math.acos(min(cosine, 1))) < widest


def test_masks_hide_what_would_mislead():
    fixed, affine = phantom((48, 52))
    moving, _ = phantom((48, 52), matrix=turn(2, 2, -10, (3, 0, 0)))
    mask = torch.zeros(1, 48, 52)
    mask[:, 2:20, 2:50] = 1
    corrupted = torch.where(mask > 0, torch.rand(1, 48, 52) * 3, fixed)
    truth = torch.linalg.inv(turn(2, 2, -10, (3, 0, 0)))
    found = align(moving, corrupted, affine, affine, kind="rigid", mask=mask)
    assert distance(found.matrix, truth, 2) < 1.5


def test_slices_must_be_parallel():
    image, affine = phantom((20, 20))
    with pytest.raises(ValueError, match=r"tilted by 30\.00 degrees"):
        align(image, image, turn(3, 0, 30) @ affine, affine)
    with pytest.raises(ValueError, match="expected 2 axes as fixed"):
        align(phantom((9, 9, 9))[0], image, affine, affine)


@pytest.mark.parametrize(
    ("matrix", "grade", "text"),
    [
        (np.diag([1.1, 1.0, 1.05, 1]), "PASS", ""),
        (np.diag([1.4, 1.4, 1.4, 1]), "WARN", "lengths 1.40-fold"),
        (np.diag([0.5, 0.5, 0.5, 1]), "FAIL", "lengths 2.00-fold"),
        (np.diag([1.0, 1.0, 1.4, 1]), "WARN", "one direction 1.40 times"),
        (np.diag([-1.0, 1.0, 1.0, 1]), "FAIL", "mirrors"),
    ],
)
def test_plausibility(matrix, grade, text):
    assessed = plausibility(matrix, np.zeros(3))
    assert assessed.grade == grade
    assert text in assessed.reason


def corner_error(result, truth, fixed_affine, moving_affine, dims):
    """Mean distance in mm of where ddf and its inverse lead from where the truth does, over the head."""
    ddf = result.ddf.double()
    grid = identity_grid(ddf.shape[1:], dtype=torch.float64)
    region = phantom(ddf.shape[1:])[0][0] > 0.5
    place = torch.stack([(grid + ddf)[k][region] for k in range(dims)] + [torch.zeros(int(region.sum()))] * (3 - dims))
    start = torch.stack([grid[k][region] for k in range(dims)] + [torch.zeros(int(region.sum()))] * (3 - dims))
    there = fixed_affine[:3, :3] @ place.double() + fixed_affine[:3, 3:]
    expected = fixed_affine[:3, :3] @ start.double() + fixed_affine[:3, 3:]
    expected = truth[:3, :3] @ expected + truth[:3, 3:]
    voxels = torch.linalg.inv(moving_affine)[:dims] @ torch.cat([there, torch.ones(1, there.shape[1])])
    back = sample(result.inverse_ddf[None].double(), voxels[None])[0] + voxels
    returned = moving_affine[:3, :dims] @ back + moving_affine[:3, 3:]
    origin = fixed_affine[:3, :3] @ start.double() + fixed_affine[:3, 3:]
    return float((there - expected).norm(dim=0).mean()), float((returned - origin).norm(dim=0).mean())


@each_shape
def test_one_displacement_holds_alignment_and_grids(shape):
    """Grids of other voxel sizes, flipped and turned: where a point goes is in mm, and the inverse leads back."""
    dims = len(shape)
    fixed_grid = torch.diag(torch.tensor([1.0, 1.2, 1.1, 1.0], dtype=torch.float64))
    moving_grid = torch.diag(torch.tensor([-1.3, 0.9, 1.0, 1.0], dtype=torch.float64))
    fixed, fixed_affine = phantom(shape, fixed_grid)
    moving, moving_affine = phantom(shape, moving_grid, contrast=(0.6, 1.5, 0.3, 1.0))
    truth = turn(dims, 2, 30, (6, -4, 2))
    moving_affine = truth @ moving_affine
    result = register_images(moving, fixed, moving_affine, fixed_affine, alignment="rigid")
    missed, returned = corner_error(result, truth, fixed_affine, moving_affine, dims)
    assert missed < 1.0
    assert returned < 0.3
    assert result.warped.shape == fixed.shape
    assert result.verdict.grade == "PASS", result.verdict.text()


def test_a_working_grid_of_other_voxels():
    fixed, affine = phantom((48, 52))
    moving, _ = phantom((48, 52), matrix=turn(2, 2, 0, (1.5, 0, 0)))
    fine = register_images(moving, fixed, affine, affine, alignment="none", check_starts=False)
    coarse = register_images(moving, fixed, affine, affine, alignment="none", spacing=2.0, check_starts=False)
    assert coarse.deformation.ddf.shape[1] < fine.deformation.ddf.shape[1]
    inner = fixed[0] > 0.5
    assert float((coarse.ddf[0] - fine.ddf[0])[inner].abs().mean()) < 0.4


def test_headers_far_apart():
    image, affine = phantom((48, 52))
    apart = affine.clone()
    apart[0, 3] += 1000
    with pytest.raises(ValueError, match="two 953 mm apart by their headers, more than their size"):
        register_images(image, image, apart, affine)
    beside = affine.clone()
    beside[0, 3] += 60
    with pytest.raises(ValueError, match="13 mm apart by their headers; align them first"):
        register_images(image, image, beside, affine, alignment="none")
    found = register_images(image, image, beside, affine, alignment="rigid")
    assert found.alignment.plausibility.shift_mm == pytest.approx(60, abs=0.5)


def verdict_of(moving, fixed, affine, settings=None, kind="none"):
    frame = Frame(affine, affine, fixed.ndim - 1)
    alignment = align(moving, fixed, affine, affine, kind=kind)
    pair = working_pair((moving, fixed), (None, None), frame, frame.from_ras(alignment.matrix), None)
    found = deform(pair.moving, pair.fixed, mask=pair.mask, settings=settings or Deformable())
    return assess(pair, found, alignment), pair, found, alignment


def test_verdict_names_what_failed():
    fixed, affine = phantom((48, 52))
    moving, _ = phantom((48, 52), matrix=turn(2, 2, 5))
    good, pair, found, alignment = verdict_of(moving, fixed, affine)
    assert good.grade == "PASS"
    assert "no evidence against it" in good.text()
    wild = found._replace(ddf=torch.randn_like(found.ddf) * 2, folds=100)
    failed = assess(pair, wild, alignment)
    assert failed.grade == "FAIL"
    assert any("the field folds" in reason for reason in failed.reasons)
    assert any("less similar than before" in reason for reason in failed.reasons)
    away = assess(pair, found, alignment, OtherStart(40.0, None))
    assert away.grade == "FAIL"
    assert "in the reverse direction, the images end up 40 mm elsewhere" in away.reasons[0]
    halved = assess(pair._replace(covered=0.3), found, alignment)
    assert halved.reasons[0].startswith("only 30 % of the fixed content")
    odd = alignment._replace(plausibility=plausibility(np.diag([2.0, 2, 1]), np.zeros(2)))
    assert assess(pair, found, odd).grade == "FAIL"


@pytest.mark.parametrize(
    ("shape", "kind", "grade"),
    [((48, 52), "none", "PASS"), ((48, 52), "rigid", "WARN"), ((24, 28, 22), "rigid", "PASS")],
)
def test_images_that_fit_their_mirror_images_say_so(shape, kind, grade):
    """A volume's header states its sides, a slice's file rarely does."""
    fixed, affine = phantom(shape)
    moving, _ = phantom(shape, matrix=turn(len(shape), 2, 5))
    lopsided, pair, found, alignment = verdict_of(moving, fixed, affine, kind=kind)
    assert "mirrored" not in lopsided.text()
    cautious = {-0.2: 0, -0.06: int(grade == "WARN"), -0.01: 1, 0.02: 1, 0.2: 1}
    for gain, said in cautious.items():
        alike = alignment._replace(mirror_gain=gain)
        verdict = assess(pair, found, alike)
        (line,) = (line for line in explain(verdict, alike) if line.topic == "alignment")
        assert (verdict.text().count("mirrored, the"), line.text.count("mirrored, the")) == (said, said)
        assert verdict.grade == ("FAIL" if gain > MIRRORED[1] else grade if said else "PASS")


def test_shapes_that_agree_excuse_texture_that_does_not():
    """As of tissue in two stains: a dull peak of the information is a doubt, unless the place itself is in doubt."""
    fixed, affine = phantom((48, 52))
    moving, _ = phantom((48, 52), matrix=turn(2, 2, 5))
    _, pair, found, alignment = verdict_of(moving, fixed, affine)
    told = alignment._replace(convincing=True, mirror_gain=-0.2)
    figures = measure(pair, found, told) | {"correlation_after": 0.12, "sharpness": 1.3, "sharpness_of_fixed": 8.0}
    agreeing, apart = OtherStart(0.1, None), OtherStart(9.0, None)
    for given, other, grade in (
        (told, agreeing, "WARN"),
        (told, apart, "FAIL"),
        (told, None, "FAIL"),
        (told._replace(convincing=False), agreeing, "FAIL"),
        (told._replace(mirror_gain=0.0), agreeing, "FAIL"),
    ):
        findings = likeness(figures, shapes_agree(given, other))
        assert [one for one, text in findings if "than slightly shifted" in text] == [grade]


def test_a_turn_that_nobody_sought_fails():
    """Each contrast of the head is found to share far more when it is turned back."""
    fixed, affine = phantom((48, 52))
    for contrast in ((1.0, 0.5, 1.6, 0.2), (0.6, 1.5, 0.3, 1.0)):
        moving, _ = phantom((48, 52), matrix=turn(2, 2, 180), contrast=contrast)
        verdict = register_images(moving, fixed, affine, affine, alignment="none").verdict
        assert verdict.grade == "FAIL"
        assert "more information; align them" in verdict.text()
        straight, _ = phantom((48, 52), matrix=turn(2, 2, 3), contrast=contrast)
        assert register_images(straight, fixed, affine, affine, alignment="none").verdict.grade == "PASS"


@each_shape
@pytest.mark.parametrize("kind", ["none", "rigid"])
def test_a_flipped_image_does_not_pass(shape, kind):
    """The head is lopsided: no turn brings its mirror image onto it, and the deformation must not hide that."""
    fixed, affine = phantom(shape)
    moving, _ = phantom(shape, matrix=turn(len(shape), 2, 3), contrast=(0.6, 1.5, 0.3, 1.0))
    straight = align(moving, fixed, affine, affine, kind=kind)
    flipped = register_images(moving.flip(1), fixed, affine, affine, alignment=kind, check_starts=False)
    assert straight.mirror_gain < 0 < MIRRORED[1] < flipped.alignment.mirror_gain
    assert flipped.verdict.grade == "FAIL"
    assert "seems to be flipped" in flipped.verdict.text()


def test_squared_differences_of_two_contrasts_do_not_pass():
    fixed, affine = phantom((48, 52))
    moving, _ = phantom((48, 52), matrix=turn(2, 2, 4), contrast=(-0.6, 1.5, 0.3, 1.0))
    result = register_images(moving, fixed, affine, affine, alignment="none", similarity="mse", check_starts=False)
    assert result.verdict.grade == "FAIL"
    assert any("two contrasts" in reason for reason in result.verdict.reasons)


def test_noise_does_not_pass():
    fixed, affine = phantom((48, 52))
    verdict, *_ = verdict_of(torch.rand(1, 48, 52), fixed, affine)
    assert verdict.grade != "PASS"


def test_sharpness_is_high_where_images_match_and_one_where_they_do_not():
    fixed, _ = phantom((48, 52))
    moving, _ = phantom((48, 52), contrast=(0.4, 1.5, 0.9, 1.2))
    there = torch.ones_like(fixed)
    matched = sharpness(moving / 1.5, fixed / 1.6, there, 3.0, (1.0, 1.0))
    missed = sharpness(moving.roll(12, 1) / 1.5, fixed / 1.6, there, 3.0, (1.0, 1.0))
    random = torch.rand(1, 48, 52, generator=torch.Generator().manual_seed(0))
    noise = sharpness(random, fixed / 1.6, there, 3.0, (1.0, 1.0))
    assert matched > SHARP > max(missed, noise)


def test_moments_of_the_content():
    content = Content(torch.zeros(3, dtype=torch.float64), torch.diag(torch.tensor([9.0, 16.0, 0.0])).double())
    assert content.radius == pytest.approx(5)
