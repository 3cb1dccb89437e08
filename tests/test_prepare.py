"""From before/after files to a dataset: geometry, intensities, splits, landmarks, refusals."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import DataLoader
from PIL import Image

from medtrace.data import Preparation, count_cases, load_dataset
from medtrace.data.dataset import DropSliceAxisd
from medtrace.data.landmarks.points import read_landmarks
from medtrace.data.reading import read_image
from medtrace.trace.contrast import Intensity
from medtrace.transforms import SliceExtraction
from medtrace.workflows.prepare import prepare

SHAPE = (20, 24, 15)
LAS = np.array([[-1.0, 0, 0, 10], [0, 1, 0, -12], [0, 0, 2, -14], [0, 0, 0, 1]])
BLOB = (12, 9, 8)
"""Voxel of a bright spot in every source."""


def head(gain=1.0, seed=0, shape=SHAPE):
    """Textured tissue in an ellipsoid of zeros, with one bright spot."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    tissue = 300 + 120 * np.cos(4 * x) * np.cos(3 * y) + 60 * z + 10 * rng.standard_normal(shape)
    tissue[BLOB] = 600
    return np.where(x**2 + y**2 + z**2 < 0.9, gain * tissue, 0).astype(np.float32)


def save(path, data, affine=LAS):
    nibabel.save(nibabel.Nifti1Image(data, affine), path)


