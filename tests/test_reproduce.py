"""Papers run again on a user's data: what their recipes declare, choose, prepare, train and write."""

import csv
import json

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.dataset import load_dataset, read_index
from medtrace.evaluation.papers.crossing import crossed_pairs
from medtrace.evaluation.papers.lists import domain_lists, pair_list
from medtrace.evaluation.papers.places import find_data
from medtrace.evaluation.papers.tumor_slices import tumor_slices
from medtrace.evaluation.registration_scores import score_pair
from medtrace.methods import method_class, resolve
from medtrace.methods.recipes import PaperRow
from medtrace.methods.registry import recipe_names, recipe_of
from medtrace.metrics import CaseTable
from medtrace.storage.files import write_json
from medtrace.trace import Trace
from medtrace.workflows.reproduce import papers, reproduce
from medtrace.workflows.reproducing.costs import plan_lines
from medtrace.workflows.reproducing.datasets import prepared_data
from medtrace.workflows.reproducing.rows import rows_of
from tests.paper_data import PAPERS, head, write_brats, write_hearts, write_ircadb, write_learn2reg


def data_of(paper, name):
    return next(one for one in recipe_of(paper).data if one.name == name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_row_of_a_recipe_can_be_trained_by_the_papers_preset(name):
    recipe = recipe_of(name)
    for table in recipe.tables:
        assert recipe.data_of(table).name == table.data
        for row in table.rows:
            assert set(row.published) <= set(table.columns)
            if row.method:
                resolve(method_class(row.method).settings_type, ("paper",), row.settings)


def test_tables_are_as_long_as_the_papers():
    rows = {f"{name} {table.name}": len(table.rows) for name in recipe_names() for table in recipe_of(name).tables}
    assert rows["reggan table_1_brats2018"] == 1 + 4 * 4  # the source itself stands above
    assert rows["reggan table_2_brats2018"] == 1 + 3 * 6
    assert rows["tracetrans table_2_brats-reg"] == 1 + 7
    assert rows["plasticine table_i_cardiac"] == 10
    assert rows["plasticine table_iii_cardiac"] == 9


def test_a_printed_number_beside_a_bound():
    """RegGAN's NMAE beside its PSNR: as the note of its tables says."""
    row = recipe_of("reggan").tables[1].rows[-6]
    assert row.label == "RegGAN, Noise.0"
    assert (row.published["nmae_unit_foreground"], row.published["psnr_unit_foreground"]) == (0.071, 26.0)
    assert dict(row.settings) == {
        "backbone": "cyclegan",
        "cycle": False,
        "correction": True,
        "data.misalignment": "0",
        "data.moved": "target",
    }


def test_a_row_is_one_of_three():
    with pytest.raises(ValueError, match="expected one of method, control and missing"):
        PaperRow("both", method="pix2pix", missing="absent")


def test_the_papers_are_listed():
    result = CliRunner().invoke(app, ["reproduce"])
    assert result.exit_code == 0
    assert result.output.splitlines() == papers()
    for told in ("data brats2018: BraTS 2018; by registration", "table IV: ", "not reproduced: Arar et al."):
        assert told in result.output


def test_a_folder_of_something_else_is_told_what_it_would_look_like(tmp_path):
    (tmp_path / "notes").mkdir()
    result = CliRunner().invoke(app, ["reproduce", "reggan", "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "--data: expected in" in result.output
    assert "[HGG/]Brats18_NAME/Brats18_NAME_{t1,t2}.nii.gz" in result.output
    assert "it holds notes" in result.output
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="table: expected one of 1, 2, figure6 of reggan, received '9'"):
        reproduce("reggan", tmp_path, tmp_path / "out", table="9")
    with pytest.raises(ValueError, match="paper: expected one of metaregnet"):
        reproduce("unet", tmp_path, tmp_path / "out")


def test_a_table_whose_data_are_not_there(tmp_path):
    write_learn2reg(tmp_path / "chest")
    with pytest.raises(FileNotFoundError, match=r"table IV needs retinal OCT.*found only chest"):
        reproduce("plasticine", tmp_path, tmp_path / "out", table="IV")


def test_heads_healthy_and_pathological_are_of_different_subjects(tmp_path):
    write_brats(tmp_path / "brats2021", "BraTS2021_", subjects=8)
    preparation = data_of("metaregnet", "brats2021").preparation
    slices = tumor_slices(preparation, tmp_path / "brats2021", smoke=True)
    assert [(one.split, bool(one.tumor.any())) for one in slices] == [
        ("training", False),
        ("training", False),
        ("training", True),
        ("training", True),
        ("validation", False),
        ("validation", True),
        ("test", False),
        ("test", True),
    ]
    assert len({one.subject for one in slices}) == 8
    for one in slices:
        assert float(one.image.min()) == 0
        assert 0.5 < float(one.image.max()) <= 1
    # the tumor reaches no lower than slice 7, and most of a brain of this shape is in its middle
    healthy = slices[0]
    assert torch.equal((healthy.image > 0)[0], torch.from_numpy(head("T1", int(healthy.subject[-5:]))[..., 6] > 0))
    with pytest.raises(ValueError, match="expected 240 subjects with t1 and a segmentation"):
        tumor_slices(preparation, tmp_path / "brats2021")


def test_livers_are_cut_to_one_square_of_gray_values(tmp_path):
    write_ircadb(tmp_path)
    preparation = data_of("metaregnet", "ircadb").preparation
    slices = tumor_slices(preparation, tmp_path, smoke=True)
    assert [one.split for one in slices].count("training") == 3
    assert {one.image.shape for one in slices} == {(1, 32, 32)}
    for one in slices:
        places = one.organ[0].nonzero()
        assert ((places.amin(0) + places.amax(0) + 1 - 32).abs() <= 1).all()
        assert not one.image[~one.organ].any()
        assert float(one.image.max()) == 1
        # 100 HU of liver and 40 HU of tumor, from -1000 HU on
        if bool(one.tumor.any()):
            ratio = one.image[one.tumor].mean() / one.image[one.organ & ~one.tumor].mean()
            assert float(ratio) == pytest.approx(1040 / 1100, abs=0.01)


def test_crossed_pairs_and_their_rotations(tmp_path):
    write_ircadb(tmp_path / "ircadb")
    data = data_of("metaregnet", "ircadb")
    dataset = prepared_data(data, tmp_path / "ircadb", tmp_path / "out", smoke=True, progress=False)
    index = read_index(dataset)
    assert [len(index[split]) for split in ("training", "validation", "test")] == [8, 1, 1]
    cases = {case["case"]: case for case in load_dataset(dataset)}
    plain = next(name for name in cases if f"{name}_90" in cases)
    for key in ("source", "target", "mask", "target_labels"):
        turned = torch.rot90(cases[plain][key].as_tensor(), 1, (1, 2))
        assert torch.equal(cases[f"{plain}_90"][key].as_tensor(), turned)
    prepared_data(data, tmp_path / "ircadb", tmp_path / "out", smoke=True, progress=False)
    assert len(read_index(dataset)["training"]) == 8


def test_random_pairs_stay_within_their_split(tmp_path):
    write_brats(tmp_path / "brats2021", "BraTS2021_", subjects=8)
    preparation = data_of("metaregnet", "brats2021").preparation
    rows = json.loads(crossed_pairs(preparation, tmp_path / "brats2021", tmp_path / "a.json", smoke=True).read_text())
    assert [row["split"] for row in rows] == ["training"] * 4 + ["validation", "test"]
    members = [
        {name for row in rows if row["split"] == split for name in row["case"].split("-")}
        for split in ("training", "validation", "test")
    ]
    assert not members[0] & members[1] | members[1] & members[2] | members[0] & members[2]


def test_learn2reg_is_read_from_mr_to_ct(tmp_path):
    write_learn2reg(tmp_path / "chest")
    recipe = recipe_of("plasticine")
    place = find_data(recipe, tmp_path)["chest"]
    rows = json.loads(pair_list(data_of("plasticine", "chest").preparation, place, tmp_path / "list.json").read_text())
    assert {(row["contrast"], row["target_contrast"]) for row in rows} == {("MR", "CT")}
    assert rows[0]["source"].endswith("_0000.nii.gz")
    assert rows[0]["source_labels"].endswith("labelsTr/AbdomenMRCT_0000_0000.nii.gz")


def test_hearts_at_end_diastole_of_three_groups(tmp_path):
    write_hearts(tmp_path / "cardiac")
    preparation = data_of("plasticine", "cardiac").preparation
    sources, targets = (
        json.loads(path.read_text()) for path in domain_lists(preparation, tmp_path / "cardiac", tmp_path / "lists")
    )
    assert [row["subject"] for row in sources] == [f"ACDC-patient00{number}" for number in (2, 3, 4)]
    assert all(row["image"].endswith("_frame01.nii.gz") for row in sources)
    assert sorted(row["split"] for row in targets) == ["test", "training", "training", "training"]


def test_hearts_whose_labels_are_numbered_in_another_way(tmp_path):
    write_hearts(tmp_path / "cardiac")
    for file in (tmp_path / "cardiac" / "ukbiobank").glob("*/label_sa_ED.nii.gz"):
        labels = nibabel.load(file)
        values = np.asarray(labels.dataobj)
        nibabel.save(nibabel.Nifti1Image(np.array([0, 3, 2, 1], np.uint8)[values], labels.affine), file)
    with pytest.raises(ValueError, match=r"expected label 3 within label 2, which is \d+ of \d+ of what surrounds it"):
        domain_lists(data_of("plasticine", "cardiac").preparation, tmp_path / "cardiac", tmp_path / "lists")


def test_hours_are_of_the_trainings_that_are_not_done(tmp_path, monkeypatch):
    write_ircadb(tmp_path / "data")
    dataset = prepared_data(data_of("metaregnet", "ircadb"), tmp_path / "data", tmp_path, smoke=True, progress=False)
    tables = recipe_of("metaregnet").tables
    rows = rows_of(tables, {"ircadb": dataset}, tmp_path, smoke=False)
    monkeypatch.setattr("medtrace.workflows.reproducing.costs.seconds_per_step", lambda *_: 3.6)
    lines = plan_lines(rows, "cpu")
    assert "  VM-CFM: voxelmorph, 500 steps of 3.6 s, about 0.5 hours" in lines
    assert lines[-1] == "2 training(s), about 1.0 hours on cpu, without the measuring"
    rows[1].run.mkdir(parents=True)
    write_json(rows[1].run / "training.json", {})
    assert plan_lines(rows, "cpu")[-1].startswith("1 training(s), about 0.5 hours")
    with pytest.raises(ValueError, match=r"was made from .*data, not from .*elsewhere"):
        prepared_data(data_of("metaregnet", "ircadb"), tmp_path / "elsewhere", tmp_path)


def test_a_registration_of_real_slices_by_hand():
    source, target = torch.full((1, 8, 8), -1.0), torch.full((1, 8, 8), -1.0)
    source[:, 2:6, 2:6], target[:, 2:6, 2:6] = 0.0, 1.0
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 2:4] = True
    labels = (source > -1).int()
    trace = Trace.build(source, source, torch.zeros(2, 8, 8), affine=torch.eye(4, dtype=torch.float64))
    case = {"target": target, "mask": mask, "source_labels": labels, "target_labels": (target > -1).int()}
    # 16 of 64 pixels differ by a half of the range; 8 of 56 outside of the mask
    assert score_pair(trace, case) == {
        "ssd_total": pytest.approx(16 / 64 / 4),
        "ssd_healthy": pytest.approx(8 / 56 / 4),
        "folds": 0,
        "dice": 1.0,
    }


def test_a_second_call_does_what_is_missing(tmp_path, monkeypatch):
    write_ircadb(tmp_path / "data")
    done = []

    def run(row, device, progress):  # noqa: ARG001
        if len(done) == 1:
            done.append("broken")
            raise OSError("the power went out")
        done.append(row.row.label)
        table = CaseTable()
        for case, value in (("a", 0.03), ("b", 0.05)):
            table.add(case, {"ssd_total": value, "dice": 0.9})
        row.file.parent.mkdir(parents=True, exist_ok=True)
        write_json(row.file, {"values": {name: one._asdict() for name, one in table.summary().items()}})

    monkeypatch.setattr("medtrace.workflows.reproduce.run_row", run)
    arguments = ("metaregnet", tmp_path / "data", tmp_path / "out")
    lines = []
    assert reproduce(*arguments, smoke=True, plan=True, progress=False, say=lines.append) is None
    assert any(line.startswith("3D-IRCADb-01: 8 training, 1 validation, 1 test") for line in lines)
    assert "2 training(s) on" in " ".join(lines)
    assert any(line.startswith("not reproduced: BraTS 2021: not in the folder") for line in lines)
    assert not done
    with pytest.raises(OSError, match="power"):
        reproduce(*arguments, smoke=True, progress=False)
    page = reproduce(*arguments, smoke=True, progress=False)
    assert done == ["the source itself (not in the paper)", "broken", "VM-CFM", "MetaRegNet"]
    text = page.read_text()
    assert "The measured numbers mean nothing" in text
    line = next(line for line in text.splitlines() if line.startswith("| MetaRegNet"))
    assert [cell.strip() for cell in line.split("|")][2:4] == ["**0.40 ± 0.14**", "0.4"]  # printed in 1e-1
    with (page.parent / "tables" / "table_1_ircadb.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if (row["row"], row["column"]) == ("VM-CFM", "dice")]
    assert (row["n"], float(row["mean"]), row["printed"]) == ("2", 0.9, "0.88")


def test_rows_that_are_trained_alike_are_one_training(tmp_path):
    recipe = recipe_of("plasticine")
    rows = rows_of(recipe.tables, {"oct": tmp_path / "oct"}, tmp_path, smoke=False)
    runs = {(row.table.number, row.row.label): row.run for row in rows if row.row.method}
    assert len({run for (_, label), run in runs.items() if label == "Plasticine"}) == 1
    assert runs["IV", "Combination"] != runs["IV", "Plasticine"], "trained apart, as in the paper"
    files = [row.file for row in rows if row.table.number == "IV"]
    assert len(set(files)) == 2


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_a_paper_runs_end_to_end(paper, tmp_path):
    data = tmp_path / "data"
    PAPERS[paper](data)
    page = reproduce(paper, data, tmp_path / "out", smoke=True, progress=False)
    text = page.read_text()
    assert "not run yet" not in text
    measured = [json.loads(path.read_text())["values"] for path in (page.parent / "rows").rglob("*.json")]
    runs = {path.parent for path in (page.parent / "runs").rglob("run.json")}
    wanted = {
        run
        for table in recipe_of(paper).tables
        for run in (row.run for row in rows_of((table,), {table.data: data}, page.parent, True) if row.row.method)
    }
    assert runs == wanted
    for table in recipe_of(paper).tables:
        assert any(set(table.columns) <= set(values) for values in measured), table.name
    before = {path: path.stat().st_mtime_ns for path in (page.parent / "runs").rglob("*") if path.is_file()}
    assert reproduce(paper, data, tmp_path / "out", smoke=True, progress=False) == page
    assert before == {path: path.stat().st_mtime_ns for path in (page.parent / "runs").rglob("*") if path.is_file()}
    assert page.read_text() == text
    assert np.isfinite(
        [
            value["mean"]
            for values in measured
            for value in values.values()
            if isinstance(value, dict) and value["undefined"] < value["n"]
        ]
    ).any()
