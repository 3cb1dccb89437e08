"""Layouts of published data sets, each a small fake after its published description."""

import itertools
import json
import logging

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data.dataset import load_dataset, load_domain
from medtrace.data.lists.layouts import LAYOUTS, read_layout, read_side
from medtrace.data.lists.studies import Selection
from medtrace.data.reading import read_image
from medtrace.workflows.prepare import prepare
from tests.paper_data import ball, write_ircadb
from tests.several_images import head, save_head


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def put(folder, content, name="dataset.json"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def short(pairs, folder):
    return [(p.subject, *(f"{i.contrast}={i.path.relative_to(folder)}" for i in p.images)) for p in pairs]


def test_bids_pairs_contrasts_of_a_session_and_dates_of_a_contrast(tmp_path):
    put(tmp_path, {"Name": "x", "BIDSVersion": "1.8.0"}, "dataset_description.json")
    for session in ("post", "pre"):
        touch(
            tmp_path, *(f"sub-01/ses-{session}/anat/sub-01_ses-{session}_{c}.nii.gz" for c in ("T1w", "T2w", "FLAIR"))
        )
    touch(
        tmp_path,
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_ce-gadolinium_T1w.nii.gz",
        "sub-02/anat/x_T1w.json",
    )
    pairs, title = read_layout(tmp_path, ["T1w,FLAIR:T2w"])
    assert title == "BIDS"
    assert [pair.case for pair in pairs] == ["01_post", "01_pre"]
    assert pairs[0].channels == ("T1w", "FLAIR")
    assert pairs[0].images[-1].path.name == "sub-01_ses-post_T2w.nii.gz"
    with pytest.raises(ValueError, match=r"order is known, received post, pre; .* --select ses-post_T1w:ses-pre_T1w"):
        read_layout(tmp_path, ["T1w"])
    (dates,) = read_layout(tmp_path, ["ses-pre_T1w,ses-pre_FLAIR:ses-post_T1w"]).pairs
    assert (dates.case, dates.channels) == ("01_pre_post", ("T1w", "FLAIR"))
    assert [image.path.parent.parent.name for image in dates.images] == ["ses-pre", "ses-pre", "ses-post"]
    assert [image.contrast for image in dates.images] == ["T1w", "FLAIR", "T1w"]
    (after,) = read_layout(tmp_path, ["ses-post_T1w:ses-post_T2w"]).pairs
    assert (after.case, after.target_contrast) == ("01_post", "T2w")
    for select, message in (
        ("ses-pre_T1w:T1w", "a date on both sides or neither, received pre alone"),
        ("ses-pre_T1w,FLAIR:ses-post_T2w", "one side at one date, received pre, "),
        ("ses-late_T1w:ses-post_T1w", "no study has what --select"),
    ):
        with pytest.raises(ValueError, match=message):
            read_layout(tmp_path, [select])
    (enhanced,) = read_layout(tmp_path, ["T1w:T1w-ce"]).pairs
    assert enhanced.subject == "02"
    touch(tmp_path, "sub-02/anat/sub-02_run-2_T1w.nii.gz")
    with pytest.raises(ValueError, match="expected one T1w per subject and date"):
        read_layout(tmp_path, ["T1w"])


@pytest.mark.parametrize(
    ("sessions", "times", "order"),
    [
        (("10", "2", "1"), {}, ["1", "2", "10"]),
        (("m12", "m06", "m00"), {}, ["m00", "m06", "m12"]),
        (("post", "pre"), {"pre": "2009-06-15T13:45:30", "post": "2009-07-01"}, ["pre", "post"]),
        (("02", "01"), {"02": "1877-06-15T13:45:30.000000Z", "01": "1877-06-20T00:00:00"}, ["02", "01"]),
        (("02", "01"), {"02": "n/a", "01": "1877-06-20T00:00:00"}, ["01", "02"]),
    ],
)
def test_dates_follow_each_other_by_time_or_number(tmp_path, sessions, times, order):
    put(tmp_path, {"Name": "x", "BIDSVersion": "1.8.0"}, "dataset_description.json")
    touch(tmp_path, *(f"sub-01/ses-{name}/anat/sub-01_ses-{name}_T1w.nii.gz" for name in sessions))
    if times:
        rows = ["session_id\tacq_time", *(f"ses-{name}\t{time}" for name, time in times.items())]
        (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text("\n".join(rows))
    pairs = read_layout(tmp_path, ["T1w"]).pairs
    expected = [[f"ses-{before}", f"ses-{after}"] for before, after in itertools.pairwise(order)]
    assert [[image.path.parent.parent.name for image in pair.images] for pair in pairs] == expected


def test_a_time_that_is_none_is_refused(tmp_path):
    put(tmp_path, {"Name": "x", "BIDSVersion": "1.8.0"}, "dataset_description.json")
    touch(tmp_path, "sub-01/ses-1/anat/sub-01_ses-1_T1w.nii.gz")
    (tmp_path / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tacq_time\nses-1\tyesterday")
    with pytest.raises(ValueError, match=r"acq_time: expected a date such as .*, received 'yesterday'"):
        read_layout(tmp_path, ["T1w"])


def test_runs_of_one_contrast_are_asked_for(tmp_path, caplog):
    put(tmp_path, {"Name": "x", "BIDSVersion": "1.8.0"}, "dataset_description.json")
    for subject in ("01", "02"):
        names = ("run-01_T1w", "run-02_T1w", "T2w") if subject == "01" else ("acq-fast_T1w", "T2w")
        touch(tmp_path, *(f"sub-{subject}/anat/sub-{subject}_{name}.nii.gz" for name in names))

    def files(*select):
        pairs = read_layout(tmp_path, select).pairs
        return [(p.case, p.contrast, *(image.path.name[7:-7] for image in p.images)) for p in pairs]

    with pytest.raises(ValueError, match=r"run-01_T1w, run-02_T1w;.*--select run-01_T1w,.*--select run-\*_T1w"):
        files("T1w:T2w")
    with caplog.at_level(logging.WARNING):
        assert files("run-02_T1w:T2w") == [("01", "T1w", "run-02_T1w", "T2w")]
    assert "1 of 2 studies lack" in caplog.text
    assert files("acq-fast_T1w:T2w") == [("02", "T1w", "acq-fast_T1w", "T2w")]
    each = [("01_run-01_T1w-T2w", "T1w", "run-01_T1w", "T2w"), ("01_run-02_T1w-T2w", "T1w", "run-02_T1w", "T2w")]
    assert files("run-*_T1w:T2w") == each
    assert files("run-01_T1w:run-02_T1w") == [("01", "T1w", "run-01_T1w", "run-02_T1w")]
    assert [p.case for p in read_side(tmp_path, "source", ["run-*_T1w"])] == [
        "01_run-01_T1w_source",
        "01_run-02_T1w_source",
    ]
    with pytest.raises(ValueError, match="expected contrasts among T1w, T2w, received 'run-03_T1w'"):
        files("run-03_T1w:T2w")
    with pytest.raises(ValueError, match="one side in several contrasts"):
        files("run-01_T1w,run-02_T1w:T2w")


@pytest.mark.parametrize("root", ["HGG/Brats18_2013_2_1", "LGG/Brats18_TCIA_1_1", "BraTS2021_00002"])
def test_brats(tmp_path, root):
    name = root.rpartition("/")[2]
    touch(tmp_path, *(f"{root}/{name}_{c}.nii.gz" for c in ("t1", "t1ce", "t2", "flair", "seg")))
    (pair,) = read_layout(tmp_path, ["t1,flair:t2"]).pairs
    assert short([pair], tmp_path) == [
        (name, f"t1={root}/{name}_t1.nii.gz", f"flair={root}/{name}_flair.nii.gz", f"t2={root}/{name}_t2.nii.gz")
    ]
    assert pair.source_labels == pair.target_labels == tmp_path / root / f"{name}_seg.nii.gz"
    with pytest.raises(ValueError, match="has flair, t1, t1ce, t2; specify what becomes what"):
        read_layout(tmp_path)
    with pytest.raises(ValueError, match="expected contrasts among flair, t1, t1ce, t2, received 'T1'"):
        read_layout(tmp_path, ["T1:t2"])


def test_brats_of_which_some_lack_a_contrast(tmp_path, caplog):
    for number, contrasts in enumerate((("t1", "t2", "flair"), ("t1", "t2"), ("t1",))):
        name = f"BraTS2021_0000{number}"
        touch(tmp_path, *(f"{name}/{name}_{contrast}.nii.gz" for contrast in contrasts))
    with caplog.at_level(logging.WARNING):
        complete, lacking = read_layout(tmp_path, ["t1,flair:t2"]).pairs
    assert "1 of 3 studies lack a contrast" in caplog.text
    assert None not in complete.sources
    assert lacking.sources[1] is None


@pytest.mark.parametrize(
    ("case", "source", "ending"),
    [
        ("Task1/brain/1BA001", "MR", ".nii.gz"),
        ("Task2/pelvis/2PC004", "CBCT", ".nii.gz"),
        ("Task1/HN/1HNA001", "MR", ".mha"),
        ("Task2/TH/2THE103", "CBCT", ".mha"),
    ],
)
def test_synthrad(tmp_path, case, source, ending):
    touch(tmp_path, *(f"{case}/{name}{ending}" for name in (source.lower(), "ct", "mask")))
    (pair,) = read_layout(tmp_path).pairs
    assert (pair.contrast, pair.target_contrast) == (source, "CT")
    assert pair.mask == tmp_path / case / f"mask{ending}"


def test_acdc_pairs_end_diastole_with_end_systole(tmp_path):
    for part, name in (("training", "patient001"), ("testing", "patient101")):
        touch(
            tmp_path,
            *(f"{part}/{name}/{name}_{end}.nii.gz" for end in ("frame01", "frame01_gt", "frame12", "frame12_gt", "4d")),
        )
        (tmp_path / part / name / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    first, second = read_layout(tmp_path).pairs
    assert (first.split, second.split) == ("test", "training")
    assert short([second], tmp_path / "training/patient001") == [
        ("patient001", "cine=patient001_frame01.nii.gz", "cine=patient001_frame12.nii.gz")
    ]
    assert second.target_labels.name == "patient001_frame12_gt.nii.gz"


def test_ircadb_is_a_domain_of_ct(tmp_path):
    touch(tmp_path, "3Dircadb1.1/PATIENT_DICOM/image_0", "3Dircadb1.1/MASKS_DICOM/liver/image_0")
    (pair,) = read_side(tmp_path, "source")
    assert (pair.subject, pair.contrast, pair.source) == ("3Dircadb1.1", "CT", tmp_path / "3Dircadb1.1/PATIENT_DICOM")
    assert pair.target is None
    assert pair.source_labels == pair.source_lesion == tmp_path / "3Dircadb1.1/MASKS_DICOM"
    touch(tmp_path, "3Dircadb1.2/PATIENT_DICOM.zip")
    with pytest.raises(ValueError, match=r"unzip PATIENT_DICOM\.zip"):
        read_side(tmp_path, "source")


def test_masks_of_ircadb_are_labels_and_lesions(tmp_path):
    write_ircadb(tmp_path / "livers", 2)
    mr = tmp_path / "mr.csv"
    for person in range(2):
        save_head(tmp_path / f"{person}.nii.gz", "T1", person)
    mr.write_text("subject,image\nA,0.nii.gz\nB,1.nii.gz\n")
    prepare(
        None,
        tmp_path / "set",
        sources=tmp_path / "livers",
        targets=mr,
        target_contrast="T1",
        spatial_dims=3,
        crop=None,
        fractions=(1, 0, 0),
        progress=False,
    )
    healthy, ill = load_domain(tmp_path / "set", "source")
    assert healthy["source_labels"].unique().tolist() == [0, 1]
    assert not healthy["source_mask"].any()
    assert ill["source_labels"].unique().tolist() == [0, 1, 2]
    assert torch.equal(ill["source_mask"].as_tensor(), ill["source_labels"].as_tensor() == 2)
    grid = np.indices((48, 40, 6))
    assert int(ill["source_mask"].sum()) == int(ball((20, 20, 4), 2, grid).sum())


@pytest.mark.parametrize("key", ["channel_names", "modality"])
def test_nnunet_channels_are_contrasts(tmp_path, key):
    put(tmp_path, {key: {"0": "T1", "1": "T2"}, "training": [], "file_ending": ".nii.gz"})
    touch(tmp_path, *(f"imagesTr/BRATS_001_000{c}.nii.gz" for c in range(2)), "labelsTr/BRATS_001.nii.gz")
    (pair,) = read_layout(tmp_path, ["T1:T2"]).pairs
    assert short([pair], tmp_path / "imagesTr") == [
        ("BRATS_001", "T1=BRATS_001_0000.nii.gz", "T2=BRATS_001_0001.nii.gz")
    ]
    assert pair.source_labels == tmp_path / "labelsTr/BRATS_001.nii.gz"
    assert pair.split == ""
    touch(tmp_path, *(f"imagesTs/BRATS_002_000{c}.nii.gz" for c in range(2)))
    assert [p.split for p in read_layout(tmp_path, ["T1:T2"]).pairs] == ["training", "test"]


def test_decathlon_lists(tmp_path):
    touch(tmp_path, *(f"images/{name}.nii.gz" for name in ("a_t1", "a_t2", "b_t1", "b_t2")))
    cases = [{"subject": s, "T1": f"./images/{s}_t1.nii.gz", "T2": f"images/{s}_t2.nii.gz", "fold": 0} for s in "ab"]
    put(tmp_path, {"training": cases[:1], "test": cases[1:]})
    for place in (tmp_path, tmp_path / "dataset.json"):
        pairs, title = read_layout(place, ["T1:T2"])
        assert title.startswith("MONAI")
        assert [(pair.subject, pair.split) for pair in pairs] == [("a", "training"), ("b", "test")]
    several = {
        "modality": {"0": "T1", "1": "T2"},
        "training": [{"image": ["images/a_t1.nii.gz", "images/a_t2.nii.gz"]}],
    }
    put(tmp_path, several)
    assert short(read_layout(tmp_path, ["T1:T2"]).pairs, tmp_path)[0][1:] == (
        "T1=images/a_t1.nii.gz",
        "T2=images/a_t2.nii.gz",
    )
    put(tmp_path, {"modality": {"0": "FLAIR", "1": "T1w"}, "training": [{"image": "images/a_t1.nii.gz"}]})
    (tmp_path / "images/a_t1.nii.gz").unlink()
    save_head(tmp_path / "images/a_t1.nii.gz", "T1")
    with pytest.raises(ValueError, match="FLAIR, T1w, or one of four axes that holds 2 volumes, received 1 in"):
        read_layout(tmp_path, ["FLAIR:T1w"])


@pytest.fixture
def four_axes(tmp_path):
    """A task of the Medical Segmentation Decathlon: several contrasts in one file, labels beside."""
    place = put(tmp_path / "Task01", {"modality": {"0": "FLAIR", "1": "T1w", "2": "T2w"}, "training": [], "test": []})
    entries = []
    for person in range(3):
        values = np.stack([head(contrast, person) for contrast in ("FLAIR", "T1", "T2")], axis=-1)
        for folder in ("imagesTr", "labelsTr"):
            (place / folder).mkdir(exist_ok=True)
        affine = np.diag([4.0, 4.0, 4.0, 1.0])
        nibabel.save(nibabel.Nifti1Image(values, affine), place / f"imagesTr/BRATS_00{person}.nii.gz")
        labels = (values[..., 1] > 500).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, affine), place / f"labelsTr/BRATS_00{person}.nii.gz")
        entries.append({part[:-1]: f"./{part}Tr/BRATS_00{person}.nii.gz" for part in ("images", "labels")})
    content = {"modality": {"0": "FLAIR", "1": "T1w", "2": "T2w"}, "training": entries, "test": []}
    return put(place, content)


def test_volumes_of_one_file_are_contrasts(four_axes, tmp_path):
    pairs, title = read_layout(four_axes, ["T1w,FLAIR:T2w"])
    assert title.startswith("MONAI")
    assert [(image.contrast, image.series) for image in pairs[0].images] == [
        ("T1w", "2"),
        ("FLAIR", "1"),
        ("T2w", "3"),
    ]
    options = ["--slices=2", "--no-crop", "--no-align", "--split", "1", "0", "0", f"-o{tmp_path}/set"]
    result = CliRunner().invoke(app, ["prepare", str(four_axes), "--select=T1w,FLAIR:T2w", *options])
    assert result.exit_code == 0, result.output
    assert "read as MONAI's data list (Decathlon): 3 case(s)" in result.output
    cases = load_dataset(tmp_path / "set")
    case = next(case for case in cases if case["volume"] == "BRATS_001")
    assert case["source"].shape[0] == 2
    middle = head("T1", 1)[..., [round(float(case["source"].affine[2, 3]) / 4)]][..., 0]
    inside = middle > 0
    ranks = [np.argsort(np.argsort(values[inside])) for values in (middle, case["source"][0].numpy())]
    assert np.corrcoef(*ranks)[0, 1] > 0.999
    assert case["source_labels"].unique().tolist() == [0, 1]
    scan = four_axes / "imagesTr/BRATS_000.nii.gz"
    np.testing.assert_array_equal(read_image(scan, "3")[0].numpy(), head("T2"))
    assert read_image(scan).shape[0] == 3
    for wrong in ("0", "4", "T1w"):
        with pytest.raises(ValueError, match="expected one of its volumes, 1 to 3, received"):
            read_image(scan, wrong)


def test_learn2reg(tmp_path):
    names = [f"AbdomenMRCT_{case}_000{m}" for case in ("0001", "0002") for m in (0, 1)]
    touch(tmp_path, *(f"imagesTr/{name}.nii.gz" for name in names), *(f"labelsTr/{name}.nii.gz" for name in names))
    entries = [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names]
    moving, fixed = ([e["image"] for e in entries[k::2]] for k in (1, 0))
    pairs = [{"fixed": f, "moving": m} for f, m in zip(fixed, moving)]
    content = {"modality": {"0": "MR", "1": "CT"}, "training": entries, "training_paired_images": pairs[:1]}
    put(tmp_path, {**content, "registration_val": pairs[1:]})
    first, second = read_layout(tmp_path).pairs
    assert short([first], tmp_path / "imagesTr") == [
        ("AbdomenMRCT_0001", "CT=AbdomenMRCT_0001_0001.nii.gz", "MR=AbdomenMRCT_0001_0000.nii.gz")
    ]
    assert first.target_labels == tmp_path / "labelsTr/AbdomenMRCT_0001_0000.nii.gz"
    assert (first.split, second.split) == ("training", "validation")
    assert first.source_landmarks is None
    touch(tmp_path, *(f"keypointsTr/{name}.csv" for name in names))
    entries = [{**entry, "keypoints": f"keypointsTr/{name}.csv"} for entry, name in zip(entries, names)]
    put(tmp_path, {**content, "training": entries})
    (pair,) = read_layout(tmp_path).pairs
    assert (pair.source_landmarks.name, pair.landmark_space) == ("AbdomenMRCT_0001_0001.csv", "voxel")


def test_train_a_and_b_are_unpaired_domains(tmp_path):
    touch(tmp_path, "trainA/x.png", "trainB/y.png", "testA/z.png", "testB/w.png")
    pairs, title = read_layout(tmp_path)
    assert "unpaired" in title
    assert [(pair.subject, pair.first.side, pair.split) for pair in pairs] == [
        ("x", "source", "training"),
        ("y", "target", "training"),
        ("z", "source", "test"),
        ("w", "target", "test"),
    ]


def test_unknown_layouts(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(FileNotFoundError, match="nor another known layout"):
        read_layout(tmp_path)
    with pytest.raises(ValueError, match="layout: expected one of"):
        read_layout(tmp_path, layout="kits")
    with pytest.raises(ValueError, match="expected images in the layout bids, found none"):
        read_layout(tmp_path, layout="bids")
    for text in ("T1,:T2", "T1,T2", "T1:T1", ""):
        with pytest.raises(ValueError, match="select: expected SOURCE"):
            Selection.of(text)


def test_prepare_says_which_layout_it_read(tmp_path):
    for person in range(2):
        name = f"BraTS2021_0000{person}"
        (tmp_path / "data" / name).mkdir(parents=True)
        for contrast in ("T1", "T2"):
            save_head(tmp_path / "data" / name / f"{name}_{contrast.lower()}.nii.gz", contrast, person)
    options = ["--select=t1:t2", "--slices=1", "--no-crop", "--no-align", "--split", "1", "0", "0", f"-o{tmp_path}/set"]
    result = CliRunner().invoke(app, ["prepare", f"{tmp_path}/data", *options])
    assert result.exit_code == 0, result.output
    assert "read as BraTS 2018 or 2021: 2 case(s)" in result.output
    with pytest.raises(ValueError, match="layout: expected one of"):
        prepare(tmp_path / "data", tmp_path / "other", layout="brats21", progress=False)


def test_every_layout_is_tried_here():
    assert set(LAYOUTS) == {
        *("learn2reg", "nnunet", "decathlon", "list", "brats-reg", "trainab", "bids"),
        *("brats", "synthrad", "acdc", "ircadb"),
    }
