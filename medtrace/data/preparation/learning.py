"""The first pass of a preparation: align every pair, and learn from the training subjects."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from medtrace.data.lists.pair_list import PATHS, SIDES, Pair
from medtrace.data.preparation.case import Case, PreparationSettings, check_depth, naming, read_case
from medtrace.data.preparation.intensity import ContrastStandard, fit_contrast, foreground_quantiles, mean_curve
from medtrace.data.preparation.rules import Preparation
from medtrace.guard.notices import collecting
from medtrace.storage.cases import atomic_case, case_key, compute_threads, is_finished
from medtrace.storage.encoders import write_arrays
from medtrace.trace.contrast import ARBITRARY, Contrast, Intensity
from medtrace.transforms import RigidTransform

LEARNED = "learned"
_FILE = "learned.npz"
_MOTION = "motion of "
_FORMAT = 5


class Learned(NamedTuple):
    """The first pass's findings about a pair."""

    channels: int
    """Of each image."""
    lowest: float
    """Smallest value of a pair of natural images where they are not masked out; 0 of scans."""
    highest: float
    """Likewise the largest."""
    digests: tuple[str, ...]
    """Fingerprint of the voxels of each image, as it was read."""
    quantiles: Mapping[str, Sequence[np.ndarray]]
    """Contrast → foreground quantiles of every channel; empty outside of training."""
    backgrounds: Sequence[str]
    """Contrasts whose images have a background; empty outside of training."""
    key: str
    """Digest of the pair's files and settings."""
    notices: tuple[str, ...] = ()
    """Notices about decisions in reading the pair, without file names."""
    records: tuple[Mapping[str, Any], ...] = ()
    """Record of each image (see `medtrace.data.population.ImageRecord`)."""


def learn_case(
    pair: Pair,
    settings: PreparationSettings,
    natural_images: bool,
    training: bool,
    columns: Sequence[str],
    folder: Path,
    threads: int | None,
) -> Learned:
    """Read and align a pair, and keep what is needed of it in `folder`, unless that is there already.

    Raises:
        FileNotFoundError, ValueError: if a file cannot be used; the message names it.
    """
    files = {name: getattr(pair, name) for name in PATHS} | {image.key: image.path for image in pair.images}
    about = {"settings": asdict(settings), "training": training, "columns": list(columns), "pair": _names(pair)}
    key = case_key(files, format=_FORMAT, **about)
    place = folder / LEARNED / pair.name
    if is_finished(place, key):
        return _load(place, key)
    with compute_threads(threads), atomic_case(place, key) as temporary:
        with collecting() as notices:
            case = read_case(pair, settings, natural_images, None, columns, describe=True)
        check_depth(case, settings, natural_images)
        quantiles: dict[str, list[np.ndarray]] = defaultdict(list)
        backgrounds: list[str] = []
        lowest, highest = _extremes(case) if natural_images else (0.0, 0.0)
        if training and not natural_images:
            for image, values, foreground in case.members:
                with naming(image.path):
                    quantiles[image.contrast] += foreground_quantiles(values, foreground)
                    if not bool(foreground.all()):
                        backgrounds.append(image.contrast)
        told = tuple(notice.text for notice in notices)
        extremes = (case.channels, lowest, highest)
        records = tuple(record.as_dict() for record in case.records)
        learned = Learned(*extremes, case.digests, dict(quantiles), sorted({*backgrounds}), key, told, records)
        _save(learned, case, temporary)
    return learned


def known_motions(pair: Pair, folder: Path) -> dict[str, RigidTransform]:
    """The rigid motions that the first pass found, see `Case.motions`."""
    with np.load(folder / LEARNED / pair.name / _FILE, allow_pickle=False) as saved:
        result = json.loads(str(saved["found"]))
        return {
            key: RigidTransform(torch.from_numpy(saved[f"{_MOTION}{key}"]), **values)
            for key, values in result["motions"].items()
        }


def preparation_of(pairs: Sequence[Pair], learned: Mapping[str, Learned], settings: PreparationSettings) -> Preparation:
    """The values learned from all readable training scans, independent of the reading order.

    Args:
        pairs: pairs of the training split, in the list's order.
        learned: of those among them that could be read.
        settings: settings of the preparation.
    """
    result = [learned[pair.name] for pair in pairs if pair.name in learned]
    quantiles: dict[str, list[np.ndarray]] = defaultdict(list)
    for one in result:
        for contrast, values in one.quantiles.items():
            quantiles[contrast] += values
    sources = {image.contrast for pair in pairs for image in pair.images if image.side == "source"}
    known = {name: settings.contrasts.get(name) or Contrast.with_unit(name, ARBITRARY) for name in quantiles}
    backgrounds = {name for one in result for name in one.backgrounds}
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
        **channels_of(pairs),
        align=settings.align,
        source_contrast=next(iter(sources)) if len(sources) == 1 else None,
        spatial_dims=settings.spatial_dims,
        axis=settings.axis,
        channels=result[0].channels if result else None,
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


