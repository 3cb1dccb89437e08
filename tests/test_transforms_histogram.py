"""Histogram standardization: known values, torchio, masks, inverse, JSON, error text."""

import json

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import Compose

from medtrace.transforms import (
    HistogramLandmarks,
    HistogramStandardization,
    HistogramStandardizationd,
    above_mean,
)
from medtrace.transforms.percentiles import percentiles_of, piecewise_linear


def head(seed=0, shape=(1, 24, 20, 18), gain=1.0, background=0.0):
    generator = np.random.default_rng(seed)
    image = generator.gamma(3.0, 40.0, shape) * gain
    if background:
        image[generator.random(shape) < background] = 0
    return torch.from_numpy(image.astype(np.float32))


def known(seed=0, name="head.nii.gz"):
    return MetaTensor(head(seed), affine=torch.diag(torch.tensor([2.0, 1, 1, 1])), meta={"filename_or_obj": name})


@pytest.fixture(scope="module")
def landmarks():
    return HistogramStandardization.train([head(seed, gain=1 + seed) for seed in range(4)])


# Percentiles and the piecewise-linear map


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["gamma", "signed", "background", "outlier", "zeros of both signs", "two", "one"])
def test_percentiles_are_numpys(kind, dtype):
    generator = np.random.default_rng(3)
    values = {
        "gamma": generator.gamma(2, 100, 5000),
        "signed": generator.normal(size=5001),
        "background": np.where(generator.random(5000) < 0.6, 0, generator.gamma(2, 100, 5000)),
        "outlier": np.append(generator.normal(size=300), 1e30),
        "zeros of both signs": np.array([-0.0, 0.0, -0.0, 0.0, 1.0, -1.0, 0.0]),
        "two": np.array([3.0, 1.0]),
        "one": np.array([2.5]),
    }[kind]
    tensor = torch.from_numpy(values).to(dtype)
    percents = (0, 1, 10, 25, 33.3, 50, 90, 99, 100)
    expected = np.percentile(tensor.double().numpy(), percents)
    np.testing.assert_allclose(percentiles_of(tensor, percents), expected, rtol=1e-6, atol=1e-6)


def test_piecewise_linear_known_values_and_extrapolation():
    values = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.0])
    mapped = piecewise_linear(values, [0, 1, 3], [10, 20, 60])
    assert mapped.tolist() == [0.0, 10.0, 15.0, 20.0, 40.0, 60.0, 100.0]


# Training and applying


def test_known_landmarks():
    ramp = torch.arange(101.0).reshape(1, 101, 1)
    trained = HistogramStandardization.train([ramp, ramp * 7 + 3], cutoff=(0, 1), standard_range=(0, 1))
    np.testing.assert_allclose(trained.of(), np.arange(11) / 10, atol=1e-6)
    out = HistogramStandardization(trained)(ramp * 2 - 50)
    np.testing.assert_allclose(out.numpy().ravel(), np.arange(101) / 100, atol=1e-6)


def test_monotone_and_aligned(landmarks):
    image = head(9, gain=3.7)
    out = HistogramStandardization(landmarks)(image)
    order = image.flatten().argsort()
    assert (out.flatten()[order].diff() >= -1e-4).all()
    np.testing.assert_allclose(percentiles_of(out.as_tensor(), landmarks.percentiles), landmarks.of(), atol=0.05)


def test_two_dimensions_channels_and_whole_numbers(landmarks):
    image = (head(2, (3, 40, 30))).round().to(torch.int16)
    out = HistogramStandardization(landmarks)(image)
    assert out.shape == image.shape
    assert out.dtype == torch.float32
    pooled = HistogramStandardization(landmarks)(image.reshape(1, 120, 30))
    assert torch.equal(out.reshape(1, 120, 30), pooled)
    assert HistogramStandardization(landmarks)(image.double()).dtype == torch.float64
    assert np.allclose(HistogramStandardization(landmarks)(image.numpy()), out)


def test_input_is_untouched_and_metadata_kept(landmarks):
    image = known()
    before = image.clone()
    out = HistogramStandardization(landmarks)(image)
    assert torch.equal(image, before)
    assert not image.applied_operations
    assert torch.equal(out.affine, image.affine)
    assert out.meta["filename_or_obj"] == "head.nii.gz"


