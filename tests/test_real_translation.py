"""Translation of real heads: who is on which side, the record of a row, and what each method learns in a minute."""

import io
import json
import time

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from rich.console import Console

from medtrace.data import Preparation, bias, load_dataset
from medtrace.data.bias import without_bias
from medtrace.data.preparation.rules import FILE
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.real.heads import TEST, VALIDATION, find_heads, on_one_grid, sides
from medtrace.evaluation.real.scores import UNITS, interval, slice_scores
from medtrace.evaluation.real.structures import StructureNetwork, structure_dice
from medtrace.evaluation.real.tasks import IMAGES, LABELS, TASKS, RealTask
from medtrace.evaluation.scoring import score_cases
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.methods import method_class, method_names
from medtrace.trace import Trace
from medtrace.workflows.real_heads import labels as real_labels
from medtrace.workflows.real_heads import rows as real_rows
from medtrace.workflows.real_heads import study
from medtrace.workflows.real_heads.page import write_page
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
        result = sides(heads, ("T1", "T2"), test)
        persons = {side: {head.person for head in members} for side, members in result.items()}
        assert persons["test"] == {test}
        assert persons["validation"] == {VALIDATION}
        assert not persons["training"] & (persons["test"] | persons["validation"])
    with pytest.raises(ValueError, match="no training and no validation and no test head has T1 and FLAIR"):
        sides(heads, ("T1", "FLAIR"), "patient07")


def test_a_head_is_brought_to_its_mask_s_grid_without_skull(folder, tmp_path):
    head = next(head for head in find_heads(folder)[0] if head.person == "patient01")
    files = on_one_grid(head, tmp_path, bias=True)
    mask = nibabel.load(head.mask)
    t1, t2 = (nibabel.load(files[name]) for name in ("T1", "T2"))
    np.testing.assert_allclose(t2.affine, mask.affine, atol=1e-5)
    inside = np.asarray(mask.dataobj) > 0
    assert not t2.get_fdata()[~inside].any()
    # ITK's x runs the other way than NIfTI's: the transform's 4 mm are one voxel back.
    both = inside[:-1] & inside[1:]
    moved = t1.get_fdata()[:-1][both], t2.get_fdata()[1:][both]
    np.testing.assert_allclose(*moved, atol=1e-2)


