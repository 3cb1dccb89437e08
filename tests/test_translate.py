"""Translating a scan on its own grid and in its own units."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from medtrace.data.preparation.intensity import ContrastStandard
from medtrace.data.preparation.rules import Preparation
from medtrace.fields import exponentiate
from medtrace.inference.delivery import _moved_foreground
from medtrace.io import load_trace
from medtrace.trace.contrast import Intensity
from medtrace.trace.prediction import affines_of
from medtrace.workflows.translate import translate
from tests.standins import ShiftMethod, shift_run, tiny_tracetrans

pytestmark = pytest.mark.usefixtures("standin_methods")


def oblique(spacing):
    """Axes at right angles, turned by about 6 degrees from left, posterior, superior."""
    u, _, vt = np.linalg.svd([[-0.72, -0.03, 0.10], [0.03, -0.72, 0.07], [0.02, 0.02, 0.99]])
    affine = np.eye(4)
    affine[:3, :3] = (u @ vt) * np.asarray(spacing)
    affine[:3, 3] = 119.6, 97.5, -65.0
    return affine


OBLIQUE = oblique((0.72, 0.72, 3.0))


def head(shape=(20, 16, 9), seed=0):
    """Smooth tissue between 200 and 1200 inside an ellipsoid, zeros outside."""
    axes = [np.linspace(-1, 1, size) for size in shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    tissue = 700 + 300 * np.cos(3 * x + seed) * np.cos(2 * y) + 200 * z
    return np.where(x**2 + y**2 + z**2 < 0.8, tissue, 0)


def save(path, data, affine=OBLIQUE, dtype=np.int16):
    nibabel.save(nibabel.Nifti1Image(data.astype(dtype), affine), path)
    return path


def flipped(affine, shape, order, signs):
    """The same grid with its axes stored in another order and direction."""
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs)):
        turn[old, new] = sign
        if sign < 0:
            turn[old, 3] = shape[old] - 1
    return affine @ turn


@pytest.mark.parametrize("affine", [OBLIQUE, np.diag([1.0, 1.0, 2.0, 1.0])], ids=["oblique", "plain"])
def test_geometry_is_the_scans_own_for_nibabel_and_simpleitk(tmp_path, affine):
    scan = save(tmp_path / "scan.nii.gz", head(), affine)
    trace = translate(tiny_tracetrans(tmp_path / "run"), scan, tmp_path / "out", progress=False)
    assert trace.spatial_dims == 3
    assert torch.equal(trace.source[0], torch.from_numpy(head().astype(np.int16)).float())
    itk_scan = sitk.ReadImage(str(scan))
    for name in ("source", "image", "warped", "appearance"):
        file = tmp_path / "out" / f"{name}.nii.gz"
        loaded = nibabel.load(file)
        assert loaded.shape == (20, 16, 9)
        np.testing.assert_allclose(loaded.affine, affine, atol=1e-4)
        itk = sitk.ReadImage(str(file))
        assert itk.GetSize() == itk_scan.GetSize()
        np.testing.assert_allclose(itk.GetOrigin(), itk_scan.GetOrigin(), atol=1e-3)
        np.testing.assert_allclose(itk.GetDirection(), itk_scan.GetDirection(), atol=1e-5)
        np.testing.assert_allclose(itk.GetSpacing(), itk_scan.GetSpacing(), atol=1e-5)
    again = load_trace(tmp_path / "out")
    torch.testing.assert_close(again.image, trace.image)
    torch.testing.assert_close(again.ddf, trace.ddf, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("order", "signs"),
    [((0, 1, 2), (1, 1, 1)), ((0, 1, 2), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1)), ((1, 0, 2), (-1, 1, 1))],
)
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slicewise_field_comes_back_to_any_storage_order(tmp_path, order, signs, axis):
    """A shift by (2, 1) pixels of the slice is one motion in mm, however the file stores its axes."""
    ras = np.diag([1.5, 2.0, 3.0, 1.0])
    data = head()
    stored = np.flip(data.transpose(order), [a for a in range(3) if signs[a] < 0])
    affine = flipped(ras, data.shape, order, signs)
    scan = save(tmp_path / "scan.nii.gz", stored, affine)
    preparation = Preparation(spatial_dims=2, axis=axis)
    run = shift_run(tmp_path / "run", [2.0, 1.0], preparation)
    trace = translate(run, scan, tmp_path / "out", progress=False)
    in_plane = [a for a in range(3) if a != {"axial": 2, "coronal": 1, "sagittal": 0}[axis]]
    expected = np.zeros(3)
    expected[in_plane] = np.array([2.0, 1.0]) * np.diag(ras)[in_plane]
    center = ras @ [10, 8, 4, 1]
    moved = trace.origin(torch.tensor(center[None, :3])).numpy()[0]
    np.testing.assert_allclose(moved - center[:3], expected, atol=1e-4)
    back = trace.locate(torch.tensor(center[None, :3])).numpy()[0]
    np.testing.assert_allclose(back - center[:3], -expected, atol=1e-4)
    assert trace.velocity is not None
    torch.testing.assert_close(exponentiate(trace.velocity[None])[0], trace.ddf, atol=1e-4, rtol=0)


def test_pixels_of_the_training_images_are_used_and_left_again(tmp_path):
    """Trained on 2 mm pixels, a shift by 1 pixel is 2 mm, which is 4 voxels of a 0.5 mm scan."""
    affine = np.diag([0.5, 0.5, 3.0, 1.0])
    scan = save(tmp_path / "scan.nii.gz", head((48, 40, 5)), affine)
    run = shift_run(tmp_path / "run", [1.0, 0.0], Preparation(spatial_dims=2, spacing=(2.0, 2.0, 9.0)))
    trace = translate(run, scan, tmp_path / "out", progress=False)
    assert trace.image.shape == (1, 48, 40, 5)
    torch.testing.assert_close(trace.ddf[:, 24, 20, 2], torch.tensor([4.0, 0.0, 0.0]))
    # the natural image itself went through 2 mm pixels: smooth tissue survives it
    inside = nibabel.load(scan).get_fdata()[20:28, 16:24, 2]
    np.testing.assert_allclose(trace.image[0, 20:28, 16:24, 2].numpy(), inside, rtol=0.05)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_identity_network_gives_the_scan_back_in_its_own_units(tmp_path, spatial_dims):
    data = head()
    scan = save(tmp_path / "scan.nii.gz", data, dtype=np.float32)
    standard = ContrastStandard((-3.0, 3.0), (1.0, 25.0, 50.0, 75.0, 99.0), (0.0, 20.0, 45.0, 80.0, 100.0))
    preparation = Preparation(spatial_dims=spatial_dims, intensity=Intensity.STANDARDIZED, standards={"t1": standard})
    run = shift_run(tmp_path / "run", [0.0] * spatial_dims, preparation)
    trace = translate(run, scan, tmp_path / "out", progress=False)
    np.testing.assert_allclose(trace.image[0].numpy(), data, atol=0.05)
    assert float(trace.ddf.abs().max()) == 0
    brighter = translate(
        shift_run(tmp_path / "run2", [0.0] * spatial_dims, preparation, gain=0.1),
        scan,
        tmp_path / "out2",
        progress=False,
    )
    tissue = data > 0
    assert np.all(brighter.image[0].numpy()[tissue] > data[tissue])
    assert np.all(brighter.image[0].numpy()[~tissue] == 0), "background of exact zeros stays background"


def test_background_moves_with_the_field(tmp_path):
    data = head()
    scan = save(tmp_path / "scan.nii.gz", data, np.diag([1.0, 1.0, 1.0, 1.0]), dtype=np.float32)
    trace = translate(shift_run(tmp_path / "run", [3.0, 0.0]), scan, tmp_path / "out", progress=False)
    background = trace.image[0].numpy() == 0
    np.testing.assert_array_equal(background[:-3], data[3:] == 0)


@pytest.mark.parametrize(
    ("shift", "moved"), [(0.25, [3, 4, 5]), (0.75, [2, 3, 4]), (-0.25, [3, 4, 5]), (0.0, [3, 4, 5])]
)
def test_the_foreground_ends_at_half_a_voxel(shift, moved):
    """A quarter of a voxel on, pixel 2 is a quarter foreground and pixel 5 three quarters."""
    foreground = torch.zeros(1, 4, 9, dtype=torch.bool)
    foreground[..., 3:6] = True
    ddf = torch.zeros(2, 4, 9)
    ddf[1] = shift
    result = _moved_foreground(foreground, ddf)
    assert [column for column in range(9) if result[0, :, column].all()] == moved
    assert int(result.sum()) == 4 * 3


def test_slices_are_batched_and_empty_ones_left_alone(tmp_path, monkeypatch):
    data = head()
    data[..., :3] = 0
    scan = save(tmp_path / "scan.nii.gz", data)
    seen = []
    original = ShiftMethod.trace
    monkeypatch.setattr(ShiftMethod, "trace", lambda self, batch: seen.append(batch) or original(self, batch))
    trace = translate(shift_run(tmp_path / "run", [2.0, 0.0]), scan, tmp_path / "out", batch_size=4, progress=False)
    shapes = [tuple(batch["source"].shape) for batch in seen]
    filled = sum(bool(data[..., k].any()) for k in range(9))
    assert [shape[0] for shape in shapes] == [4] * (filled // 4) + [filled % 4] * (filled % 4 > 0)
    assert float(trace.ddf[..., :3].abs().max()) == 0
    assert float(trace.ddf[..., 4].abs().max()) > 1.9
    # each slice carries its own affine: consecutive ones lie a slice apart
    affines = affines_of(seen[0]["source"])
    step = (affines[1] - affines[0])[:3, 3].numpy()
    np.testing.assert_allclose(np.linalg.norm(step), np.linalg.norm(OBLIQUE[:3, 2]), rtol=1e-6)


def test_volume_network_sees_the_whole_volume_in_ras(tmp_path, monkeypatch):
    data = head()
    ras = np.diag([1.0, 1.0, 2.0, 1.0])
    scan = save(tmp_path / "scan.nii.gz", data[::-1], flipped(ras, data.shape, (0, 1, 2), (-1, 1, 1)))
    seen = []
    original = ShiftMethod.trace
    monkeypatch.setattr(ShiftMethod, "trace", lambda self, batch: seen.append(batch) or original(self, batch))
    preparation = Preparation(spatial_dims=3, spacing=(1.0, 1.0, 1.0))
    trace = translate(shift_run(tmp_path / "run", [1.0, 0.0, 2.0], preparation), scan, tmp_path / "out", progress=False)
    assert seen[0]["source"].shape == (1, 1, 20, 16, 18)
    torch.testing.assert_close(trace.ddf[:, 10, 8, 4], torch.tensor([-1.0, 0.0, 1.0]))


def test_natural_image_makes_a_2d_trace_in_its_own_range(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (30, 20, 3), dtype=np.uint8)).save(tmp_path / "face.png")
    preparation = Preparation(
        spatial_dims=2,
        intensity=Intensity.RANGE,
        value_range=(0, 255),
        natural_image=True,
        spatial_shape=(20, 30),
        channels=3,
    )
    run = shift_run(tmp_path / "run", [1.0, 0.0], preparation, channels=3)
    trace = translate(run, tmp_path / "face.png", tmp_path / "out", progress=False)
    assert trace.source.shape == trace.image.shape == (3, 20, 30)
    torch.testing.assert_close(trace.image, trace.source, atol=1e-3, rtol=0)
    assert trace.ddf.shape == (2, 20, 30)
    torch.testing.assert_close(trace.ddf[:, 5, 5], torch.tensor([1.0, 0.0]))


def test_untrained_tracetrans_deforms_nothing(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", head())
    for dims in (2, 3):
        run = tiny_tracetrans(tmp_path / f"run{dims}", dims)
        trace = translate(run, scan, tmp_path / f"out{dims}", progress=False)
        assert not trace.ddf.any()
        torch.testing.assert_close(trace.warped, trace.source, atol=0.01, rtol=0)
        assert torch.isfinite(trace.image).all()
        index = json.loads((tmp_path / f"out{dims}" / "trace.json").read_text())
        assert index["method"] == "TraceTransMethod"


def test_same_input_same_bytes(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", head())
    run = tiny_tracetrans(tmp_path / "run")
    first = translate(run, scan, tmp_path / "a", progress=False)
    second = translate(run, scan, tmp_path / "b", batch_size=3, progress=False)
    torch.testing.assert_close(first.image, second.image, atol=1e-2, rtol=1e-4)
    third = translate(run, scan, tmp_path / "c", progress=False)
    assert torch.equal(first.image, third.image)


def test_refusals_name_the_file_and_write_nothing(tmp_path):
    scan = save(tmp_path / "scan.nii.gz", head())
    run = shift_run(tmp_path / "run", [1.0, 0.0])
    out = tmp_path / "out"
    with pytest.raises(FileNotFoundError, match=r"gone.nii.gz: no such file"):
        translate(run, tmp_path / "gone.nii.gz", out, progress=False)
    with pytest.raises(FileNotFoundError, match="norun is missing"):
        translate(tmp_path / "norun", scan, out, progress=False)
    two = save(tmp_path / "two.nii.gz", np.stack([head(), head()], -1))
    with pytest.raises(ValueError, match=r"two.nii.gz: source: expected 1 channel"):
        translate(run, two, out, progress=False)
    Preparation(spatial_dims=2, channels=1).save(run / "preparation.json")
    with pytest.raises(ValueError, match=r"two.nii.gz: image: expected 1 channel\(s\), as in training, received 2"):
        translate(run, two, out, progress=False)
    Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "p.png")
    with pytest.raises(ValueError, match=r"p.png: is a natural image, but .* was trained on scans"):
        translate(run, tmp_path / "p.png", out, progress=False)
    sheared = OBLIQUE.copy()
    sheared[0, 2] += 0.5
    with pytest.raises(ValueError, match=r"bent.nii.gz: affine: expected axes at right angles"):
        translate(run, save(tmp_path / "bent.nii.gz", head(), sheared), out, progress=False)
    mask = save(tmp_path / "mask.nii.gz", np.zeros((20, 16, 9)))
    with pytest.raises(ValueError, match=r"mask.nii.gz: the mask is empty"):
        translate(run, scan, out, mask=mask, progress=False)
    other = save(tmp_path / "other.nii.gz", np.ones((20, 16, 8)))
    with pytest.raises(ValueError, match=r"other.nii.gz: expected the grid \(20, 16, 9\)"):
        translate(run, scan, out, mask=other, progress=False)
    assert not out.exists()
    out.mkdir()
    (out / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="out: is in use"):
        translate(run, scan, out, progress=False)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


@pytest.mark.real_data
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("open_ms/longitudinal/patient01/study1_T1W.nii.gz", marks=pytest.mark.slow),
        pytest.param("dicom_t1", marks=pytest.mark.slow),
        pytest.param("open_ms/mni/patient07/T1.nii.gz", marks=pytest.mark.slow),
    ],
)
def test_real_t1(tmp_path, real_data, name):
    scan = real_data / name
    trace = translate(tiny_tracetrans(tmp_path / "run"), scan, tmp_path / "out", progress=False)
    if scan.is_dir():
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(scan)))
        reference = reader.Execute()
    else:
        reference = sitk.ReadImage(str(scan))
    values = sitk.GetArrayFromImage(reference).astype(np.float32)
    itk = sitk.ReadImage(str(tmp_path / "out" / "image.nii.gz"))
    assert itk.GetSize() == reference.GetSize()
    np.testing.assert_allclose(itk.GetOrigin(), reference.GetOrigin(), atol=1e-2)
    np.testing.assert_allclose(itk.GetDirection(), reference.GetDirection(), atol=1e-4)
    np.testing.assert_allclose(itk.GetSpacing(), reference.GetSpacing(), atol=1e-4)
    np.testing.assert_allclose(nibabel.load(tmp_path / "out" / "image.nii.gz").affine, trace.affine, atol=1e-3)
    np.testing.assert_array_equal(trace.source[0].numpy(), values.transpose(2, 1, 0))
    low, high = np.percentile(values[values != 0], [0.5, 99.5])
    tissue = trace.image[0][trace.image[0] != 0]
    assert float(tissue.min()) >= low - 1e-2
    assert float(tissue.max()) <= high + 1e-2
