"""Several images in and out: lists, preparation, dropping, training, translation of any subset of the sources."""

import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import load_dataset, read_pairs
from medtrace.data.preparation.rules import Preparation
from medtrace.evaluation.certificate.provenance import provenance
from medtrace.io import load_trace
from medtrace.methods.common.channels import check_registered, compared
from medtrace.trace import Contrast, Trace, expected_image
from medtrace.transforms import RandDropChannelsd
from medtrace.workflows.certify import training_check
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from medtrace.workflows.translate import translate
from medtrace.workflows.unseen.splits import review_split
from tests.several_images import save_head, write_cohort

TINY = {"training.max_epochs": 1, "training.batch_size": 2, "channels": [8, 16]}


def write(folder, text, name="pairs.csv"):
    for image in ("a", "b", "c"):
        (folder / f"{image}.nii.gz").touch()
    (folder / name).write_text(text)
    return folder / name


# Lists


def test_columns_of_single_contrasts_are_channels_in_their_order(tmp_path):
    path = write(
        tmp_path, "subject,source_T1,source_FLAIR,target_T2\nA,a.nii.gz,b.nii.gz,c.nii.gz\nB,,a.nii.gz,b.nii.gz\n"
    )
    first, second = read_pairs(path)
    assert first.channels == ("T1", "FLAIR")
    assert [(i.key, i.contrast, i.path.name) for i in first.images] == [
        ("source", "T1", "a.nii.gz"),
        ("source_1", "FLAIR", "b.nii.gz"),
        ("target", "T2", "c.nii.gz"),
    ]
    assert second.sources[0] is None
    assert (second.contrast, second.target_contrast) == ("FLAIR", "T2")
    assert second.source == tmp_path / "a.nii.gz"


def test_a_mapping_in_json_means_the_same(tmp_path):
    pairs = [
        {"subject": "A", "source": {"T1": "a.nii.gz", "FLAIR": None}, "target": {"T2": "b.nii.gz", "PD": "c.nii.gz"}}
    ]
    (pair,) = read_pairs(write(tmp_path, json.dumps(pairs), "pairs.json"))
    assert pair.sources[1] is None
    assert [image.contrast for image in pair.targets] == ["T2", "PD"]


def test_one_column_a_side_names_the_contrast_of_an_ordinary_pair(tmp_path):
    (pair,) = read_pairs(write(tmp_path, "subject,source_T1,target_T2\nA,a.nii.gz,b.nii.gz\n"))
    assert not pair.several
    assert (pair.contrast, pair.target_contrast) == ("T1", "T2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject,source_T1,source_FLAIR,target\nA,,,a.nii.gz\n", "no value for source; fill in one of T1, FLAIR"),
        ("subject,source,target_T2,target_PD\nA,a.nii.gz,b.nii.gz,\n", "no value for target_PD; a network learns all"),
        (
            "subject,source,source_T1,target\nA,a.nii.gz,b.nii.gz,c.nii.gz\n",
            "column source: expected none beside source_T1",
        ),
        ("subject,source,source_lesions,target\nA,a.nii.gz,b.nii.gz,c.nii.gz\n", "did you mean source_lesion?"),
        ("subject,source_T1\nA,a.nii.gz\n", "missing column"),
    ],
)
def test_refused_lists(tmp_path, text, message):
    with pytest.raises(ValueError, match=message.replace("?", "[?]")):
        read_pairs(write(tmp_path, text))


