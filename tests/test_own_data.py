"""Defaults for a user's own data: what they are, what they learn, and what a plan says of them."""

import json

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.transforms import Compose, RandAdjustContrastd

from medtrace import metrics
from medtrace.data import Preparation, TraceBench, load_dataset
from medtrace.data.augmentation import augmentation, curves_allowed, describe, left_right_axis
from medtrace.data.deterministic_dataset import DeterministicDataset
from medtrace.data.loaders import training_loader
from medtrace.data.preparation.rules import Axis, target_units
from medtrace.data.sources import sources
from medtrace.engines import build_optimizers
from medtrace.engines.assembly import build_trainer
from medtrace.engines.runs import read_run
from medtrace.evaluation.tracers import identity, tracer_of
from medtrace.methods import method_class, method_names, resolve
from medtrace.methods.settings import AugmentationSettings, TrainingSettings
from medtrace.trace.contrast import Contrast, Intensity
from medtrace.workflows.plan import plan
from medtrace.workflows.planning.facts import DatasetFacts
from medtrace.workflows.planning.training import plan_training, settings_of_dataset
from medtrace.workflows.prepare import prepare
from medtrace.workflows.train import train
from medtrace.workflows.training.workflow import TrainingWorkflow


def inverted(count, split="training"):
    """Cases of simulated surgery whose target has the negative contrast within the head."""
    bench = TraceBench("postop", (48, 48), cases=count, seed=3, split=split)
    result = []
    for case in (bench[k] for k in range(count)):
        target = case["target"].as_tensor()
        result.append({"source": case["source"], "target": torch.where(target > -0.999, -0.8 * target, -1.0)})
    return result


def foreground_error(tracer, cases):
    batch = {name: torch.stack([case[name] for case in cases]) for name in ("source", "target")}
    images = torch.stack([trace.image for trace in tracer({"source": batch["source"]})])
    inside = metrics.foreground_of(batch["target"])
    return float(metrics.mean_absolute_error(images, batch["target"], inside, data_range=(-1, 1)).mean())


@pytest.mark.parametrize("name", ["tracetrans", pytest.param("pix2pix", marks=pytest.mark.slow)])
def test_an_inverted_contrast_is_learned_and_not_inverted(name, tmp_path):
    """With the paper's weights TraceTrans's image comes out as bright as the source while its loss falls."""
    kind = method_class(name)
    settings = resolve(kind.settings_type, ("default", "small"), {"training.max_epochs": 6})
    torch.manual_seed(0)
    method, cases, unseen = kind.build(settings), inverted(20), inverted(6, "test")
    untrained = foreground_error(tracer_of(method), unseen)
    loader = DataLoader(cases, batch_size=settings.training.batch_size, shuffle=True)
    build_trainer(method, settings, loader, build_optimizers(method, settings), tmp_path, torch.device("cpu")).run()
    trained = foreground_error(tracer_of(method), unseen)
    assert trained < 0.7 * min(untrained, foreground_error(identity, unseen))


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_presets_for_a_user_s_own_data(name):
    kind = method_class(name).settings_type
    paper, own = resolve(kind, ["paper"]), resolve(kind, ["default"])
    assert {"default", "small", "gpu"} <= set(kind.presets)
    assert {"default", "small", "gpu"} == set(kind.budgets)
    assert own.training.schedule == "cosine"
    assert paper.training.schedule == "constant"
    assert own.augmentation.on
    assert not paper.augmentation.on
    assert resolve(kind, ["default", "small"]) == own
    assert resolve(kind, ["default", "gpu"]).training.amp