def write_pairs(folder, subjects=4, header="subject,source,target", extra=lambda _: ""):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [header]
    for number in range(subjects):
        for time in "ab":
            save(folder / f"s{number}{time}.nii.gz", head(rng.uniform(0.5, 2), number))
        rows.append(f"S{number},s{number}a.nii.gz,s{number}b.nii.gz{extra(number)}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


def settings(**changes):
    return {"align": False, "crop": None, "progress": False, "fractions": (0.5, 0.25, 0.25), **changes}


def index_of(folder):
    return json.loads((folder / "dataset.json").read_text())


def test_slices_lie_where_the_scan_has_them(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    summary = prepare(pairs, tmp_path / "data", **settings(slices=5, crop=(12, 16, 9)))
    assert summary.counts == {"training": 10, "validation": 5, "test": 5}
    assert count_cases(tmp_path / "data") == summary.counts
    index = index_of(tmp_path / "data")
    assert index["spatial_dims"] == 2
    assert index["channels"] == 1
    # central five of fifteen axial slices: array slices 5..9 of the scan
    item = index["training"][0]
    images = [nibabel.load(tmp_path / "data" / entry["source"]) for entry in index["training"][:5]]
    assert [image.shape for image in images] == [(12, 16, 1)] * 5
    heights = [image.affine[2, 3] for image in images]
    assert heights == [LAS[2, 3] + 2 * k for k in range(5, 10)]
    for image in images:
        assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    # the bright spot is found at the same place in mm
    spot = LAS @ [*BLOB, 1]
    slice_of_spot = next(image for image in images if image.affine[2, 3] == spot[2])
    voxel = np.linalg.solve(slice_of_spot.affine, spot)[:3]
    values = slice_of_spot.get_fdata()
    assert np.unravel_index(values.argmax(), values.shape) == tuple(voxel.round().astype(int))
    assert item["case"] != index["training"][1]["case"]
    assert item["volume"] == index["training"][1]["volume"]


@pytest.mark.parametrize(("axis", "position"), [("axial", 2), ("coronal", 1), ("sagittal", 0)])
def test_slices_along_every_axis_are_images_with_a_full_affine(tmp_path, axis, position):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "data", **settings(slices=3, axis=axis))
    item = load_dataset(tmp_path / "data")[1]
    in_plane = [a for a in range(3) if a != position]
    shape = np.array(SHAPE)[in_plane]
    assert item["source"].shape == (1, *shape)
    affine = item["source"].affine
    assert affine.shape == (4, 4)
    directions = (affine[:3, :3] / affine[:3, :3].norm(dim=0)).numpy()
    np.testing.assert_allclose(directions, np.eye(3)[:, [*in_plane, position]], atol=1e-6)
    scan = read_image(tmp_path / "raw" / f"s{item['subject'][1:]}a.nii.gz")
    same = SliceExtraction(axis, count=3)(scan)[1]
    torch.testing.assert_close(same.affine, affine)
    brightest = [int(image.as_tensor().argmax()) for image in (same, item["source"])]
    assert brightest[0] == brightest[1]
    assert Preparation.load(tmp_path / "data" / "preparation.json").axis == axis


def test_items_are_normalized_collated_and_split_by_subject(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "data", **settings(slices=3))
    splits = {name: load_dataset(tmp_path / "data", name) for name in ("training", "validation", "test")}
    subjects = [{item["subject"] for item in split} for split in splits.values()]
    assert len(set.union(*subjects)) == sum(map(len, subjects)) == 4
    batch = next(iter(DataLoader(splits["training"], batch_size=6)))
    assert batch["source"].shape == batch["target"].shape == (6, 1, 20, 24)
    assert batch["source"].dtype == torch.float32
    assert batch["source"].affine.shape == (6, 4, 4)
    assert float(batch["source"].min()) == -1.0
    assert float(batch["source"].max()) <= 1.0
    doubled = load_dataset(tmp_path / "data", transform=lambda item: {**item, "source": item["source"] * 2})
    torch.testing.assert_close(doubled[0]["source"] / 2, splits["training"][0]["source"])


def test_gain_between_scans_is_taken_away(tmp_path):
    """Source and target show one head at gains between .5 and 2: normalized, they agree."""
    pairs = write_pairs(tmp_path / "raw")
    for standardize in (True, False):
        out = tmp_path / f"data{standardize}"
        prepare(pairs, out, **settings(slices=3, standardize=standardize))
        for item in load_dataset(out, "test"):
            assert float((item["source"] - item["target"]).abs().max()) < 1e-3
            tissue = item["source"][item["source"] > -1]
            assert 0.2 < float(tissue.std()) < 0.8


def test_the_lists_split_is_kept_and_said(tmp_path):
    chosen = ("test", "training", "test", "validation")
    pairs = write_pairs(tmp_path / "raw", header="subject,source,target,split", extra=lambda n: f",{chosen[n]}")
    summary = prepare(pairs, tmp_path / "data", **settings(slices=2, fractions=None, seed=5))
    assert summary.counts == {"training": 2, "validation": 2, "test": 4}
    assert summary.split == "list"
    index = index_of(tmp_path / "data")
    assert index["split"] == {"from": "list"}
    for name in ("training", "validation", "test"):
        wanted = {f"S{number}" for number, split in enumerate(chosen) if split == name}
        assert {entry["subject"] for entry in index[name]} == wanted
    with pytest.raises(
        ValueError, match=r"fractions: expected none, because the list has its own split.*\(0.5, 0.25, 0.25\)"
    ):
        prepare(pairs, tmp_path / "other", **settings(slices=2))
    assert not (tmp_path / "other").exists()


def test_a_random_split_is_said_too(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    summary = prepare(pairs, tmp_path / "data", **settings(slices=1, seed=3))
    assert summary.split == "random"
    shares = {"training": 0.5, "validation": 0.25, "test": 0.25}
    assert index_of(tmp_path / "data")["split"] == {"from": "random", "fractions": shares, "seed": 3}
    prepare(pairs, tmp_path / "default", **settings(slices=1, fractions=None))
    assert count_cases(tmp_path / "default") == {"training": 3, "validation": 0, "test": 1}


def test_a_list_without_training_pairs_cannot_teach_the_intensities(tmp_path):
    pairs = write_pairs(tmp_path / "raw", header="subject,source,target,split", extra=lambda _: ",test")
    with pytest.raises(ValueError, match="the training split is empty"):
        prepare(pairs, tmp_path / "data", **settings(slices=1, fractions=None))


def test_what_is_learned_comes_from_training_subjects_only(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "a", **settings(slices=3))
    for entry in index_of(tmp_path / "a")["test"][:1]:
        number = entry["subject"][1:]
        strange = head(seed=99) ** 2
        save(tmp_path / "raw" / f"s{number}a.nii.gz", strange)
    prepare(pairs, tmp_path / "b", **settings(slices=3))
    first, second = (Preparation.load(tmp_path / name / "preparation.json") for name in "ab")
    assert first == second
    number = index_of(tmp_path / "a")["training"][0]["subject"][1:]
    save(tmp_path / "raw" / f"s{number}a.nii.gz", head(seed=98) ** 2)
    prepare(pairs, tmp_path / "c", **settings(slices=3))
    assert Preparation.load(tmp_path / "c" / "preparation.json") != first


def test_a_new_source_is_normalized_as_the_stored_ones_were(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "data", **settings(slices=15, fractions=(0.75, 0.0, 0.25)))
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert preparation.spacing == (1.0, 1.0, 2.0)
    assert preparation.spatial_shape == (20, 24)
    entry = index_of(tmp_path / "data")["test"][7]
    scan = nibabel.load(tmp_path / "raw" / f"s{entry['subject'][1:]}a.nii.gz")
    scan_ras = nibabel.as_closest_canonical(scan)
    image = torch.from_numpy(np.ascontiguousarray(scan_ras.get_fdata(dtype=np.float32)))[None]
    normalized, intensity = preparation.normalize(image)
    stored = next(item for item in load_dataset(tmp_path / "data", "test") if item["case"] == entry["case"])
    torch.testing.assert_close(normalized[..., 7], stored["source"].as_tensor(), atol=1e-5, rtol=0)
    restored = intensity.inverse(normalized, intensity.foreground)
    clipped = (normalized <= -1) | (normalized >= 1)
    torch.testing.assert_close(restored[~clipped], image[~clipped], rtol=1e-4, atol=1e-2)
    assert torch.equal(restored[image == 0], image[image == 0])


def test_volumes_are_cropped_about_their_center_or_padded(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "cut", **settings(spatial_dims=3, crop=(10, 40, 9)))
    item = load_dataset(tmp_path / "cut")[0]
    assert item["source"].shape == (1, 10, 24, 9)
    prepare(pairs, tmp_path / "padded", **settings(spatial_dims=3, crop=(10, 40, 9), pad=True))
    padded = load_dataset(tmp_path / "padded")[0]
    assert padded["source"].shape == (1, 10, 40, 9)
    torch.testing.assert_close(padded["source"].as_tensor()[:, :, 8:32], item["source"].as_tensor())
    assert float(padded["source"][:, :, :8].max()) == -1
    inside = item["source"].affine @ torch.tensor([0, 0, 0, 1.0], dtype=torch.float64)
    same = padded["source"].affine @ torch.tensor([0, 8, 0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(inside, same)


def test_spacing_and_size_of_slices(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    prepare(pairs, tmp_path / "data", **settings(slices=3, spacing=(2.0, 2.0, 3.0), resize=16))
    image = load_dataset(tmp_path / "data")[0]["source"]
    assert image.shape == (1, 16, 16)
    # 20 x 24 mm become 10 x 12 pixels of 2 mm, then 16 x 16 over the same extent
    np.testing.assert_allclose(image.affine[:3, :3].norm(dim=0), (20 / 16, 24 / 16, 3.0), rtol=1e-6)
    corner = image.affine @ torch.tensor([-0.5, -0.5, 0, 1], dtype=torch.float64)
    np.testing.assert_allclose(corner[:2], (-9.5, -12.5), atol=1e-6)


def test_contrasts_have_standards_of_their_own(tmp_path):
    header = "subject,source,target,contrast,target_contrast"
    pairs = write_pairs(tmp_path / "raw", header=header, extra=lambda _: ",t1,t2")
    for number in range(4):
        save(tmp_path / "raw" / f"s{number}b.nii.gz", np.where(head() > 0, 2000 - head(seed=number), 0))
    prepare(pairs, tmp_path / "data", **settings(slices=3))
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert set(preparation.contrasts) == {"t1", "t2"}
    assert preparation.source_contrast == "t1"
    scan = read_image(tmp_path / "raw" / "s0a.nii.gz")
    torch.testing.assert_close(preparation.normalize(scan)[0], preparation.normalize(scan, "t1")[0])
    assert not torch.equal(preparation.normalize(scan)[0], preparation.normalize(scan, "t2")[0])
    item = load_dataset(tmp_path / "data", "test")[1]
    tissue = item["source"].as_tensor() > -1
    both = torch.stack([item[key].as_tensor()[tissue] for key in ("source", "target")])
    assert float(torch.corrcoef(both)[0, 1]) < -0.9


def test_mask_limits_the_foreground(tmp_path):
    pairs = write_pairs(tmp_path / "raw", header="subject,source,target,mask", extra=lambda n: f",m{n}.nii.gz")
    inner = np.zeros(SHAPE, np.uint8)
    inner[6:14, 8:16, 4:11] = 1
    for number in range(4):
        save(tmp_path / "raw" / f"m{number}.nii.gz", inner)
    prepare(pairs, tmp_path / "data", **settings(spatial_dims=3))
    item = load_dataset(tmp_path / "data")[0]
    outside = torch.from_numpy(np.flip(inner, 0).copy()) == 0
    assert bool((item["target"].as_tensor()[0][outside] == -1).all())
    assert float((item["target"].as_tensor()[0][~outside] > -1).float().mean()) > 0.95


def test_natural_images_are_resized_and_keep_their_colors(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    rows = []
    for number in range(4):
        for time, shade in (("before", 60), ("after", 180)):
            natural_image = np.full((40, 30, 3), shade, np.uint8)
            natural_image[:20, :, 0] = 250  # red above
            natural_image[:, :15, 2] = 10  # no blue on the left
            natural_image[39, 29] = number  # no two subjects share an image
            Image.fromarray(natural_image).save(folder / f"{number}_{time}.png")
        rows.append({"subject": f"F{number}", "source": f"{number}_before.png", "target": f"{number}_after.png"})
    (folder / "pairs.json").write_text(json.dumps(rows))
    prepare(folder / "pairs.json", tmp_path / "data", **settings(resize=32))
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert (preparation.intensity, preparation.value_range) == (Intensity.RANGE, (0.0, 255.0))
    assert (preparation.channels, preparation.spatial_shape, preparation.natural_image) == (3, (32, 32), True)
    item = load_dataset(tmp_path / "data")[0]
    assert item["source"].shape == (3, 32, 32)
    # axis 0 runs to the right and axis 1 down
    red, blue = item["source"][0].as_tensor(), item["source"][2].as_tensor()
    assert float(red[5, 5]) == pytest.approx(2 * 250 / 255 - 1, abs=1e-5)
    assert float(red[5, 28]) == pytest.approx(2 * 60 / 255 - 1, abs=1e-5)
    assert float(blue[28, 28]) == pytest.approx(2 * 60 / 255 - 1, abs=1e-5)
    assert float(blue[2, 28]) == pytest.approx(2 * 10 / 255 - 1, abs=1e-5)
    prepare(folder / "pairs.json", tmp_path / "paper", **settings())
    assert load_dataset(tmp_path / "paper")[0]["source"].shape == (3, 256, 256)
    prepare(folder / "pairs.json", tmp_path / "own", **settings(resize=0))
    assert load_dataset(tmp_path / "own")[0]["source"].shape == (3, 30, 40)


def test_same_seed_same_bytes(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    for name in "ab":
        prepare(pairs, tmp_path / name, **settings(slices=2))
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for file in files:
        first, second = ((tmp_path / name / file).read_bytes() for name in "ab")
        if file.suffix == ".gz":  # gzip stamps the time
            first, second = (nibabel.load(tmp_path / name / file).get_fdata().tobytes() for name in "ab")
        assert first == second, file


def test_dataset_appears_whole_or_not_at_all(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    (tmp_path / "raw" / "s3b.nii.gz").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"case S3: .*s3b.nii.gz: cannot be read as NIfTI"):
        prepare(pairs, tmp_path / "deep" / "data", **settings(slices=2))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["data.partial"]  # the three that could be read
    summary = prepare(pairs, tmp_path / "deep" / "data", **settings(slices=2), skip_failed=True)
    assert sum(summary.counts.values()) == 6
    assert len(summary.failures) == 1
    assert "s3b.nii.gz" in summary.failures[0]
    with pytest.raises(FileExistsError, match="holds a dataset already"):
        prepare(pairs, tmp_path / "deep" / "data", **settings(slices=2), skip_failed=True)
    again = prepare(pairs, tmp_path / "deep" / "data", **settings(slices=3), skip_failed=True, overwrite=True)
    assert sum(again.counts.values()) == 9
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["data", "data.scans.json"]
    with pytest.raises(FileExistsError, match="in use by something else"):
        prepare(pairs, tmp_path / "raw", **settings(), overwrite=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected one of 2, 3"),
        ({"axis": "oblique"}, "axis: expected one of"),
        ({"slices": 16}, "has 15 axial slice.*16 were requested"),
        ({"crop": (1, 2)}, "crop: expected three numbers"),
        ({"spacing": (1.0, 0.0, 1.0)}, "spacing: expected three numbers"),
        ({"pad": True}, "pad: expected a crop size"),
        ({"spatial_dims": 3, "resize": 8}, "resize: expected spatial_dims=2"),
        ({"fractions": (0.9, 0.05, 0.05)}, "leave validation, test empty"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, changes, message):
    pairs = write_pairs(tmp_path / "raw")
    with pytest.raises(ValueError, match=message):
        prepare(pairs, tmp_path / "data", **settings(**changes))
    assert [p.name for p in tmp_path.iterdir()] == ["raw"]


def test_dataset_refusals(tmp_path):
    pairs = write_pairs(tmp_path / "raw")
    folder = tmp_path / "data"
    prepare(pairs, folder, **settings(slices=2, fractions=(0.75, 0.0, 0.25)))
    with pytest.raises(FileNotFoundError, match=r"dataset.json: no such file"):
        load_dataset(tmp_path)
    with pytest.raises(ValueError, match="split: expected one of 'training', 'validation', 'test', received 'train'"):
        load_dataset(folder, "train")
    with pytest.raises(ValueError, match=r"no case in split 'validation'; use training \(6\), test \(2\)"):
        load_dataset(folder, "validation")
    assert len(load_dataset(folder, "validation", allow_empty=True)) == 0
    item = index_of(folder)["training"][0]
    save(folder / item["target"], np.zeros((5, 5, 1), np.float32))
    with pytest.raises(ValueError, match=f"case {item['case']!r}: expected the grid of its source"):
        load_dataset(folder)
    (folder / item["target"]).unlink()
    with pytest.raises(FileNotFoundError, match=f"as target of case {item['case']!r}"):
        load_dataset(folder)
    (folder / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a dataset of version 1"):
        load_dataset(folder)


def test_slice_axis_of_a_volume_is_not_dropped():
    with pytest.raises(ValueError, match=r"expected one slice"):
        DropSliceAxisd("source")({"source": torch.zeros(1, 4, 4, 2)})


def rotation(degrees, shift):
    """A rigid motion of points in RAS mm."""
    transform = sitk.Euler3DTransform()
    transform.SetRotation(*np.deg2rad(degrees))
    transform.SetTranslation(shift)
    motion = np.eye(4)
    motion[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    motion[:3, 3] = shift
    return motion


def moved_scan(shape, affine, motion, tissue):
    """tissue(x) photographed after the head made a motion: value at y is tissue(motion⁻¹ y)."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
    points = affine[:3, :3] @ grid + affine[:3, 3:]
    back = np.linalg.inv(motion)
    return tissue(back[:3, :3] @ points + back[:3, 3:]).reshape(shape).astype(np.float32)


def tissue(points):
    x, y, z = points / np.array([[30.0], [38.0], [28.0]])
    inside = x**2 + y**2 + z**2 < 1
    values = 400 + 150 * np.cos(4 * x + 1) * np.cos(5 * y) + 120 * np.sin(3 * z + 2 * x) + 100 * (y > 0.2)
    return np.where(inside, values, 0)


def test_alignment_carries_images_and_landmarks(tmp_path):
    """The follow-up is moved by a known motion; after preparation it is on the source, its landmarks too."""
    shape, affine = (36, 42, 30), np.diag([2.0, 2.0, 2.2, 1.0])
    affine[:3, 3] = -36, -42, -33
    motion = rotation((3.0, -2.0, 4.0), (3.0, -2.0, 1.5))
    folder = tmp_path / "BraTSReg_001"
    folder.mkdir()
    save(folder / "BraTSReg_001_00_0000_t1.nii.gz", moved_scan(shape, affine, np.eye(4), tissue), affine)
    save(folder / "BraTSReg_001_01_0042_t1.nii.gz", moved_scan(shape, affine, motion, tissue), affine)
    points = np.array([[5.0, -8.0, 3.0], [-12.0, 10.0, -6.0], [0.0, 20.0, 9.0]])
    after = points @ motion[:3, :3].T + motion[:3, 3]
    for time, values in (("00_0000", points), ("01_0042", after)):
        lines = ["Landmark,X,Y,Z"] + [f"{n},{-x},{-y},{z}" for n, (x, y, z) in enumerate(values, start=1)]
        (folder / f"BraTSReg_001_{time}_landmarks.csv").write_text("\n".join(lines))
    out = tmp_path / "data"
    prepare(tmp_path, out, **settings(align=True, spatial_dims=3, fractions=(1.0, 0.0, 0.0)))
    item = load_dataset(out, landmarks=True)[0]
    torch.testing.assert_close(item["source_landmarks"], torch.from_numpy(points), atol=1e-5, rtol=0)
    errors = (item["target_landmarks"] - torch.from_numpy(points)).norm(dim=1)
    assert float(errors.max()) < 0.5
    source, target = item["source"].as_tensor(), item["target"].as_tensor()
    unaligned = tmp_path / "raw_data"
    prepare(tmp_path, unaligned, **settings(spatial_dims=3, fractions=(1.0, 0.0, 0.0)))
    raw = load_dataset(unaligned)[0]
    apart = (raw["source"] - raw["target"]).abs().mean()
    assert float((source - target).abs().mean()) < 0.35 * float(apart)
    transform = sitk.ReadTransform(item["rigid_file"])
    x, y, z = points[0]
    lps = np.array(transform.TransformPoint((-x, -y, z)))
    np.testing.assert_allclose(lps * [-1, -1, 1], after[0], atol=0.5)
    names, written = read_landmarks(item["target_landmarks_file"])
    assert names == ["1", "2", "3"]
    torch.testing.assert_close(written, item["target_landmarks"])


def test_slices_keep_the_landmarks_that_lie_in_them(tmp_path):
    pairs = write_pairs(
        tmp_path / "raw",
        header="subject,source,target,source_landmarks,target_landmarks",
        extra=lambda _: ",p.csv,q.csv",
    )
    z = LAS[2, 3] + 2 * 7  # on slice 7
    (tmp_path / "raw" / "p.csv").write_text(f"Landmark,X,Y,Z\na,1,2,{z}\nb,3,4,{z + 0.9}\nc,0,0,{z + 3}\nd,1,1,{z}\n")
    (tmp_path / "raw" / "q.csv").write_text(f"Landmark,X,Y,Z\nb,3,5,{z}\na,1,3,{z}\nc,0,0,{z}\n")
    prepare(pairs, tmp_path / "data", **settings(slices=1))
    item = load_dataset(tmp_path / "data", "test", landmarks=True)[0]
    assert item["source_landmarks"].tolist() == [[1, 2, z], [3, 4, z + 0.9]]
    assert item["target_landmarks"].tolist() == [[1, 3, z], [3, 5, z]]
    assert "source_landmarks" not in load_dataset(tmp_path / "data", "test")[0]
    (tmp_path / "raw" / "q.csv").write_text("Landmark,X,Y\na,1,2\n")
    with pytest.raises(ValueError, match=r"q.csv: expected columns Landmark, X, Y, Z"):
        prepare(pairs, tmp_path / "again", **settings(slices=1))


@pytest.mark.real_data
def test_real_dates_of_one_head_are_aligned(tmp_path, real_data):
    folder = real_data / "open_ms" / "longitudinal" / "patient01"
    rows = [{"subject": "P1", "source": str(folder / "study1_T1W.nii.gz"), "target": str(folder / "study2_T1W.nii.gz")}]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    base = {"fractions": (1.0, 0.0, 0.0), "progress": False, "slices": 5, "crop": (256, 256, 64)}
    prepare(tmp_path / "pairs.json", tmp_path / "data", **base)
    for item in load_dataset(tmp_path / "data"):
        source, target = (item[key].as_tensor().flatten() for key in ("source", "target"))
        both = (source > -1) & (target > -1)
        correlation = float(torch.corrcoef(torch.stack([source[both], target[both]]))[0, 1])
        assert correlation > 0.6
        assert Path(item["rigid_file"]).is_file()


def write_labeled(folder, lesions=(True, False, True, True)):
    """Pairs with labels at both dates, some of whose targets have a lesion; the targets lie 2 voxels to the side."""
    folder.mkdir()
    rows = ["subject,source,target,target_lesion,source_labels,target_labels"]
    for number, has_lesion in enumerate(lesions):
        source = head(seed=number)
        shifted = np.array(LAS)
        shifted[0, 3] += 2
        labels = (source > 0).astype(np.uint8) + 2 * (source > 350).astype(np.uint8)
        lesion = np.zeros(SHAPE, np.uint8)
        lesion[BLOB] = 7
        save(folder / f"s{number}a.nii.gz", source)
        save(folder / f"s{number}b.nii.gz", source, shifted)
        save(folder / f"s{number}l.nii.gz", labels)
        save(folder / f"s{number}m.nii.gz", labels, shifted)
        save(folder / f"s{number}t.nii.gz", lesion, shifted)
        files = [f"s{number}{kind}.nii.gz" for kind in "abtlm"]
        rows.append(",".join([f"S{number}", files[0], files[1], files[2] if has_lesion else "", *files[3:]]))
    (folder / "pairs.csv").write_text("\n".join(rows))
    return folder / "pairs.csv"


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_lesions_and_labels_go_where_the_images_go(tmp_path, spatial_dims):
    pairs = write_labeled(tmp_path / "raw")
    prepare(
        pairs,
        tmp_path / "data",
        **settings(align=True, spatial_dims=spatial_dims, slices=9, crop=(18, 20, 13), fractions=(1, 0, 0)),
    )
    items = load_dataset(tmp_path / "data", "training")
    for item in items:
        assert item["mask"].dtype == torch.bool
        assert item["target_labels"].dtype == torch.int32
        assert item["mask"].shape == item["target_labels"].shape == item["source"].shape
        assert "source_mask" not in item
        torch.testing.assert_close(item["mask"].affine, item["source"].affine)
        # The alignment takes the shift away, from the labels too.
        assert float((item["source_labels"] == item["target_labels"]).float().mean()) > 0.98
        assert set(item["source_labels"].unique().tolist()) <= {0, 1, 3}
    spots = [(item["subject"], torch.nonzero(item["mask"][0].as_tensor()).tolist()) for item in items]
    assert sorted({name for name, voxels in spots if voxels}) == ["S0", "S2", "S3"]
    marked = next(item for item in items if item["mask"].any())
    brightest = torch.nonzero(marked["target"][0].as_tensor() == marked["target"].max()).tolist()
    (spot,) = torch.nonzero(marked["mask"][0].as_tensor()).tolist()
    assert spot in brightest
    batch = next(iter(DataLoader(items, batch_size=3)))
    assert batch["mask"].shape == (3, 1, *items[0]["source"].shape[1:])


def test_labels_keep_their_numbers_at_another_voxel_size(tmp_path):
    pairs = write_labeled(tmp_path / "raw")
    prepare(
        pairs, tmp_path / "data", **settings(align=True, spatial_dims=3, spacing=(1.5, 1.5, 2), fractions=(1, 0, 0))
    )
    item = load_dataset(tmp_path / "data", "training")[0]
    assert item["source_labels"].shape == item["source"].shape
    assert set(item["source_labels"].unique().tolist()) == {0, 1, 3}
    # The fraction of every label is that of the file.
    own = nibabel.load(tmp_path / "raw" / "s0l.nii.gz").get_fdata()
    for label in (0, 1, 3):
        fraction = float((item["source_labels"] == label).float().mean())
        assert fraction == pytest.approx((own == label).mean(), abs=0.02)


def test_bad_labels_are_refused(tmp_path):
    pairs = write_labeled(tmp_path / "raw")
    save(tmp_path / "raw" / "s1l.nii.gz", head() / 3)
    with pytest.raises(ValueError, match=r"s1l.nii.gz: expected labels that are whole numbers"):
        prepare(pairs, tmp_path / "data", **settings(align=True))
    text = pairs.read_text().replace("s2m.nii.gz", "")
    pairs.write_text(text)
    with pytest.raises(ValueError, match=r"row 4: target_labels: expected a file, as other rows have one"):
        prepare(pairs, tmp_path / "data", **settings(align=True))
