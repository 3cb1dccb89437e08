"""Readers of every kind agree with other libraries, and grids go round trip."""

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from medtrace.data.reading import read_image
from medtrace.geometry.resampling import (
    Reorientation,
    center_window,
    resize,
    resized_affine,
    shape_at_spacing,
    shifted_affine,
    spacing_of,
)


def itk_image(seed=0, shape=(7, 6, 5), directions=(1, 0, 0, 0, 0, 1, 0, -1, 0)):
    """Random scalar image on a turned, anisotropic grid."""
    image = sitk.GetImageFromArray(np.random.default_rng(seed).random(shape[::-1]).astype(np.float32))
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((-11.0, 7.0, 20.0))
    image.SetDirection(directions)
    return image


@pytest.mark.parametrize("ending", ["nii", "nii.gz", "nrrd", "mha"])
def test_every_format_gives_the_same_voxels_at_the_same_place(tmp_path, ending):
    image = itk_image()
    sitk.WriteImage(image, str(tmp_path / f"image.{ending}"))
    read = read_image(tmp_path / f"image.{ending}")
    assert read.dtype == torch.float32
    np.testing.assert_allclose(read.as_tensor()[0].numpy(), sitk.GetArrayFromImage(image).transpose(2, 1, 0), atol=1e-7)
    for voxel in ((0, 0, 0), (6, 5, 4), (2, 0, 3)):
        point = read.affine.numpy() @ [*voxel, 1]
        np.testing.assert_allclose(point[:3] * [-1, -1, 1], image.TransformIndexToPhysicalPoint(voxel), atol=1e-5)


def test_natural_image_axes_follow_itk(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "rgb.png")
    read = read_image(tmp_path / "rgb.png")
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "rgb.png")))
    assert read.shape == (3, 12, 8)
    np.testing.assert_array_equal(read.as_tensor().numpy(), itk.transpose(2, 1, 0))
    np.testing.assert_allclose(read.affine.numpy(), np.diag([-1, -1, 1, 1]))
    Image.fromarray(rgb[..., 0]).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(read_image(tmp_path / "gray.png").as_tensor()[0].numpy(), rgb[..., 0].T)


