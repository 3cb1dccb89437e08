"""Translation of real heads: who is on which side, the record of a row, and what each method learns in a minute."""

import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from medtrace.data import Preparation, load_dataset
from medtrace.data.preparation.rules import FILE
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.real.heads import TEST, VALIDATION, find_heads, on_one_grid, sides
from medtrace.evaluation.real.scores import UNITS, interval, slice_scores
from medtrace.evaluation.scoring import score_cases
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.methods import method_class
from medtrace.workflows import real_translation as study
from medtrace.workflows.real_page import write_page
from medtrace.workflows.train import train

SHIFT = 4.0


def blob(shape, spacing, seed):
    """A head of smooth noise in the middle of a grid."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.6
    values = np.where(inside, random.uniform(200, 800, shape), 0).astype(np.float32)
    return values, nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])), inside


@pytest.fixture
def folder(tmp_path):
    """The layout of the open MS data: three heads, of which one has a mask of no brain."""
    for person in TEST:
        (tmp_path / "open_ms" / "mni" / person).mkdir(parents=True)
        for seed, contrast in enumerate(("T1", "T2")):
            image = blob((24, 24, 24), (4, 4, 4), seed)[1]
            nibabel.save(image, tmp_path / "open_ms" / "mni" / person / f"{contrast}.nii.gz")
    for person, scale in (("patient01", 1.0), (VALIDATION, 1.0), ("patient19", 3.0)):
        place = tmp_path / "open_ms" / "longitudinal" / person
        place.mkdir(parents=True)
        _, image, inside = blob((24, 24, 24), [4 * scale] * 3, 5)
        nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), image.affine), place / "brainmask.nii.gz")
        nibabel.save(image, place / "study1_T1W.nii.gz")
        nibabel.save(image, place / "study1_T2W.nii.gz")
        move = sitk.TranslationTransform(3, (SHIFT * scale, 0.0, 0.0))
        sitk.WriteTransform(move, str(place / "study1_T2W_intrastudy_to_FLAIR.txt"))
    return tmp_path


def test_heads_are_found_and_a_mask_of_no_brain_is_told(folder):
    heads, left = find_heads(folder)
    assert [head.person for head in heads] == ["patient07", "patient19", "patient01", VALIDATION]
    assert len(left) == 1
    assert "longitudinal patient19: its mask holds" in left[0]
    with pytest.raises(FileNotFoundError, match="expected the folders mni and longitudinal"):
        find_heads(folder / "open_ms" / "mni")


def test_the_published_layout_is_read(folder):
    root = folder / "open_ms"
    (root / "cross_sectional").mkdir()
    (root / "mni").rename(root / "cross_sectional" / "MNI")
    for image in (root / "cross_sectional").glob("MNI/*/*.nii.gz"):
        image.rename(image.with_name(f"{image.name.split('.')[0]}_N4_brain_N4_regtoMNI.nii.gz"))
    for person in sorted((root / "longitudinal").glob("patient*")):
        for kind in ("raw", "coregistered"):
            (root / "longitudinal" / kind / person.name).mkdir(parents=True)
        for file in sorted(person.iterdir()):
            kind = "coregistered" if file.name == "brainmask.nii.gz" else "raw"
            file.rename(root / "longitudinal" / kind / person.name / file.name)
        person.rmdir()
    heads, left = find_heads(folder)
    assert [head.person for head in heads] == ["patient07", "patient19", "patient01", VALIDATION]
    assert {contrast for head in heads for contrast in head.images} == {"T1", "T2"}
    assert len(heads[2].transforms["T2"]) == len(left) == 1


def test_no_person_is_on_two_sides(folder):
    heads, _ = find_heads(folder)
    for test in TEST:
        result = sides(heads, "T2", test)
        persons = {side: {head.person for head in members} for side, members in result.items()}
        assert persons["test"] == {test}
        assert persons["validation"] == {VALIDATION}
        assert not persons["training"] & (persons["test"] | persons["validation"])
    with pytest.raises(ValueError, match="no training and no validation and no test head has T1 and FLAIR"):
        sides(heads, "FLAIR", "patient07")


def test_a_head_is_brought_to_its_mask_s_grid_without_skull(folder, tmp_path):
    head = next(head for head in find_heads(folder)[0] if head.person == "patient01")
    files = on_one_grid(head, tmp_path)
    mask = nibabel.load(head.mask)
    t1, t2 = (nibabel.load(files[name]) for name in ("T1", "T2"))
    np.testing.assert_allclose(t2.affine, mask.affine, atol=1e-5)
    inside = np.asarray(mask.dataobj) > 0
    assert not t2.get_fdata()[~inside].any()
    # ITK's x runs the other way than NIfTI's: the transform's 4 mm are one voxel back.
    both = inside[:-1] & inside[1:]
    moved = t1.get_fdata()[:-1][both], t2.get_fdata()[1:][both]
    np.testing.assert_allclose(*moved, atol=1e-2)


def test_an_interval_holds_the_mean():
    values = np.random.default_rng(1).normal(3, 1, 100)
    low, high = interval(values)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 10, rel=0.2)


def test_best_methods_are_trained_again_and_finished_rows_are_not(folder, tmp_path, monkeypatch):
    trained = []
    errors = {"a": 3.0, "b": 1.0, "c": 2.0}

    def fake(row, _dataset, out, *_settings):
        trained.append(row.name)
        content = {"target": row.target, "person": row.person, "row": row.row, "seed": row.seed, "cpu_seconds": 1}
        cases = {"foreground_mae": [errors[row.row]] * 3, "foreground_ssim": [0.5] * 3}
        (out / "rows").mkdir(parents=True, exist_ok=True)
        (out / "rows" / f"{row.name}.json").write_text(json.dumps({**content, "names": ["x"] * 3, "cases": cases}))

    monkeypatch.setattr(study, "_train", fake)
    monkeypatch.setattr(study, "_dataset", lambda *_: None)
    monkeypatch.setattr(study, "_cheap", lambda *_: None)
    monkeypatch.setattr(study, "write_natural_images", lambda *_: None)
    wanted = {"targets": ("T2",), "methods": ("a", "b", "c"), "seeds": 2, "progress": False}
    page = study.real_translation(folder, tmp_path / "out", **wanted)
    assert trained[:6] == [f"t2-{person}-{name}-0" for name in "abc" for person in TEST]
    assert trained[6:] == [f"t2-{person}-{name}-1" for name in "bc" for person in TEST]
    assert study.real_translation(folder, tmp_path / "out", **wanted) == page
    assert len(trained) == 10
    assert "| b | 2 | 1.00 [1.00, 1.00]" in page.read_text()


def test_a_page_says_whether_patch_ridge_is_beaten(tmp_path):
    (tmp_path / "rows").mkdir()
    for row, error, likeness in (("patch ridge", 5.0, 0.7), ("unet", 4.0, 0.6)):
        cases = {"foreground_mae": [error, error + 1], "foreground_ssim": [likeness] * 2}
        content = {"target": "T2", "person": "patient07", "row": row, "seed": 0, "cpu_seconds": 2}
        text = json.dumps({**content, "names": ["x", "y"], "cases": cases})
        (tmp_path / "rows" / f"{row.replace(' ', '-')}.json").write_text(text)
    text = write_page(tmp_path, [], ["a head: why"], ("T2",)).read_text()
    assert "MAE 4.5 against 5.5: better; SSIM 0.6 against 0.7: worse. n = 2 slices of 1 person." in text
    assert "-1.00 [-1.00, -1.00]" in text
    assert "Left out: a head: why." in text


@pytest.fixture(scope="module")
def real_slices(real_data, tmp_path_factory):
    """T1 and T2 slices of real heads, the test person's apart."""
    out = tmp_path_factory.mktemp("real")
    return study._dataset(find_heads(real_data)[0], "T2", "patient07", out, False)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", study.METHODS)
def test_a_minute_of_training_beats_the_untrained_and_the_identity(name, real_slices, tmp_path):
    """On a person that was not trained on, in the units of T2."""
    cases, scores = load_dataset(real_slices, "test"), slice_scores(Preparation.load(real_slices / FILE))

    def error(tracer):
        return score_cases(tracer, cases, scores=scores).summary()[UNITS].mean

    settings = {"training.max_epochs": 4, "training.val_interval": 0}
    method = load_method(train(name, real_slices, tmp_path / "run", settings=settings, device="cpu"), "cpu")
    trained = error(tracer_of(method))
    torch.manual_seed(0)
    untrained = error(tracer_of(method_class(name).build(read_run(tmp_path / "run").settings)))
    assert trained < 0.7 * min(untrained, error(identity))