def heads(folder, subjects=6, shape=(24, 20, 8)):
    """A pair list of smooth random volumes, T1 and T2, with a lesion each."""
    folder.mkdir()
    random = np.random.default_rng(0)
    lines = ["subject,source,target,target_lesion"]
    for number in range(subjects):
        volume = np.zeros(shape, np.float32)
        volume[3:-3, 3:-3] = random.uniform(100, 900, (shape[0] - 6, shape[1] - 6, shape[2]))
        lesion = np.zeros(shape, np.uint8)
        lesion[6:12, 6:12] = 1
        for kind, values in {"a": volume, "b": np.where(volume > 0, 1000 - volume, 0), "m": lesion}.items():
            nibabel.save(nibabel.Nifti1Image(values, np.diag([2.0, 2, 3, 1])), folder / f"{number}{kind}.nii.gz")
        lines.append(f"S{number},{number}a.nii.gz,{number}b.nii.gz,{number}m.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    prepare(
        heads(folder / "raw"),
        folder / "data",
        source_contrast="T1",
        target_contrast="T2",
        slices=2,
        crop=None,
        align=False,
        progress=False,
    )
    return folder / "data"


def test_validation_subjects_are_set_aside_by_default(dataset):
    index = json.loads((dataset / "dataset.json").read_text())
    counts = {name: len({item["subject"] for item in index[name]}) for name in ("training", "validation", "test")}
    assert counts == {"training": 4, "validation": 1, "test": 1}


def test_a_training_on_a_prepared_folder_follows_the_plan(dataset, tmp_path):
    settings = {"channels": [4, 8], "training.max_epochs": 1}
    run = train("unet", dataset, tmp_path / "run", settings=settings, device="cpu")
    recorded = read_run(run).settings
    assert recorded.training.schedule == "cosine"
    assert recorded.refine
    assert recorded.augmentation.on
    facts = DatasetFacts.of(dataset)
    kind = method_class("unet").settings_type
    planned = plan_training(kind, facts, ("small",))
    assert planned.presets == ("default", "small")
    assert planned.steps == planned.resolved.training.max_epochs * 4 == 800
    assert any("mean absolute error in a.u. of T2" in line for line in planned.reasons)
    paper = plan_training(kind, facts, ("paper",))
    assert paper.presets == ("paper",)
    assert paper.resolved.training.max_epochs == 500
    assert plan_training(kind, facts, (), {"training": {"max_epochs": 3}}).resolved.training.max_epochs == 3


def test_a_plan_tells_the_command_and_times_it(dataset):
    proposal = plan(dataset, "unet", presets=("small",), device="cpu")
    assert proposal.hours > 0
    assert "measured now" in proposal.lines[-2]
    assert proposal.lines[0].startswith("slices: 8 training of 4 subject(s), 2 validation of 1 subject(s)")
    assert proposal.lines[-1] == f"medtrace train unet {dataset} --preset small"
    assert plan(dataset, measure=False).method == "tracetrans"


def test_source_target_and_masks_move_alike(dataset):
    kind = method_class("unet").settings_type
    values = {"augmentation.on": True, "augmentation.intensity": 0.0, "augmentation.motion": 1.0}
    plain = sources(resolve(kind, (), {"augmentation.on": False}), dataset).training()
    moved = DeterministicDataset(sources(resolve(kind, (), values), dataset).training(), 0)
    first, second = moved[0], moved[0]
    assert torch.equal(first["source"], second["source"])
    assert first["mask"].dtype == torch.bool
    assert bool(first["mask"].any())
    assert torch.equal(first["source"].affine, plain[0]["source"].affine)
    assert not torch.equal(first["source"].as_tensor(), plain[0]["source"].as_tensor())
    moved.set_epoch(1)
    assert not torch.equal(first["source"], moved[0]["source"])
    for item in (moved[k] for k in range(len(moved))):  # the target is 1000 - source, on its own scale
        inside = item["mask"]  # away from the head's border
        pairs = torch.stack([item["source"][inside], item["target"][inside]])
        assert float(torch.corrcoef(pairs)[0, 1]) < -0.9


