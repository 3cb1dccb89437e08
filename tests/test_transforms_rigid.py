"""Rigid alignment: known motion of real slices and volumes, SimpleITK, masks, inverse, determinism, errors."""

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage

from medtrace.transforms import RigidAlignment, RigidAlignmentd, SliceExtraction
from medtrace.transforms.geometry import affine_of
from medtrace.transforms.itk_frame import LPS, frame_of, resample

ITK_SLICES = Path(os.environ.get("MEDTRACE_ITK_EXAMPLES", "/usr/share/doc/insighttoolkit5-examples/examples/Data"))
OBLIQUE = np.array([[-0.98, 0.17, 0.05, 90], [0.17, 1.95, -0.2, -120], [-0.06, 0.18, 2.9, -60], [0, 0, 0, 1]])
OBLIQUE[:3, :3] = np.linalg.qr(OBLIQUE[:3, :3])[0] * [1.0, 2.0, 3.0]


def rotation(degrees, center, shift):
    """Rigid 4x4 matrix in RAS mm: turn about `center` by angles around R, A, S, then shift."""
    transform = sitk.Euler3DTransform(list(map(float, center)), *np.radians(degrees).tolist(), list(map(float, shift)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return matrix


def error(found, expected, points):
    """Largest distance of the moved points (mm), and the angle between the rotations (degrees)."""
    found = np.asarray(found)
    homogeneous = np.c_[points, np.ones(len(points))]
    distance = np.linalg.norm((homogeneous @ (found - expected).T)[:, :3], axis=1).max()
    turn = found[:3, :3].T @ expected[:3, :3]
    sine = np.linalg.norm(turn - turn.T) / np.sqrt(8)
    return distance, float(np.degrees(np.arcsin(min(1.0, sine))))


def moved(image, motion, shape=None, onto=None):
    """The moving image whose true motion (fixed to moving points) is `motion`: read at motion⁻¹."""
    affine = affine_of("image", image)
    onto = affine if onto is None else onto
    shape = image.shape[1:] if shape is None else shape
    values = resample(
        image.as_tensor(),
        affine,
        shape,
        onto,
        np.linalg.inv(motion),
        frame_of(onto, 3),
        "bspline",
        0.0,
        "image",
    )
    return MetaTensor(values.clamp_min(0), affine=torch.from_numpy(onto), meta={"filename_or_obj": "moving.nii.gz"})


def phantom(shape=(40, 44, 36), seed=0):
    """A smooth head-like volume of 3 mm without symmetry."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 1, 7, 7, 7, generator=generator)
    texture = torch.nn.functional.interpolate(noise, shape, mode="trilinear", align_corners=True)[0]
    axes = torch.meshgrid(*(torch.linspace(-1, 1, n) for n in shape), indexing="ij")
    head = (axes[0] / 0.62) ** 2 + (axes[1] / 0.75) ** 2 + (axes[2] / 0.65) ** 2 < 1
    affine = np.diag([-3.0, 3, 3, 1])
    affine[:3, 3] = [60, -66, -54]
    return MetaTensor((0.3 + texture) * head, affine=torch.from_numpy(affine), meta={"filename_or_obj": "fixed.nii.gz"})


def brain_points(image, threshold):
    """RAS mm of some voxels of the content."""
    voxels = np.argwhere(image[0].numpy() > threshold)
    voxels = voxels[:: max(1, len(voxels) // 500)]
    return voxels @ image.affine.numpy()[:3, :3].T + image.affine.numpy()[:3, 3]


MOTION = rotation([6, -4, 8], [5, -10, 0], [7, -5, 9])


@pytest.fixture(scope="module")
def pair():
    fixed = phantom()
    return moved(fixed, MOTION), fixed


# Volumes


def test_volume_known_motion(pair):
    moving, fixed = pair
    motion = RigidAlignment().estimate(moving, fixed)
    distance, angle = error(motion.matrix, MOTION, brain_points(fixed, 0))
    assert distance < 0.5
    assert angle < 0.5
    assert motion.matrix.dtype == torch.float64


@pytest.mark.parametrize("samples", [2000, 100_000])
def test_two_runs_give_the_same_bytes(pair, samples):
    moving, fixed = pair
    aligner = RigidAlignment(samples=samples)
    first, second = (aligner(moving, fixed) for _ in range(2))
    assert first.numpy().tobytes() == second.numpy().tobytes()
    assert torch.equal(first.meta["rigid_transform"], second.meta["rigid_transform"])


def test_aligned_image_lies_on_the_fixed_grid(pair):
    moving, fixed = pair
    out = RigidAlignment()(moving, fixed)
    assert out.shape == fixed.shape
    torch.testing.assert_close(out.affine, fixed.affine)
    inside = fixed > 0
    before = (moving - fixed).abs()[inside].mean()
    assert (out - fixed).abs()[inside].mean() < 0.3 * before
    assert out.meta["filename_or_obj"] == "moving.nii.gz"


def test_other_grid_orientation_and_contrast(pair):
    _, fixed = pair
    center = fixed.affine.numpy() @ [*(np.array(fixed.shape[1:]) / 2), 1]
    onto = OBLIQUE.copy()
    onto[:3, 3] += center[:3] - (onto @ [60, 34, 20, 1])[:3]
    moving = moved(fixed, MOTION, (120, 68, 40), onto)
    moving = MetaTensor(torch.exp(-moving.as_tensor()), meta=moving.meta)
    motion = RigidAlignment().estimate(moving, fixed)
    distance, angle = error(motion.matrix, MOTION, brain_points(fixed, 0))
    assert distance < 0.5
    assert angle < 0.5


def test_sitk_resamples_with_the_returned_transform(pair):
    moving, fixed = pair
    aligner = RigidAlignment(fill=0.0)
    motion = aligner.estimate(moving, fixed)
    out = aligner.apply(moving, fixed, motion)

    def as_sitk(image):
        itk_affine = LPS @ image.affine.numpy()
        edges = np.linalg.norm(itk_affine[:3, :3], axis=0)
        result = sitk.GetImageFromArray(image[0].numpy().transpose(2, 1, 0))
        result.SetSpacing(edges.tolist())
        result.SetDirection((itk_affine[:3, :3] / edges).ravel().tolist())
        result.SetOrigin(itk_affine[:3, 3].tolist())
        return result

    expected = sitk.Resample(as_sitk(moving), as_sitk(fixed), motion.to_itk(), sitk.sitkLinear, 0.0)
    np.testing.assert_allclose(out[0].numpy(), sitk.GetArrayFromImage(expected).transpose(2, 1, 0), atol=1e-5)


def test_without_resampling_only_the_affine_moves(pair):
    moving, fixed = pair
    aligner = RigidAlignment(resample=False)
    out = aligner(moving, fixed)
    assert torch.equal(out.as_tensor(), moving.as_tensor())
    matrix = out.meta["rigid_transform"]
    torch.testing.assert_close(matrix @ out.affine, moving.affine)
    back = aligner.inverse(out)
    assert torch.equal(back.affine, moving.affine)
    assert not back.applied_operations
    again = RigidAlignment().estimate(out, fixed)
    distance, angle = error(again.matrix, np.eye(4), brain_points(fixed, 0))
    assert distance < 0.1
    assert angle < 0.1


def test_inverse_returns_to_the_moving_grid(pair):
    moving, fixed = pair
    aligner = RigidAlignment()
    out = aligner(moving, fixed)
    back = aligner.inverse(out)
    assert back.shape == moving.shape
    assert torch.equal(back.affine, moving.affine)
    assert "rigid_transform" not in back.meta
    assert not back.applied_operations
    away = (out.as_tensor() - moving.as_tensor()).abs().mean()
    assert (back - moving).abs().mean() < 0.3 * away


def test_masks_leave_out_what_must_not_count(pair):
    moving, fixed = pair
    corrupted, mask = fixed.clone(), torch.ones(1, *fixed.shape[1:])
    corrupted[:, 20:] = fixed[:, 20:].flip(2) * 3
    mask[:, 20:] = 0
    points = brain_points(fixed, 0)
    masked = error(RigidAlignment().estimate(moving, corrupted, fixed_mask=mask).matrix, MOTION, points)
    assert masked[0] < 1.0
    assert masked[0] < error(RigidAlignment().estimate(moving, corrupted).matrix, MOTION, points)[0]
    region = torch.ones(1, *moving.shape[1:])
    both = RigidAlignment().estimate(moving, fixed, moving_mask=region, fixed_mask=torch.ones(fixed.shape))
    assert error(both.matrix, MOTION, points)[0] < 0.5


def test_channels(pair):
    moving, fixed = pair
    two = torch.cat([torch.zeros_like(moving), moving])
    aligner = RigidAlignment(channel=-1)
    out = aligner(two, fixed)
    assert out.shape == (2, *fixed.shape[1:])
    assert torch.equal(out[1].as_tensor(), RigidAlignment()(moving, fixed)[0].as_tensor())


# Slices in the plane


def in_plane(affine, degrees, shift):
    """Motion within the plane of a slice: turn about the pixel (40, 40), then shift along rows and columns (mm)."""
    frame = frame_of(affine, 2)
    center = (frame @ affine @ [40, 40, 0, 1])[:3]
    return np.linalg.inv(frame) @ rotation([0, 0, degrees], center, [*shift, 0]) @ frame


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_slices_turn_in_their_plane(axis):
    volume = phantom((80, 88, 72))
    volume.affine = torch.from_numpy(OBLIQUE / np.array([1, 2, 3, 1]))
    fixed = SliceExtraction(axis, count=1)(volume)[0]
    affine = fixed.affine.numpy()
    truth = in_plane(affine, 7.0, (4.0, -5.0))
    values = resample(
        fixed.as_tensor(),
        affine,
        fixed.shape[1:],
        affine,
        np.linalg.inv(truth),
        frame_of(affine, 2),
        "bspline",
        0,
        "x",
    )
    aligner = RigidAlignment()
    moving = MetaTensor(values.clamp_min(0), affine=fixed.affine)
    motion = aligner.estimate(moving, fixed)
    distance, angle = error(motion.matrix, truth, brain_points(fixed[..., None], 0))
    assert distance < 0.5
    assert angle < 0.5
    out = aligner(moving, fixed)
    assert out.shape == fixed.shape
    assert aligner.inverse(out).shape == moving.shape


def test_parallel_slices_meet_and_tilted_ones_do_not():
    volume = phantom((80, 88, 72))
    lower, upper = SliceExtraction("axial", indices=[34, 36])(volume)
    out = RigidAlignment(resample=False)(upper, lower)
    normal = frame_of(lower.affine.numpy(), 2)[2]
    heights = [normal @ image.affine.numpy() @ [10, 10, 0, 1] for image in (lower, upper, out)]
    assert abs(heights[1] - heights[0]) > 5
    assert abs(heights[2] - heights[0]) < 1e-6
    tilted = SliceExtraction("coronal", count=1)(volume)[0]
    with pytest.raises(ValueError, match=r"moving.*parallel to the fixed one, received one tilted by 90\.00 degrees"):
        RigidAlignment()(tilted, lower)


# Dictionary form


def test_dictionary_moves_labels_too(pair):
    moving, fixed = pair
    labels = MetaTensor((moving > 0.6).to(torch.uint8).as_tensor(), meta=moving.meta)
    transform = RigidAlignmentd(
        ["image", "labels"],
        "before",
        mode=["bilinear", "nearest"],
        motion_key="motion",
        fixed_mask_key="head",
    )
    item = {"image": moving, "labels": labels, "before": fixed, "head": torch.ones(fixed.shape)}
    out = transform(item)
    assert out["labels"].dtype == torch.uint8
    assert set(out["labels"].unique().tolist()) == {0, 1}
    expected = fixed > 0.6
    overlap = 2 * (out["labels"].bool() & expected).sum() / (out["labels"].sum() + expected.sum())
    assert overlap > 0.9
    assert torch.equal(out["before"], fixed)
    assert error(out["motion"], MOTION, brain_points(fixed, 0))[0] < 0.5
    back = transform.inverse(out)
    assert back["labels"].shape == labels.shape
    assert back["labels"].dtype == torch.uint8
    assert "motion" not in back


def test_dictionary_keys(pair):
    moving, fixed = pair
    with pytest.raises(ValueError, match="moving_key: expected one of the keys"):
        RigidAlignmentd("image", "before", moving_key="other")
    with pytest.raises(ValueError, match="fixed_key: expected a key that does not move"):
        RigidAlignmentd(["image", "before"], "before")
    with pytest.raises(KeyError, match="before"):
        RigidAlignmentd("image", "before")({"image": moving})
    with pytest.raises(KeyError, match="expected it in the item to align"):
        RigidAlignmentd(["image", "t2"], "before", allow_missing_keys=True)({"t2": moving, "before": fixed})
    assert RigidAlignmentd("image", "before", allow_missing_keys=True)({"before": fixed}).keys() == {"before"}


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m, f: (torch.zeros_like(m), f, None, None),
            r"moving \(moving\.nii\.gz\).*received a constant 0",
        ),
        (lambda m, f: (m, f * torch.nan, None, None), r"fixed \(fixed\.nii\.gz\).*NaN or infinite"),
        (lambda m, f: (m, f, torch.zeros(m.shape), None), r"mask of moving \(moving.*empty mask"),
        (lambda m, f: (m, f, None, torch.zeros(f.shape)), r"mask of fixed \(fixed.*empty mask"),
        (lambda m, f: (m, f, None, torch.ones(1, 2, 2, 2)), r"mask of fixed .*bring the mask"),
        (lambda m, f: (m, f[..., 0], None, None), r"moving .*expected 2 spatial dimensions as fixed"),
        (lambda m, f: (m, f[..., :1], None, None), r"fixed .*at least 4 voxels along each axis"),
        (lambda m, f: (m[0, 0, 0], f, None, None), r"expected \(C, H, W\)"),
    ],
)
def test_bad_input_is_named(pair, change, message):
    moving, fixed, *masks = change(*pair)
    with pytest.raises(ValueError, match=message) as caught:
        RigidAlignment()(moving, fixed, *masks)
    assert "\n" not in str(caught.value)


def test_missing_channel(pair):
    with pytest.raises(ValueError, match=r"expected a channel 1, received 1 channel"):
        RigidAlignment(channel=1)(*pair)


def test_no_overlap(pair):
    moving, fixed = pair
    away = np.eye(4)
    away[:3, 3] = 5000
    far = MetaTensor(moving.as_tensor(), affine=torch.from_numpy(away) @ moving.affine)
    with pytest.raises(RuntimeError, match=r"could not be aligned .*no start leaves an overlap") as caught:
        RigidAlignment(initial="identity")(far, fixed)
    assert "\n" not in str(caught.value)
    found = RigidAlignment().estimate(far, fixed).matrix
    assert error(found, away @ MOTION, brain_points(fixed, 0))[0] < 0.5


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"initial": "center"}, ValueError, "initial: expected one of"),
        ({"mode": "linear"}, ValueError, "mode: expected one of"),
        ({"seed": 0}, ValueError, "seed: expected a number above 0"),
        ({"bins": 3}, ValueError, "bins: expected at least 5"),
        ({"samples": 1.5}, TypeError, "samples: expected a whole number"),
        ({"levels": (1, 2)}, ValueError, "the coarsest first"),
        ({"levels": ()}, ValueError, "whole numbers from 1"),
    ],
)
def test_bad_settings(settings, kind, message):
    with pytest.raises(kind, match=message):
        RigidAlignment(**settings)


# Real slices and volumes


def itk_slice(name):
    path = ITK_SLICES / f"{name}.png"
    if not path.is_file():
        pytest.skip(f"no {path}; install Debian's insighttoolkit5-examples or set MEDTRACE_ITK_EXAMPLES")
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("L"), np.float32).T
    return MetaTensor(torch.from_numpy(pixels.copy())[None], affine=torch.diag(torch.tensor([-1.0, -1, 1, 1])))


@pytest.mark.real_data
@pytest.mark.parametrize("fixed_name", ["BrainProtonDensitySliceBorder20", "BrainT1SliceBorder20"])
@pytest.mark.parametrize(
    ("moving_name", "degrees", "shift"),
    [
        ("BrainProtonDensitySliceBorder20", 0, (0, 0)),
        ("BrainProtonDensitySliceShifted13x17y", 0, (13, 17)),
        ("BrainProtonDensitySliceRotated10", 10, (0, 0)),
        # The name says 17, but the pixels are shifted by 16: ITK's guide finds (13.0002, 16.0007) about (110.5, 128.5),
        # and so does a mean-squares registration with the unmoved slice.
        ("BrainProtonDensitySliceR10X13Y17", 10, (13, 16)),
    ],
)
def test_itk_slices(fixed_name, moving_name, degrees, shift):
    fixed, moving = itk_slice(fixed_name), itk_slice(moving_name)
    truth = LPS @ rotation([0, 0, degrees], [110.5, 128.5, 0], [*shift, 0]) @ LPS
    points = brain_points(fixed[..., None], 20)
    distance, angle = error(RigidAlignment().estimate(moving, fixed).matrix, truth, points)
    assert distance < 0.5
    assert angle < 0.5


@pytest.fixture(scope="module")
def templates():
    from nilearn import datasets

    images = {}
    for name, load in (("t1", datasets.load_mni152_template), ("gm", datasets.load_mni152_gm_template)):
        image = load(resolution=2)
        values = torch.from_numpy(np.asarray(image.get_fdata(), np.float32))[None]
        images[name] = MetaTensor(values, affine=torch.from_numpy(image.affine))
    return images


@pytest.mark.parametrize(
    ("contrast", "degrees", "shift"),
    [
        ("t1", [5, -9, 12], [12, -8, 15]),
        pytest.param("t1", [-15, 10, -15], [-20, 14, -18], marks=pytest.mark.slow),
        pytest.param("gm", [-8, 6, -5], [-10, 12, 8], marks=pytest.mark.slow),
    ],
)
def test_template_moved(templates, contrast, degrees, shift):
    truth = rotation(degrees, [0, -18, 10], shift)
    moving = moved(templates[contrast], truth)
    motion = RigidAlignment().estimate(moving, templates["t1"])
    distance, angle = error(motion.matrix, truth, brain_points(templates["t1"], 0.1))
    assert distance < 0.5
    assert angle < 0.5


@pytest.mark.real_data
def test_two_dates_of_one_head(real_data):
    folder = real_data / "open_ms" / "longitudinal" / "patient01"
    load = LoadImage(image_only=True, ensure_channel_first=True)
    fixed, moving, brain = (load(folder / f"{name}.nii.gz") for name in ("study1_FLAIR", "study2_FLAIR", "brainmask"))
    stored = []
    for study in (1, 2):
        transform = sitk.ReadTransform(str(folder / f"study{study}_FLAIR_to_common_space.txt"))
        origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        matrix = np.eye(4)
        matrix[:3, :3] = np.stack([np.array(transform.TransformPoint(e)) - origin for e in np.eye(3).tolist()], 1)
        matrix[:3, 3] = origin
        stored.append(LPS @ matrix @ LPS)
    points = brain_points(brain, 0)
    points = points @ stored[0][:3, :3].T + stored[0][:3, 3]
    reference = stored[1] @ np.linalg.inv(stored[0])
    distance, _ = error(RigidAlignment().estimate(moving, fixed).matrix, reference, points)
    # The stored transforms are affine (scales up to 0.5 %, 0.5 mm at the rim) and themselves a registration's result on
    # 0.7 x 0.7 x 4 mm voxels: agreement within one in-plane voxel over 10 mm of motion is what they can show.
    assert error(np.eye(4), reference, points)[0] > 8
    assert distance < 0.75
