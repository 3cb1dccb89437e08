"""Data sets of several sizes are trained on and evaluated at the defaults, in batches of one size."""

import csv
import math
from unittest import mock

import nibabel
import numpy as np
import pytest
import torch
from monai.data import Dataset
from torch.utils.data import SequentialSampler
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import CaseLoader, DeterministicDataset, RandomPartner, load_dataset
from medtrace.data.case_loader import SameSizeBatches, sizes_of
from medtrace.guard.notices import Notice
from medtrace.methods import method_class, method_names
from medtrace.networks.patches import PatchInferer
from medtrace.workflows.compare import compare
from medtrace.workflows.evaluate import evaluate
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from tests.cases import pair_lists
from tests.cases.common import CASES, write
from tests.trainings import SMOKE

METHODS = ("tracetrans", "reggan", "metaregnet", "plasticine")


class Cases(Dataset):
    """Cases of the given sizes, with all subjects different."""

    def __init__(self, sizes):
        self.sizes = sizes
        items = [
            {"source": torch.full((1, *size), float(n)), "target": torch.zeros(1, *size), "subject": n, "case": f"c{n}"}
            for n, size in enumerate(sizes)
        ]
        super().__init__(items)


SIZES = [(8, 8), (8, 9), (8, 8), (8, 8), (8, 9), (7, 7)]


def test_in_order_a_batch_ends_where_the_size_changes():
    batches = [batch["case"] for batch in CaseLoader(Cases(SIZES), batch_size=2)]
    assert batches == [["c0"], ["c1"], ["c2", "c3"], ["c4"], ["c5"]]
    assert len(CaseLoader(Cases(SIZES), batch_size=2)) == 5


def test_shuffled_every_case_comes_once_in_batches_as_full_as_can_be():
    loader = CaseLoader(DeterministicDataset(Cases(SIZES)), batch_size=2, shuffle=True)
    orders = set()
    for _ in range(5):
        batches = list(loader)
        assert len(batches) == len(loader) == 4
        assert sorted(name for batch in batches for name in batch["case"]) == [f"c{n}" for n in range(6)]
        assert sorted(len(batch["case"]) for batch in batches) == [1, 1, 2, 2]
        orders.add(tuple(name for batch in batches for name in batch["case"]))
    assert len(orders) > 1


def test_processes_have_as_many_batches_each():
    fraction = SequentialSampler(range(4))
    loader = CaseLoader(Cases(SIZES), batch_size=2, sampler=fraction)
    assert [batch["case"] for batch in loader] == [["c0"], ["c1"], ["c2"], ["c3"]]


@pytest.mark.parametrize("sizes", [[(8, 8)] * 5, None])
def test_one_size_is_loaded_as_ever(sizes):
    cases = Cases([(8, 8)] * 5)
    cases.sizes = sizes
    loader = CaseLoader(cases, batch_size=2)
    assert loader.batch_size == 2
    assert [len(batch["case"]) for batch in loader] == [2, 2, 1]


def test_batches_by_hand():
    sampler = SameSizeBatches([3, 1, 0, 4, 2], [(1,), (2,), (1,), (1,), (2,)], 2)
    assert list(sampler) == [[3, 0], [1, 4], [2]]


def test_sizes_are_found_through_what_lies_around_a_data_set():
    cases = Cases(SIZES)
    assert sizes_of(DeterministicDataset(RandomPartner(cases))) == SIZES
    assert sizes_of(torch.utils.data.Subset(cases, [0, 1])) is None  # in another order
    assert sizes_of([{"source": 1}]) is None


def test_partners_have_the_same_size():
    partners = RandomPartner(Cases(SIZES[:5]))
    for index in range(5):
        for _ in range(10):
            item = partners[index]
            assert item["source"].shape == item["target"].shape
            assert item["partner"] != item["subject"]