def test_natural_image_kinds(tmp_path):
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    turned = Image.fromarray(gray)
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera was turned
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=100)
    assert read_image(tmp_path / "turned.jpg").as_tensor()[0, 0, 0] == pytest.approx(gray[-1, 0], abs=6)
    Image.fromarray(np.dstack([np.dstack([gray] * 3), np.full((8, 8), 255, np.uint8)])).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png").shape == (3, 8, 8)
    Image.fromarray(gray.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    assert float(read_image(tmp_path / "deep.png").max()) == 63_000
    Image.fromarray(gray).convert("P").save(tmp_path / "palette.png")
    assert read_image(tmp_path / "palette.png").shape == (3, 8, 8)


def test_channels_and_thin_images(tmp_path):
    data = np.random.default_rng(0).random((5, 6, 4, 2)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "four.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "four.nii").as_tensor().numpy(), data.transpose(3, 0, 1, 2))
    nibabel.save(nibabel.Nifti1Image(data[:, :, :, None, :], np.eye(4)), tmp_path / "five.nii")
    np.testing.assert_array_equal(read_image(tmp_path / "five.nii").as_tensor().numpy(), data.transpose(3, 0, 1, 2))
    nibabel.save(nibabel.Nifti1Image(data[..., 0, 0], np.diag([1, 2, 3, 1.0])), tmp_path / "two.nii")
    flat = read_image(tmp_path / "two.nii")
    assert flat.shape == (1, 5, 6, 1)
    np.testing.assert_allclose(flat.affine, np.diag([1, 2, 3, 1.0]))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("slice_axis", [None, 0, 1, 2])
def test_reorientation_keeps_every_voxel_in_place_and_comes_back(order, signs, slice_axis):
    shape = (4, 5, 6)
    affine = torch.zeros(4, 4, dtype=torch.float64)
    for new, (old, sign) in enumerate(zip(order, signs)):
        affine[old, new] = sign * (1.0 + old)
        affine[(old + 1) % 3, new] = 0.1  # a little oblique
    affine[:, 3] = torch.tensor([3.0, -2, 7, 1])
    plan = Reorientation.to_ras(affine, shape, slice_axis)
    image = torch.arange(120.0).reshape(1, *shape)
    turned, new_affine = plan.apply(image), plan.affine(affine)
    assert torch.equal(plan.undo(turned), image)
    axes = [a for a in range(3) if a != slice_axis] + ([] if slice_axis is None else [slice_axis])
    assert "".join(nibabel.aff2axcodes(new_affine.numpy())) == "".join("RAS"[a] for a in axes)
    for voxel in ((0, 0, 0), (3, 1, 2)):
        value = float(turned[0][voxel])
        old = np.unravel_index(int(value), shape)
        torch.testing.assert_close(
            new_affine @ torch.tensor([*voxel, 1.0], dtype=torch.float64),
            affine @ torch.tensor([*map(float, old), 1.0], dtype=torch.float64),
        )
    # a displacement is the same motion in mm on both grids
    field = torch.randn(3, *turned.shape[1:], dtype=torch.float64)
    in_mm = torch.einsum("ij,jxyz->ixyz", new_affine[:3, :3], field)
    back = torch.einsum("ij,jxyz->ixyz", affine[:3, :3], plan.undo_field(field))
    torch.testing.assert_close(plan.undo(in_mm), back)


def test_resize_keeps_the_extent():
    ramp = torch.linspace(0.5, 15.5, 16).reshape(1, 16, 1, 1).expand(1, 16, 6, 3).contiguous()
    affine = torch.diag(torch.tensor([2.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    small = resize(ramp, (4, 6, 3))
    new_affine = resized_affine(affine, ramp.shape[1:], small.shape[1:])
    torch.testing.assert_close(spacing_of(new_affine), (8.0, 1.0, 1.0))
    # the ramp's value is (mm + 1) / 2, wherever it is sampled away from the border
    positions = [float((new_affine @ torch.tensor([k, 0.0, 0, 1], dtype=torch.float64))[0]) for k in (1, 2)]
    np.testing.assert_allclose(small[0, 1:3, 0, 0], [(p + 1) / 2 for p in positions], atol=5e-3)
    large = resize(ramp, (32, 6, 3))
    np.testing.assert_allclose(large[0, 10, 0, 0], (10 + 0.5) / 2, atol=1e-4)
    assert resize(ramp, (16, 6, 3)) is ramp


def test_axes_that_keep_their_size_are_not_touched():
    image = torch.rand(1, 12, 10, 5)
    whole = resize(image, (8, 10, 5))
    one = resize(image[..., 2], (8, 10))
    torch.testing.assert_close(whole[..., 2], one, atol=1e-6, rtol=0)


def test_shape_at_spacing():
    assert shape_at_spacing((100, 50, 20), (0.5, 1.0, 3.0), (1.0, 1.005, 1.5)) == (50, 50, 40)
    assert shape_at_spacing((3, 3, 3), (1.0, 1.0, 1.0), (10.0, 1.0, 1.0)) == (1, 3, 3)


@pytest.mark.parametrize("size", [4, 5, 8, 9])
def test_center_window(size):
    image = torch.arange(1.0, 7.0).reshape(1, 6)
    window, (start,) = center_window(image, (size,), pad=True)
    assert window.shape == (1, size)
    inside = [start + k for k in range(size)]
    expected = [float(k + 1) if 0 <= k < 6 else 0.0 for k in inside]
    assert window[0].tolist() == expected
    kept, starts = center_window(image, (9,))
    assert (kept.shape, starts) == ((1, 6), (0,))
    moved = shifted_affine(torch.eye(4, dtype=torch.float64), (start,))
    assert float(moved[0, 3]) == start


@pytest.mark.real_data
def test_dicom_series_reads_as_simpleitk_reads_it(real_data):
    folder = real_data / "dicom_t1"
    read = read_image(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    np.testing.assert_array_equal(read.as_tensor()[0].numpy(), sitk.GetArrayFromImage(image).transpose(2, 1, 0))
    for voxel in ((0, 0, 0), (273, 383, 39)):
        point = read.affine.numpy() @ [*voxel, 1]
        np.testing.assert_allclose(point[:3] * [-1, -1, 1], image.TransformIndexToPhysicalPoint(voxel), atol=1e-3)


@pytest.mark.real_data
def test_two_series_in_one_folder_are_refused(tmp_path, real_data):
    files = sorted((real_data / "dicom_t1").iterdir())[:4]
    (name,) = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(real_data / "dicom_t1"))
    other = name[:-1] + ("1" if name[-1] != "1" else "2")
    for number, file in enumerate(files):
        content = file.read_bytes()
        assert name.encode() in content
        (tmp_path / file.name).write_bytes(content.replace(name.encode(), other.encode()) if number > 1 else content)
    with pytest.raises(ValueError, match=r"expected one DICOM series, received 2 \(of \[2, 2\] files\)"):
        read_image(tmp_path)
