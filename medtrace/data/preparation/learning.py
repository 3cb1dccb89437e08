"""The first pass of a preparation: align every pair, and learn from the training subjects."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medtrace.data.lists.layouts import PATHS, Pair
from medtrace.data.preparation.case import Case, PreparationSettings, check_depth, members, naming, read_case
from medtrace.data.preparation.intensity import ContrastStandard, fit_contrast, foreground_quantiles, mean_curve
from medtrace.data.preparation.rules import Preparation
from medtrace.guard.notices import collecting
from medtrace.storage.cases import atomic_case, case_key, compute_threads, is_finished
from medtrace.storage.encoders import write_arrays
from medtrace.trace.contrast import ARBITRARY, Contrast, Intensity
from medtrace.transforms import RigidTransform

LEARNED = "learned"
_FILE = "learned.npz"
_FORMAT = 4


class Learned(NamedTuple):
    """What the first pass found out about a pair."""

    channels: int
    lowest: float
    """Smallest value of a pair of pictures where they are not masked out; 0 of scans."""
    highest: float
    """Likewise the largest."""
    digests: tuple[str, str]
    """Of the voxels of source and target, as they were read."""
    quantiles: Mapping[str, Sequence[np.ndarray]]
    """Contrast → foreground quantiles of every channel; empty outside of training."""
    backgrounds: Sequence[str]
    """Contrasts whose images have a background; empty outside of training."""
    key: str
    """Digest of the pair's files and settings."""
    notices: tuple[str, ...] = ()
    """What reading the pair decided, without the names of files."""
    records: tuple[Mapping[str, Any], ...] = ()
    """Of source and target (see `medtrace.data.population.ImageRecord`)."""


def learn_case(
    pair: Pair,
    settings: PreparationSettings,
    pictures: bool,
    training: bool,
    columns: Sequence[str],
    folder: Path,
    threads: int | None,
) -> Learned:
    """Read and align a pair, and keep what is needed of it in `folder`, unless that is there already.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    files = {name: getattr(pair, name) for name in PATHS}
    about = {"settings": asdict(settings), "training": training, "columns": list(columns), "pair": _names(pair)}
    key = case_key(files, format=_FORMAT, **about)
    place = folder / LEARNED / pair.name
    if is_finished(place, key):
        return _load(place, key)
    with compute_threads(threads), atomic_case(place, key) as temporary:
        with collecting() as notices:
            case = read_case(pair, settings, pictures, None, columns, describe=True)
        check_depth(case, settings, pictures)
        quantiles: dict[str, list[np.ndarray]] = defaultdict(list)
        backgrounds: list[str] = []
        lowest, highest = _extremes(case) if pictures else (0.0, 0.0)
        if training and not pictures:
            for path, image, contrast, foreground in members(case):
                with naming(path):
                    quantiles[contrast] += foreground_quantiles(image, foreground)
                    if not bool(foreground.all()):
                        backgrounds.append(contrast)
        told = tuple(notice.text for notice in notices)
        extremes = (case.source.shape[0], lowest, highest)
        records = tuple(record.as_dict() for record in case.records)
        learned = Learned(*extremes, case.digests, dict(quantiles), sorted({*backgrounds}), key, told, records)
        _save(learned, case, temporary)
    return learned


def known_motion(pair: Pair, folder: Path) -> RigidTransform | None:
    """The rigid motion that the first pass found, None where nothing was aligned."""
    with np.load(folder / LEARNED / pair.name / _FILE, allow_pickle=False) as saved:
        found = json.loads(str(saved["found"]))
        if found["rigid"] is None:
            return None
        return RigidTransform(torch.from_numpy(saved["rigid"]), **found["rigid"])


def preparation_of(pairs: Sequence[Pair], learned: Mapping[str, Learned], settings: PreparationSettings) -> Preparation:
    """What the training scans that could be read teach together; it does not depend on the order of reading.

    Args:
        pairs: of the training split, in the list's order.
        learned: of those among them that could be read.
        settings: of the preparation.
    """
    found = [learned[pair.name] for pair in pairs if pair.name in learned]
    quantiles: dict[str, list[np.ndarray]] = defaultdict(list)
    for one in found:
        for contrast, values in one.quantiles.items():
            quantiles[contrast] += values
    sources = {pair.contrast for pair in pairs}
    known = {name: settings.contrasts.get(name) or Contrast.with_unit(name, ARBITRARY) for name in quantiles}
    backgrounds = {name for one in found for name in one.backgrounds}
    standards: dict[str, ContrastStandard] = {}
    contrasts: dict[str, Contrast] = {}
    for name, images in quantiles.items():
        if not known[name].fixed:
            standards[name] = fit_contrast(images, settings.standardize)
        contrasts[name] = _learned_contrast(known[name], images, standards.get(name), name in backgrounds)
    return Preparation(
        intensity=Intensity.STANDARDIZED if standards else Intensity.WINDOW,
        standards=standards,
        contrasts=contrasts,
        targets=_targets(pairs),
        source_contrast=next(iter(sources)) if len(sources) == 1 else None,
        spatial_dims=settings.spatial_dims,
        axis=settings.axis,
        channels=found[0].channels if found else None,
    )


def _learned_contrast(
    contrast: Contrast, images: Sequence[np.ndarray], standard: ContrastStandard | None, background: bool
) -> Contrast:
    """A contrast with what its training scans say of its units."""
    deviation = float(np.median([values.std() for values in images]))
    if standard is None:
        return replace(contrast, deviation=deviation)
    learned = f"; learned from {len(images)} training scan(s)"
    return replace(
        contrast,
        curve=mean_curve(images, standard),
        background=0.0 if background else None,
        deviation=deviation,
        origin=contrast.origin + learned,
    )


def _targets(pairs: Sequence[Pair]) -> dict[str, str]:
    """Contrast of a source → that of its target.

    Raises:
        ValueError: if one leads to several.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        earlier = found.setdefault(pair.contrast, pair.target_contrast)
        if earlier != pair.target_contrast:
            raise ValueError(
                f"target_contrast: expected one for the sources of contrast {pair.contrast!r}, received {earlier!r} and"
                f" {pair.target_contrast!r}; a network could not tell which is wanted: prepare a dataset for each"
            )
    return found


