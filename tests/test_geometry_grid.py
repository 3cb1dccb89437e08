"""Grid, and the test of a singular affine, which knows no size."""

import math

import pytest
import torch

from medtrace.geometry import Grid, check_invertible, is_singular
from medtrace.geometry.resampling import Reorientation, resize, resize_labels, resized_affine, shape_at_spacing
from medtrace.trace import Trace


def scaled(*sizes):
    return torch.diag(torch.tensor([*sizes, 1.0], dtype=torch.float64))


@pytest.mark.parametrize("size", [1e-9, 1e-5, 1.0, 1e6])
def test_no_size_of_voxel_is_singular(size):
    turned = torch.eye(4, dtype=torch.float64)
    turned[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    assert not is_singular(turned @ scaled(size, size * 1.1, size * 3))
    assert not is_singular(scaled(-size, -size, size).numpy())


@pytest.mark.parametrize(
    "matrix",
    [
        scaled(1.0, 0.0, 1.0),
        torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([[1e6, 1e6, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1e6]]),
        scaled(math.nan, 1.0, 1.0),
        scaled(math.inf, 1.0, 1.0),
    ],
    ids=["no length", "parallel", "parallel and large", "nan", "inf"],
)
def test_axes_in_one_plane_are_singular(matrix):
    assert is_singular(matrix)
    with pytest.raises(ValueError, match=r"ddf\.nii: expected an invertible matrix, received a singular one; mend it"):
        check_invertible("ddf.nii", matrix, "mend it")


def test_one_singular_matrix_of_a_batch_is_enough():
    assert is_singular(torch.stack([scaled(1.0, 1.0, 1.0), scaled(1.0, 1.0, 0.0)]))
    assert not is_singular(torch.stack([scaled(1.0, 1.0, 1.0), scaled(2.0, 1.0, 1.0)]))


def test_points_go_to_mm_and_back():
    affine = scaled(2.0, 3.0, 4.0)
    affine[:3, 3] = torch.tensor([10.0, 20.0, 30.0])
    grid = Grid((5, 6, 7), affine)
    assert grid.spacing == (2.0, 3.0, 4.0)
    assert grid.to_mm([[1, 2, 3]]).tolist() == [[12.0, 26.0, 42.0]]
    assert grid.to_voxels([[12.0, 26.0, 42.0]]).tolist() == [[1.0, 2.0, 3.0]]
    assert grid.corners.shape == (8, 3)
    assert grid.corners[-1].tolist() == [18.0, 35.0, 54.0]


def test_a_2d_grid_lies_in_its_plane():
    grid = Grid((3, 4), scaled(-1.0, -1.0, 1.0))
    assert grid.spatial_dims == 2
    assert grid.spacing == (1.0, 1.0)
    assert grid.to_mm([[2, 3]]).tolist() == [[-2.0, -3.0, 0.0]]


def test_distance_is_that_of_the_worst_voxel():
    grid = Grid((11, 1, 1), scaled(1.0, 1.0, 1.0))
    stretched = Grid((11, 1, 1), scaled(1.1, 1.0, 1.0))
    assert grid.distance(stretched) == pytest.approx(1.0)
    assert not grid.coincides(stretched)
    assert grid.coincides(Grid((11, 1, 1), scaled(1.00005, 1.0, 1.0)))
    assert not grid.coincides(Grid((11, 1, 2), scaled(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((3,), torch.eye(4), "two or three positive sizes"),
        ((3, 0, 2), torch.eye(4), "two or three positive sizes"),
        ((3, 3), torch.eye(3), r"expected shape \(4, 4\), also in 2D"),
        ((3, 3), torch.ones(4, 4), "last row 0 0 0 1"),
        ((3, 3, 3), scaled(1.0, 0.0, 1.0), "invertible"),
    ],
)
def test_what_is_no_grid_is_refused(shape, affine, message):
    with pytest.raises(ValueError, match=message):
        Grid(shape, affine)


def test_axes_within_a_hundredth_of_the_wanted_size_keep_their_voxels():
    """200 voxels of .995 mm are 199 of 1 mm, and stay 200; of 1.05 mm they are 210, and of .95 mm 190."""
    assert shape_at_spacing((200, 200, 200), (0.995, 1.05, 0.95), (1.0, 1.0, 1.0)) == (200, 210, 190)
    assert shape_at_spacing((1000, 1000), (1.009, 1.011), (1.0, 1.0)) == (1000, 1011)
    assert shape_at_spacing((1, 3), (1.0, 1.0), (4.0, 7.0)) == (1, 1)


@pytest.mark.parametrize(("sine", "singular"), [(1e-4, False), (1e-5, False), (1e-7, True)])
def test_axes_may_lie_as_close_as_a_millionth(sine, singular):
    """The volume over the product of the edges is the sine of the angle between two axes."""
    matrix = torch.tensor([[3.0, 5.0, 0.0], [0.0, 5.0 * sine, 0.0], [0.0, 0.0, 7.0]], dtype=torch.float64)
    assert is_singular(matrix) is singular


def test_distance_is_that_of_the_corner_farthest_apart():
    """Eleven voxels of 1.1 for 1 mm end at 11 for 10 mm."""
    grid, other = Grid((11, 4, 4), scaled(1.0, 1.0, 1.0)), Grid((11, 4, 4), scaled(1.1, 1.0, 1.0))
    assert grid.distance(other) == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"other: expected the shape \(11, 4, 4\), received \(11, 4, 5\)"):
        grid.distance(Grid((11, 4, 5), scaled(1.0, 1.0, 1.0)))


@pytest.mark.parametrize(
    ("shift", "same"), [(0.0, True), (0.0009, True), (0.0011, False), (0.005, False), (0.05, False)]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_grids_coincide_within_a_thousandth_of_the_smallest_edge(shift, same, axis):
    """Of 1 mm, whatever the other edges are."""
    moved = scaled(1.0, 2.0, 10.0)
    moved[axis, 3] = shift
    grid, other = Grid((4, 4, 4), scaled(1.0, 2.0, 10.0)), Grid((4, 4, 4), moved)
    assert grid.coincides(other) is other.coincides(grid) is same
    assert not grid.coincides(Grid((4, 4), scaled(1.0, 2.0, 10.0)))


def test_a_resized_grid_covers_the_same_extent():
    """Four voxels of 2 mm reach from -1 to 7 mm; two of 4 mm lie at 1 and 5, and eight of 1 mm begin at -.5."""
    assert resized_affine(scaled(2.0, 1.0, 1.0), (4, 3, 3), (2, 3, 3))[0].tolist() == [4.0, 0.0, 0.0, 1.0]
    assert resized_affine(scaled(2.0, 1.0, 1.0), (4, 3, 3), (8, 3, 3))[0].tolist() == [1.0, 0.0, 0.0, -0.5]


def test_labels_are_those_of_the_nearest_voxel():
    """The middles of three and three voxels are voxels 1 and 4."""
    labels = torch.tensor([0, 1, 2, 3, 4, 5]).reshape(1, 6, 1, 1)
    assert resize_labels(labels, (2, 1, 1)).flatten().tolist() == [1, 4]
    assert resize_labels(labels, (2, 1, 1)).dtype == labels.dtype


def test_what_shrinks_is_smoothed():
    """Without, every third voxel would be read, all of them 0 here."""
    image = torch.tensor([1.0, 0.0, 0.0] * 5).reshape(1, 15, 1, 1)
    small = resize(image, (5, 1, 1))
    assert small.min() > 0.2
    assert small.max() < 0.5


def test_a_field_goes_back_to_the_old_axes():
    """The new axes are the second, the first backwards and the third: 1, 2, 3 along them are -2, 1, 3 along the old."""
    plan = Reorientation((1, 0, 2), (False, True, False), (3, 4, 5))
    field = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1).expand(3, 4, 3, 5)
    back = plan.undo_field(field)
    assert back.shape == (3, 3, 4, 5)
    assert back[:, 0, 0, 0].tolist() == [-2.0, 1.0, 3.0]
    image = torch.arange(60.0).reshape(1, 3, 4, 5)
    assert plan.apply(image)[0, 1, 0, 2] == image[0, 2, 1, 2]
    assert torch.equal(plan.undo(plan.apply(image)), image)
    at = plan.affine(scaled(2.0, 3.0, 4.0)) @ torch.tensor([1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    assert at.tolist() == [4.0, 3.0, 8.0, 1.0]


def test_rounding_in_the_last_row_is_taken_away_and_more_is_refused():
    rounded = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    rounded[3] = torch.tensor([0, -1.1e-17, 0, 1 + 4e-16], dtype=torch.float64)
    assert Grid((4, 4, 4), rounded).affine[3].tolist() == [0, 0, 0, 1]
    image = torch.zeros(1, 4, 4, 4)
    trace = Trace.build(image, image, torch.zeros(3, 4, 4, 4), affine=rounded)
    assert trace.affine[3].tolist() == trace.source_affine[3].tolist() == [0, 0, 0, 1]
    rounded[3, 1] = 1e-3
    with pytest.raises(ValueError, match="expected the last row 0 0 0 1"):
        Grid((4, 4, 4), rounded)
    with pytest.raises(ValueError, match="expected the last row 0 0 0 1"):
        Trace.build(image, image, torch.zeros(3, 4, 4, 4), affine=rounded)
