"""The data sets of a paper, prepared as its recipe says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medtrace.data.dataset import INDEX, count_cases
from medtrace.evaluation.papers.crossing import add_rotations, crossed_pairs
from medtrace.evaluation.papers.lists import domain_lists, pair_list
from medtrace.methods.recipes import CrossedSlices, Domains, Pairs, PaperData
from medtrace.storage.files import make_directory, write_json
from medtrace.workflows.prepare import prepare

ORIGIN = "_origin.json"
"""Ending of the file next to a prepared folder that records what it was made from."""
SMOKE_FRACTIONS = (0.5, 0.0, 0.5)


def prepared_data(data: PaperData, place: Path, folder: Path, *, smoke: bool = False, progress: bool = True) -> Path:
    """The prepared folder of a data set, created if missing.

    Args:
        data: of a recipe.
        place: where its images are stored (see `places.find_data`).
        folder: receives the lists of images and the prepared folder `NAME`.
        smoke: a few small images, for a smoke test.
        progress: show bars.

    Returns:
        The prepared folder.

    Raises:
        ValueError: if it was made from another folder.
    """
    dataset, origin = folder / data.name, folder / f"{data.name}{ORIGIN}"
    source = str(place.resolve())
    if (dataset / INDEX).is_file() and origin.is_file():
        known = json.loads(origin.read_text(encoding="utf-8"))["place"]
        if known != source:
            raise ValueError(f"out: {dataset} was made from {known}, not from {source}; choose another folder")
    else:
        make_directory(folder)
        write_json(origin, {"place": source})
        _MAKERS[data.preparation.kind](data.preparation, place, dataset, smoke, progress)
    if isinstance(data.preparation, CrossedSlices) and data.preparation.rotations:
        add_rotations(dataset)
    return dataset


def described(data: PaperData, place: Path, dataset: Path) -> str:
    """What was prepared, in a line."""
    counts = ", ".join(f"{count} {split}" for split, count in count_cases(dataset).items() if count)
    return f"{data.title}: {counts}, from {place}"


def _pairs(preparation: Pairs, place: Path, dataset: Path, smoke: bool, progress: bool) -> None:
    pairs = pair_list(preparation, place, dataset.with_suffix(".json"), smoke)
    fractions = SMOKE_FRACTIONS if smoke else preparation.fractions
    prepare(pairs, dataset, fractions=fractions, progress=progress, **_arguments(preparation, smoke))


def _domains(preparation: Domains, place: Path, dataset: Path, smoke: bool, progress: bool) -> None:
    sources, targets = domain_lists(preparation, place, dataset.parent / f"{dataset.name}_lists", smoke)
    prepare(None, dataset, sources=sources, targets=targets, progress=progress, **_arguments(preparation, smoke))


def _crossed(preparation: CrossedSlices, place: Path, dataset: Path, smoke: bool, progress: bool) -> None:
    pairs = crossed_pairs(preparation, place, dataset.parent / f"{dataset.name}_pairs.json", smoke)
    prepare(
        pairs,
        dataset,
        source_contrast=f"{preparation.contrast}=a.u.:0:1",
        slices=1,
        crop=None,
        align=False,
        standardize=False,
        progress=progress,
    )


def _arguments(preparation: Pairs | Domains, smoke: bool) -> dict[str, Any]:
    return {**preparation.arguments, **(preparation.smoke if smoke else {})}


_MAKERS: Mapping[str, Callable[[Any, Path, Path, bool, bool], None]] = {
    "pairs": _pairs,
    "domains": _domains,
    "crossed": _crossed,
}