# Preparation


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Three persons, the second without FLAIR, prepared in 3D at 8 mm."""
    folder = tmp_path_factory.mktemp("cohort")
    pairs = write_cohort(folder, 3, without={(1, "FLAIR")})
    summary = prepare(pairs, folder / "set", spatial_dims=3, crop=None, align=False, spacing=(8, 8, 8), progress=False)
    return folder, summary


def test_prepared_channels_are_each_contrast_by_its_own_rule(cohort):
    folder, summary = cohort
    preparation = Preparation.load(folder / "set" / "preparation.json")
    assert (preparation.sources, preparation.outputs, preparation.missing) == (("T1", "FLAIR"), ("T2",), ("FLAIR",))
    assert (preparation.in_channels, preparation.out_channels) == (2, 1)
    assert set(preparation.standards) == {"T1", "FLAIR", "T2"}
    full, lacking = load_dataset(folder / "set")
    assert full["source"].shape[0] == 2
    assert full["target"].shape[0] == 1
    inside = full["target"][0] > -1
    for channel, name in enumerate(preparation.sources):
        scan = nibabel.load(folder / f"P0_{name}.nii.gz").get_fdata()
        mean = preparation.contrasts[name].intensity_map().forward(torch.tensor([[[scan[scan > 0].mean()]]]))
        assert float(full["source"][channel][inside].mean()) == pytest.approx(float(mean), abs=0.25)
    assert lacking["source_present"].tolist() == [True, False]
    assert float(lacking["source"][1].max()) == -1
    assert float(lacking["source"][0].max()) > 0
    assert "a network reads T1, FLAIR and makes T2" in summary.notes
    assert any("missing sources: FLAIR of 1 of 3 pair(s)" in note for note in summary.notes)


@pytest.mark.slow
def test_a_further_source_is_aligned_to_the_first(tmp_path):
    write_cohort(tmp_path, 2)
    shifted = np.diag([4.0, 4.0, 4.0, 1.0])
    shifted[0, 3] = 12.0
    save_head(tmp_path / "P0_FLAIR.nii.gz", "FLAIR", 0, shifted)
    prepare(tmp_path / "pairs.csv", tmp_path / "set", slices=1, crop=None, progress=False, fractions=None)
    item = load_dataset(tmp_path / "set")[0]
    t1, flair = item["source"] > -1
    assert float((t1 ^ flair).sum() / t1.sum()) < 0.1
    assert (tmp_path / "set" / "rigid" / "P0_source_1.tfm").is_file()


def test_one_image_may_not_be_two_contrasts(tmp_path):
    path = write_cohort(tmp_path, 2)
    save_head(tmp_path / "P0_FLAIR.nii.gz", "T1", 0)
    with pytest.raises(ValueError, match="source T1 and source FLAIR are the same image"):
        prepare(path, tmp_path / "set", progress=False)


# Dropping


def test_dropped_channels_are_background_and_one_stays():
    drop = RandDropChannelsd("source", prob=0.5)
    drop.set_random_state(seed=0)
    seen = set()
    for _ in range(60):
        item = drop({"source": torch.ones(3, 2, 2), "source_present": torch.tensor([True, True, False])})
        values = tuple(channel.unique().item() for channel in item["source"])
        assert item["source_present"].tolist()[:2] == [value == 1 for value in values[:2]]
        seen.add(values)
    assert seen == {(1, 1, 1), (1, -1, 1), (-1, 1, 1)}


def test_dropping_needs_several_sources(tmp_path):
    rows = "subject,source,target\n"
    for person in range(2):
        for contrast in ("T1", "T2"):
            save_head(tmp_path / f"{person}{contrast}.nii.gz", contrast, person)
        rows += f"{person},{person}T1.nii.gz,{person}T2.nii.gz\n"
    (tmp_path / "pairs.csv").write_text(rows)
    prepare(
        tmp_path / "pairs.csv", tmp_path / "set", slices=1, crop=None, align=False, progress=False, fractions=(1, 0, 0)
    )
    with pytest.raises(ValueError, match="drop_sources: expected 0"):
        train("unet", tmp_path / "set", tmp_path / "run", settings={**TINY, "data.drop_sources": 0.3})


# Training and translation


@pytest.fixture(scope="module")
def runs(cohort):
    folder, _ = cohort
    train("unet", folder / "set", folder / "dropped", settings={**TINY, "data.drop_sources": 0.3}, device="cpu")
    train("unet", folder / "set", folder / "complete", settings=TINY, device="cpu")
    return folder


@pytest.mark.parametrize("given", [("T1", "FLAIR"), ("FLAIR",), ("T1",)])
def test_one_run_serves_any_subset(runs, tmp_path, given):
    options = [f"--source={name}={runs}/P2_{name}.nii.gz" for name in given]
    result = CliRunner().invoke(
        app, ["translate", f"{runs}/dropped", *options, "-o", f"{tmp_path}/trace", "--no-report"]
    )
    assert result.exit_code == 0, result.output
    assert "the image is in a.u. of T2" in result.output
    trace = load_trace(tmp_path / "trace")
    assert [contrast.name for contrast in trace.source_contrasts] == list(given)
    assert [contrast.name for contrast in trace.contrasts] == ["T2"]
    assert torch.equal(
        trace.source[0], torch.from_numpy(nibabel.load(runs / f"P2_{given[0]}.nii.gz").get_fdata()).float()
    )
    assert trace.appearance is not None
    ledger = trace.ledger()
    assert torch.allclose(trace.appearance + ledger.residual, trace.image, atol=1e-3)
    sources = json.loads((tmp_path / "trace" / "trace.json").read_text())["metadata"]["sources"]
    assert [name for name, said in sources.items() if said == "given"] == list(given)
    assert all("missing" in sources[name] for name in {"T1", "FLAIR"} - set(given))


def test_every_image_of_a_training_subject_is_recognized(runs, tmp_path):
    scans = json.loads((runs / "set" / "dataset.json").read_text())["scans"]
    known = {
        scan["subject"]: [one["contrast"] for role in ("source", "target") for one in scan[role]] for scan in scans
    }
    assert known == {"P0": ["T1", "FLAIR", "T2"], "P1": ["T1", "T2"], "P2": ["T1", "FLAIR", "T2"]}
    images = {"T1": runs / "P2_T1.nii.gz", "FLAIR": runs / "P0_FLAIR.nii.gz"}
    given = {"progress": False, "report": False, "device": "cpu"}
    with pytest.raises(ValueError, match=r"P0_FLAIR.*has seen in training: source of 'P0' of subject 'P0'"):
        translate(runs / "dropped", images, tmp_path / "trace", **given)
    translate(runs / "dropped", images, tmp_path / "trace", allow_training_subjects=True, **given)
    trace = load_trace(tmp_path / "trace")
    with pytest.raises(ValueError, match=r"its source is an image that .* of subject 'P0'"):
        training_check(runs / "dropped", trace, provenance(tmp_path / "trace", runs / "dropped", None))
    assert review_split(runs / "dropped", runs / "set", "test").training == {}
    assert set(review_split(runs / "dropped", runs / "set", "training").training) == {"P0", "P1"}


def test_a_missing_source_that_training_never_lacked_is_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="received none called T1; give it, or train with"):
        translate(runs / "complete", {"FLAIR": runs / "P2_FLAIR.nii.gz"}, tmp_path / "trace", progress=False)
    settings = {"progress": False, "report": False}
    translate(
        runs / "complete", {"T1": runs / "P2_T1.nii.gz"}, tmp_path / "trace", **settings
    )  # a training pair lacked FLAIR
    assert (tmp_path / "trace" / "trace.json").is_file()


def test_a_pair_list_is_translated_with_what_each_row_has(runs, tmp_path):
    rows = [
        "subject,case,source_T1,source_FLAIR,target_T2,split",
        f"P2,both,{runs}/P2_T1.nii.gz,{runs}/P2_FLAIR.nii.gz,,test",
        f"P2,flair,,{runs}/flair.nii.gz,,test",
    ]
    shutil.copy(runs / "P2_FLAIR.nii.gz", runs / "flair.nii.gz")
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n")
    arguments = ["translate", f"{runs}/dropped", f"{tmp_path}/pairs.csv", "-o", f"{tmp_path}/out", "--no-report"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "2 translated" in result.output
    for case, given in (("P2_both", ("T1", "FLAIR")), ("P2_flair", ("FLAIR",))):
        images = {name: runs / f"P2_{name}.nii.gz" for name in given}
        alone = translate(runs / "dropped", images, tmp_path / case, progress=False, report=False)
        assert torch.equal(load_trace(tmp_path / "out" / case / "trace").image, load_trace(tmp_path / case).image)
        assert [contrast.name for contrast in alone.source_contrasts] == list(given)
    assert "1 kept from before" not in CliRunner().invoke(app, arguments).output
    assert "2 kept from before" in CliRunner().invoke(app, arguments).output
    table = (tmp_path / "out" / "cases.csv").read_text()
    assert f"T1={runs}/P2_T1.nii.gz FLAIR=" in table
    (tmp_path / "pairs.csv").write_text("name,source_T1,source_FLAIR\nnone,,\n")
    result = CliRunner().invoke(app, [*arguments, "--overwrite"])
    assert "no value for one of source_T1, source_FLAIR" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["P2_T1.nii.gz"], "say which one"),
        (["--source=T2=P2_T2.nii.gz"], "expected names among T1, FLAIR, received 'T2'"),
        ([], "received neither"),
    ],
)
def test_refused_sources(runs, tmp_path, arguments, message):
    given = [argument.replace("P2", f"{runs}/P2") for argument in arguments]
    result = CliRunner().invoke(app, ["translate", f"{runs}/dropped", *given, "-o", f"{tmp_path}/trace"])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())


# Registration streams


def test_compared_channels():
    source = torch.stack([torch.full((1, 4, 4), float(c)) for c in range(3)], dim=1)
    moving, fixed = compared(source, torch.zeros(1, 1, 4, 4), channels=(2, 0))
    assert moving[:, 0, 0, 0].tolist() == [2, 0]
    assert fixed.shape == (2, 1, 4, 4)
    assert compared(source, torch.zeros(1, 3, 4, 4))[0] is source
    for wrong in ((), (0, 0), (3,)):
        with pytest.raises(ValueError, match="registered_channels"):
            check_registered(wrong, 3)


@pytest.mark.parametrize("method", ["tracetrans", pytest.param("plasticine", marks=pytest.mark.slow)])
def test_registration_streams_train_on_several_sources(runs, tmp_path, method):
    small = {
        "tracetrans": {
            "channels": [4, 8],
            "velocity_downsampling": 0,
            "discriminator_channels": 4,
            "discriminator_layers": 1,
        },
        "plasticine": {
            "deformation.channels": [8, 16],
            "deformation.velocity_downsampling": 1,
            "estimator.channels": [8, 16],
            "estimator.head_channels": 8,
            "estimator.norm_groups": 8,
            "estimator.residual_blocks": 1,
        },
    }[method]
    settings = {
        "training.max_epochs": 1,
        "training.batch_size": 2,
        "data.drop_sources": 0.3,
        "registered_channels": [0],
    }
    run = train(method, runs / "set", tmp_path / "run", settings={**settings, **small}, device="cpu")
    lines = (run / "history.csv").read_text().splitlines()
    assert all(np.isfinite(float(value)) for value in lines[-1].split(",")[1:])


def test_several_sources_explain_together_what_none_does_alone():
    generator = torch.Generator().manual_seed(0)
    sources = torch.rand(2, 128, 128, generator=generator)
    image = 3 * sources[:1] - 2 * sources[1:]
    everywhere = torch.ones(1, 128, 128, dtype=torch.bool)
    together = expected_image(sources, image, tissue=everywhere)
    alone = expected_image(sources[:1], image, tissue=everywhere)
    assert float((together - image).abs().mean()) < 0.1
    assert float((alone - image).abs().mean()) > 0.3
    t1, t2 = Contrast.of("T1"), Contrast.of("T2")
    trace = Trace.build(
        sources, image, torch.zeros(2, 128, 128), source_contrasts=(t1, t1), contrasts=(t2,), tissue=everywhere
    )
    assert not trace.same_unit
    assert torch.allclose(trace.appearance, together)