def _extremes(case: Case) -> tuple[float, float]:
    inside = [image[:, mask[0]] for _, image, _, mask in members(case)]
    return min(float(values.min()) for values in inside), max(float(values.max()) for values in inside)


def _names(pair: Pair) -> dict[str, str]:
    names = ("subject", "name", "contrast", "target_contrast", "landmark_space", "source_series", "target_series")
    return {name: getattr(pair, name) for name in names}


def _save(learned: Learned, case: Case, folder: Path) -> None:
    rigid = None if case.rigid is None else {k: v for k, v in case.rigid._asdict().items() if k != "matrix"}
    found = {
        "channels": learned.channels,
        "lowest": learned.lowest,
        "highest": learned.highest,
        "notices": learned.notices,
        "digests": learned.digests,
        "records": learned.records,
        "rigid": rigid,
        "backgrounds": list(learned.backgrounds),
        "quantiles": {contrast: len(values) for contrast, values in learned.quantiles.items()},
    }
    arrays = {
        f"{contrast}/{number}": values
        for contrast, several in learned.quantiles.items()
        for number, values in enumerate(several)
    }
    if case.rigid is not None:
        arrays["rigid"] = case.rigid.matrix.numpy()
    write_arrays(folder / _FILE, {"found": np.array(json.dumps(found)), **arrays})


def _load(folder: Path, key: str) -> Learned:
    with np.load(folder / _FILE, allow_pickle=False) as saved:
        found = json.loads(str(saved["found"]))
        quantiles = {
            contrast: [saved[f"{contrast}/{number}"] for number in range(count)]
            for contrast, count in found["quantiles"].items()
        }
    digests, told = tuple(found["digests"]), tuple(found["notices"])
    extremes = (found["channels"], found["lowest"], found["highest"])
    return Learned(*extremes, digests, quantiles, found["backgrounds"], key, told, tuple(found["records"]))
