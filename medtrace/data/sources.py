"""The data sets that a training's settings name."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, RandFlipd, SelectItemsd

from medtrace.data.augmentation import augmentation, patches
from medtrace.data.dataset import load_dataset, load_domain, read_index
from medtrace.data.lists.pair_list import SIDES
from medtrace.data.neighbors import DropNeighborsd, TogetherWithNeighborsd
from medtrace.data.partners import RandomPartner, UnpairedDomains
from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.data.preparation.rules import Preparation
from medtrace.data.tracebench import TraceBench
from medtrace.methods.settings import AugmentationSettings, MethodSettings, PreparedData, TraceBenchData
from medtrace.transforms import RandDropChannelsd, RandIdenticalPaird, RandMisalignd

CaseTransform = Callable[[dict[str, Any]], dict[str, Any]]
_MASKED = ("source", "target", "mask", "source_mask")
_STRUCTURES = ("source_structure", "target_structure")


class Sources(NamedTuple):
    """The splits of a training. Each is made when it is asked for."""

    training: Callable[[], Any]
    validation: Callable[[], Any]
    test: Callable[[], Any]
    pairs: Callable[[], Any] | None = None
    """Misaligned pairs of the test's subjects, on which a registration is measured (task `misaligned`)."""


def sources(
    settings: MethodSettings, folder: str | os.PathLike | None = None, case_transform: CaseTransform | None = None
) -> Sources:
    """The data that settings name.

    Args:
        settings: whose `data` is used.
        folder: made by `medtrace prepare`; needed where `data.kind` is "prepared".
        case_transform: what the method needs of a training case beside its images, made once per case.

    Raises:
        ValueError: if a folder is needed and none is given.
    """
    data = settings.data
    if isinstance(data, TraceBenchData):
        return _of_tracebench(data, case_transform)
    if folder is None:
        raise ValueError("dataset: expected a folder made by `medtrace prepare`, received none; or train on TraceBench")
    return _of_folder(data, settings.augmentation, folder, case_transform)


def _of_folder(
    data: PreparedData,
    augmented: AugmentationSettings,
    folder: str | os.PathLike,
    case_transform: CaseTransform | None,
) -> Sources:
    unpaired = bool(read_index(Path(folder)).get("unpaired"))
    if unpaired and (data.misalignment is not None or data.drop_sources):
        raise ValueError(f"data: expected no misalignment and no drop_sources, since {folder} holds unpaired domains")

    if data.neighbors:
        _check_slices(folder)

    def training() -> Any:
        steps: list[Any] = [] if case_transform is None else [case_transform]
        if data.misalignment is not None:
            misalign = RandMisalignd(
                ["source", "target"] if data.moved == "both" else [data.moved],
                level=data.misalignment,
                fill=-1.0,
                together=False,
            )
            steps.insert(0, TogetherWithNeighborsd(misalign) if data.neighbors else misalign)
        preparation = Preparation.load(Path(folder) / PREPARATION)
        steps += augmentation(augmented, preparation, preparation.spatial_dims, data.neighbors)
        if data.patch is not None:
            steps += patches(data.patch)
        if data.drop_sources:
            _check_several(folder)
            steps.append(RandDropChannelsd("source", data.drop_sources))
            steps += [DropNeighborsd()] if data.neighbors else []
        transform = Compose(steps) if steps else None
        if unpaired:
            sides = (load_domain(folder, side, transform=transform, neighbors=data.neighbors) for side in SIDES)
            return UnpairedDomains(*(_cut(side, data) for side in sides))
        pairs = _cut(load_dataset(folder, "training", transform=transform, neighbors=data.neighbors), data)
        return RandomPartner(pairs) if data.partners == "resampled" else pairs

    return Sources(
        training,
        lambda: [] if unpaired else load_dataset(folder, "validation", allow_empty=True, neighbors=data.neighbors),
        lambda: load_dataset(folder, "test", neighbors=data.neighbors),
    )


def _cut(cases: CacheDataset, data: PreparedData) -> CacheDataset:
    """Cases that say the size of their patches, where they are cut to such."""
    if data.patch is not None:
        cases.sizes = [data.patch] * len(cases)  # type: ignore[attr-defined]
    return cases


def _check_slices(folder: str | os.PathLike) -> None:
    if read_index(Path(folder))["spatial_dims"] != 2:
        raise ValueError(
            f"data.neighbors: expected 0, since {folder} holds volumes, whose slices a 3D network reads anyway; prepare"
            " with --dims 2"
        )


def _check_several(folder: str | os.PathLike) -> None:
    if not any("source_present" in entry for entry in read_index(Path(folder))["training"]):
        raise ValueError(
            f"data.drop_sources: expected 0, since {folder} has one source image per case; prepare a list with columns"
            " source_NAME"
        )


def _of_tracebench(data: TraceBenchData, case_transform: CaseTransform | None) -> Sources:
    def bench(split: str, cases: int, settings: dict[str, Any] | None, **more: Any) -> TraceBench:
        return TraceBench(data.task, data.spatial_shape, cases, data.seed, split, settings=settings, **more)

    known = _task_settings(data)
    unpaired = data.task == "domain" and data.pairing == "random"

    def training() -> Any:
        keys = _MASKED if data.task == "metamorphic" else ("source", "target")
        steps = _augmentation(data, keys)
        if case_transform is None and not unpaired:
            transform = steps[0] if len(steps) == 1 else Compose(steps) if steps else None
            return bench("training", data.train_cases, known["training"], keys=keys, transform=transform)
        cases = bench("training", data.train_cases, known["training"])
        selected = SelectItemsd([*keys, "subject", "case"])
        if case_transform is None:
            pairs: Any = Dataset(cases, Compose([selected, *steps]))
        else:
            pairs = CacheDataset(cases, Compose([selected, case_transform, *steps]), progress=False)
        return RandomPartner(pairs) if unpaired else pairs

    pairs = None
    if data.task == "misaligned":
        pairs = lambda: bench("test", data.test_cases, {"level": data.level, "moved": data.moved})  # noqa: E731
    return Sources(
        training,
        lambda: bench("validation", data.validation_cases, known["test"]),
        lambda: bench("test", data.test_cases, known["test"]),
        pairs,
    )


def _task_settings(data: TraceBenchData) -> dict[str, dict[str, Any] | None]:
    """The task's settings for the training cases and for the others: test cases are aligned and paired."""
    if data.task == "misaligned":
        partner = "other" if data.pairing == "random" else "same"
        return {
            "training": {"level": data.level, "moved": data.moved, "partner": partner},
            "test": {"level": "0"},
        }
    if data.task == "domain":
        return {"training": {"pairing": data.pairing}, "test": {"pairing": "subject"}}
    if data.task == "metamorphic":
        return {"training": {"direction": data.direction}, "test": {"direction": data.direction}}
    return {"training": None, "test": None}


def _augmentation(data: TraceBenchData, keys: Sequence[str]) -> list[Any]:
    steps: list[Any] = []
    if data.flip:
        steps.append(RandFlipd([*keys, *_STRUCTURES], prob=0.5, spatial_axis=0, allow_missing_keys=True))
    if data.identical:
        steps.append(RandIdenticalPaird(prob=data.identical))
    return steps