def test_background_ties_stay_continuous_and_invertible():
    images = [head(seed, background=0.55, gain=1 + seed) for seed in range(3)]
    trained = HistogramStandardization.train(images)
    transform = HistogramStandardization(trained)
    out = transform(images[0])
    assert torch.isfinite(out).all()
    torch.testing.assert_close(transform.inverse(out).as_tensor(), images[0], atol=1e-2, rtol=1e-4)


def test_mask_and_masking_agree():
    image = head(1, background=0.5)
    mask = image > image.mean()
    assert torch.equal(above_mean(image), mask)
    drawn = HistogramStandardization.train([image], [mask])
    result = HistogramStandardization.train([image], above_mean)
    assert drawn == result
    assert drawn != HistogramStandardization.train([image])
    by_mask = HistogramStandardization(drawn)(image, mask)
    assert torch.equal(by_mask, HistogramStandardization(drawn, masking=above_mean)(image))
    inside = percentiles_of(by_mask.as_tensor()[mask], drawn.percentiles)
    np.testing.assert_allclose(inside, drawn.of(), atol=0.05)


@pytest.mark.parametrize("frequent", [5.0, -5.0, 0.0, -0.0, 1e-40])
@pytest.mark.parametrize("fraction", [0.0, 0.5, 0.98, 1.0])
def test_percentiles_with_a_frequent_value_among_its_neighbors(frequent, fraction):
    random = np.random.default_rng(0)
    values = frequent * (1 + 1e-3 * random.normal(size=30_001)) + (random.random(30_001) < 0.3) * random.normal(
        size=30_001
    )
    values = np.where(random.random(30_001) < fraction, frequent, values).astype(np.float32)
    percents = (0, 1, 10, 33.3, 50, 66.6, 90, 99, 100)
    result = percentiles_of(torch.from_numpy(values), percents)
    np.testing.assert_allclose(result, np.percentile(values.astype(np.float64), percents), rtol=1e-12)


# torchio


