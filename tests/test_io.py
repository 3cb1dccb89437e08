"""Traces and transforms on disk: what SimpleITK and nibabel make of our files, and what we read back."""

import json
import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torch.nn.functional as F

from medtrace.fields import exponentiate
from medtrace.io import load_trace, read_nifti_image, read_transform, save_trace, write_image, write_transform
from medtrace.trace import Trace


def smooth(*shape, amplitude, seed=0):
    """Seeded smooth noise (C, *spatial) with the given largest value."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, *shape, generator=generator)
    sizes = [5 if size > 4 else 1 for size in shape[1:]]
    pool = F.avg_pool2d if len(shape) == 3 else F.avg_pool3d
    for _ in range(2):
        noise = pool(noise, sizes, 1, [size // 2 for size in sizes])
    return noise[0] / noise.abs().max() * amplitude


def affine_of(spacing, angles=(0.0, 0.0, 0.0), origin=(0.0, 0.0, 0.0), flip=(1, 1, 1), order=(0, 1, 2)):
    """Voxel to RAS mm from spacings, rotations about x, y, z in degrees, flips and an order of axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        turn = np.eye(3)
        a, b = [k for k in range(3) if k != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        matrix = turn @ matrix
    matrix = matrix[:, list(order)] * np.asarray(flip) * np.asarray(spacing)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return torch.from_numpy(affine)


def flow(*grid, amplitude=3.0, seed=1, still=()):
    """A diffeomorphic displacement (spatial_dims, *grid); it does not move along the axes in `still`."""
    velocity = smooth(len(grid), *grid, amplitude=amplitude, seed=seed)
    for axis in still:
        velocity[axis] = 0
    return exponentiate(velocity[None])[0]


PLAIN = affine_of((1, 1, 1))
OBLIQUE = affine_of((1.0, 1.0, 1.0), (10, -20, 35), (-80.0, 60, 12))
ANISOTROPIC = affine_of((0.7, 1.9, 5.0), origin=(30.0, -40, 5))
FLIPPED = affine_of((1.2, 0.8, 2.0), (3, 4, 5), (100.0, -50, 20), flip=(-1, 1, -1))
PERMUTED = affine_of((1.5, 1.0, 2.5), (170, 5, -80), (10.0, 20, 30), flip=(1, -1, 1), order=(2, 0, 1))
LEFT_HANDED = affine_of((1.1, 1.0, 1.3), (-15, 95, 40), (-300.0, 250, 180), flip=(-1, 1, 1))
FIELDS = ("ddf", "inverse_ddf", "velocity")
MEMBERS = ("source", "image", "warped", "appearance", "mask", *FIELDS)
SHAPES = {"3d": (18, 20, 16), "single": (24, 22, 1), "2d": (24, 22)}
GRIDS = {
    "identity": PLAIN,
    "oblique": OBLIQUE,
    "anisotropic": ANISOTROPIC,
    "flipped": FLIPPED,
    "permuted": PERMUTED,
    "left-handed": LEFT_HANDED,
}


def make_trace(shape, affine, source_shape=None, source_affine=None, channels=1, **options):
    still = [axis for axis, size in enumerate(shape) if size == 1]
    return Trace.build(
        smooth(channels, *(source_shape or shape), amplitude=1.0),
        smooth(channels, *shape, amplitude=1.0, seed=2),
        flow(*shape, still=still),
        affine=affine,
        source_affine=source_affine,
        **options,
    )


def other_grid(affine, shape):
    """A source grid around the target's center: turned in its plane, finer, one axis reversed, of another shape."""
    other_shape = (shape[0] + 7, shape[1] + 3, *shape[2:])
    matrix = affine.numpy()
    length = np.linalg.norm(matrix[:3, :3], axis=0)
    first, second, third = (matrix[:3, :3] / length).T
    c, s = math.cos(0.15), math.sin(0.15)
    other = np.eye(4)
    other[:3, :3] = np.stack([c * first + s * second, s * first - c * second, third], axis=1) * length * [0.9, 0.8, 1]
    middle = [(size - 1) / 2 for size in (*shape, 1)[:3]]
    other_middle = [(size - 1) / 2 for size in (*other_shape, 1)[:3]]
    other[:3, 3] = (matrix @ [*middle, 1])[:3] - other[:3, :3] @ other_middle
    return torch.from_numpy(other), other_shape


def itk_transform_of(folder, field, ending):
    if ending == "h5":
        return sitk.ReadTransform(str(folder / f"{field}.h5"))
    vectors = sitk.ReadImage(str(folder / f"{field}.nii.gz"), sitk.sitkVectorFloat64)
    return sitk.DisplacementFieldTransform(vectors)


def resample_by_itk(folder, ending):
    """SimpleITK alone: read the files, resample the source onto the target's grid."""
    moving = sitk.ReadImage(str(folder / "source.nii.gz"))
    grid = sitk.ReadImage(str(folder / "image.nii.gz"))
    transform = itk_transform_of(folder, "ddf", ending)
    result = sitk.Resample(moving, grid, transform, sitk.sitkLinear, 9.0)
    return torch.from_numpy(sitk.GetArrayFromImage(result).T.copy())


def largest_difference(trace, result):
    """Between an image of SimpleITK's and `warped`, over the source's range, where the pulled point is inside."""
    difference = (result.reshape(trace.warped.shape) - trace.warped).abs()[trace.covered]
    return float(difference.max() / (trace.source.max() - trace.source.min()))


@pytest.mark.parametrize("ending", ["h5", "nii.gz"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one grid", "two grids"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", SHAPES)
def test_itk_resampling_reproduces_warped(tmp_path, kind, grid, elsewhere, ending):
    affine, shape = GRIDS[grid], SHAPES[kind]
    source_affine, source_shape = other_grid(affine, shape) if elsewhere else (None, None)
    trace = make_trace(shape, affine, source_shape, source_affine)
    save_trace(trace, tmp_path / "trace", transforms=("h5",))
    assert trace.covered.float().mean() > 0.5
    assert trace.ddf.abs().max() > 2
    assert largest_difference(trace, resample_by_itk(tmp_path / "trace", ending)) < 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slice_on_any_axis(tmp_path, axis):
    shape = [22, 20]
    shape.insert(axis, 1)
    trace = make_trace(tuple(shape), OBLIQUE)
    save_trace(trace, tmp_path / "trace", transforms=("h5",))
    for ending in ("h5", "nii.gz"):
        assert largest_difference(trace, resample_by_itk(tmp_path / "trace", ending)) < 1e-3


@pytest.mark.parametrize("ending", ["h5", "nii.gz"])
@pytest.mark.parametrize("kind", SHAPES)
def test_inverse_file_moves_points_as_locate_and_the_other_as_origin(tmp_path, kind, ending):
    source_affine, source_shape = other_grid(PERMUTED, SHAPES[kind])
    trace = make_trace(SHAPES[kind], PERMUTED, source_shape, source_affine)
    save_trace(trace, tmp_path / "trace", transforms=("h5",))
    flat = len(SHAPES[kind]) == 2 or SHAPES[kind][-1] == 1
    for field, affine, shape, ours in (
        ("inverse_ddf", trace.source_affine, trace.source.shape[1:], trace.locate),
        ("ddf", trace.affine, trace.image.shape[1:], trace.origin),
    ):
        transform = itk_transform_of(tmp_path / "trace", field, ending)
        voxels = torch.rand(20, 3, dtype=torch.float64) * (torch.tensor([*shape, 1][:3]) - 1)
        voxels[:, 2] *= 0 if flat else 1
        points = voxels @ affine[:3, :3].T + affine[:3, 3]
        theirs = [transform.TransformPoint((-x, -y, z)) for x, y, z in points.tolist()]
        theirs = torch.tensor(theirs, dtype=torch.float64) * torch.tensor([-1.0, -1.0, 1.0])
        allowed = 1e-4 if ending == "h5" else 3**0.5 * 2.5 / 2048 + 1e-4  # the other is rounded, voxels up to 2.5 mm
        torch.testing.assert_close(ours(points), theirs, atol=allowed, rtol=0)
        assert (theirs - points).abs().max() > 0.5


@pytest.mark.parametrize("ending", ["h5", "nii.gz"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", SHAPES)
def test_transform_files_read_back(tmp_path, kind, grid, ending):
    shape, affine = SHAPES[kind], GRIDS[grid]
    ddf = torch.randn(len(shape), *shape) * 3
    write_transform(tmp_path / f"warp.{ending}", ddf, affine)
    result = read_transform(tmp_path / f"warp.{ending}", spatial_dims=len(shape))
    torch.testing.assert_close(result.ddf, ddf, atol=3e-5, rtol=0)
    torch.testing.assert_close(result.affine, affine, atol=1e-4, rtol=0)
    assert result.ddf.dtype == torch.float32
    assert [path.name for path in tmp_path.iterdir()] == [f"warp.{ending}"]


def test_displacement_by_hand(tmp_path):
    """One voxel along the first axis of a 2 mm grid whose first axis runs to the left: +2 mm in LPS."""
    ddf = torch.zeros(3, 3, 3, 3)
    ddf[0] = 1.0
    write_transform(tmp_path / "warp.h5", ddf, affine_of((2, 3, 4), flip=(-1, 1, 1)))
    assert sitk.ReadTransform(str(tmp_path / "warp.h5")).TransformPoint((1.0, -1.0, 1.0)) == (3.0, -1.0, 1.0)


def test_itk_warps_of_other_programs_are_read(tmp_path):
    """A field that SimpleITK wrote itself (LPS), and the same as NIfTI's own displacement intent (RAS)."""
    vectors = np.random.default_rng(0).normal(size=(4, 5, 6, 3))
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing((2.0, 1.0, 3.0))
    sitk.WriteImage(image, str(tmp_path / "itk.nii.gz"))
    result = read_transform(tmp_path / "itk.nii.gz")
    expected = vectors.T / np.array([2.0, 1.0, 3.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(result.ddf.numpy(), expected, atol=1e-5)
    stored = nibabel.load(tmp_path / "itk.nii.gz")
    ras = np.asarray(stored.dataobj) * [-1, -1, 1]
    other = nibabel.Nifti1Image(ras, stored.affine)
    other.header.set_intent("displacement vector")
    nibabel.save(other, tmp_path / "ras.nii.gz")
    np.testing.assert_allclose(read_transform(tmp_path / "ras.nii.gz").ddf.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 5), (6, 7, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_have_one_geometry_in_nibabel_and_simpleitk(tmp_path, shape, grid, channels):
    image, affine = torch.rand(channels, *shape), GRIDS[grid]
    write_image(tmp_path / "image.nii.gz", image, affine)
    stored = nibabel.load(tmp_path / "image.nii.gz")
    np.testing.assert_allclose(stored.affine, affine.numpy(), atol=1e-4)
    np.testing.assert_allclose(stored.get_qform(), affine.numpy(), atol=1e-3)
    assert (int(stored.header["qform_code"]), int(stored.header["sform_code"])) == (1, 1)
    assert stored.header.get_xyzt_units()[0] == "mm"
    itk = sitk.ReadImage(str(tmp_path / "image.nii.gz"))
    if channels > 1:
        itk = itk[..., 0]
    for index in ((0, 0, 0), (5, 6, itk.GetSize()[2] - 1)):
        x, y, z = itk.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose([-x, -y, z, 1], affine.numpy() @ [*index, 1], atol=1e-3)
    read, read_affine = read_nifti_image(tmp_path / "image.nii.gz")
    assert torch.equal(read.reshape(image.shape), image)
    torch.testing.assert_close(read_affine, affine, atol=1e-4, rtol=0)


def test_color_nifti_is_refused(tmp_path):
    color = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(color, np.eye(4)), tmp_path / "color.nii")
    with pytest.raises(ValueError, match=r"color.nii: expected real numbers, received .*split it into channels"):
        read_nifti_image(tmp_path / "color.nii")


def test_int16_keeps_a_65535th_of_the_range(tmp_path):
    image = torch.rand(1, 9, 9, 9) * 3000 - 1000
    write_image(tmp_path / "image.nii", image, PLAIN, dtype="int16")
    stored = nibabel.load(tmp_path / "image.nii")
    assert stored.get_data_dtype() == np.int16
    assert (read_nifti_image(tmp_path / "image.nii")[0] - image).abs().max() <= 3000 / 65535


@pytest.mark.parametrize("dtype", ["float32", "int16", "uint8"])
def test_a_soft_mask_is_stored_as_it_is(tmp_path, dtype):
    """In 65535 steps between its extremes, .3 would become .299992 or .300008; and it is not a whole number."""
    image = torch.randint(255, (1, 6, 5, 4)).float()
    mask = torch.full((1, 6, 5, 4), 0.3)
    mask[:, :2], mask[:, 4:] = 0.0, 1.0
    trace = Trace.build(image, image, torch.zeros(3, 6, 5, 4), mask=mask)
    save_trace(trace, tmp_path / "trace", dtype=dtype)
    assert torch.equal(load_trace(tmp_path / "trace").mask, mask)


@pytest.mark.parametrize("precise", [False, True], ids=["compact", "precise"])
@pytest.mark.parametrize("options", ["plain", "mask and velocity", "channels", "fewer channels out"])
@pytest.mark.parametrize("kind", SHAPES)
def test_a_trace_comes_back(tmp_path, kind, options, precise):
    shape = SHAPES[kind]
    source_affine, source_shape = other_grid(LEFT_HANDED, shape)
    trace = make_trace(
        shape,
        LEFT_HANDED,
        source_shape,
        source_affine,
        channels=3 if "channels" in options else 1,
        mask=smooth(1, *shape, amplitude=1.0) > 0 if "mask" in options else None,
        velocity=torch.randn(len(shape), *shape) if "mask" in options else None,
    )
    if options == "fewer channels out":
        trace = Trace.build(
            trace.source, trace.image[:1], trace.ddf, affine=trace.affine, source_affine=trace.source_affine
        )
    assert save_trace(trace, tmp_path / "trace", precise=precise) == tmp_path / "trace"
    result = load_trace(tmp_path / "trace")
    for name in MEMBERS:
        value, expected = getattr(result, name), getattr(trace, name)
        assert (value is None) == (expected is None)
        if name not in FIELDS:
            assert value is None or torch.equal(value, expected), name
        elif value is not None and precise:
            assert torch.equal(value, torch.where(expected.abs() < 1e-12, 0.0, expected)), name
        elif value is not None:
            assert float((value - expected).abs().max()) <= 1 / 2048 * (1 + 1e-5), name
    assert torch.equal(result.affine, trace.affine)
    assert torch.equal(result.source_affine, trace.source_affine)
    index = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert index["shape"] == list(trace.image.shape)
    assert set(index["files"]) == {name for name in MEMBERS if getattr(trace, name) is not None}
    files = {path.name for path in (tmp_path / "trace").iterdir()}
    assert files == {"trace.json", *(f"{name}.nii.gz" for name in index["files"])}


def test_method_and_metadata_are_kept_and_the_parent_has_nothing_else(tmp_path):
    save_trace(make_trace((8, 9), PLAIN), tmp_path / "trace", method="TraceTrans", metadata={"seed": 3})
    index = json.loads((tmp_path / "trace" / "trace.json").read_text())
    assert (index["method"], index["metadata"], index["version"]) == ("TraceTrans", {"seed": 3}, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_nothing_is_overwritten_unasked(tmp_path):
    first, second = make_trace((8, 9), PLAIN), make_trace((6, 7), PLAIN)
    folder = tmp_path / "trace"
    folder.mkdir()
    save_trace(first, folder)
    with pytest.raises(FileExistsError, match="already holds a trace; pass overwrite=True"):
        save_trace(second, folder)
    assert load_trace(folder).image.shape == (1, 8, 9)
    save_trace(second, folder, overwrite=True)
    assert load_trace(folder).image.shape == (1, 6, 7)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"nothing but a trace, received 'notes.txt'"):
        save_trace(first, folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="expected a folder, received a file"):
        save_trace(first, tmp_path / "file", overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"absent: no such folder; make it first"):
        save_trace(first, tmp_path / "absent" / "trace")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "trace"]


def test_an_error_leaves_nothing_behind_and_the_earlier_trace_whole(tmp_path):
    sheared = PLAIN.clone()
    sheared[0, 1] = 0.2
    with pytest.raises(ValueError, match=r"affine: expected axes at right angles.*resample the image"):
        save_trace(make_trace((8, 9, 7), sheared), tmp_path / "trace")
    assert list(tmp_path.iterdir()) == []
    save_trace(make_trace((8, 9), PLAIN), tmp_path / "trace")
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_trace(make_trace((6, 7), PLAIN), tmp_path / "trace", metadata={"x": object()}, overwrite=True)
    assert load_trace(tmp_path / "trace").image.shape == (1, 8, 9)
    with pytest.raises(ValueError, match="sheared"):
        write_transform(tmp_path / "warp.h5", torch.zeros(3, 4, 4, 4), sheared)
    assert [path.name for path in tmp_path.iterdir()] == ["trace"]


def test_damaged_folders_are_named(tmp_path):
    folder = save_trace(make_trace((8, 9), PLAIN), tmp_path / "trace")
    with pytest.raises(FileNotFoundError, match=r"nowhere/trace.json: no such file; expected a folder written by"):
        load_trace(tmp_path / "nowhere")
    whole = (folder / "image.nii.gz").read_bytes()
    (folder / "image.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"image.nii.gz: cannot be read as NIfTI"):
        load_trace(folder)
    (folder / "image.nii.gz").write_bytes(b"not an image at all")
    with pytest.raises(ValueError, match=r"image.nii.gz: cannot be read as NIfTI"):
        load_trace(folder)
    (folder / "image.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"image.nii.gz: no such file"):
        load_trace(folder)
    write_image(folder / "image.nii.gz", torch.zeros(1, 5, 5), PLAIN)
    with pytest.raises(ValueError, match=r"image.nii.gz: expected the shape \(8, 9, 1\) of trace.json, received"):
        load_trace(folder)
    index = json.loads((folder / "trace.json").read_text())
    (folder / "trace.json").write_text(json.dumps({**index, "version": 99}))
    with pytest.raises(ValueError, match="expected a trace of version 1 or 2 or 3, received 99"):
        load_trace(folder)
    (folder / "trace.json").write_text("{")
    with pytest.raises(ValueError, match=r"trace.json: cannot be read as JSON"):
        load_trace(folder)


def test_transform_errors(tmp_path):
    ddf = torch.zeros(3, 4, 4, 4)
    with pytest.raises(ValueError, match=r"path: expected a name ending in .h5"):
        write_transform(tmp_path / "warp.mat", ddf, PLAIN)
    with pytest.raises(ValueError, match=r"ddf: expected \(2, H, W\) or \(3, H, W, D\), unbatched"):
        write_transform(tmp_path / "warp.h5", ddf[None], PLAIN)
    with pytest.raises(ValueError, match="ddf: expected finite numbers"):
        write_transform(tmp_path / "warp.h5", ddf / 0, PLAIN)
    with pytest.raises(FileNotFoundError, match="absent: no such folder"):
        write_transform(tmp_path / "absent" / "warp.h5", ddf, PLAIN)
    with pytest.raises(FileNotFoundError, match=r"warp.h5: no such file"):
        read_transform(tmp_path / "warp.h5")
    write_transform(tmp_path / "warp.h5", ddf, PLAIN)
    with pytest.raises(ValueError, match="expected one slice for spatial_dims=2, received 4"):
        read_transform(tmp_path / "warp.h5", spatial_dims=2)
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken.h5: cannot be read as an ITK transform"):
        read_transform(tmp_path / "broken.h5")
    sitk.WriteTransform(sitk.Euler3DTransform(), str(tmp_path / "rigid.h5"))
    with pytest.raises(ValueError, match=r"rigid.h5: expected a displacement field in 2-D or 3-D, received Euler3D"):
        read_transform(tmp_path / "rigid.h5")
    write_image(tmp_path / "image.nii.gz", torch.zeros(1, 4, 4, 4), PLAIN)
    with pytest.raises(ValueError, match=r"image.nii.gz: expected a displacement field \(H, W, D, 1, 3\)"):
        read_transform(tmp_path / "image.nii.gz")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_channels_are_resampled_one_by_one(tmp_path):
    trace = make_trace((20, 18), FLIPPED, channels=3)
    save_trace(trace, tmp_path / "trace", transforms=("h5",))
    source = sitk.ReadImage(str(tmp_path / "trace" / "source.nii.gz"))
    transform = sitk.ReadTransform(str(tmp_path / "trace" / "ddf.h5"))
    for channel in range(3):
        moving = source[..., channel]
        result = sitk.GetArrayFromImage(sitk.Resample(moving, moving, transform, sitk.sitkLinear)).T[..., 0]
        difference = (torch.from_numpy(result.copy()) - trace.warped[channel])[trace.covered[0]]
        assert difference.abs().max() < 2e-3


@pytest.mark.real_data
def test_a_real_volume(tmp_path, real_data):
    paths = sorted(real_data.glob("open_ms/**/*.nii*"))
    if not paths:
        pytest.skip(f"no NIfTI under {real_data / 'open_ms'}")
    stored = nibabel.load(paths[0])
    data = np.asarray(stored.dataobj, dtype=np.float32)
    middle = tuple(slice(size // 2 - 20, size // 2 + 20) for size in data.shape)
    affine = stored.slicer[middle].affine
    image = torch.from_numpy(data[middle].copy())[None]
    ddf = flow(40, 40, 40, amplitude=4.0)
    trace = Trace.build(image, image, ddf, affine=torch.from_numpy(affine))
    save_trace(trace, tmp_path / "trace", transforms=("h5",))
    assert largest_difference(trace, resample_by_itk(tmp_path / "trace", "h5")) < 1e-3
    assert largest_difference(trace, resample_by_itk(tmp_path / "trace", "nii.gz")) < 1e-3
