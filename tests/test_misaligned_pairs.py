"""Real pairs with added misalignment: the settings of RegGAN, and several runs in one table."""

import csv

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.utils import set_determinism

from medtrace.cli import main
from medtrace.data import Preparation, load_dataset, sources
from medtrace.evaluation.bench.misaligned import CONVENTION, column
from medtrace.evaluation.scoring import score_cases
from medtrace.evaluation.tracers import identity
from medtrace.methods import method_class, resolve
from medtrace.metrics import CONVENTIONS
from medtrace.workflows.compare import compare
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train

MISALIGNED = {"data.misalignment": "3"}
TINY = {
    "networks.cyclegan.channels": 4,
    "networks.cyclegan.num_blocks": 1,
    "networks.cyclegan.discriminator_channels": 4,
    "networks.cyclegan.discriminator_layers": 1,
    "registration_channels": [4, 8],
    "registration_downsampling": 0,
    "training.batch_size": 2,
    "training.max_epochs": 2,
}


def head(contrast, seed):
    """A skull-stripped head: an ellipsoid of zeros around textured tissue, dark where the other contrast is bright."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, size) for size in (24, 20, 6)], indexing="ij")
    tissue = 300 + 100 * np.cos(4 * x + seed) * np.cos(3 * y) + 20 * z
    return np.where(x**2 + y**2 < 0.6, 600 - tissue if contrast == "t2" else tissue, 0).astype(np.float32)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """T1 to T2 of three subjects, one in every split."""
    folder = tmp_path_factory.mktemp("pairs")
    rows = ["subject,source,target,contrast,target_contrast,split"]
    for number, split in enumerate(("training", "validation", "test")):
        for contrast in ("t1", "t2"):
            image = nibabel.Nifti1Image(head(contrast, number), np.diag([2.0, 2.0, 3.0, 1.0]))
            nibabel.save(image, folder / f"{number}_{contrast}.nii.gz")
        rows.append(f"S{number},{number}_t1.nii.gz,{number}_t2.nii.gz,t1,t2,{split}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    prepare(folder / "pairs.csv", folder / "data", align=False, crop=None, slices=4, progress=False)
    return folder / "data"


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory):
    """One training per seed and level, kept by name."""
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def run(name, method="reggan", **settings):
        if name not in made:
            chosen = TINY | MISALIGNED | settings
            made[name] = train(method, dataset, folder / name, settings=chosen, device="cpu")
        return made[name]

    return run


def weights(run):
    return torch.load(run / "checkpoints" / "final.pt", weights_only=True)["method"]


def same(first, second):
    """Whether the parameters agree to the last bit; the image pools' other states are not looked at."""
    names = [name for name, value in first.items() if isinstance(value, torch.Tensor)]
    return len(names) > 10 and all(torch.equal(first[name], second[name]) for name in names)


def configured(dataset, **values):
    """The data of a training with misalignment."""
    chosen = {f"data.{name}": value for name, value in values.items()}
    return sources(resolve(method_class("reggan").settings_type, (), MISALIGNED | chosen), dataset)


def moved(result, prepared):
    """Per key whether some item differs from the prepared one."""
    return {
        key: any(not torch.equal(a[key].as_tensor(), b[key].as_tensor()) for a, b in zip(result, prepared, strict=True))
        for key in ("source", "target")
    }


@pytest.mark.parametrize(
    ("which", "expected"), [("both", (True, True)), ("source", (True, False)), ("target", (False, True))]
)
def test_misalignment_moves_training_pairs_only(dataset, which, expected):
    data = configured(dataset, moved=which)
    for split in ("training", "validation", "test"):
        prepared = load_dataset(dataset, split)
        result = list(getattr(data, split)())
        wanted = expected if split == "training" else (False, False)
        assert tuple(moved(result, prepared).values()) == wanted
        for item, original in zip(result, prepared):
            torch.testing.assert_close(item["target"].affine, original["target"].affine)
            assert item["case"] == original["case"]


def test_every_reading_is_another_misalignment_with_air_outside(dataset):
    training = configured(dataset, moved="both", misalignment="5").training()
    training.transform.set_random_state(seed=1)
    readings = [training[0] for _ in range(8)]
    assert len({item["target"].as_tensor().sum().item() for item in readings}) == 8
    for item in readings:  # the head never reaches the corners, so what moved in there is air
        for key in ("source", "target"):
            assert float(item[key][0, 0, 0]) == -1
            assert float(item[key].min()) >= -1
    source, target = (readings[0][key].as_tensor() > -0.9 for key in ("source", "target"))
    assert not torch.equal(source, target)  # each by its own draw


@pytest.mark.parametrize("workers", [0, 1])
def test_loaders_draw_what_the_seed_says_and_anew_each_epoch(dataset, workers):
    def epochs(seed):
        set_determinism(seed)
        try:
            training = configured(dataset).training()
            loader = DataLoader(training, batch_size=4, num_workers=workers)
            return [next(iter(loader))["target"].as_tensor() for _ in range(2)]
        finally:
            set_determinism(None)

    first, again, other = epochs(3), epochs(3), epochs(4)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.slow