def test_a_size_of_one_subject_gets_targets_cut_or_padded_to_it():
    cases = Cases(SIZES)
    for number, item in enumerate(cases.data):
        item["target"] = torch.full_like(item["source"], -1.0)
        item["target"][:, 2:-2, 2:-2] = number
    partners = RandomPartner(cases)
    for _ in range(10):
        item = partners[5]
        assert item["target"].shape == item["source"].shape == (1, 7, 7)
        assert item["target"][0, 3, 3] == item["partner"] != 5
        assert item["target"].min() == -1


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[pytest.mark.slow] * (name == "plasticine")) for name in METHODS]
)
def test_methods_train_on_several_sizes_and_are_evaluated(tmp_path, method):
    write(CASES[pair_lists.__name__]["three_sizes_in_one_batch"], tmp_path / "case")
    summary = prepare(tmp_path / "case" / "pairs.csv", tmp_path / "data", resize=0, progress=False)
    assert summary.notes[-1].startswith("the data set has 3 sizes: 32 x 32 (2), 36 x 10 (2), 40 x 28 (2)")
    assert {item["source"].shape[1:] for item in load_dataset(tmp_path / "data")} > {(36, 10)}
    settings = {"data": {"kind": "prepared"}, "training.max_epochs": 1, "training.batch_size": 8}
    run = train(method, tmp_path / "data", tmp_path / "run", presets=SMOKE, settings=settings, device="cpu")
    evaluate(run, tmp_path / "data", split="training", device="cpu", progress=False, allow_training_subjects=True)
    with (run / "evaluation" / "training" / "method.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert all(math.isfinite(float(row["mae"])) for row in rows)
    small = {item["case"] for item in load_dataset(tmp_path / "data") if item["source"].shape[1] == 36}
    assert {row["case"] for row in rows if row["ssim"] in ("", "nan")} == small


def volumes(folder):
    """Four subjects of three sizes, in 3D, two of them of one size."""
    lines = ["subject,source,target,split"]
    rng = np.random.default_rng(3)
    for number, size in enumerate([(20, 24, 18), (22, 18, 16), (20, 24, 18), (17, 26, 9)]):
        for role in ("source", "target"):
            values = rng.random(size, dtype=np.float32) * 100 + 50
            values[:2] = values[-2:] = 0
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{role}{number}.nii.gz")
        lines.append(f"s{number},source{number}.nii.gz,target{number}.nii.gz,{'training' if number < 3 else 'test'}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    options = {"spatial_dims": 3, "crop": None, "align": False, "standardize": False, "progress": False}
    return prepare(folder / "pairs.csv", folder / "data", **options)


@pytest.fixture(scope="module")
def in_3d(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumes")
    summary = volumes(folder)
    sizes = "the data set has 3 sizes: 17 x 26 x 9 (1), 20 x 24 x 18 (2), 22 x 18 x 16 (1)"
    assert summary.notes[-1].startswith(sizes)
    return folder / "data"


def trained_in_3d(method, data, out, **settings):
    options = {"data": {"kind": "prepared"}, "spatial_dims": 3, "training.max_epochs": 1, "training.val_interval": 0}
    return train(method, data, out, presets=SMOKE, settings={**options, **settings}, device="cpu")


@pytest.mark.parametrize(
    "method",
    ["voxelmorph", *(pytest.param(name, marks=pytest.mark.slow) for name in method_names() if name != "voxelmorph")],
)
def test_methods_train_on_several_sizes_in_3d_and_are_evaluated(method, in_3d, tmp_path):
    if 3 not in method_class(method).abilities.spatial_dims:
        pytest.skip("translates slices alone")
    run = trained_in_3d(method, in_3d, tmp_path / "run")
    with pytest.warns(Notice, match="1 of 1 images are smaller than the 11 voxels of SSIM's window"):
        table = evaluate(run, in_3d, device="cpu", batch_size=1, progress=False)["method"]
    (row,) = table.rows.values()
    assert math.isfinite(row["mae"])
    assert math.isnan(row["ssim"])


@pytest.mark.slow
def test_unpaired_training_on_several_sizes_in_3d(in_3d, tmp_path):
    run = trained_in_3d("cyclegan", in_3d, tmp_path / "run", **{"data.partners": "resampled"})
    assert (run / "checkpoints" / "weights.safetensors").is_file()


@pytest.mark.slow
def test_evaluation_in_patches(in_3d, tmp_path):
    run = trained_in_3d("tracetrans", in_3d, tmp_path / "run")
    asked = []
    in_16 = mock.Mock(side_effect=lambda *given: asked.append(given) or PatchInferer(16))
    with mock.patch("medtrace.workflows.evaluate.patches_for", in_16):
        evaluate(
            run, in_3d, split="training", patch_size=16, device="cpu", progress=False, allow_training_subjects=True
        )
    assert asked[0][2:] == ((20, 24, 18), 16)
    options = "--split training --allow-training-subjects --patch-size 16 --batch-size 1 --device cpu --out"
    done = CliRunner().invoke(app, ["evaluate", str(run), str(in_3d), *options.split(), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    compare([run], in_3d, tmp_path / "table", split="test", device="cpu", progress=False)
    assert "–" in (tmp_path / "table" / "table.md").read_text()