@pytest.mark.parametrize("masked", [False, True])
def test_torchio_agrees(tmp_path, masked):
    import torchio as tio

    images = [head(seed, gain=1 + seed) for seed in range(4)]
    paths = [tmp_path / f"{number}.nii" for number in range(4)]
    for path, image in zip(paths, images):
        tio.ScalarImage(tensor=image).save(path)
    function = above_mean if masked else None
    theirs = tio.HistogramStandardization.train(paths, masking_function=function, progress=False)
    ours = HistogramStandardization.train(paths, function)
    # torchio also trains the quartiles 25 and 75, which it never uses when it applies the map.
    np.testing.assert_allclose(ours.of(), np.delete(theirs, [3, 9]), rtol=1e-5, atol=1e-5)

    subject = tio.Subject(t1=tio.ScalarImage(tensor=images[2]))
    expected = tio.HistogramStandardization({"t1": theirs}, masking_method=function)(subject).t1.data
    out = HistogramStandardization(ours, masking=function)(images[2])
    np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_a_byte(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    values = torch.from_numpy(np.where(np.arange(150_000) % 3 == 0, 0, np.random.default_rng(7).gamma(2, 9, 150_000)))
    values = values.float()
    result, mapped = percentiles_of(values, (1, 50, 99)), piecewise_linear(values, [0, 5, 9], [0, 1, 7])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert percentiles_of(values, (1, 50, 99)) == result
    assert torch.equal(piecewise_linear(values, [0, 5, 9], [0, 1, 7]), mapped)


def test_map_of_steep_and_flat_pieces_is_that_of_the_interpolation():
    knots, images = [-3.0, -2.999, 0.0, 5.0, 5.001, 90.0], [0.0, 40.0, 40.0, 41.0, 99.0, 100.0]
    values = torch.linspace(-3, 90, 4001)
    expected = np.interp(values.double().numpy(), knots, images)
    np.testing.assert_allclose(piecewise_linear(values, knots, images).numpy(), expected, rtol=1e-5, atol=1e-4)


# Inverse


def test_inverse_round_trip(landmarks):
    image = known()
    transform = HistogramStandardization(landmarks)
    out = transform(image)
    back = transform.inverse(out)
    torch.testing.assert_close(back.as_tensor(), image.as_tensor(), atol=1e-3, rtol=1e-5)
    assert not back.applied_operations


def test_inverse_after_collating(landmarks):
    items = [{"image": known(seed)} for seed in range(3)]
    transform = Compose([HistogramStandardizationd("image", landmarks)])
    batch = next(iter(DataLoader(Dataset(items, transform), batch_size=3)))
    for item, restored in zip(items, decollate_batch(batch)):
        back = transform.inverse(restored)["image"]
        torch.testing.assert_close(back.as_tensor(), item["image"].as_tensor(), atol=1e-3, rtol=1e-5)


def test_inverse_of_merged_intensities_raises():
    trained = HistogramLandmarks((1, 50, 99), {"t1": (0, 0, 100)})
    transform = HistogramStandardization(trained)
    with pytest.raises(ValueError, match=r"head\.nii\.gz.*merged intensities.*mask"):
        transform.inverse(transform(known()))


# Dictionary form


def test_dictionary_contrasts():
    items = [{"t1": known(seed), "t2": known(seed + 10), "mask": torch.ones(1, 24, 20, 18)} for seed in range(3)]
    trained = HistogramStandardizationd.train(items, ["t1", "t2"], mask_key="mask")
    assert set(trained.contrasts) == {"t1", "t2"}
    assert trained.of("t1") == HistogramStandardization.train([item["t1"] for item in items]).of()
    out = HistogramStandardizationd(["t1", "t2"], trained, mask_key="mask")(items[0])
    assert torch.equal(out["t2"], HistogramStandardization(trained, "t2")(items[0]["t2"]))
    renamed = {"before": items[0]["t1"], "after": items[0]["t1"]}
    both = HistogramStandardizationd(["before", "after"], trained, contrasts="t1")(renamed)
    assert torch.equal(both["before"], both["after"])
    assert torch.equal(both["before"], out["t1"])
    with pytest.raises(KeyError, match="t2"):
        HistogramStandardizationd(["t1", "t2"], trained)({"t1": items[0]["t1"]})
    assert HistogramStandardizationd(["t1", "t2"], trained, allow_missing_keys=True)({}) == {}
    with pytest.raises(ValueError, match="contrast: expected one of 't1', 't2', received 'flair'"):
        HistogramStandardizationd(["t1", "flair"], trained)


# JSON


def test_json_round_trip(tmp_path, landmarks):
    path = landmarks.save(tmp_path / "deep" / "landmarks.json")
    assert HistogramLandmarks.load(path) == landmarks
    assert [file.name for file in path.parent.iterdir()] == ["landmarks.json"]
    image = head(5)
    assert torch.equal(HistogramStandardization(path)(image), HistogramStandardization(landmarks)(image))
    record = json.loads(path.read_text())
    assert record["version"] == 1
    assert record["percentiles"][0] == 1.0
    assert list(record["contrasts"]) == ["image"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected a JSON object whose 'format' is"),
        ({"version": 99}, "expected version 1, received 99"),
        ({"percentiles": [1, 1, 99]}, "expected at least 2 strictly increasing"),
        ({"percentiles": [1, 99]}, "expected 2 numbers"),
        ({"contrasts": {"t1": [0, 2, 1]}}, "rise and never fall"),
        ({"contrasts": {"t1": [0, "a", 1]}}, "expected numbers, received 'a'"),
        ({"contrasts": {}}, "expected a name with its landmarks"),
        ({"contrasts": {"t1": [0, float("nan"), 1]}}, "expected finite numbers"),
        ({"standard_range": [1, 0]}, "expected 2 increasing numbers"),
        ({"standard_range": None}, "standard_range"),
    ],
)
def test_json_is_validated(tmp_path, change, message):
    path = HistogramLandmarks((1, 50, 99), {"t1": (0, 40, 100)}).save(tmp_path / "x.json")
    record = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message) as caught:
        HistogramLandmarks.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_json_that_is_none(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.json: No such file"):
        HistogramLandmarks.load(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("no")
    with pytest.raises(ValueError, match="expected JSON"):
        HistogramLandmarks.load(tmp_path / "text.json")
    with pytest.raises(TypeError, match="expected HistogramLandmarks or the path"):
        HistogramStandardization([0, 1])


def test_merging():
    first, second = (HistogramLandmarks((1, 99), {name: (0, 100)}) for name in ("t1", "t2"))
    assert set(first.merge(second).contrasts) == {"t1", "t2"}
    with pytest.raises(ValueError, match="same settings"):
        first.merge(HistogramLandmarks((2, 99), {"t2": (0, 100)}))
    with pytest.raises(ValueError, match="rename"):
        first.merge(HistogramLandmarks((1, 99), {"t1": (0, 90)}))


# Bad input: one line that names the file


@pytest.mark.parametrize(
    ("fill", "message"),
    [(7.0, "received a constant 7"), (float("nan"), "received 8640 that are NaN or infinite")],
)
def test_bad_images_are_named(landmarks, fill, message):
    bad = known(name="bad.nii.gz")
    bad[:] = fill
    for call in (
        HistogramStandardization(landmarks),
        lambda image: HistogramStandardization.train([head(), image]),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call(bad)
        assert "bad.nii.gz" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_bad_masks_are_named(landmarks):
    image = known(name="bad.nii.gz")
    with pytest.raises(ValueError, match=r"mask of img \(bad\.nii\.gz\).*received an empty mask"):
        HistogramStandardization(landmarks)(image, torch.zeros(1, 24, 20, 18))
    with pytest.raises(ValueError, match="expected shape"):
        HistogramStandardization(landmarks)(image, torch.ones(1, 24, 20, 1))
    with pytest.raises(ValueError, match="that are NaN"):
        HistogramStandardization(landmarks)(image, torch.full((1, 24, 20, 18), float("nan")))
    with pytest.raises(ValueError, match="one mask per image, received 1"):
        HistogramStandardization.train([image, image], [image > 0])
    with pytest.raises(ValueError, match="expected 1, one per image, received more"):
        HistogramStandardization.train([image], [image > 0, image > 0])


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        HistogramStandardization.train([])
    with pytest.raises(TypeError, match="single path"):
        HistogramStandardization.train("image.nii")
    with pytest.raises(ValueError, match="increasing fractions"):
        HistogramStandardization.train([head()], cutoff=(1, 99))
    with pytest.raises(ValueError, match="between the cutoffs"):
        HistogramStandardization.train([head()], cutoff=(0.2, 0.8))
    with pytest.raises(ValueError, match=r"absent\.nii.*does not exist"):
        HistogramStandardization.train([tmp_path / "absent.nii"])
    (tmp_path / "corrupt.nii").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"readable image file.*corrupt\.nii"):
        HistogramStandardization.train([tmp_path / "corrupt.nii"])
    with pytest.raises(ValueError, match="expected \\(C, H, W\\)"):
        HistogramStandardization.train([torch.rand(5, 5)])
    with pytest.raises(TypeError, match="expected a tensor or array, received list"):
        HistogramStandardization.train([[1, 2]])


@pytest.mark.real_data
def test_real_contrasts(real_data):
    folders = [real_data / "open_ms" / "mni" / name for name in ("patient07", "patient19")]
    items = [{"t1": folder / "T1.nii.gz", "t2": folder / "T2.nii.gz"} for folder in folders]
    trained = HistogramStandardizationd.train(items, ["t1", "t2"], masking=above_mean)
    from monai.transforms import LoadImage

    image = LoadImage(image_only=True, ensure_channel_first=True)(items[0]["t2"])
    transform = HistogramStandardization(trained, "t2", above_mean)
    out = transform(image)
    result = percentiles_of(out.as_tensor()[above_mean(image).as_tensor()], trained.percentiles)
    np.testing.assert_allclose(result, trained.of("t2"), atol=1e-2)
    torch.testing.assert_close(
        transform.inverse(out).as_tensor(), image.as_tensor(), atol=1e-3 * float(image.max()), rtol=0
    )