def test_intensities_are_bent_only_where_they_mean_nothing_by_themselves():
    def prepared(source, target):
        contrasts = {contrast.name: contrast for contrast in (source, target)}
        return Preparation(2, contrasts=contrasts, targets={source.name: target.name})

    t1, t2, ct = (Contrast(name) for name in ("T1", "T2", "x"))
    ct = Contrast.of("CT=HU")
    assert ct.rule is Intensity.WINDOW
    assert curves_allowed(prepared(t1, t2))
    assert curves_allowed(prepared(t1, ct))
    assert not curves_allowed(prepared(ct, t1))
    assert not curves_allowed(prepared(t1, t1))
    assert not curves_allowed(None)


def test_intensities_of_several_sources_are_bent_and_the_plan_says_why_they_are_not():
    contrasts = {name: Contrast(name) for name in ("T1", "FLAIR", "T2")} | {"CT": Contrast.of("CT=HU")}
    settings = AugmentationSettings(on=True)

    def several(sources, output):
        return Preparation(2, contrasts=contrasts, sources=sources, outputs=(output,))

    known = several(("T1", "FLAIR"), "T2")
    assert curves_allowed(known)
    assert any(isinstance(step, RandAdjustContrastd) for step in augmentation(settings, known, 2))
    assert describe(settings, known, 2).endswith(", bent source intensities")
    for preparation, reason in (
        (several(("T1", "CT"), "T2"), "CT has a fixed unit, HU"),
        (several(("T1", "T2"), "T2"), "T2 is also the target's contrast"),
        (several(("T1", "PD"), "T2"), "the unit of PD is not on record"),
        (Preparation(2, natural_image=True), "a natural image"),
        (Preparation(2), "their contrasts are not on record"),
        (None, "their meaning is not on record"),
    ):
        assert not curves_allowed(preparation)
        assert describe(settings, preparation, 2).endswith(f", source intensities unchanged ({reason})")
        assert not any(isinstance(step, RandAdjustContrastd) for step in augmentation(settings, preparation, 2))


def test_sagittal_slices_are_not_mirrored():
    assert left_right_axis(Preparation(2, axis=Axis.SAGITTAL), 2) is None
    assert left_right_axis(Preparation(2, axis=Axis.CORONAL), 2) == left_right_axis(Preparation(3), 3) == 0


def test_elastic_motion_in_3d_is_as_long_as_asked_and_one_for_all():
    settings = AugmentationSettings(
        on=True, motion=1.0, flip=0.0, intensity=0.0, degrees=0, scale=0, shift_voxels=0, elastic_voxels=2.0,
        elastic_spacing=6.0,
    )  # fmt: skip
    step = Compose(augmentation(settings, None, 3))
    step.set_random_state(seed=0)
    ramp = torch.linspace(-0.9, 0.9, 40).reshape(1, 40, 1, 1).expand(1, 40, 40, 40).clone()
    lengths = []
    for _ in range(6):
        moved = step({"source": ramp, "target": -ramp, "mask": ramp > 0})
        apart = ((moved["source"] - ramp) * 39 / 1.8)[0, 10:-10, 10:-10, 10:-10]
        lengths.append(float(apart.std()))
        assert torch.allclose(moved["target"], -moved["source"], atol=1e-5)
        inside = moved["source"].abs() > 0.03  # a voxel's half from where the mask changes
        assert torch.equal(moved["mask"][inside], (moved["source"] > 0)[inside])
    assert max(lengths) < 2.3  # uniformly drawn from 0 to 2
    assert 0.5 < np.mean(lengths) < 1.5


def test_points_are_not_left_behind():
    (step, *_) = augmentation(AugmentationSettings(on=True), None, 2)
    case = {"source": torch.zeros(1, 8, 8), "target": torch.zeros(1, 8, 8), "source_landmarks": torch.zeros(1, 3)}
    with pytest.raises(ValueError, match="source_landmarks: expected none in an augmented case"):
        step(case)
    assert augmentation(AugmentationSettings(on=False), None, 2) == []


