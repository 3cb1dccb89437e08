"""Natural images are read in their full depth or refused, and come back in it; their range is measured and said."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import Intensity, Preparation, load_dataset
from medtrace.data.natural_images.files import (
    natural_image_depth,
    natural_image_ending,
    read_natural_image,
    write_natural_image,
)
from medtrace.data.natural_images.tiff import Depth
from medtrace.data.reading import read_image
from medtrace.workflows.prepare import prepare
from medtrace.workflows.translate import translate
from tests.cases import natural_images
from tests.cases.common import CASES, write
from tests.cases.natural_images import blob, pair_list, write_png16
from tests.test_translate import shift_run

pytestmark = pytest.mark.usefixtures("standin_methods")
KINDS = CASES[natural_images.__name__]


@pytest.mark.parametrize("name", KINDS)
def test_every_natural_image_is_read_in_its_depth_or_refused(tmp_path, name):
    expected = write(KINDS[name], tmp_path / "case")
    if expected["entry"] == "read_image":
        check_natural_image(tmp_path / "case" / expected["input"], expected)
    if expected["entry"] == "prepare" or "list" in expected:
        check_list(tmp_path, expected)


def check_natural_image(path, expected):
    if "read" in expected["accept"]:
        image = read_image(path)
        assert list(image.shape[1:]) == expected["shape"]
        assert image.dtype == torch.float32
        for column, row, value in expected["probes"]:
            assert float(image[0, column, row]) == pytest.approx(value, abs=expected["tolerance"])
        return
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{expected.get('pages', '')}") as caught:
        read_image(path)
    assert any(word in str(caught.value) for word in expected.get("message", [""]))
    assert "\n" not in str(caught.value)


def check_list(folder, expected):
    command = ["prepare", str(folder / "case" / "pairs.csv"), "--resize", "0", "--out", str(folder / "data")]
    result = CliRunner().invoke(app, command)
    if "read" not in expected["accept"]:
        assert result.exit_code == 1
        assert str(expected.get("pages", "")) in result.stderr
        assert all(word in result.stderr for word in expected["names_in_message"])
        assert [path.name for path in folder.iterdir()] == ["case"]
        return
    assert result.exit_code == 0, result.output
    assert ("were clipped" in result.output) == ("clipped" in expected)
    assert f"{expected.get('clipped', '')}" in result.output
    assert ("sizes" in result.output) == ("sizes" in expected)
    assert "sizes" not in expected or f"the data set has {expected['sizes']} sizes" in result.output
    if "value_range" in expected:
        low, high = Preparation.load(folder / "data" / "preparation.json").value_range
        assert (low, high) == pytest.approx(expected["value_range"], abs=expected["range_tolerance"])
        assert f"value range {low:g} to {high:g} of " in result.output
        first = load_dataset(folder / "data")[0]
        raw = read_image(folder / "case" / f"{first['case'][1:]}_source{Path(expected['input']).suffix}")
        whole = (raw.as_tensor() - low) / (high - low) * 2 - 1
        torch.testing.assert_close(first["source"].as_tensor(), whole, atol=1e-4, rtol=0)


def test_a_page_is_chosen_by_its_number(tmp_path):
    write(KINDS["three_pages"], tmp_path)
    path = tmp_path / "pages.tif"
    bright, _, dark = (read_image(path, page=page).as_tensor() for page in (1, 2, 3))
    torch.testing.assert_close(dark, bright / 4, atol=0.5, rtol=0)
    for page in (0, 4):
        with pytest.raises(ValueError, match=rf"pages.tif: page: expected 1 to 3, .* received {page}"):
            read_natural_image(path, page)
    write(KINDS["two_pages_in_a_list"], tmp_path / "list")
    prepare(tmp_path / "list" / "pairs.csv", tmp_path / "data", resize=0, page=2, progress=False)
    assert load_dataset(tmp_path / "data")[0]["source"].shape == (1, 20, 20)
    assert Preparation.load(tmp_path / "data" / "preparation.json").page == 2


def test_the_range_may_be_asked_for(tmp_path):
    write(KINDS["twelve_bit_in_uint16"], tmp_path / "case")
    summary = prepare(
        tmp_path / "case" / "pairs.csv", tmp_path / "data", resize=0, value_range=(0, 2047), progress=False
    )
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert (preparation.value_range, preparation.range_origin, preparation.depth) == (
        (0, 2047),
        "as requested",
        "uint16",
    )
    above = sum(int((np.round(side * 4095) > 2047).sum()) for k in range(6) for side in (blob(k), 1 - blob(k)))
    assert f"{above} pixels of 6 pair(s) lie outside of the value range and were clipped (first: s" in summary.notes[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value_range": (5, 5)}, "value_range: expected a low and a higher value, received"),
        ({"value_range": (0, float("inf"))}, "value_range: expected a low and a higher value"),
        ({"page": 0}, "page: expected 1 or more, received 0"),
    ],
)
def test_impossible_ranges_and_pages_are_refused(tmp_path, options, message):
    write(KINDS["twelve_bit_in_uint16"], tmp_path / "case")
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "case" / "pairs.csv", tmp_path / "data", progress=False, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["case"]


def test_natural_images_of_another_scale_in_the_same_depth_are_pointed_out(tmp_path):
    pair_list(
        tmp_path, lambda v, path, k: write_png16(path, np.round(v * (4095 if k == 3 else 65535)).astype("uint16"))
    )
    summary = prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=0, progress=False)
    assert any("1 pair(s) use less than an eighth of the value range (first: s003)" in note for note in summary.notes)


def test_ranges_without_training_natural_images_are_asked_for(tmp_path):
    write(KINDS["twelve_bit_in_uint16"], tmp_path / "case")
    with pytest.raises(ValueError, match="no training natural image to measure the range of 16-bit values; give it"):
        prepare(tmp_path / "case" / "pairs.csv", tmp_path / "data", fractions=(0, 0, 1), progress=False)


DEPTHS = {
    "uint8": (255, ".png", ".png"),
    "uint12": (4095, ".png", ".tif"),
    "uint16": (65535, ".png", ".tif"),
    "int16": (30000, ".tif", ".tif"),
    "float32": (2.5, ".tif", ".tif"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("code", DEPTHS)
def test_what_is_written_is_read_again(tmp_path, code, channels):
    high, *endings = DEPTHS[code]
    depth = Depth.of(code)
    image = torch.from_numpy(np.stack([blob(k, 20, 14).T * high for k in range(channels)])).float()
    path = write_natural_image(tmp_path / "natural image", image, depth)
    assert path.suffix == endings[channels == 3] == natural_image_ending(channels, depth)
    found = read_natural_image(path)
    torch.testing.assert_close(found.as_tensor(), image, atol=1e-6 if code == "float32" else 0.501, rtol=0)
    stored = natural_image_depth(path)
    assert (stored.kind, stored.bits) == (depth.kind, 16 if code == "uint12" else depth.bits)


def test_whole_numbers_are_clipped_to_their_depth():
    values = np.array([-5.0, 0.4, 300.0, 5000.0])
    assert Depth("uint", 8).stored(values).tolist() == [0, 0, 255, 255]
    assert Depth("uint", 12).stored(values).tolist() == [0, 0, 300, 4095]
    assert Depth("int", 8).stored(values).tolist() == [-5, 0, 127, 127]


def natural_image_run(folder, value_range, depth, channels=1):
    preparation = Preparation(
        spatial_dims=2,
        intensity=Intensity.RANGE,
        value_range=value_range,
        natural_image=True,
        channels=channels,
        depth=depth,
    )
    return shift_run(folder, [0.0, 0.0], preparation, channels=channels)


def test_a_twelve_bit_natural_image_comes_back_in_twelve_bits(tmp_path):
    values = np.round(blob(0) * 4095).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "scan.png")
    run = natural_image_run(tmp_path / "run", (0, 4095), "uint16")
    trace = translate(run, tmp_path / "scan.png", tmp_path / "out", progress=False, report=False)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), values)
    np.testing.assert_allclose(trace.image[0].numpy().T, values, atol=0.01)
    (tmp_path / "other.png").touch()
    with pytest.raises(FileExistsError, match=r"other.png: is in use"):
        translate(run, tmp_path / "scan.png", tmp_path / "other", progress=False, report=False)


def test_a_float_natural_image_comes_back_as_float_and_what_is_clipped_is_said(tmp_path, caplog):
    values = (blob(0) * 3000 - 900).astype(np.float32)
    tifffile.imwrite(tmp_path / "scan.tif", values)
    run = natural_image_run(tmp_path / "run", (-900, 1500), "float32")
    with caplog.at_level(logging.WARNING, "medtrace"):
        translate(run, tmp_path / "scan.tif", tmp_path / "out", progress=False, report=False)
    found = tifffile.imread(tmp_path / "out.tif")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, values.clip(-900, 1500), atol=0.01)
    above = int((values > 1500).sum())
    assert f"{above} of 1600 pixels lie outside the run's value range -900 to 1500" in caplog.text
    metadata = json.loads((tmp_path / "out" / "trace.json").read_text())["metadata"]
    assert metadata["clipped_pixels"] == above


def test_a_natural_image_of_another_depth_is_refused(tmp_path):
    Image.fromarray(np.round(blob(0) * 255).astype(np.uint8)).save(tmp_path / "scan.png")
    run = natural_image_run(tmp_path / "run", (0, 4095), "uint16")
    with pytest.raises(ValueError, match=r"scan.png: its natural image is 8-bit, but .* was trained on 16-bit ones"):
        translate(run, tmp_path / "scan.png", tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("low", "high"), [(0, 255), (-900, 2100)])
def test_a_mask_does_in_translation_what_it_did_in_training(tmp_path, low, high):
    kind, ending = (np.uint8, "png") if high == 255 else (np.float32, "tif")

    def save(values, path, _):
        Image.fromarray((low + (high - low) * values).astype(kind)).save(path)

    pair_list(tmp_path, save, 4, ending)
    inside = blob(7) > 0.3
    Image.fromarray(inside.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    lines = (tmp_path / "pairs.csv").read_text().splitlines()
    (tmp_path / "pairs.csv").write_text("\n".join([f"{lines[0]},mask", *(f"{line},mask.png" for line in lines[1:])]))
    prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=0, progress=False, fractions=(1, 0, 0))
    stored = load_dataset(tmp_path / "data")[0]["source"].as_tensor()
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    image = read_image(tmp_path / f"000_source.{ending}")
    mask = torch.from_numpy(inside.T.copy())[None]
    seen, way_back = preparation.normalize(image, foreground=mask)
    torch.testing.assert_close(seen, stored, atol=1e-5, rtol=0)
    assert bool((stored[~mask] == -1).all())
    assert float(stored[mask].max()) > 0.5
    back = way_back.inverse(seen, mask)
    assert bool((back[~mask] == preparation.value_range[0]).all())
    torch.testing.assert_close(back[mask], image.as_tensor()[mask], atol=1e-3 * (high - low), rtol=0)
    run = shift_run(tmp_path / "run", [0.0, 0.0], preparation)
    trace = translate(
        run,
        tmp_path / f"000_source.{ending}",
        tmp_path / "out",
        mask=tmp_path / "mask.png",
        progress=False,
        report=False,
    )
    torch.testing.assert_close(trace.image, back, atol=1e-3 * (high - low), rtol=0)


@pytest.mark.real_data
def test_real_slices_of_tissue_are_prepared_in_color(tmp_path, real_data):
    folder = real_data / "birl"
    rows = ["subject,source,target"]
    for name, sides in (("kidney", ("HE", "PanCytokeratin")), ("lesion", ("HE", "proSPC"))):
        for side in sides:
            with Image.open(folder / name / f"{side}.png") as natural_image:
                natural_image.resize((96, 64)).save(tmp_path / f"{name}_{side}.png")
        rows.append(f"{name},{name}_{sides[0]}.png,{name}_{sides[1]}.png")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    summary = prepare(tmp_path / "pairs.csv", tmp_path / "data", resize=0, fractions=(0.5, 0, 0.5), progress=False)
    assert summary.notes == (
        "value range 0 to 255 of 8-bit natural images, the range of 8 bits; --value-range sets another",
    )
    assert load_dataset(tmp_path / "data")[0]["source"].shape == (3, 96, 64)
    (tmp_path / "whole.csv").write_text(
        f"subject,source,target\ns,{folder}/kidney/HE.png,{folder}/kidney/PanCytokeratin.png"
    )
    with pytest.raises(ValueError, match=r"PanCytokeratin.png: expected the grid \(291, 196\)"):
        prepare(tmp_path / "whole.csv", tmp_path / "whole", fractions=(1, 0, 0), progress=False)
