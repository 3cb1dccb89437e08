"""The contrasts of a list of pairs: as declared, as DICOM headers say, or by default."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from torch import Tensor

from medtrace.data.dicom import find_stack
from medtrace.data.lists.pair_list import Pair, PairImage
from medtrace.data.natural_images.files import is_natural_image
from medtrace.guard.dicom_headers import is_dicom
from medtrace.guard.notices import caution
from medtrace.guard.volume_files import VOLUMES
from medtrace.trace.contrast import AIR, ARBITRARY, HU, Contrast, Intensity, unit_of

DEFAULT = "image"
"""Name of a contrast that nobody named."""
BY_DEFAULT = "no unit declared"
DECLARED = "as declared"
AIR_MARGIN = 100.0
"""HU about air that count as air."""
LEAST_AIR = 0.02
"""Fraction of voxels about -1000 from which an image looks like a CT."""
BODY = -500.0
"""HU between air and fat."""


def contrasts_of(
    pairs: Sequence[Pair], source: Sequence[str] = (), target: Sequence[str] = ()
) -> tuple[list[Pair], dict[str, Contrast]]:
    """Name the contrasts of pairs, and say what their numbers mean.

    Args:
        pairs: pairs of scans; the columns of a list name contrasts.
        source: `NAME[=UNIT[:LOW:HIGH]]` (see `Contrast.of`): what the sources are, where the list does not say, or the
            units of contrasts that it names.
        target: likewise of the targets.

    Returns:
        The pairs with their contrasts named, and the contrasts by name. A DICOM series of modality CT is in HU.

    Raises:
        ValueError: if a declared contrast is not among the pairs', two declarations of one differ, or series of
            several modalities go by one name.
    """
    declared = _declared([*source, *target])
    sides = (_only(source), _only(target))
    named = [_named(pair, sides) for pair in pairs]
    modalities = {(k, image.key): _modality(image) for k, pair in enumerate(named) for image in pair.images}
    named = [
        _by_modality(pair, modalities.get((k, "source")), modalities.get((k, "target"))) for k, pair in enumerate(named)
    ]
    names = dict.fromkeys(image.contrast for pair in named for image in pair.images)
    for name in declared:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1) or list(names)[:3]
            raise ValueError(
                f"contrast: {name!r} was declared, but no image in the list has it; known: {', '.join(map(repr, near))}"
            )
    seen: dict[str, set[str]] = {name: set() for name in names}
    for k, pair in enumerate(named):
        for image in pair.images:
            if modality := modalities[k, image.key]:
                seen[image.contrast].add(modality)
    return named, {name: _contrast(name, declared.get(name), seen[name]) for name in names}


def check_declared(path: Path, image: Tensor, contrast: Contrast | None) -> None:
    """Refuse an image whose values look like HU, but which nobody said to be a CT or anything else.

    Raises:
        ValueError: if so; the message names the options.
    """
    if contrast is not None and contrast.origin == BY_DEFAULT and looks_like_hounsfield(image):
        raise ValueError(
            f"{path}: holds values from {float(image.min()):g} to {float(image.max()):g} with air at about -1000, like"
            f" a CT in HU, but is declared as {contrast.name!r} without a unit; declare what it is, such as"
            " --source-contrast CT=HU or --target-contrast CT=HU (in arbitrary units: NAME=a.u.)"
        )


def doubt_units(path: Path, image: Tensor, contrast: Contrast | None) -> None:
    """Caution about values that a contrast's unit does not have: a CT without air, such as one stored with an offset,
    or values of a CT where nobody said that they are in arbitrary units.

    Args:
        path: path of the image, for the message.
        image: (C, *spatial).
        contrast: the contrast that it is taken for.
    """
    if contrast is None:
        return
    values = f"holds values from {float(image.min()):g} to {float(image.max()):g}"
    if contrast.unit == HU and float(image.min()) > BODY:
        caution(
            path,
            f"{values}, without air (about {AIR:g} HU), but is read as {contrast}: if it is in another unit or has an"
            " offset such as 1024, everything derived from it is wrong; convert it to HU, or declare its unit",
        )
    elif contrast.relative and not contrast.origin.startswith(DECLARED) and looks_like_hounsfield(image):
        caution(
            path, f"{values} with air at about {AIR:g}, like a CT in HU, but is read as {contrast}; check the image"
        )


def looks_like_hounsfield(image: Tensor) -> bool:
    """Whether the values are those of a CT: much air about -1000, nothing but padding below, and tissue above 0.

    Args:
        image: (C, *spatial).
    """
    values = image.detach().cpu().numpy().reshape(-1)
    air = np.abs(values - AIR) <= AIR_MARGIN
    below = values[values < AIR - AIR_MARGIN]
    padding = below.size == 0 or np.ptp(below) == 0 or below.size < 0.001 * values.size
    return bool(padding and air.mean() >= LEAST_AIR and (values > 0).mean() >= LEAST_AIR)


def body_of(image: Tensor) -> Tensor:
    """The body in a CT: everything except the air that reaches the image's border.

    Args:
        image: (C, *spatial) in HU.

    Returns:
        Boolean (1, *spatial).
    """
    air = (image < BODY).all(0).cpu().numpy()
    parts, count = ndimage.label(air)
    outside = np.zeros(count + 1, dtype=bool)
    for axis, size in enumerate(parts.shape):
        if size > 1:
            for end in (0, size - 1):
                outside[np.unique(np.take(parts, end, axis=axis))] = True
    outside[0] = False
    return image.new_tensor(~outside[parts]).bool()[None]


def check_modality(path: Path, modality: str | None, contrast: Contrast | None) -> None:
    """Refuse a DICOM series of another modality than a contrast's unit asks for.

    Raises:
        ValueError: if a CT is expected and something else was given, or the other way round.
    """
    if modality is None or contrast is None or contrast.rule is Intensity.RANGE:
        return
    if (modality == "CT") != (contrast.unit == HU):
        raise ValueError(
            f"{path}: is a DICOM series of modality {modality}, but {contrast} is expected; give an image of that"
            " contrast"
        )


def rule_notes(contrasts: Mapping[str, Contrast], targets: Mapping[str, str]) -> list[str]:
    """The table of the rules that were chosen and why, in lines."""
    rows = [("contrast", "unit", "rule", "-1 to 1", "background", "why")]
    for name, contrast in contrasts.items():
        units = contrast.limits or (contrast.curve[0] if contrast.curve is not None else ())
        limits = f"{units[0]:.4g} to {units[-1]:.4g}" if units else "-"
        limits += " (mean training scan)" if contrast.curve is not None else ""
        background = "none" if contrast.background is None else f"{contrast.background:g}"
        rows.append((name, contrast.unit, str(contrast.rule), limits, background, contrast.origin))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]) for row in rows]
    corrected = [name for name, contrast in contrasts.items() if contrast.bias_corrected]
    if corrected:
        lines.append(f"{', '.join(corrected)}: corrected for the bias field that N4 finds, here and in translate")
    crossed = [f"{a} to {b}" for a, b in targets.items() if a != b and contrasts[b].relative]
    if crossed:
        lines.append(
            f"{', '.join(crossed)}: a translation's numbers are relative, on the scale of the mean training scan"
        )
    return lines


def _declared(texts: Sequence[str]) -> dict[str, Contrast]:
    result: dict[str, Contrast] = {}
    for text in texts:
        contrast = Contrast.of(text)
        if "=" not in text:
            contrast = replace(contrast, origin=BY_DEFAULT if contrast.relative else f"the name {contrast.name}")
        earlier = result.get(contrast.name)
        if earlier is not None and earlier != contrast and "=" in text and earlier.origin == DECLARED:
            raise ValueError(f"contrast: {contrast.name!r} is declared twice, as {earlier} and {contrast}; choose one")
        if earlier is None or "=" in text:
            result[contrast.name] = contrast
    return result


def _only(texts: Sequence[str]) -> str | None:
    return Contrast.of(texts[0]).name if len(texts) == 1 else None


def _named(pair: Pair, sides: tuple[str | None, str | None]) -> Pair:
    before, after = sides
    source = before if before is not None and pair.contrast == DEFAULT else pair.contrast
    if pair.sources:
        source = pair.contrast
    target = source if pair.target_contrast == pair.contrast else pair.target_contrast
    if pair.source is None:
        return replace(
            pair, target_contrast=after if after and pair.target_contrast == DEFAULT else pair.target_contrast
        )
    if after is not None and pair.target_contrast in (DEFAULT, pair.contrast) and not pair.targets:
        target = after
    return replace(pair, contrast=source, target_contrast=target)


def _by_modality(pair: Pair, source: str | None, target: str | None) -> Pair:
    before = "CT" if pair.contrast == DEFAULT and source == "CT" else pair.contrast
    after = "CT" if pair.target_contrast == DEFAULT and target == "CT" else pair.target_contrast
    return replace(pair, contrast=before, target_contrast=after)


def _modality(image: PairImage) -> str | None:
    """The DICOM modality of a scan; None where it is not DICOM, or what the reader will refuse."""
    path = image.path
    name = path.name.lower()
    if (
        is_natural_image(path)
        or name.endswith(VOLUMES)
        or not (path.is_dir() or name.endswith(".dcm") or is_dicom(path))
    ):
        return None
    try:
        return find_stack(path, image.series).modality
    except (OSError, ValueError):
        return None


def _contrast(name: str, declared: Contrast | None, modalities: set[str]) -> Contrast:
    if len(modalities) > 1 and "CT" in modalities:
        raise ValueError(
            f"contrast: the images called {name!r} are DICOM series of several modalities"
            f" ({', '.join(sorted(modalities))}); give them different names in the columns contrast and target_contrast"
        )
    if declared is not None and declared.origin != BY_DEFAULT:
        if "CT" in modalities and declared.unit != HU:
            raise ValueError(f"contrast: {declared} is declared, but its DICOM series are CT, which is in HU")
        return declared
    if "CT" in modalities:
        return Contrast.with_unit(name, HU, origin="DICOM modality CT")
    unit = unit_of(name)
    origin = BY_DEFAULT if unit == ARBITRARY else f"the name {name}"
    if unit == ARBITRARY and modalities:
        origin = f"DICOM modality {', '.join(sorted(modalities))}"
    return Contrast.with_unit(name, unit, origin=origin)
