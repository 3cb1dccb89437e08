"""Landmark files of other programs: each is read rightly, or refused with its name and the remedy."""

import warnings

import nibabel as nib
import pytest
import torch

from medtrace.data.landmarks.points import ImageGrid, read_landmarks, write_landmarks
from medtrace.geometry import Grid
from tests.cases import common, landmark_variants, landmarks

CASES = common.CASES[landmarks.__name__] | common.CASES[landmark_variants.__name__]


def grid_of(folder, expected):
    if "image" not in expected:
        return None
    image = nib.load(folder / expected["image"])
    return ImageGrid(Grid(image.shape, torch.from_numpy(image.affine)), folder / expected["image"])


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_read_rightly_or_refused(tmp_path, name):
    expected = common.write(CASES[name], tmp_path / name)
    folder, space = tmp_path / name, expected["space"]
    if expected["accept"] == ["refuse"]:
        with pytest.raises(ValueError, match=expected["input"]) as caught:
            read_landmarks(folder / expected["input"], space, grid_of(folder, expected))
        assert "\n" not in str(caught.value)
        for word in expected.get("message", []):
            assert word in str(caught.value)
        return
    for file in (expected["input"], *expected.get("also", [])):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            names, points = read_landmarks(folder / file, space, grid_of(folder, expected))
        right = torch.tensor(expected["points_ras"], dtype=torch.float64)
        torch.testing.assert_close(points, right, atol=expected["tolerance"], rtol=0)
        assert names == (expected["names"] or ["1", "2", "3"])
        assert [word for word in expected.get("said", []) if not any(word in str(line.message) for line in said)] == []


def test_what_is_written_comes_back_to_the_last_nanometer(tmp_path):
    """Of electron microscopy too, whose voxels are 1e-5 mm."""
    names, points = ["a", "b, c"], torch.tensor([[1.23456789e-4, -2e-5, 3.0], [-150.123456, 0.0, 8.5]]).double()
    write_landmarks(tmp_path / "points.csv", names, points)
    again, read = read_landmarks(tmp_path / "points.csv")
    assert again == names
    torch.testing.assert_close(read, points, atol=1e-9, rtol=1e-9)


def test_margin_is_relative_to_the_image(tmp_path):
    """A landmark four voxels off is let pass, one of five is not, whatever the size of a voxel."""
    for voxel in (1e-5, 1.0):
        grid = Grid((20, 20, 20), torch.diag(torch.tensor([voxel, voxel, voxel, 1.0])).double())
        write_landmarks(tmp_path / "points.csv", ["p"], torch.tensor([[23.4 * voxel, 0, 0]]))
        read_landmarks(tmp_path / "points.csv", image=ImageGrid(grid, "image.nii"))
        write_landmarks(tmp_path / "points.csv", ["p"], torch.tensor([[24.6 * voxel, 0, 0]]))
        with pytest.raises(ValueError, match=r"'p' lies .* mm outside image\.nii"):
            read_landmarks(tmp_path / "points.csv", image=ImageGrid(grid, "image.nii"))


def test_a_missing_file_and_an_unknown_space(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_landmarks(tmp_path / "points.csv")
    with pytest.raises(ValueError, match="space: expected one of RAS, LPS, voxel"):
        read_landmarks(tmp_path / "points.csv", "IJK")