def test_same_seed_same_training(runs):
    first = weights(runs("NC+R"))
    assert same(first, weights(runs("again")))
    assert not same(first, weights(runs("other-seed", **{"training.seed": 1})))
    assert not same(first, weights(runs("aligned", **{"data.misalignment": "0"})))


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return caught.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.moved=targets", "data.moved: input should be 'both', 'source' or 'target', received 'targets'"),
        ("data.misalignment=6", "data.misalignment: expected one of 0, 1, 2, 3, 4, 5, table1, nonrigid, received 6"),
    ],
)
def test_unknown_settings_of_the_misalignment_are_told_in_one_line(dataset, tmp_path, capsys, setting, message):
    misaligned = ["--set", "data.misalignment=3", "--set", setting]
    code, _, err = command(capsys, "train", "reggan", dataset, *misaligned, "--out", tmp_path / "run")
    assert code == 1
    assert err.startswith(f"medtrace: error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_several_runs_in_one_table(dataset, runs, tmp_path, capsys):
    folders = [runs("NC+R"), runs("pix2pix", "pix2pix")]
    arguments = ["evaluate", folders[0], dataset, "--beside", folders[1], "--out", tmp_path / "t", "--device", "cpu"]
    code, out, _ = command(capsys, *arguments)
    assert code == 0
    assert out.endswith(f"tables written to {tmp_path / 't'}\n")
    text = (tmp_path / "t" / "table.md").read_text()
    assert text in out
    assert all(heading in text for heading in ("NMAE", "PSNR (dB)", "SSIM", "common drift (mm)"))
    lines = text.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == ["NC+R", "pix2pix", "identity"]
    assert CONVENTION in text
    alone = evaluate(folders[1], dataset, tmp_path / "alone", device="cpu", progress=False)
    with (tmp_path / "t" / "pix2pix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mae"]) for row in rows] == pytest.approx(alone["method"].values("mae"))
    assert (tmp_path / "t" / "NC+R_summary.csv").is_file()


def test_foreground_scores_leave_the_air_out(dataset, runs, tmp_path):
    tables = compare([runs("NC+R")], dataset, tmp_path, device="cpu", progress=False)
    for item in load_dataset(dataset, "test"):
        source, target = item["source"].as_tensor(), item["target"].as_tensor()
        inside = target > -0.999
        error = float((source - target).abs()[inside].mean())
        row = tables["identity"].rows[item["case"]]
        assert row[column("nmae", "symmetric-foreground")] == pytest.approx(error, rel=1e-5)
        assert row[column("nmae", "unit-foreground")] == pytest.approx(error / 2, rel=1e-5)
        assert row[column("nmae", "unit-whole")] == pytest.approx(float((source - target).abs().mean()) / 2, rel=1e-5)
    assert {column("psnr", name) for name in CONVENTIONS} | {"drift_mm", "ssim"} <= set(tables["NC+R"].columns)


def test_a_target_of_air_has_no_foreground_scores(dataset, runs, tmp_path):
    cases = list(load_dataset(dataset, "test"))[:2]
    cases[1] = {**cases[1], "target": torch.full_like(cases[1]["target"], -1)}
    tables = compare([runs("NC+R")], cases, tmp_path, device="cpu", progress=False)
    scored = [column("nmae") in tables["NC+R"].rows[case["case"]] for case in cases]
    assert scored == [True, False]
    assert len(tables["NC+R"].values("mae")) == 2


def test_rows_need_names_of_their_own(dataset, runs, tmp_path, capsys):
    run = runs("NC+R")
    with pytest.raises(ValueError, match="received 'NC\\+R' twice; rename a folder"):
        compare([run, run], dataset, tmp_path, progress=False)
    with pytest.raises(ValueError, match="at least one run folder"):
        compare([], dataset, tmp_path, progress=False)
    with pytest.raises(ValueError, match="other than 'identity'"):
        compare([tmp_path / "identity"], dataset, tmp_path, progress=False)
    code, _, err = command(capsys, "evaluate", run, dataset, "--beside", run)
    assert code == 1
    assert err.startswith("medtrace: error: --out: expected a folder for the table")


@pytest.mark.real_data
def test_real_heads_of_two_contrasts_keep_a_published_split(tmp_path, real_data):
    """A slab of each head, so that seconds are enough."""
    rows = ["subject,source,target,contrast,target_contrast,split"]
    raw = {}
    for subject, split in (("patient07", "training"), ("patient19", "test")):
        for kind in ("T1", "T2"):
            scan = nibabel.load(real_data / "open_ms" / "mni" / subject / f"{kind}.nii.gz").slicer[:, :, 80:89]
            nibabel.save(scan, tmp_path / f"{subject}_{kind}.nii.gz")
            raw[subject, kind] = scan
        rows.append(f"{subject},{subject}_T1.nii.gz,{subject}_T2.nii.gz,t1,t2,{split}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    summary = prepare(
        tmp_path / "pairs.csv", tmp_path / "data", align=False, crop=None, slices=3, progress=False
    )  # fmt: skip
    assert summary.counts == {"training": 3, "validation": 0, "test": 3}
    preparation = Preparation.load(tmp_path / "data" / "preparation.json")
    assert set(preparation.contrasts) == {"t1", "t2"}
    assert preparation.source_contrast == "t1"
    for split, subject in (("training", "patient07"), ("test", "patient19")):
        for item in load_dataset(tmp_path / "data", split):
            assert item["subject"] == subject
            scan = nibabel.as_closest_canonical(raw[subject, "T1"])
            index = round(float(item["source"].affine[2, 3] - scan.affine[2, 3]))
            brain = torch.from_numpy(scan.get_fdata(dtype=np.float32)[..., index] != 0)
            source, target = item["source"].as_tensor()[0], item["target"].as_tensor()[0]
            assert bool((source[~brain] == -1).all())
            assert bool((target[~brain] == -1).all())
            both = torch.stack([source[brain], target[brain]])
            assert float(torch.corrcoef(both)[0, 1]) < -0.3  # fluid is dark in T1 and bright in T2
    table = score_cases(identity, load_dataset(tmp_path / "data", "test"))
    assert len(table.rows) == 3
