"""Propose how to train on a prepared data set: method, preset, batch, epochs and hours, each with its reason."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.utils import set_determinism

from medtrace.data.dataset import INDEX
from medtrace.data.loaders import training_loader
from medtrace.data.sources import sources
from medtrace.engines import Trainer, build_optimizers
from medtrace.engines.runs import default_device
from medtrace.guard.memory import GIBIBYTE, available_memory, peak_memory
from medtrace.methods import method_class, resolve
from medtrace.methods.presets import DEFAULT, GPU, LITTLE
from medtrace.methods.settings import TraceBenchData
from medtrace.storage.places import free_disk
from medtrace.workflows.planning.facts import DatasetFacts
from medtrace.workflows.planning.training import TrainingPlan, plan_training, settings_of_dataset

GPU_GIB = 12.0
"""Memory of a GPU from which the published widths are proposed."""
FEW_CORES = 4
"""Cores up to which a training of minutes is proposed."""
_STRIDE = 16
NEIGHBORS_LINE = (
    "neighbors: none (each slice is read alone; --set data.neighbors=1 also reads the adjacent slices, which 3D"
    " structure may need)"
)
TIMED_STEPS = 3
"""Steps that are timed, after one that is not."""


@dataclass(frozen=True)
class Proposal:
    """A proposal for training on a data set.

    Attributes:
        method: its name.
        plan: presets and epochs.
        seconds_per_step: measured on this machine; None if not measured.
        lines: the proposal and its reasons as readable lines; the last is the command.
    """

    method: str
    plan: TrainingPlan
    seconds_per_step: float | None
    lines: tuple[str, ...]

    @property
    def hours(self) -> float | None:
        """Duration of the training, without validations."""
        return None if self.seconds_per_step is None else self.plan.steps * self.seconds_per_step / 3600


def plan(
    dataset: str | os.PathLike,
    method: str | None = None,
    *,
    presets: Sequence[str] = (),
    device: str | None = None,
    measure: bool = True,
) -> Proposal:
    """Inspect a prepared data set and propose a training.

    Args:
        dataset: a folder made by `medtrace prepare`.
        method: to train; None proposes one.
        presets: on top of `default`; without any, one is proposed.
        device: to train on, by default CUDA if available.
        measure: time a few steps on this machine, which takes seconds to minutes.

    Returns:
        The proposal.

    Raises:
        FileNotFoundError, ValueError: if it is not a prepared data set, has no training items, or a name is unknown.
    """
    facts = DatasetFacts.of(dataset)
    if not facts.counts["training"]:
        raise ValueError(f"{dataset}: expected training items, received none; prepare it with a fraction for training")
    where = torch.device(default_device(device))
    name, why = (method, "as asked") if method is not None else propose_method(facts)
    kind = method_class(name)
    chosen, reason = (tuple(presets), "as asked") if presets else propose_preset(where, set(kind.settings_type.presets))
    patch, patch_reason = propose_patch(facts, where)
    given = {**settings_of_dataset(Path(dataset)), **({} if patch is None else {"data.patch": patch})}
    planned = plan_training(kind.settings_type, facts, chosen, given)
    seconds = seconds_per_step(name, planned, dataset, where) if measure else None
    lines = [
        *facts.lines(),
        f"method: {name} ({why})",
        f"preset: {', '.join(planned.presets) or 'none'} ({reason})",
        *planned.reasons[1:],
        *([NEIGHBORS_LINE] if facts.stacked and kind.abilities.channels == "any" else []),
        f"patch: {'none' if patch is None else ' x '.join(map(str, patch))} ({patch_reason})",
    ]
    if seconds is not None:
        hours = planned.steps * seconds / 3600
        told = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
        lines.append(
            f"about {told} on {where}: {planned.steps} steps of {seconds:.2g} s, measured now; peak memory so far"
            f" {peak_memory(where):.1f} GiB of {available_memory(where) / GIBIBYTE:.0f} GiB free"
        )
    flags = "".join(f" --preset {preset}" for preset in planned.presets if preset != DEFAULT)
    flags += "" if patch is None else f" --set data.patch={list(patch)}".replace(", ", ",")
    lines.append(f"medtrace train {name} {Path(dataset)}{flags}")
    return Proposal(name, planned, seconds, tuple(lines))


def planned_lines(
    name: str, dataset: str | os.PathLike, presets: Sequence[str] = (), settings: Mapping[str, Any] | None = None
) -> list[str]:
    """Lines about what `medtrace train` will do with a data set; none for a bundle, TraceBench or no data set.

    Raises:
        ValueError: if a name or a value is refused.
    """
    if (Path(name) / "configs").is_dir() or not (Path(dataset) / INDEX).is_file():
        return []
    kind, given = method_class(name).settings_type, {**settings_of_dataset(Path(dataset)), **(settings or {})}
    if isinstance(resolve(kind, tuple(presets), given).data, TraceBenchData):
        return []  # refused by `train`
    facts = DatasetFacts.of(dataset)
    return [*facts.lines(), *plan_training(kind, facts, presets, given).reasons]


def machine_line(out: str | os.PathLike, device: str | None = None) -> str:
    """The resources for a long task on this machine: device, free memory, free disk space for its results.

    Args:
        out: folder of the results; it may not exist yet.
        device: as of `train`.

    Raises:
        ValueError: if there is no such device.
    """
    where = default_device(device)
    memory = available_memory(where) / GIBIBYTE
    return (
        f"on {where}: {memory:.1f} GiB of memory free, {free_disk(out) / GIBIBYTE:.1f} GiB of disk free for {out}; the"
        " time left is reported as the work goes on"
    )


def propose_method(facts: DatasetFacts) -> tuple[str, str]:
    """A method for a data set, and why."""
    if facts.unpaired:
        return "cyclegan", "unpaired domains: it learns without pairs, in 2D and in 3D"
    if facts.lesions and not facts.crossed:
        return (
            "metaregnet",
            "one contrast and masks of lesions: what moves and what is new are distinguished by the mask",
        )
    if facts.crossed:
        return (
            "tracetrans",
            "pairs of two contrasts: from T1 to T2 among the best on unseen persons, and it tells what moved",
        )
    return "tracetrans", "pairs of one contrast: it says what moved and what changed"


def propose_preset(device: torch.device, known: set[str]) -> tuple[tuple[str, ...], str]:
    """A preset for a machine, and why."""
    if DEFAULT not in known:
        return (), "the method has only the papers' settings"
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / GIBIBYTE
        if memory >= GPU_GIB and GPU in known:
            return (GPU,), f"a GPU of {memory:.0f} GiB: the published widths"
        return (), f"a GPU of {memory:.0f} GiB: networks of the default's size"
    cores = os.cpu_count() or 1
    if cores <= FEW_CORES and LITTLE in known:
        return (LITTLE,), f"{cores} CPU cores: minutes; leave the preset out for a longer training"
    return (), f"{cores} CPU cores, no GPU"


def propose_patch(facts: DatasetFacts, device: torch.device) -> tuple[tuple[int, ...] | None, str]:
    """A patch size for the training's cases, or None for entire ones, and why."""
    dims = facts.preparation.spatial_dims
    sizes = {*facts.sizes, *facts.target_sizes}
    minimum = tuple(min(size[axis] for size in sizes) for axis in range(dims))
    edge = {"cuda": 128}.get(device.type, 64)
    if dims == 3 and math.prod(facts.largest) > edge**3:
        patch = tuple(min(edge, max(_STRIDE, length // _STRIDE * _STRIDE)) for length in minimum)
        return (
            patch,
            f"volumes up to {' x '.join(map(str, facts.largest))} voxels do not fit through the network on {device}",
        )
    if len(sizes) > 1:
        patch = tuple(max(_STRIDE, length // _STRIDE * _STRIDE) for length in minimum)
        return patch, f"items have {len(sizes)} sizes, and a batch holds one"
    return None, "entire items go through the network"


def seconds_per_step(name: str, planned: TrainingPlan, dataset: str | os.PathLike, device: torch.device) -> float:
    """Time of a step with its data, after one warm-up step."""
    settings, kind = planned.resolved, method_class(name)
    with torch.random.fork_rng(devices=[]):
        set_determinism(seed=settings.training.seed)
        method = kind.build(settings).to(device)
        items: Any = sources(settings, dataset, kind.case_transform(settings)).training()
        count = settings.training.batch_size * (TIMED_STEPS + 1)
        loader = training_loader([items[k % len(items)] for k in range(count)], settings, device)
        trainer = Trainer(device, 1, loader, method, build_optimizers(method, settings), epoch_length=1)
        trainer.run()
        started = time.perf_counter()
        trainer = Trainer(device, 1, loader, method, build_optimizers(method, settings), epoch_length=TIMED_STEPS)
        trainer.run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    set_determinism(seed=None)
    return (time.perf_counter() - started) / TIMED_STEPS