def test_validation_is_told_in_the_target_s_units(dataset, tmp_path):
    """The target holds 0 to 900; an untrained network is some hundreds off."""
    settings = {"channels": [4, 8], "training.max_epochs": 1, "training.val_interval": 1}
    kind = method_class("unet")
    facts = DatasetFacts.of(dataset)
    chosen = plan_training(kind.settings_type, facts, (), {**settings_of_dataset(dataset), **settings}).resolved
    workflow = TrainingWorkflow(kind, chosen, tmp_path / "run", dataset, "cpu")
    workflow.initialize()
    workflow.run()
    back = target_units(facts.preparation, 1)
    method, cases = tracer_of(workflow.method), load_dataset(dataset, "validation")
    batch = torch.stack([case["target"] for case in cases])
    images = [trace.image for trace in method({"source": torch.stack([case["source"] for case in cases])})]
    expected = np.mean([float((back(a) - back(b.as_tensor())).abs().mean()) for a, b in zip(images, batch)])
    assert workflow.evaluator.state.metrics["mae"] == pytest.approx(expected, rel=1e-3)
    assert 20 < expected < 900


def test_patches_of_several_sizes_share_a_batch(tmp_path):
    pairs = heads(tmp_path / "raw", subjects=2)
    heads(tmp_path / "more", subjects=2, shape=(40, 28, 8))
    lines = pairs.read_text().splitlines()
    for number, line in enumerate((tmp_path / "more" / "pairs.csv").read_text().splitlines()[1:]):
        cells = line.split(",")
        lines.append(",".join([f"M{number}", *(f"../more/{cell}" for cell in cells[1:])]))
    pairs.write_text("\n".join(lines))
    shared = {"spatial_dims": 3, "crop": None, "align": False, "progress": False, "fractions": (1, 0, 0)}
    prepare(pairs, tmp_path / "data", source_contrast="T1", target_contrast="T2", **shared)
    proposal = plan(tmp_path / "data", "unet", device="cpu", measure=False)
    assert "items have 2 sizes" in " ".join(proposal.lines)
    assert proposal.lines[-1].endswith("--set data.patch=[16,16,16]")
    settings = proposal.plan.resolved
    cases = sources(settings, tmp_path / "data").training()
    (batch,) = training_loader(cases, settings.model_copy(update={"training": TrainingSettings(batch_size=4)}), "cpu")
    assert batch["source"].shape == batch["mask"].shape == (4, 1, 16, 16, 16)
    assert float(batch["source"][..., -1].max()) == -1  # padded: the volumes have eight slices
    run = train("unet", tmp_path / "data", tmp_path / "run", device="cpu", settings={
        "data.patch": [16, 16, 16], "channels": [4, 8], "training.max_epochs": 1
    })  # fmt: skip
    assert read_run(run).settings.data.patch == (16, 16, 16)


def test_a_patch_has_the_axes_of_its_data():
    with pytest.raises(ValueError, match=r"data.patch: expected 2 axes, as the data set has, received \(16, 16, 16\)"):
        resolve(method_class("unet").settings_type, (), {"data.patch": [16, 16, 16]})


@pytest.mark.parametrize("dims", [2, 3])
def test_a_brain_keeps_its_edge(dims):
    """Of tissue of one value on background, a moved image holds these two values alone."""
    settings = AugmentationSettings(on=True, motion=1.0, flip=0.0, intensity=0.0)
    step = Compose(augmentation(settings, None, dims))
    step.set_random_state(seed=3)
    brain = torch.full((1, *[24] * dims), -1.0)
    brain[(slice(None), *[slice(6, 17)] * dims)] = 0.4
    full = torch.linspace(-0.9, 0.9, 24**dims).reshape(1, *[24] * dims)
    moved = step({"source": brain, "target": full})
    assert set(moved) == {"source", "target"}
    values = moved["source"].unique()
    assert torch.allclose(values[values < 0], torch.tensor(-1.0))
    assert torch.allclose(values[values > 0], torch.tensor(0.4), atol=1e-5)
    assert not torch.equal(moved["source"], brain)
    size = (moved["source"] > 0).float().sum() / (brain > 0).float().sum()
    assert 0.7 < float(size) < 1.4
    assert moved["target"].min() >= -0.9 - 1e-5, "an image without background has none afterwards"
