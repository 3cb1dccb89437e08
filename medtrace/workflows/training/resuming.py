"""Resuming a run: which settings may change, and on which data set it continues."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.engines.model_folder import RECORD
from medtrace.engines.runs import RunRecord, read_run
from medtrace.guard.method_size import check_size
from medtrace.guard.notices import notify
from medtrace.methods import Method, MethodSettings, resolve
from medtrace.workflows.training.handlers import training_data

SPLITS = ("training", "validation")
CUTS = ("data.patch",)
"""Data settings that define how the same cases are cropped."""
EARLIER = "earlier"
"""Entry of a recorded case that came from an earlier data set."""


class Resumption(NamedTuple):
    """How a run continues."""

    settings: MethodSettings
    dataset: str | os.PathLike | None
    remembered: dict[str, Any]
    """The run's record of its data from now on."""
    other_data: bool
    """Whether the data set is not the one that the run was trained on."""


def resumption(
    kind: type[Method],
    run: Path,
    presets: Sequence[str],
    changes: Mapping[str, Any] | None,
    dataset: str | os.PathLike | None,
    other_data: bool,
) -> Resumption:
    """Check the arguments given on resuming against the run.

    Args:
        kind: the requested method.
        run: the run folder.
        presets: applied over the run's settings.
        changes: single settings on top.
        dataset: a folder made by `medtrace prepare`, which may have moved; None is its location in the run's record.
        other_data: whether a data set other than the run's is intended.

    Raises:
        ValueError: if the method or the data set differs, or a setting cannot be changed.
        FileNotFoundError: if the run's data set is no longer where it was.
    """
    earlier = read_run(run)
    if earlier.method != kind.name:
        raise ValueError(
            f"name: expected {earlier.method}, whose run {run} is, received {kind.name!r}; name that method"
        )
    settings = resolve(kind.settings_type, tuple(presets), changes, start=earlier.settings.model_dump(mode="json"))
    check_size(lambda: kind.build(settings), run / RECORD)
    _check_changes(kind, run, earlier.settings, settings, other_data)
    chosen = _chosen(run, earlier, dataset)
    if chosen is None or not earlier.training_data:
        return Resumption(settings, chosen, training_data(chosen), False)
    now = training_data(chosen)
    differing = _differing(earlier.training_data, now)
    if differing and not other_data:
        raise ValueError(
            f"dataset: expected the one that {run} was trained on, received another: {differing}; name that data set,"
            " or allow another (--other-data)"
        )
    if differing:
        notify(os.fspath(chosen), f"is not the data set that {run} was trained on ({differing}); the run records both")
        now = _with_earlier(earlier.training_data, now)
    else:
        now = {**earlier.training_data, "dataset": now["dataset"]}
    return Resumption(settings, chosen, now, bool(differing))


def _chosen(run: Path, earlier: RunRecord, dataset: str | os.PathLike | None) -> str | os.PathLike | None:
    if dataset is not None:
        return dataset
    remembered = earlier.training_data.get("dataset")
    if remembered is not None and not Path(remembered).is_dir():
        raise FileNotFoundError(
            f"dataset: {remembered}, which {run} was trained on, is no longer there; name the folder where it is now"
        )
    return remembered


def _differing(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How the cases of two data sets differ, in words; empty if they are the same, wherever they are stored."""
    found = []
    for split in SPLITS:
        before = {_content(case): case["case"] for case in earlier.get(split, ()) if not case.get(EARLIER)}
        after = {_content(case): case["case"] for case in now.get(split, ())}
        others = [name for content, name in after.items() if content not in before]
        missing = [name for content, name in before.items() if content not in after]
        if others or missing:
            found.append(
                f"of {len(before)} {split} cases {len(missing)} are missing and {len(others)} are new (first:"
                f" {[*missing, *others][0]})"
            )
    return "; ".join(found)


def _content(case: Mapping[str, Any]) -> tuple[Any, ...]:
    return case["subject"], case.get("source"), case.get("target")  # in unpaired domains one is missing


def _with_earlier(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The cases of a data set, and those of earlier ones, which the weights have also seen."""
    result = dict(now)
    for split in SPLITS:
        known = {_content(case) for case in now[split]}
        before = [case for case in earlier.get(split, ()) if _content(case) not in known]
        result[split] = [*now[split], *({**case, EARLIER: True} for case in before)]
    return result


def _check_changes(
    kind: type[Method], run: Path, before: MethodSettings, after: MethodSettings, other_data: bool
) -> None:
    """Refuse what a checkpoint would override: another network, other tables, other data."""
    old, new = flat_settings(before), flat_settings(after)
    changed = [name for name in new if new[name] != old.get(name)]
    data = [name for name in changed if name.startswith("data.") and name not in CUTS]
    if data and not other_data:
        raise ValueError(
            f"{data[0]}: expected {old.get(data[0])!r}, with which {run} was trained, received {new[data[0]]!r}; leave"
            " it, or allow other data (--other-data)"
        )
    suspects = [name for name in changed if not name.startswith(("data.", "training."))]
    if not suspects or not _kept_differs(kind, before, after):
        return
    guilty = next((name for name in suspects if _alone_differs(kind, before, name, new[name])), suspects[0])
    raise ValueError(
        f"{guilty}: expected {old.get(guilty)!r}, with which {run} was trained, received {new[guilty]!r}; a checkpoint"
        " does not fit the configuration otherwise: leave it unchanged, or train in another folder"
    )


def _alone_differs(kind: type[Method], before: MethodSettings, name: str, value: Any) -> bool:
    try:
        alone = resolve(kind.settings_type, (), {name: value}, start=before.model_dump(mode="json"))
        return _kept_differs(kind, before, alone)
    except ValueError:
        return True


def _kept_differs(kind: type[Method], before: MethodSettings, after: MethodSettings) -> bool:
    """Whether the change affects what a checkpoint stores of a method: names, shapes, and values of buffers."""
    first, second = _kept(kind, before), _kept(kind, after)
    return first.keys() != second.keys() or any(not torch.equal(first[name], second[name]) for name in first)


def _kept(kind: type[Method], settings: MethodSettings) -> dict[str, Tensor]:
    """Buffers with their values, and the shapes of parameters and optimizers' phases, of an untrained method."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = kind.build(settings)
    shapes = {name: torch.tensor(value.shape) for name, value in method.named_parameters()}
    phases = {f"phase {phase.name}": torch.zeros(0) for phase in method.phases}
    state = method.state_dict()
    return {**shapes, **phases, **{n: value for n, value in method.named_buffers() if n in state}}


def flat_settings(settings: MethodSettings) -> dict[str, Any]:
    """Dotted name of each setting → its value as in JSON."""
    found: dict[str, Any] = {}

    def walk(values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            else:
                found[prefix + name] = value

    walk(settings.model_dump(mode="json"), "")
    return found
