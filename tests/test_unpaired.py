"""Two independent lists: subjects of either side tracked through the splits, training, translation."""

import csv
import json
from collections import Counter

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from medtrace.cli import app
from medtrace.data import UnpairedDomains, load_dataset, load_domain, read_domains
from medtrace.data.lists.pair_list import Pair
from medtrace.data.lists.splits import split_domains
from medtrace.io import load_trace
from medtrace.methods import method_class, method_names
from medtrace.methods.common.two_domain_settings import MINIMAL
from medtrace.workflows.plan import plan
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from tests.several_images import save_head

METHODS = {name: {"networks": MINIMAL} for name in ("cyclegan", "munit", "unit", "nice_gan")} | {
    "plasticine": {
        "deformation.channels": [8, 16],
        "estimator.channels": [8, 16],
        "estimator.head_channels": 8,
        "estimator.norm_groups": 8,
        "estimator.residual_blocks": 1,
        "structure.method": "otsu",
        "sampling.steps": 2,
    }
}


def write_domains(folder):
    """T1 of persons 0, 1, 2 and T2 of persons 2, 3, 4, as two lists."""
    for side, contrast, persons in (("sources", "T1", (0, 1, 2)), ("targets", "T2", (2, 3, 4))):
        with (folder / f"{side}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["subject", "image", "contrast"])
            for person in persons:
                save_head(folder / f"P{person}_{contrast}.nii.gz", contrast, person)
                writer.writerow([f"P{person}", f"P{person}_{contrast}.nii.gz", contrast])
    return folder / "sources.csv", folder / "targets.csv"


def one_sided(side, subject):
    return Pair(subject, f"{subject}_{side}", *(("x", None) if side == "source" else (None, "x")))


# Lists and splits


def test_no_subject_of_either_side_is_in_two_splits():
    names = {"source": [f"S{k}" for k in range(10)] + [f"B{k}" for k in range(10)]}
    names["target"] = [f"T{k}" for k in range(10)] + [f"B{k}" for k in range(10)]
    pairs = [one_sided(side, name) for side, several in names.items() for name in several]
    for seed in range(3):
        split = split_domains(pairs, (0.7, 0.1, 0.2), seed)
        where = {}
        for name, found in split.items():
            for pair in found:
                assert where.setdefault(pair.subject, name) == name
            sides = Counter((pair.first.side, pair.subject[0]) for pair in found)
            assert set(sides.values()) == {len(found) // 4}
    assert split_domains(pairs, seed=0) != split_domains(pairs, seed=1)


def test_training_needs_both_sides():
    with pytest.raises(ValueError, match="expected sources in training"):
        split_domains([one_sided("source", "A"), one_sided("target", "B")], (0.4, 0, 0.6))


def test_folders_of_images_are_lists_of_subjects(tmp_path):
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
        for name in ("x", "y"):
            (tmp_path / side / f"{name}.nii.gz").touch()
    pairs = read_domains(tmp_path / "before", tmp_path / "after")
    assert [(pair.subject, pair.first.side) for pair in pairs] == [
        ("x", "source"),
        ("y", "source"),
        ("x", "target"),
        ("y", "target"),
    ]
    assert not any(pair.paired for pair in pairs)


def test_a_split_of_the_lists_holds_on_both_sides(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    (tmp_path / "sources.csv").write_text("subject,image,split\nA,a.nii.gz,training\n")
    (tmp_path / "targets.csv").write_text("subject,image,split\nA,a.nii.gz,test\n")
    with pytest.raises(ValueError, match="subject 'A' is in test here and in training"):
        read_domains(tmp_path / "sources.csv", tmp_path / "targets.csv")


def test_one_file_may_not_be_of_two_subjects(tmp_path):
    sources, targets = write_domains(tmp_path)
    targets.write_text("subject,image,contrast\nX,P0_T1.nii.gz,T2\n")
    with pytest.raises(ValueError, match="is the same image as"):
        prepare(None, tmp_path / "set", sources=sources, targets=targets, progress=False)


def test_domains_need_two_names(tmp_path):
    sources, _ = write_domains(tmp_path)
    (tmp_path / "targets.csv").write_text("subject,image,contrast\nP3,P3_T2.nii.gz,T1\n")
    with pytest.raises(ValueError, match="expected different names for sources and targets, received 'T1'"):
        prepare(None, tmp_path / "set", sources=sources, targets=tmp_path / "targets.csv", progress=False)


def test_each_source_gets_targets_of_its_size():
    class Items(list):
        sizes = None

    sources, targets = Items([{"source": torch.zeros(1, 4, 4), "case": "a"}]), Items()
    sources.sizes, targets.sizes = [(4, 4)], [(4, 4), (5, 5), (4, 4)]
    targets += [{"target": torch.full((1, *size), float(k))} for k, size in enumerate(targets.sizes)]
    domains = UnpairedDomains(sources, targets)
    assert {float(domains[0]["target"].max()) for _ in range(30)} == {0.0, 2.0}
    targets.sizes = [(5, 5)] * 3
    with pytest.raises(ValueError, match="expected one of the size 4 x 4"):
        UnpairedDomains(sources, targets)


# From the command line


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    sources, targets = write_domains(folder)
    options = ["--no-crop", "--slices=2", "--resize=32", "--split", "0.7", "0", "0.3", f"-o{folder}/set"]
    result = CliRunner().invoke(app, ["prepare", f"--sources={sources}", f"--targets={targets}", *options])
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_prepared_domains(domains):
    folder, output = domains
    index = json.loads((folder / "set" / "dataset.json").read_text())
    assert index["unpaired"]
    subjects = {name: {entry["subject"] for entry in index[name]} for name in ("training", "test")}
    assert not subjects["training"] & subjects["test"]
    assert "1 subject(s) are in both, each in one split" in output
    sources, targets = (load_domain(folder / "set", side) for side in ("source", "target"))
    assert sources[0]["source"].shape == targets[0]["target"].shape == (1, 32, 32)
    assert {item["contrast"] for item in targets} == {"T2"}
    with pytest.raises(ValueError, match="holds unpaired domains"):
        load_dataset(folder / "set")


@pytest.mark.parametrize(
    "method", ["cyclegan", *(pytest.param(name, marks=pytest.mark.slow) for name in list(METHODS)[1:])]
)
def test_unpaired_methods_train_and_translate(domains, tmp_path, method):
    folder, _ = domains
    options = {**METHODS[method], "training.max_epochs": 1, "training.batch_size": 2}
    given = [f"--set={name}={json.dumps(value)}" for name, value in options.items()]
    runner = CliRunner()
    arguments = ["train", method, f"{folder}/set", *given, f"-o{tmp_path}/run", "--device=cpu"]
    trained = runner.invoke(app, arguments)
    assert trained.exit_code == 0, trained.output
    last = (tmp_path / "run" / "history.csv").read_text().splitlines()[-1].split(",")
    assert np.isfinite([float(value) for value in last[1:] if value]).all()
    arguments = ["translate", f"{tmp_path}/run", f"{folder}/P0_T1.nii.gz", f"-o{tmp_path}/trace", "--no-report"]
    refused = runner.invoke(app, arguments)
    assert refused.exit_code == 1
    assert "has seen in training: source of 'P0_source' of subject 'P0'" in refused.output
    translated = runner.invoke(app, [*arguments, "--allow-training-subjects"])
    assert translated.exit_code == 0, translated.output
    trace = load_trace(tmp_path / "trace")
    assert (trace.source_contrasts[0].name, trace.contrasts[0].name) == ("T1", "T2")
    t2 = torch.from_numpy(np.array(trace.contrasts[0].curve[0]))
    assert float(trace.image.max()) <= float(t2.max()) + 1


@pytest.mark.parametrize("method", [name for name in method_names() if not method_class(name).abilities.paired])
def test_what_a_method_makes_of_each_case_goes_on_one_side_alone(domains, method):
    kind = method_class(method)
    transform = kind.case_transform(kind.settings_type())
    for side in ("source", "target"):
        assert side in load_domain(domains[0] / "set", side, transform=transform)[0]


def test_a_plan_takes_parts_where_targets_have_other_sizes(tmp_path):
    """Without them no target is of a source's size, and the training stops."""
    lists = write_domains(tmp_path)
    for person in (2, 3, 4):
        path = tmp_path / f"P{person}_T2.nii.gz"
        nibabel.save(nibabel.load(path).slicer[3:-3, 3:], path)
    prepare(
        None, tmp_path / "data", sources=lists[0], targets=lists[1], slices=2, crop=None, align=False, progress=False
    )
    proposal = plan(tmp_path / "data", measure=False)
    assert proposal.plan.resolved.data.patch == (32, 48)
    assert "--set data.patch=[32,48]" in proposal.lines[-1]
    assert any("items have 2 sizes" in line for line in proposal.lines)


def test_methods_that_need_pairs_are_refused(domains, tmp_path):
    folder, _ = domains
    with pytest.raises(
        ValueError, match=r"learns from pairs, but .* holds unpaired domains; train one of .*cyclegan, "
    ):
        train("unet", folder / "set", tmp_path / "run")


def test_natural_images_need_no_names(tmp_path):
    for side in ("horses", "zebras"):
        (tmp_path / side).mkdir()
        for k in range(2):
            values = np.random.default_rng([k, len(side), side == "zebras"]).integers(0, 255, (16, 16, 3))
            Image.fromarray(values.astype(np.uint8)).save(tmp_path / side / f"{side}{k}.png")
    prepare(
        None,
        tmp_path / "set",
        sources=tmp_path / "horses",
        targets=tmp_path / "zebras",
        fractions=(1, 0, 0),
        resize=16,
        progress=False,
    )
    assert load_domain(tmp_path / "set", "source")[0]["source"].shape == (3, 16, 16)
