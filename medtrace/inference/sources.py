"""The source images of a translation: one, or several contrasts of which some may be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.bias import in_corrected_intensities
from medtrace.data.contrasts import check_modality, doubt_units
from medtrace.data.dicom.reading import MODALITY
from medtrace.data.masks import check_same_grid
from medtrace.data.preparation.case import naming, onto_reference
from medtrace.data.preparation.intensity import find_foreground
from medtrace.data.preparation.rules import Preparation
from medtrace.trace.contrast import Contrast
from medtrace.trace.intensity_map import IntensityMap
from medtrace.trace.validation import as_tensor
from medtrace.transforms.source_dropout import MISSING


@dataclass(frozen=True)
class SourceImages:
    """Images on the grid of the first, as a network reads them.

    Attributes:
        scan: (C, *spatial) in their units, only those given; without their bias field if the run's had it removed.
        affine: affine of the grid.
        normalized: (C', *spatial) in [-1, 1], every channel that the network reads; a missing one is -1.
        maps: contrast → map between units and [-1, 1] of its image, in order; for a run with one source, the key is "".
        contrasts: what the numbers of each channel of `scan` mean, None if unknown.
        missing: contrasts that the network reads but that were not given.
    """

    scan: Tensor
    affine: Tensor
    normalized: Tensor
    maps: Mapping[str, IntensityMap]
    contrasts: tuple[Contrast, ...] | None
    missing: tuple[str, ...] = ()


def one_source(
    preparation: Preparation, path: Path, scan: MetaTensor, contrast: str | None, foreground: Tensor | None
) -> SourceImages:
    """The image of a run that reads one.

    Args:
        preparation: preparation of the run.
        path: path of the image, for messages.
        scan: (C, *spatial).
        contrast: which one, if the run was trained on several.
        foreground: (1, *spatial) boolean, or None.

    Raises:
        ValueError: if it does not fit the run.
    """
    meaning = preparation.contrast(contrast)
    check_modality(path, scan.meta.get(MODALITY), meaning)
    doubt_units(path, as_tensor(scan), meaning)
    scan = in_corrected_intensities(scan, meaning)
    normalized, intensity = preparation.normalize(scan, contrast, foreground)
    contrasts = None if meaning is None else (meaning,) * scan.shape[0]
    return SourceImages(scan.as_tensor(), scan.affine, normalized, {"": intensity}, contrasts)


def several_sources(
    preparation: Preparation,
    paths: Mapping[str, Path],
    scans: Mapping[str, MetaTensor],
    foreground: Tensor | None,
    may_lack: bool,
) -> SourceImages:
    """The images of a run that reads several, in its order.

    Each is aligned rigidly to the first, as the training images were, unless they were prepared without alignment.

    Args:
        preparation: preparation of the run.
        paths: contrast → file, for messages.
        scans: contrast → (1, *spatial).
        foreground: (1, *spatial) boolean on the grid of the first, or None.
        may_lack: whether the run was trained with sources dropped at random.

    Raises:
        ValueError: if a contrast is unknown, or missing though the run has always seen it, or an image does not fit.
    """
    check_names(preparation, paths)
    missing = tuple(name for name in preparation.sources if name not in scans)
    unseen = [name for name in missing if name not in preparation.missing]
    if unseen and not may_lack:
        raise ValueError(
            f"source: expected {', '.join(preparation.sources)}, since the run was trained with all of them, received"
            f" none called {', '.join(unseen)}; give it, or train with --set data.drop_sources=0.3"
        )
    first = next(name for name in preparation.sources if name in scans)
    reference, where = scans[first], paths[first]
    values: dict[str, Tensor] = {}
    channels: dict[str, Tensor] = {}
    maps: dict[str, IntensityMap] = {}
    for name in (name for name in preparation.sources if name in scans):
        path, scan, meaning = paths[name], scans[name], preparation.contrasts.get(name)
        if scan.shape[0] != 1:
            raise ValueError(f"{path}: expected one channel, as in training, received {scan.shape[0]}; convert it")
        check_modality(path, scan.meta.get(MODALITY), meaning)
        doubt_units(path, as_tensor(scan), meaning)
        with naming(path):
            scan = in_corrected_intensities(scan, meaning)
        reference = scan if name == first else reference
        tissue, moved = find_foreground(scan, meaning), as_tensor(scan)
        if name != first and preparation.align:
            moved, tissue, _ = onto_reference((path, where), scan, reference, tissue, foreground)
        elif name != first:
            check_same_grid(scan, path, reference, where)
        try:
            inside = tissue if foreground is None else foreground
            channels[name], maps[name] = preparation.normalize(moved, name, inside)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        values[name] = moved
    empty = torch.full_like(channels[first], MISSING)
    known = tuple(preparation.contrasts[name] for name in values if name in preparation.contrasts)
    return SourceImages(
        torch.cat([values[name].float() for name in values]),
        reference.affine,
        torch.cat([channels.get(name, empty) for name in preparation.sources]),
        maps,
        known if len(known) == len(values) else None,
        missing,
    )


def check_names(preparation: Preparation, names: Mapping[str, Path]) -> None:
    """Check that images are called as a run calls its sources.

    Raises:
        ValueError: if not.
    """
    if not preparation.sources:
        raise ValueError(
            f"source: expected one image, since the run reads one, received {', '.join(names)}; give it without a name"
        )
    unknown = [name for name in names if name not in preparation.sources]
    if unknown:
        raise ValueError(f"source: expected names among {', '.join(preparation.sources)}, received {unknown[0]!r}")
