"""Training settings for a prepared data set where the user gives none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medtrace.data.augmentation import describe
from medtrace.data.dataset import read_index
from medtrace.data.preparation.rules import Preparation, target_units
from medtrace.methods import MethodSettings, resolve
from medtrace.methods.presets import DEFAULT, PAPER
from medtrace.methods.settings import PreparedData
from medtrace.trace.contrast import Contrast
from medtrace.workflows.planning.facts import DatasetFacts

EPOCHS = "training.max_epochs"
INTERVAL = "training.val_interval"
VALIDATIONS = 20
"""Of a training, about."""


@dataclass(frozen=True)
class TrainingPlan:
    """The settings of a training, and why.

    Attributes:
        presets: applied in this order.
        settings: dotted name → value that the plan adds; the user's values override it.
        resolved: all settings, including the user's.
        steps: steps of the training.
        reasons: lines for people.
    """

    presets: tuple[str, ...]
    settings: Mapping[str, Any]
    resolved: MethodSettings
    steps: int
    reasons: tuple[str, ...]


def plan_training(
    kind: type[MethodSettings],
    facts: DatasetFacts,
    presets: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
) -> TrainingPlan:
    """Presets and epochs for a data set, where the user gives none.

    The preset `default` comes first unless `paper` is requested. Without a number of epochs, from the user or a preset,
    it follows from the preset's budget of steps.

    Args:
        kind: the method's settings.
        facts: facts of the data set.
        presets: that the user names.
        given: single values given by the user or the data set.

    Returns:
        The plan.

    Raises:
        ValueError: if a name or a value is refused.
    """
    given = dict(given or {})
    asked = tuple(presets)
    chosen = asked if PAPER in asked or DEFAULT in asked or DEFAULT not in kind.presets else (DEFAULT, *asked)
    values: dict[str, Any] = {}
    budget = _budget(kind, chosen)
    if budget is not None and not _says_epochs(kind, chosen, given):
        batches = _batches(facts, resolve(kind, chosen, given))
        values[EPOCHS] = max(1, math.ceil(budget / batches))
        if not _names(given, INTERVAL):
            values[INTERVAL] = max(1, values[EPOCHS] // VALIDATIONS)
    resolved = resolve(kind, chosen, {**values, **given})
    steps = resolved.training.max_epochs * _batches(facts, resolved)
    return TrainingPlan(chosen, values, resolved, steps, tuple(_reasons(facts, resolved, chosen, steps, budget)))


def _budget(kind: type[MethodSettings], presets: Sequence[str]) -> int | None:
    result = [kind.budgets[preset] for preset in presets if preset in kind.budgets]
    return result[-1] if result else None


def _says_epochs(kind: type[MethodSettings], presets: Sequence[str], given: Mapping[str, Any]) -> bool:
    return any(EPOCHS in kind.presets.get(preset, {}) for preset in presets) or _names(given, EPOCHS)


def _names(given: Mapping[str, Any], name: str) -> bool:
    group, last = name.split(".")
    inner = given.get(group)
    return name in given or (isinstance(inner, Mapping) and last in inner)


def _batches(facts: DatasetFacts, settings: MethodSettings) -> int:
    alike = isinstance(settings.data, PreparedData) and settings.data.patch is not None
    counts = [sum(facts.sizes.values())] if alike else list(facts.sizes.values())
    return max(1, sum(-(-count // settings.training.batch_size) for count in counts))


def _reasons(
    facts: DatasetFacts, settings: MethodSettings, presets: Sequence[str], steps: int, budget: int | None
) -> list[str]:
    training = settings.training
    named = ", ".join(presets) if presets else "none: the library's defaults, which are the papers'"
    lines = [f"presets: {named}"]
    why = "" if budget is None or steps < budget else f" (about {budget} steps are the preset's budget)"
    lines.append(f"{training.max_epochs} epochs of batch {training.batch_size}: {steps} steps{why}")
    if isinstance(settings.data, PreparedData):
        lines.append(
            "augmentation: " + describe(settings.augmentation, facts.preparation, facts.preparation.spatial_dims)
        )
    if settings.neighbors:
        lines.append(
            f"neighbors: {settings.neighbors} slice(s) on either side of each are read too (2.5D), from the same scan;"
            f" at the ends of the slices stored of each of {facts.scans} scans the last one is repeated"
        )
    if not facts.counts["validation"]:
        lines.append("validation: none, as the data set has no validation subjects (prepare with --split 0.7 0.1 0.2)")
    elif training.val_interval:
        known = target_units(facts.preparation, settings.out_channels) is not None
        unit = _unit(facts.preparation) if known else None
        lines.append(
            f"validation: every {training.val_interval} epoch(s) on {facts.counts['validation']} item(s) of"
            f" {facts.subjects['validation']} subject(s), mean absolute error"
            + (f" in {unit.unit} of {unit.name}" if unit is not None else " on the network's scale")
        )
    return lines


def _unit(preparation: Preparation) -> Contrast | None:
    if preparation.outputs:
        return preparation.contrasts.get(preparation.outputs[0])
    return preparation.target(next(iter(preparation.targets), None))


def settings_of_dataset(dataset: Path) -> dict[str, Any]:
    """Settings determined by a prepared data set."""
    index = read_index(dataset)
    values: dict[str, Any] = {"spatial_dims": index["spatial_dims"]}
    if "channels" in index:
        values |= {"in_channels": index["channels"], "out_channels": index.get("target_channels", index["channels"])}
    if not index["validation"] or index.get("unpaired"):
        values["training.val_interval"] = 0
    return values
