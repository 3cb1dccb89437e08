"""Photographs are cut to the face: one is found, none and several are refused with the remedy."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut, cat

from medtrace.cli import main
from medtrace.data.dataset import load_dataset
from medtrace.data.faces import Face, cut, cut_to_faces, find_faces, oval
from medtrace.data.lists.pair_list import read_pair_list
from medtrace.workflows.many.parallel import CasesFailedError
from medtrace.workflows.prepare import prepare


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """One face, the same face brighter and elsewhere, two of them side by side, and a cat."""
    folder = tmp_path_factory.mktemp("photographs")
    face = astronaut()
    moved = np.roll(np.clip(face.astype(int) + 20, 0, 255).astype(np.uint8), (40, 30), (0, 1))
    pictures = {"before": face, "after": moved, "two": np.concatenate([face, face[:, ::-1]], axis=1), "none": cat()}
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def listed(folder, *pairs, mask=""):
    path = folder / "pairs.csv"
    lines = ["subject,source,target,mask", *(f"{n},{a}.png,{b}.png,{mask}" for n, (a, b) in enumerate(pairs))]
    path.write_text("\n".join(lines) + "\n")
    return path


def pixels_of(path):
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 1, 0).float()


def test_a_face_is_found_where_it_is(photographs):
    (face,) = find_faces(pixels_of(photographs / "before.png"))
    assert abs(face.across - 222) < 20  # between the eyes, by sight
    assert abs(face.down - 115) < 25
    assert 70 < face.size < 150
    assert find_faces(torch.zeros(3, 200, 200)) == []
    assert find_faces(torch.zeros(1, 10, 10)) == []


def test_what_is_cut_lies_about_the_face():
    image = torch.zeros(1, 100, 80)
    image[:, 40:61, 20:41] = 1.0  # a square about (50, 30), half a pixel beside its center
    result = cut(image, Face(50.5, 30.5, 40.0), 68)[0]
    inside = torch.nonzero(result > 0.5).float()
    assert inside.mean(0).tolist() == pytest.approx([33.5, 33.5], abs=1.0)
    assert len(inside) == pytest.approx(21 * 21, rel=0.1)
    beyond = cut(torch.ones(1, 20, 20), Face(0.0, 0.0, 20.0), 34, fill=0.0)[0]
    assert float(beyond[:10, :10].max()) == 0.0
    assert float(oval(64).float().mean()) == pytest.approx(np.pi * 0.52 * 0.72 / 1.7**2, abs=0.01)


def test_pairs_come_to_lie_on_each_other(photographs, tmp_path):
    pairs = read_pair_list(listed(photographs, ("before", "after")))
    result = cut_to_faces(pairs, tmp_path, edge=64)
    assert result.failures == []
    before, after = (np.array(Image.open(tmp_path / f"0_{side}.png")).astype(float) for side in ("source", "target"))
    assert before.shape == after.shape == (64, 64, 3)
    apart = np.abs(after - 20 - before)[8:-8, 8:-8]  # a pixel of the photograph is half of one here
    assert apart.mean() < 8
    mask = np.array(Image.open(tmp_path / "0_mask.png"))
    assert mask.shape == (64, 64)
    assert set(np.unique(mask)) == {0, 255}


def test_none_and_several_are_refused_with_the_remedy(photographs, tmp_path):
    result = cut_to_faces(read_pair_list(listed(photographs, ("none", "after"), ("before", "two"))), tmp_path, edge=64)
    assert result.pairs == []
    assert "none.png: faces: expected a face seen from the front, found none; give its mask" in result.failures[0]
    assert "two.png: faces: expected one, found 2" in result.failures[1]
    assert "--largest-face" in result.failures[1]
    chosen = cut_to_faces(read_pair_list(listed(photographs, ("before", "two"))), tmp_path, edge=64, largest=True)
    assert chosen.notes == ["two.png: 2 faces, the largest was taken"]


def test_a_mask_of_ones_own_takes_the_place_of_the_detector(photographs, tmp_path):
    outline = np.zeros(cat().shape[:2], np.uint8)
    outline[60:160, 100:180] = 255
    Image.fromarray(outline).save(photographs / "mask.png")
    pairs = read_pair_list(listed(photographs, ("none", "after"), mask="mask.png"))
    result = cut_to_faces(pairs, tmp_path, edge=64)
    assert result.failures == []
    mask = np.array(Image.open(tmp_path / "0_mask.png")) > 127
    rows, columns = np.nonzero(mask)
    assert rows.mean() == pytest.approx(31.5, abs=1)
    assert (rows.max() - rows.min()) / (columns.max() - columns.min()) == pytest.approx(100 / 80, rel=0.1)


def test_a_data_set_of_faces_has_masks_for_its_metrics(photographs, tmp_path, capsys):
    path = listed(photographs, ("before", "after"))
    out = tmp_path / "dataset"
    with pytest.raises(SystemExit) as ended:
        main(["prepare", str(path), "--faces", "--resize", "48", "--split", "1", "0", "0", "--out", str(out)])
    assert ended.value.code == 0
    assert "faces and their masks are in" in capsys.readouterr().out
    (case,) = load_dataset(out, "training")
    assert case["source"].shape == (3, 48, 48)
    assert float((case["source"] == -1).all(0).float().mean()) > 0.3  # what the mask leaves out is background
    scans = json.loads((tmp_path / "dataset.scans.json").read_text())["pairs"]["0"]
    assert scans["mask"]["relative"] == "../dataset.faces/0_mask.png"


def test_what_does_not_go_with_faces_is_refused(photographs, tmp_path):
    path = listed(photographs, ("none", "after"), ("before", "after"))
    with pytest.raises(CasesFailedError, match="found none"):
        prepare(path, tmp_path / "a", faces=True, progress=False)
    with pytest.raises(ValueError, match="largest_face: expected with faces"):
        prepare(path, tmp_path / "a", largest_face=True, progress=False)
    with pytest.raises(ValueError, match="resize 0"):
        prepare(path, tmp_path / "a", faces=True, resize=0, progress=False)
    summary = prepare(
        path, tmp_path / "b", faces=True, skip_failed=True, progress=False, fractions=(1, 0, 0), resize=32
    )
    assert summary.counts["training"] == 1
    assert len(summary.failures) == 1
    with (photographs / "pairs.csv").open(newline="") as lines:
        assert len(list(csv.DictReader(lines))) == 2  # the list itself stays
