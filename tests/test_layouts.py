"""Pair lists, the BraTS-Reg layout, and the split by subject."""

import json

import pytest

from medtrace.data.lists.layouts import (
    Pair,
    read_brats_reg,
    read_pair_list,
    read_pairs,
    split_by_subject,
    split_of_list,
)


def write_list(folder, text, name="pairs.csv"):
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def images(tmp_path):
    for name in ("a0.nii.gz", "a1.nii.gz", "b0.nii.gz", "b1.nii.gz", "mask.nii.gz", "points.csv"):
        (tmp_path / name).touch()
    return tmp_path


def test_csv_and_json_give_the_same_pairs_with_paths_relative_to_the_list(images):
    csv = write_list(
        images,
        "\ufeffsubject, source, target, case, mask, note\nA,a0.nii.gz,a1.nii.gz,week6,mask.nii.gz,hello\n"
        "B,b0.nii.gz,b1.nii.gz,,,\n",
    )
    rows = [
        {"subject": "A", "source": "a0.nii.gz", "target": "a1.nii.gz", "case": "week6", "mask": "mask.nii.gz"},
        {"subject": "B", "source": "b0.nii.gz", "target": "b1.nii.gz"},
    ]
    as_list = write_list(images, json.dumps(rows), "pairs.json")
    as_dict = write_list(images, json.dumps({"pairs": rows}), "wrapped.json")
    first, second = read_pair_list(csv)
    assert (first.subject, first.case, first.name) == ("A", "week6", "A_week6")
    assert first.source == images / "a0.nii.gz"
    assert first.mask == images / "mask.nii.gz"
    assert (second.case, second.name, second.mask) == ("B", "B", None)

    def without_origin(pairs):
        return [{**vars(pair), "origin": ""} for pair in pairs]

    assert without_origin(read_pair_list(as_list)) == without_origin([first, second])
    assert without_origin(read_pair_list(as_dict)) == without_origin([first, second])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,source,after\nA,a0.nii.gz,a1.nii.gz\n", "missing column.*target.*subject, source, after"),
        ("subject,source,target\nA,a0.nii.gz,gone.nii.gz\n", "row 2: target: no such file .*gone.nii.gz"),
        ("subject,source,target\nA,a0.nii.gz\n", "row 2: no value for target"),
        ("subject,source,target\nA,a0.nii.gz,a1.nii.gz\nA,b0.nii.gz,b1.nii.gz\n", r"'A'.*\(row 2, row 3\).*case"),
        ("subject,source,target\n../A,a0.nii.gz,a1.nii.gz\n", "row 2: subject: expected letters"),
        ("subject,source,target,landmark_space\nA,a0.nii.gz,a1.nii.gz,LAS\n", "row 2: landmark_space.*'LAS'"),
        ("subject,source,target,split\nA,a0.nii.gz,a1.nii.gz,train\n", "row 2: split: expected training.*'train'"),
        (
            "subject,source,target,split\nA,a0.nii.gz,a1.nii.gz,test\nB,b0.nii.gz,b1.nii.gz,\n",
            "row 3: split: expected a value.*received none",
        ),
        (
            "subject,source,target,split\nA,a0.nii.gz,a1.nii.gz, \nB,b0.nii.gz,b1.nii.gz,test\n",
            "row 2: split: expected a value.*received none",
        ),
        (
            "subject,case,source,target,split\nA,x,a0.nii.gz,a1.nii.gz,test\nA,y,b0.nii.gz,b1.nii.gz,training\n",
            "row 3: split: subject 'A' is in training here and in test in row 2; put all",
        ),
        ("subject,source,target\n", "at least one pair"),
        ("", "missing column.*the header has nothing"),
    ],
)
def test_faulty_lists_are_refused_by_file_row_and_remedy(images, text, message):
    path = write_list(images, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read_pair_list(path)
    assert str(path) in str(caught.value)


def test_faulty_json_is_refused(images):
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_pair_list(write_list(images, "[{", "p.json"))
    with pytest.raises(ValueError, match="list of objects"):
        read_pair_list(write_list(images, '{"subject": "A"}', "p.json"))
    with pytest.raises(ValueError, match="entry 2: no value for source"):
        read_pair_list(
            write_list(images, '[{"subject":"A","source":"a0.nii.gz","target":"a1.nii.gz"},{"subject":"B"}]', "p.json")
        )
    with pytest.raises(FileNotFoundError, match="no such pair list"):
        read_pairs(images / "none.csv")


def make_brats(folder, numbers=(1, 2), weeks=("0106", "0029")):
    for number, week in zip(numbers, weeks):
        name = f"BraTSReg_{number:03d}"
        (folder / name).mkdir(parents=True)
        for time in ("00_0000", f"01_{week}"):
            for ending in ("t1.nii.gz", "t1ce.nii.gz", "t2.nii.gz", "flair.nii.gz", "landmarks.csv"):
                (folder / name / f"{name}_{time}_{ending}").touch()
    return folder


def test_brats_reg_layout(tmp_path):
    folder = make_brats(tmp_path / "data")
    pairs = read_pairs(folder)
    assert [pair.name for pair in pairs] == ["BraTSReg_001", "BraTSReg_002"]
    assert pairs[0].source.name == "BraTSReg_001_00_0000_t1.nii.gz"
    assert pairs[1].target.name == "BraTSReg_002_01_0029_t1.nii.gz"
    assert pairs[1].target_landmarks.name == "BraTSReg_002_01_0029_landmarks.csv"
    assert {pair.landmark_space for pair in pairs} == {"LPS"}
    both = read_brats_reg(folder, ("t1", "t2"))
    assert [(pair.subject, pair.case, pair.contrast) for pair in both[:2]] == [
        ("BraTSReg_001", "BraTSReg_001_t1", "t1"),
        ("BraTSReg_001", "BraTSReg_001_t2", "t2"),
    ]


def test_brats_reg_faults_are_named(tmp_path):
    folder = make_brats(tmp_path / "data")
    (folder / "BraTSReg_002" / "BraTSReg_002_00_0000_landmarks.csv").unlink()
    assert read_brats_reg(folder)[1].source_landmarks is None
    (folder / "BraTSReg_002" / "BraTSReg_002_01_0029_t1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="BraTSReg_002: no follow-up scan"):
        read_brats_reg(folder)
    (folder / "BraTSReg_002" / "BraTSReg_002_01_0029_t1.nii.gz").touch()
    (folder / "BraTSReg_002" / "BraTSReg_002_01_0030_t1.nii.gz").touch()
    with pytest.raises(ValueError, match="expected one 01 t1"):
        read_brats_reg(folder)
    with pytest.raises(FileNotFoundError, match="no BraTSReg_xxx folder"):
        read_brats_reg(tmp_path)


def cohort(subjects, cases=1):
    return [Pair(f"S{s:03d}", f"S{s:03d}_{c}", "x", "y") for s in range(subjects) for c in range(cases)]


def test_paper_split_is_by_subject():
    split = split_by_subject(cohort(160, cases=2))
    assert {name: len(pairs) for name, pairs in split.items()} == {"training": 224, "validation": 0, "test": 96}
    subjects = [{pair.subject for pair in pairs} for pairs in split.values()]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == 160


def test_split_depends_on_the_seed_and_not_on_the_order():
    pairs = cohort(20)
    split = split_by_subject(pairs, {"training": 0.6, "validation": 0.2, "test": 0.2}, seed=3)
    turned = split_by_subject(pairs[::-1], (0.6, 0.2, 0.2), seed=3)
    assert {n: sorted(p.case for p in v) for n, v in split.items()} == {
        n: sorted(p.case for p in v) for n, v in turned.items()
    }
    assert [len(v) for v in split.values()] == [12, 4, 4]
    assert split["test"] != split_by_subject(pairs, (0.6, 0.2, 0.2), seed=4)["test"]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.7, 0.3), "three numbers"),
        ((0.7, 0.0, 0.4), "sum to 1"),
        ((1.2, 0.0, -0.2), "at least 0"),
        ({"train": 1.0}, "names among training, validation, test"),
        ((0.98, 0.01, 0.01), "leave validation, test empty"),
    ],
)
def test_wrong_shares_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        split_by_subject(cohort(10), fractions)


def test_a_list_may_bring_its_split(images):
    rows = "A,x,a0.nii.gz,a1.nii.gz,test\nB,x,b0.nii.gz,b1.nii.gz, training\nA,y,a0.nii.gz,b1.nii.gz,test\n"
    pairs = read_pair_list(write_list(images, f"subject,case,source,target,split\n{rows}"))
    assert [pair.split for pair in pairs] == ["test", "training", "test"]
    split = split_of_list(pairs)
    assert {name: [pair.name for pair in result] for name, result in split.items()} == {
        "training": ["B_x"],
        "validation": [],
        "test": ["A_x", "A_y"],
    }
    entries = [{"subject": "A", "source": "a0.nii.gz", "target": "a1.nii.gz", "split": "validation"}]
    assert read_pair_list(write_list(images, json.dumps(entries), "p.json"))[0].split == "validation"


@pytest.mark.parametrize(
    "text", ["subject,source,target\nA,a0.nii.gz,a1.nii.gz\n", "subject,source,target,split\nA,a0.nii.gz,a1.nii.gz,\n"]
)
def test_a_list_without_a_split_leaves_it_open(images, text):
    assert split_of_list(read_pair_list(write_list(images, text))) is None
