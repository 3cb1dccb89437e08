"""Subjects of TorchIO where data lists are: in a bundle's data set and in an evaluation."""

import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor

from medtrace.data import TraceBench, items_of_subjects
from medtrace.data.pair_files import ReadPairFilesd
from medtrace.workflows.evaluate import evaluate

tio = pytest.importorskip("torchio", reason="needs torchio")
AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])


def subject(seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = {name: torch.rand(1, 16, 18, 1, generator=generator) * 100 + 1 for name in ("image", "label")}
    return tio.Subject(
        {name: tio.ScalarImage(tensor=values, affine=AFFINE) for name, values in images.items()},
        mask=tio.LabelMap(tensor=(images["label"] > 90).to(torch.uint8), affine=AFFINE),
        age=40,
    )


def test_subjects_become_items_with_their_geometry():
    subjects = [subject(0), subject(1)]
    items = items_of_subjects(tio.SubjectsDataset(subjects))
    assert len(items) == 2
    item = items[1]
    assert isinstance(item["image"], MetaTensor)
    assert torch.equal(item["image"].as_tensor(), subjects[1]["image"].data)
    np.testing.assert_array_equal(item["image"].affine, AFFINE)
    assert (item["mask"].dtype, item["age"]) == (torch.uint8, 40)


def test_other_items_stay_as_they_are():
    items = [{"source": torch.zeros(1, 8, 8)}]
    assert items_of_subjects(items) is items


def test_a_bundles_preprocessing_takes_them_as_files():
    cases = Dataset([subject()], ReadPairFilesd(2))
    item = cases[0]
    assert set(item) >= {"source", "target", "mask", "age"}
    assert item["source"].shape == (1, 16, 18)
    assert (float(item["source"].min()), float(item["source"].max())) == (-1.0, 1.0)


def test_evaluation_takes_them(smoke_run, tmp_path):
    shape = read_shape(smoke_run)
    cases = TraceBench("postop", shape, cases=2, split="test")
    subjects = [
        tio.Subject(
            case=case["case"],
            **{
                name: tio.ScalarImage(tensor=case[name].as_tensor()[..., None], affine=case[name].affine.numpy())
                for name in ("source", "target")
            },
        )
        for case in cases
    ]
    given = {"cheap_rows": False, "delivered": False, "progress": False, "device": "cpu"}
    tables = evaluate(smoke_run, subjects, tmp_path / "of_subjects", **given)
    known = evaluate(smoke_run, cases, tmp_path / "of_cases", **given)
    assert tables["method"].values("mae") == pytest.approx(known["method"].values("mae"))


def read_shape(run):
    from medtrace.engines.runs import read_run

    return read_run(run).settings.data.spatial_shape
