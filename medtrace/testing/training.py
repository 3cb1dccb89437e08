"""Promises about a method's training: settings, steps, autocast, weights, resuming."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from medtrace.engines import Checkpoint
from medtrace.methods import Method, MethodSettings, resolve
from medtrace.storage.files import scratch_directory
from medtrace.testing.trial import (
    ContractError,
    batch_of,
    perturbed,
    prepared,
    promise,
    same,
    smallest,
    trainer_of,
    untrained,
)


def check_settings(kind: type[Method], settings: MethodSettings) -> None:
    """Settings survive JSON, build the same weights from one seed, and know the method's phases."""
    again = resolve(kind.settings_type, start=settings.model_dump(mode="json"))
    promise(again == settings, "settings", "the same after JSON", "others")
    first, second = untrained(kind, settings), untrained(kind, again)
    promise(same(first.state_dict(), second.state_dict()), "from_settings", "the same weights from one seed", "others")
    names = [phase.name for phase in first.phases]
    promise(
        set(settings.optimizers()) == set(names), "settings.optimizers()", sorted(names), sorted(settings.optimizers())
    )
    terms = [term for phase in first.phases for term in phase.weights]
    promise(len(set(terms)) == len(terms) and "loss" not in terms, "terms", "distinct names other than 'loss'", terms)


def check_step(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """A step gives the declared terms, finite, reaches every phase and changes no input."""
    items = prepared(kind, settings, batch_of(settings, shape))
    before = copy.deepcopy(items)
    trainer = trainer_of(untrained(kind, settings), settings, items, 1)
    start = copy.deepcopy(trainer.method.state_dict())
    trainer.run()
    promise(all(same(a, b) for a, b in zip(items, before)), "a training step", "its inputs as they were", "others")
    _check_terms(trainer.method, dict(trainer.state.output[0]), "")
    end = trainer.method.state_dict()
    for phase in trainer.method.phases:
        if not any(phase.active(term) for term in phase.weights):
            continue
        moved = [
            name
            for name in start
            if any(name.startswith(f"{path}.") for path in phase.networks)
            and isinstance(start[name], Tensor)
            and not torch.equal(start[name], end[name])
        ]
        promise(bool(moved), f"phase {phase.name}", "a step that moves its networks", "none")


def check_autocast(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """A step in bfloat16 gives finite terms."""
    items = prepared(kind, settings, batch_of(settings, shape))
    trainer = trainer_of(untrained(kind, settings), settings, items, 1, amp=True, amp_kwargs={"dtype": torch.bfloat16})
    trainer.run()
    _check_terms(trainer.method, dict(trainer.state.output[0]), " under autocast")


def check_resume(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """A training that is stopped and resumed ends in the bits of one that ran through."""
    items = prepared(kind, settings, batch_of(settings, shape, 4))

    def trained(*epochs: int) -> dict[str, Any]:
        with scratch_directory() as folder:
            for count in epochs:
                handlers = [Checkpoint(folder, interval=1, resume=True)]
                trainer = trainer_of(untrained(kind, settings), settings, items, count, train_handlers=handlers)
                trainer.run()
        return trainer.method.state_dict()

    promise(same(trained(2), trained(1, 2)), "a training that is stopped and resumed", "the same bits", "others")


def check_pairing(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """A method that declares pairs learns from which target belongs to which source; any learns from other pairs."""
    batch = batch_of(settings, shape)
    swapped = {**batch, "target": batch["target"].flip(0)}

    def terms(given: dict[str, Any]) -> dict[str, float]:
        trainer = trainer_of(perturbed(kind, settings), settings, prepared(kind, settings, given), 1)
        trainer.run()
        _check_terms(trainer.method, dict(trainer.state.output[0]), " with another subject's target")
        return {name: float(value) for name, value in trainer.state.output[0].items()}

    right, wrong = terms(batch), terms(swapped)
    if kind.abilities.paired:
        promise(
            any(abs(value - wrong[name]) > 1e-6 * abs(value) for name, value in right.items()),
            "abilities.paired",
            "terms that depend on which target belongs to which source",
            "the same with targets exchanged; declare paired=False",
        )


def check_channels(kind: type[Method], dims: int, shape: tuple[int, ...]) -> None:
    """Unequal channels train where they are declared, and are refused by a ValueError where they are not."""
    for channels in ((2, 1), (1, 2)):
        given = dict(zip(("in_channels", "out_channels"), channels))
        try:
            settings = smallest(kind, spatial_dims=dims, **given)
            check_step(kind, settings, shape)
        except ValueError as error:
            promise(
                kind.abilities.channels == "equal",
                "abilities.channels 'any'",
                f"a step with {given}",
                f"ValueError: {error}",
            )
        else:
            promise(kind.abilities.channels == "any", "abilities.channels 'equal'", f"ValueError for {given}", "a step")


def check_dimensions(kind: type[Method]) -> None:
    """Dimensions that are not declared are refused."""
    for dims in {2, 3} - set(kind.abilities.spatial_dims):
        try:
            untrained(kind, smallest(kind, spatial_dims=dims))
        except ValueError:
            continue
        raise ContractError(f"abilities.spatial_dims: expected ValueError for {dims} dimensions, received a method")


def _check_terms(method: Method, output: dict[str, Any], when: str) -> None:
    declared = {name for phase in method.phases for name in phase.weights if phase.active(name)}
    promise(set(output) == {"loss", *declared}, f"terms of a step{when}", sorted({"loss", *declared}), sorted(output))
    for name, value in output.items():
        promise(bool(torch.isfinite(value)), f"term {name}{when}", "a finite number", float(value))