def channels_of(pairs: Sequence[Pair]) -> dict[str, Any]:
    """The members `sources`, `outputs` and `missing` of a preparation of pairs that have several images."""
    if not any(pair.several for pair in pairs):
        return {}
    first = pairs[0]
    lacked = (name for pair in pairs for name, image in zip(pair.channels, pair.sources) if image is None)
    return {
        "sources": first.channels or (first.contrast,),
        "outputs": tuple(image.contrast for image in first.images if image.side == "target"),
        "missing": tuple(dict.fromkeys(lacked)),
    }


def channel_notes(preparation: Preparation, pairs: Sequence[Pair]) -> list[str]:
    """Lines about a network's inputs and outputs if there are several images, and about missing contrasts."""
    if not preparation.sources:
        return []
    notes = [f"a network reads {', '.join(preparation.sources)} and makes {', '.join(preparation.outputs)}"]
    lacked = Counter(name for pair in pairs for name, image in zip(pair.channels, pair.sources) if image is None)
    if lacked:
        told = ", ".join(f"{name} of {count}" for name, count in lacked.items())
        notes.append(f"missing sources: {told} of {len(pairs)} pair(s); their channels hold background")
    return notes


def _targets(pairs: Sequence[Pair]) -> dict[str, str]:
    """Contrast of a source → that of its target; nothing where a network reads or makes several at once.

    Raises:
        ValueError: if one source contrast has several target contrasts.
    """
    result: dict[str, str] = {}
    if not all(pair.paired for pair in pairs):
        sides = [{i.contrast for pair in pairs for i in pair.images if i.side == side} for side in SIDES]
        if len(sides[1]) > 1:
            raise ValueError(
                f"target_contrast: expected one for all targets, received {', '.join(sorted(sides[1]))}; prepare a"
                " dataset for each"
            )
        return {source: target for source in sorted(sides[0]) for target in sides[1]}
    for pair in pairs:
        if pair.several:
            continue
        earlier = result.setdefault(pair.contrast, pair.target_contrast)
        if earlier != pair.target_contrast:
            raise ValueError(
                f"target_contrast: expected one for the sources of contrast {pair.contrast!r}, received {earlier!r} and"
                f" {pair.target_contrast!r}; a network could not tell which is wanted: prepare a dataset for each"
            )
    return result


def _extremes(case: Case) -> tuple[float, float]:
    inside = [member.values[:, member.foreground[0]] for member in case.members]
    return min(float(values.min()) for values in inside), max(float(values.max()) for values in inside)


def _names(pair: Pair) -> dict[str, Any]:
    names = ("subject", "name", "contrast", "target_contrast", "landmark_space", "source_series", "target_series")
    images = [[image.key, image.contrast, image.series] for image in pair.images] if pair.several else []
    return {name: getattr(pair, name) for name in names} | {"images": images, "channels": pair.channels}


def _save(learned: Learned, case: Case, folder: Path) -> None:
    motions = {
        key: {k: v for k, v in motion._asdict().items() if k != "matrix"} for key, motion in case.motions.items()
    }
    result = {
        "channels": learned.channels,
        "lowest": learned.lowest,
        "highest": learned.highest,
        "notices": learned.notices,
        "digests": learned.digests,
        "records": learned.records,
        "motions": motions,
        "backgrounds": list(learned.backgrounds),
        "quantiles": {contrast: len(values) for contrast, values in learned.quantiles.items()},
    }
    arrays = {
        f"{contrast}/{number}": values
        for contrast, several in learned.quantiles.items()
        for number, values in enumerate(several)
    }
    arrays |= {f"{_MOTION}{key}": motion.matrix.numpy() for key, motion in case.motions.items()}
    write_arrays(folder / _FILE, {"found": np.array(json.dumps(result)), **arrays})


def _load(folder: Path, key: str) -> Learned:
    with np.load(folder / _FILE, allow_pickle=False) as saved:
        result = json.loads(str(saved["found"]))
        quantiles = {
            contrast: [saved[f"{contrast}/{number}"] for number in range(count)]
            for contrast, count in result["quantiles"].items()
        }
    digests, told = tuple(result["digests"]), tuple(result["notices"])
    extremes = (result["channels"], result["lowest"], result["highest"])
    return Learned(*extremes, digests, quantiles, result["backgrounds"], key, told, tuple(result["records"]))