def test_a_bias_field_is_taken_out_and_tissue_stays(folder, tmp_path, monkeypatch):
    """Two tissues in stripes under a coil's brightness that doubles from one side to the other."""
    axes = np.meshgrid(*[np.linspace(-1, 1, 32)] * 3, indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    tissue = np.where(np.arange(32) % 8 < 4, 100.0, 200.0)
    image = np.where(inside, tissue * 2 ** (0.5 * axes[1]), 0).astype(np.float32)
    mask = sitk.GetImageFromArray(inside.astype(np.uint8))
    found = without_bias(sitk.GetImageFromArray(image), mask)
    values = sitk.GetArrayFromImage(found)

    def spread(of):
        return np.mean(
            [of[inside & (tissue == level)].std() / of[inside & (tissue == level)].mean() for level in (100, 200)]
        )

    assert spread(values) < 0.3 * spread(image)
    bright, dark = (values[inside & (tissue == level)].mean() for level in (200, 100))
    assert bright / dark == pytest.approx(2, rel=0.05)
    monkeypatch.setattr(bias, "ITERATIONS", (2,))
    head = next(head for head in find_heads(folder)[0] if head.person == "patient01")
    for place, left in (("corrected", False), ("raw", True)):
        (tmp_path / place).mkdir()
        on_one_grid(head, tmp_path / place, left)
    corrected, raw = (
        nibabel.load(next((tmp_path / place).glob("*_T1.nii.gz"))).get_fdata() for place in ("corrected", "raw")
    )
    assert not np.array_equal(corrected, raw)
    assert np.array_equal(corrected > 0, raw > 0)


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
        content = {"task": row.task, "person": row.person, "row": row.row, "seed": row.seed, "missing": ""}
        content["cpu_seconds"] = 1
        cases = {"foreground_mae": [9.0 - errors[row.row]] * 3, "foreground_ssim": [0.5] * 3}
        content["validation"] = {"foreground_mae": errors[row.row], "foreground_ssim": 0.5}
        (out / "rows").mkdir(parents=True, exist_ok=True)
        (out / "rows" / f"{row.name}.json").write_text(json.dumps({**content, "names": ["x"] * 3, "cases": cases}))

    monkeypatch.setattr(study, "train_row", fake)
    monkeypatch.setattr(study, "real_dataset", lambda *_: None)
    monkeypatch.setattr(study, "score_cheap", lambda *_: None)
    wanted = {"tasks": ("t1-t2",), "methods": ("a", "b", "c"), "seeds": 2, "progress": False}
    page = study.real_translation(folder, tmp_path / "out", **wanted)
    assert trained[:6] == [f"t1-t2-{person}-{name}-0" for name in "abc" for person in TEST]
    assert trained[6:] == [f"t1-t2-{person}-{name}-1" for name in "bc" for person in TEST]
    assert study.real_translation(folder, tmp_path / "out", **wanted) == page
    assert len(trained) == 10
    assert "| b | 2 | 8.00 [8.00, 8.00]" in page.read_text()


def test_a_page_says_whether_patch_ridge_is_beaten(tmp_path):
    (tmp_path / "rows").mkdir()
    for row, error, likeness in (("patch ridge", 5.0, 0.7), ("unet", 4.0, 0.6)):
        cases = {"foreground_mae": [error, error + 1], "foreground_ssim": [likeness] * 2}
        content = {"task": "t1-t2", "person": "patient07", "row": row, "seed": 0, "missing": "", "cpu_seconds": 2}
        content["validation"] = {"foreground_mae": error, "foreground_ssim": likeness}
        text = json.dumps({**content, "names": ["x", "y"], "cases": cases})
        (tmp_path / "rows" / f"{row.replace(' ', '-')}.json").write_text(text)
    text = write_page(tmp_path, [], ["a head: why"]).read_text()
    assert "MAE 4.5 against 5.5: better; SSIM 0.6 against 0.7: worse. n = 2 slices of 1 person." in text
    assert "| MAE, 0-255 | unet | patch ridge | -1 [-1, -1] | 100% | – | 0.5 | 2 |" in text
    assert "| SSIM | unet | patch ridge | -0.1 [-0.1, -0.1] | 0% |" in text
    assert "Left out: a head: why." in text
    assert "Not trained yet: tracetrans, pix2pix, reggan, cyclegan." in text


def test_a_source_can_be_missing():
    task = TASKS["t1+flair-t2"]
    assert (task.contrasts, task.missing, task.settings) == (
        ("T1", "FLAIR", "T2"),
        ("FLAIR",),
        {"data.drop_sources": 0.3},
    )
    assert all(not other.missing and not other.settings for other in (*IMAGES[:2], *LABELS))
    row = real_rows.RealRow(task.name, "patient07", "unet", 1)
    assert [one.name for one in row.with_missing()] == [
        "t1+flair-t2-patient07-unet-1",
        "t1+flair-t2-patient07-unet-1-without-flair",
    ]
    cases = real_rows.CasesWithout([{"source": torch.ones(2, 3, 3)}], 1)
    assert cases[0]["source"][:, 0, 0].tolist() == [1, -1]
    assert cases.cases[0]["source"].min() == 1
    assert len(list(cases)) == 1


def give_contrasts(folder):
    """Three contrasts to every head, no two of them alike."""
    own = {"T1": "T1.nii.gz", "T2": "T2.nii.gz", "FLAIR": "FLAIR.nii.gz"}
    dated = {"T1": "study1_T1W.nii.gz", "T2": "study1_T2W.nii.gz", "FLAIR": "study1_FLAIR.nii.gz"}
    for number, place in enumerate(sorted((folder / "open_ms").glob("*/patient*"))):
        names = own if place.parent.name == "mni" else dated
        affine = nibabel.load(place / names["T1"]).affine
        values = {
            contrast: blob((24, 24, 24), (4, 4, 4), 3 * number + k)[0] for k, contrast in enumerate(("T1", "FLAIR"))
        }
        values["T2"] = 900 - values["FLAIR"] * (values["FLAIR"] > 0) - 900 * (values["FLAIR"] == 0)
        for contrast, image in values.items():
            nibabel.save(nibabel.Nifti1Image(image, affine), place / names[contrast])


def test_two_sources_are_prepared_and_scored_with_one_missing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(real_rows, "SLICES", 6)  # which all hold something of these small heads
    monkeypatch.setattr(bias, "ITERATIONS", (1,))
    task = TASKS["t1+flair-t2"]
    give_contrasts(folder)
    heads, _ = find_heads(folder)
    dataset = real_rows.real_dataset(heads, task, "patient07", tmp_path, False)
    assert real_rows.cases_of(dataset, "test", task)[0]["source"].shape[0] == 2
    real_rows.score_cheap(task, "patient07", dataset, tmp_path)
    rows = {(row["row"], row["missing"]): row for row in real_rows.read_rows(tmp_path)}
    assert set(rows) == {(name, gone) for name in ("intensity curve", "patch ridge") for gone in ("", "FLAIR")}
    # The T2 is the FLAIR's negative here, and the T1 knows nothing of it.
    errors = {gone: np.mean(rows["intensity curve", gone]["cases"]["foreground_mae"]) for gone in ("", "FLAIR")}
    assert errors[""] < errors["FLAIR"]
    text = write_page(tmp_path, heads, []).read_text()
    assert "T1 and FLAIR to T2" not in text, "a table of cheap rows alone says nothing of translators"
    assert "No method trained yet: t1+flair-t2 of patient07." in text


def structure_weights():
    """Of a MeshNet that labels by intensity: each layer passes the image on in channel 0."""
    weights = {}
    for layer in range(9):
        kernel = np.zeros((2, 1 if layer == 0 else 2, 3, 3, 3), np.float32)
        kernel[0, 0, 1, 1, 1] = 1
        weights[f"weight{layer}"], weights[f"bias{layer}"] = kernel, np.zeros(2, np.float32)
    last = np.zeros((3, 2, 1, 1, 1), np.float32)
    last[1, 0], last[2, 0] = 1, 3
    weights["weight9"], weights["bias9"] = last, np.array([0.1, 0, -1], np.float32)
    return weights


@pytest.fixture
def structures(tmp_path):
    place = tmp_path / "meshnet"
    place.mkdir()
    np.savez(place / "subcortical18.npz", **structure_weights())
    (place / "labels.csv").write_text("label,name\n0,Unknown\n1,gray\n2,white\n")
    return StructureNetwork.load(place)


def test_structures_are_labeled_in_any_orientation(structures, tmp_path):
    assert structures.names == {1: "gray", 2: "white"}
    image = torch.zeros(1, 20, 24, 28)
    image[:, 4:16, 5:19, 6:22] = 100.0
    image[:, 8:12, 8:16, 9:19] = 300.0
    image[:, 0] = -50.0  # ringing below 0 is background
    affine = torch.eye(4, dtype=torch.float64)
    labels = structures.segment(image, affine)
    # Divided by the 98 % quantile / .85: 300 is .85, in which 3·.85 − 1 is the largest, and 100 is .283.
    assert torch.equal(labels == 2, image == 300)
    assert torch.equal(labels == 1, image == 100)
    turned, moved = image.permute(0, 3, 1, 2).flip(1), torch.zeros(4, 4, dtype=torch.float64)
    moved[2, 0], moved[2, 3], moved[0, 1], moved[1, 2], moved[3, 3] = -1, 27, 1, 1, 1
    assert torch.equal(structures.segment(turned.contiguous(), moved), labels.permute(0, 3, 1, 2).flip(1))
    assert structure_dice(labels, labels, structures.names) == {"gray": 1.0, "white": 1.0}
    with pytest.raises(ValueError, match="expected a brain above 0"):
        structures.segment(torch.zeros(1, 4, 4, 4), affine)
    with pytest.raises(FileNotFoundError, match=r"expected subcortical18\.npz"):
        StructureNetwork.load(tmp_path)


def test_labels_come_back_by_the_field(structures):
    """A translation that shows the head two voxels lower, and says so."""
    image = torch.zeros(1, 20, 20, 20)
    image[:, 4:12, 5:15, 5:15] = 100.0
    image[:, 6:10, 8:12, 8:12] = 300.0
    ddf = torch.zeros(3, 20, 20, 20)
    ddf[0] = -2.0
    trace = Trace.build(image, image.roll(2, 1), ddf, affine=torch.eye(4, dtype=torch.float64))
    scores = real_labels.score_trace(structures, trace, structures.segment(image, trace.affine))
    assert scores["dice"] == {"gray": 1.0, "white": 1.0}
    assert scores["dice_still"]["white"] == pytest.approx(0.5)
    assert real_labels.mean_dice(scores, ["white"]) == 1.0


@pytest.mark.slow
def test_translations_to_t1_are_scored_by_their_labels(folder, structures, tmp_path, monkeypatch):
    """The rows as `translate` delivers them, beside a T1 that has been at the network's pixels."""

    def quick(*given, settings, **more):
        return train(*given, settings={**settings, "training.max_epochs": 1, "channels": (4, 8)}, **more)

    monkeypatch.setattr(real_rows, "SLICES", 6)
    monkeypatch.setattr(bias, "ITERATIONS", (1,))
    monkeypatch.setattr(real_rows, "train", quick)
    monkeypatch.setattr(real_labels, "TEST", ("patient07",))
    give_contrasts(folder)
    task, heads = RealTask(("T2",), "T1", ("unet",)), find_heads(folder)[0]
    dataset = real_rows.real_dataset(heads, task, "patient07", tmp_path, False)
    real_rows.train_row(real_rows.RealRow(task.name, "patient07", "unet"), dataset, tmp_path, (), "cpu")
    assert structures.names
    real_labels.score_labels(tmp_path, heads, task, tmp_path, Console(quiet=True), "cpu")
    rows = {}
    for file in (tmp_path / "labels").glob("t2-t1-*.json"):
        record = json.loads(file.read_text())
        rows[record["row"]] = record["dice"]
    assert set(rows) == {"identity", "intensity curve", "patch ridge", "unet", real_labels.COARSE}
    assert all(set(dice) == {"gray", "white"} for dice in rows.values())
    assert rows[real_labels.COARSE]["white"] > 0.7
    assert rows[real_labels.COARSE]["white"] > max(rows[name]["white"] for name in ("identity", "patch ridge"))
    text = write_page(tmp_path, heads, []).read_text()
    assert "### T2 to T1" in text
    assert f"| {real_labels.COARSE} |" in text


def test_a_row_that_is_stored_without_its_training_is_not_labeled(folder, structures, tmp_path, monkeypatch):
    monkeypatch.setattr(real_labels, "TEST", ("patient07",))
    give_contrasts(folder)
    assert structures.names
    task, heads = RealTask(("T2",), "T1", ("unet",)), find_heads(folder)[0]
    stored = real_rows.RealRow(task.name, "patient07", "unet").file(tmp_path)
    stored.parent.mkdir(parents=True)
    stored.write_text("{}")
    text = io.StringIO()
    real_labels.score_labels(tmp_path, heads, task, tmp_path, Console(file=text, width=400), "cpu")
    assert "not labeled, as its training is not in" in text.getvalue()
    assert not list((tmp_path / "labels").iterdir())


BEATEN, SLOWLY = 0.7, 0.9
"""Share of the untrained network's and of the identity's error that a trained method must stay below; the second for
those that 224 steps teach little."""
SLOW = ("dualgan", "palette", "plasticine")


def translators():
    """Every method that translates, also those that come."""
    return [name for name in method_names() if "translate" in method_class(name).abilities.tasks]


@pytest.fixture(scope="module")
def real_slices(real_data, tmp_path_factory):
    """T1 and T2 slices of real heads, the test person's apart."""
    out = tmp_path_factory.mktemp("real")
    return real_rows.real_dataset(find_heads(real_data)[0], TASKS["t1-t2"], "patient07", out, False)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("name", translators())
def test_a_minute_of_training_beats_the_untrained_and_the_identity(name, real_slices, tmp_path, record_property):
    """On a person that was not trained on, in the units of T2; `--junitxml` keeps the errors."""
    cases, scores = load_dataset(real_slices, "test"), slice_scores(Preparation.load(real_slices / FILE))

    def error(kind, tracer):
        found = score_cases(tracer, cases, scores=scores).summary()[UNITS].mean
        record_property(kind, round(found, 2))
        return found

    settings = {"training.max_epochs": 4, "training.val_interval": 0}
    started = time.process_time()
    method = load_method(train(name, real_slices, tmp_path / "run", settings=settings, device="cpu"), "cpu")
    record_property("training, CPU s", round(time.process_time() - started))
    trained = error("trained", tracer_of(method))
    torch.manual_seed(0)
    untrained = error("untrained", tracer_of(method_class(name).build(read_run(tmp_path / "run").settings)))
    share = SLOWLY if name in SLOW else BEATEN
    assert trained < share * min(untrained, error("identity", identity))
