"""Voxels of NIfTI files without their places: the numbers that the general reader finds, and its refusals."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import torch

from medtrace.transforms import HistogramStandardization
from medtrace.transforms.naming import load_image
from medtrace.transforms.nifti_voxels import nifti_voxels

RANDOM = np.random.default_rng(0)


def numbers(shape=(5, 6, 7), dtype=np.float32):
    return (RANDOM.random(shape) * 200).astype(dtype)


def save(path, values, slope=None, kind=nibabel.Nifti1Image, affine=None):
    """Write a file; with a slope, its stored numbers mean slope · number − 7."""
    image = kind(values, np.diag([-2.0, 3.0, 1.0, 1.0]) if affine is None else affine)
    if slope is not None:
        image.header.set_slope_inter(slope, -7)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "A.NII"])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">i2", "u2", "i4", "<f4", ">f4", "f8"])
@pytest.mark.parametrize("slope", [None, 0.5])
def test_every_type_gives_the_general_readers_numbers(tmp_path, name, dtype, slope):
    values = numbers(dtype=dtype)
    header = nibabel.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    path = save(tmp_path / name, values, slope, lambda data, affine: nibabel.Nifti1Image(data, affine, header))
    result = nifti_voxels("image", path)
    assert result.dtype == torch.float32
    general = torch.as_tensor(load_image("image", path)).flatten()
    assert torch.equal(result.flatten().sort().values, general.sort().values)


@pytest.mark.parametrize("shape", [(8, 9), (5, 6, 1), (4, 5, 6), (4, 5, 6, 2)])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_landmarks_are_those_of_the_loaded_images(tmp_path, shape, kind):
    turned = np.array([[0, 2.0, 0, 5], [-1, 0, 0, 3], [0, 0.1, 3, 1], [0, 0, 0, 1]])
    paths = [save(tmp_path / f"{number}.nii", numbers(shape), kind=kind, affine=turned) for number in range(3)]
    loaded = [load_image("image", path) for path in paths]
    assert HistogramStandardization.train(paths).of() == HistogramStandardization.train(loaded).of()
    assert HistogramStandardization.train(map(str, paths)).of() == HistogramStandardization.train(loaded).of()


def test_training_leaves_the_file_as_it_was(tmp_path):
    path = save(tmp_path / "a.nii", numbers())
    before = path.read_bytes()
    HistogramStandardization.train([path])
    nifti_voxels("image", path).zero_()  # in memory only
    assert path.read_bytes() == before


@pytest.mark.parametrize("other", [torch.rand(1, 4, 4), "a.mha", "absent.nii", None, 3])
def test_other_things_are_left_to_the_general_reader(other):
    assert nifti_voxels("image", other) is None


def test_numbers_that_are_not_real_and_odd_shapes_are_left_to_the_general_reader(tmp_path):
    assert nifti_voxels("image", save(tmp_path / "a.nii", numbers(dtype=np.complex64))) is None
    assert nifti_voxels("image", save(tmp_path / "b.nii", numbers((3, 3, 3, 2, 2)))) is None
    colors = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert nifti_voxels("image", save(tmp_path / "c.nii", colors)) is None


def test_values_that_are_not_finite_are_refused_by_the_files_name(tmp_path):
    values = numbers()
    values[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"image 1 \(.*bad\.nii\).*received 1 that are NaN"):
        HistogramStandardization.train([save(tmp_path / "good.nii", numbers()), save(tmp_path / "bad.nii", values)])
    with pytest.raises(ValueError, match=r"image 0 \(.*flat\.nii\).*constant 3"):
        HistogramStandardization.train([save(tmp_path / "flat.nii", np.full((4, 4, 4), 3.0))])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", ["short", "a byte short", "large", "headless", "empty"])
def test_damaged_files_are_refused_by_name(tmp_path, packed, damage):
    content = save(tmp_path / "whole.nii", numbers()).read_bytes()
    damaged = {
        "short": content[:-200],
        "a byte short": content[:-1],
        "large": content[:42] + struct.pack("<3h", 30000, 30000, 30000) + content[48:],
        "headless": b"no image",
        "empty": b"",
    }[damage]
    path = tmp_path / ("bad.nii.gz" if packed else "bad.nii")
    path.write_bytes(gzip.compress(damaged) if packed else damaged)
    with pytest.raises(ValueError, match=r"image 0: expected a readable image file, received .*bad\.nii"):
        HistogramStandardization.train([path])


def test_a_packed_file_that_is_cut_off_is_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", numbers((20, 20, 20)))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"readable image file, received .*a\.nii\.gz"):
        HistogramStandardization.train([path])
