"""Studies that have every method: one line a method, on each task where it applies.

In the setting `demo`, cases have 64 pixels per side; `full` has larger cases, and more of them.

`medtrace bench TASK --study methods --row METHOD --rows FOLDER` trains, scores and stores one row. A new method adds a
line to `ENTRIES` and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from medtrace.evaluation.bench import domain, metamorphic, misaligned, postop
from medtrace.evaluation.bench.rivals import OPTIONAL, RIVALS
from medtrace.evaluation.bench.study import Study, Training
from medtrace.evaluation.tracers import identity
from medtrace.methods.registry import method_class
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of, zero_field
from medtrace.trace.validation import as_tensor

TRANSLATION = ("postop", "misaligned", "domain")
NAME = "methods"


class Entry(NamedTuple):
    """A method's row.

    Attributes:
        method: its name.
        epochs: in the setting `demo`, of 64 steps of 8 cases (32 steps for `metamorphic`), so that a training takes
            less than six minutes of one core; in `full`, an epoch has four times the steps, on larger images.
        tasks: where it applies.
        settings: on top of the method's presets `tracebench` and, where it has one, of the task's name.
        sampling: how the trained method samples; rows of a method that differ in it share their training.
        variant: of the settings, where a method has rows of several; names their run.
    """

    method: str
    epochs: int
    tasks: tuple[str, ...] = TRANSLATION
    settings: Mapping[str, Any] = {}
    sampling: Mapping[str, Any] = {}
    variant: str = ""


QUICK = {"noise_optimizer.learning_rate": 1.5e-3}
"""Of noise estimators that few steps train: three times the preset's rate, which left noise in the image."""

IN_POSE = {**QUICK, "partner_pose": True, "smoothness_weight": 5.0, "surrogate_smoothness_weight": 5.0}
"""Plasticine with random partners in their sources' pose, where a smoother field suffices."""

BENDING = {"smoothness_weight": 0.0, "bending_weight": 0.1}
"""MetaRegNet with bending energy in place of the field's smoothness."""

ENTRIES: Mapping[str, Entry] = {
    "BBDM": Entry("bbdm", 8),
    "CUT": Entry("cut", 6),
    "CycleGAN": Entry("cyclegan", 6),
    "DDIB": Entry("ddib", 5, ("postop", "domain"), QUICK),
    "DualGAN": Entry("dualgan", 10),
    "FastCUT": Entry("fastcut", 12),
    "Flow matching": Entry("flow_matching", 8),
    "GcGAN": Entry("gcgan", 12),
    "MetaRegNet": Entry("metaregnet", 24, ("metamorphic",)),
    "MetaRegNet, bending": Entry("metaregnet", 24, ("metamorphic",), BENDING, variant="bending"),
    "MetaRegNet, refined": Entry("metaregnet", 24, ("metamorphic",), sampling={"continued_by": "thorough"}),
    "MUNIT": Entry("munit", 8),
    "NAGAN": Entry("nagan", 16),
    "NeMAR": Entry("nemar", 8),
    "NICE-GAN": Entry("nice_gan", 8),
    "Palette": Entry("palette", 10, settings=QUICK),
    "Pix2Pix": Entry("pix2pix", 12),
    "Plasticine": Entry("plasticine", 7, ("postop", "domain"), QUICK),
    "Plasticine, partners in pose": Entry("plasticine", 7, ("domain",), IN_POSE, variant="in-pose"),
    "RegGAN": Entry("reggan", 12),
    "Register, then Pix2Pix": Entry("registered_pix2pix", 12, ("misaligned",)),
    "Register, then translate": Entry("two_stage", 10, ("domain",)),
    "StarGAN v2": Entry("stargan_v2", 2, settings={"diversity_steps": 128}),
    "TraceTrans": Entry("tracetrans", 20, ("postop", "domain")),
    "TraceTrans, composed": Entry("tracetrans_composed", 20, ("postop", "domain")),
    "Translate, then register": Entry("two_stage", 10, ("domain",), sampling={"order": "translate_first"}),
    "U-Net regression": Entry("unet", 20),
    "UNIT": Entry("unit", 8),
    "UNSB": Entry("unsb", 10),
    "VoxelMorph": Entry("voxelmorph", 36, ("metamorphic",)),
}
"""Row → its training, sorted by row."""

CASES: Mapping[str, Mapping[str, Any]] = {
    "demo": {"data.spatial_shape": (64, 64), "data.train_cases": 512, "data.validation_cases": 16},
    "full": {"data.spatial_shape": (96, 96), "data.train_cases": 2048, "data.validation_cases": 32},
}
TASKS: Mapping[str, Mapping[str, Any]] = {
    "postop": {"data.flip": True},
    "misaligned": {"data.flip": True, "data.level": "3", "data.moved": "both"},
    "domain": {"data.flip": True},
    "metamorphic": {"data.flip": True, "data.identical": 0.25},
}


def training(task: str, entry: Entry) -> Training:
    """The training of a method on a task; of `domain` methods that need pairs get them, the others random partners."""
    kind = method_class(entry.method)
    data = {"data.kind": "tracebench", "data.task": task, **TASKS[task]}
    if task == "domain":
        data["data.pairing"] = "subject" if kind.abilities.paired else "random"
    presets = (task,) if task in kind.settings_type.presets else ()
    how = {"training.batch_size": 8, "training.schedule": "cosine", "training.val_interval": 0}
    by_setting = {}
    for setting, cases in CASES.items():
        fewer = {"data.train_cases": cases["data.train_cases"] // 2} if task == "metamorphic" else {}
        epochs = {"training.max_epochs": entry.epochs, "data.test_cases": 64}
        by_setting[setting] = {**cases, **fewer, **how, **epochs}
    run = "-".join(filter(None, (NAME, task, entry.method, entry.variant)))
    return Training(run, {**data, **entry.settings}, entry.method, presets, by_setting, entry.sampling)


def target_itself(batch: Mapping[str, Any]) -> list[Trace]:
    """The control that no translation surpasses: the aligned target."""
    image = as_tensor(batch["target"])
    return traces_of(batch["source"], Prediction(image, zero_field(image), zero_field(image)))


def _studies() -> tuple[Study, ...]:
    rows = {
        task: {row: training(task, entry) for row, entry in ENTRIES.items() if task in entry.tasks} for task in TASKS
    }
    places = {("", row): one for row, one in rows["misaligned"].items()}
    still = {"identity (T1)": identity, "oracle (the target itself)": target_itself}
    registered = metamorphic.study(NAME, rows["metamorphic"], {**metamorphic.CONTROLS, **RIVALS}, OPTIONAL)
    return (
        postop.study(NAME, rows["postop"]),
        misaligned.study(NAME, places, controls=still),
        registered,
        domain.study(NAME, rows["domain"], *domain.PICTURES),
    )


METHODS = _studies()
