"""Two independent lists of images: domains without pairs, such as the scans of two hospitals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medtrace.data.lists.image_list import list_images
from medtrace.data.lists.names import check_file_name, check_name, normalized
from medtrace.data.lists.pair_list import SIDES, SPLITS, Pair, check_list, existing
from medtrace.data.lists.tables import read_table

MAPS: tuple[str, ...] = ("mask", "labels", "lesion")
COLUMNS = ("case", "contrast", *MAPS, "series", "split")


def read_domains(sources: str | os.PathLike, targets: str | os.PathLike) -> list[Pair]:
    """Read the images of two domains, each as a `Pair` of one side.

    Args:
        sources: images of the domain to translate from: a list (.csv or .json: `subject`, `image` and, optionally,
            `case`, `contrast`, `mask`, `labels`, `lesion`, `series`, `split`), or a folder or text file of images, each
            of which then counts as its own subject, named after its file.
        targets: likewise of the domain to translate to. A name in both stands for one subject.

    Raises:
        FileNotFoundError: if a list or an image does not exist.
        ValueError: as of `read_pair_list`.
    """
    result = [pair for side, place in zip(SIDES, (sources, targets)) for pair in read_domain(side, Path(place))]
    check_list(Path(sources), result)
    return result


def read_domain(side: str, place: Path) -> list[Pair]:
    """One side of `read_domains`: "source" or "target"."""
    if not place.exists():
        raise FileNotFoundError(f"{place}: no such list or folder of {side}s; check the path")
    if place.suffix.lower() in (".csv", ".json") and place.is_file():
        return _listed(side, place)
    pairs = []
    for image in list_images([place]):
        name = check_name(str(image.path), normalized(image.name))
        pairs.append(_one(side, name, name, image.path, {}, str(image.path)))
    return pairs


def _listed(side: str, path: Path) -> list[Pair]:
    table = read_table(path, ("subject", "image"), COLUMNS)
    pairs = []
    for where, row in table.rows:
        place = f"{path}: {where}"
        for name in ("subject", "image"):
            if name not in row:
                raise ValueError(f"{place}: no value for {name}; fill it in or remove the row")
        split = row.get("split", "").lower()
        if split and split not in SPLITS:
            raise ValueError(f"{place}: split: expected {', '.join(SPLITS)}, received {row['split']!r}; rename it")
        subject = check_name(f"{place}: subject", row["subject"])
        case = check_name(f"{place}: case", row.get("case", subject))
        maps: dict[str, Path] = {
            name: existing(f"{place}: {name}", path.parent, row[name]) for name in MAPS if name in row
        }
        pair = _one(side, subject, case, existing(f"{place}: image", path.parent, row["image"]), maps, place)
        contrast = check_name(f"{place}: contrast", row["contrast"]) if "contrast" in row else Pair.contrast
        series: dict[str, Any] = {f"{side}_series": row.get("series")}
        pairs.append(replace(pair, contrast=contrast, target_contrast=contrast, split=split, **series))
    if not pairs:
        raise ValueError(f"{path}: expected at least one image, received none; add rows below the header")
    return pairs


def _one(side: str, subject: str, case: str, image: Path, maps: dict[str, Path], origin: str) -> Pair:
    named = {("mask" if name == "mask" else f"{side}_{name}"): path for name, path in maps.items()}
    pair = Pair(
        subject=subject,
        case=f"{case}_{side}",
        source=image if side == "source" else None,
        target=image if side == "target" else None,
        origin=origin,
        **named,  # type: ignore[arg-type]
    )
    check_file_name(f"{origin}: case", pair.name)
    return pair


def check_contrasts_apart(pairs: Sequence[Pair]) -> None:
    """Check that the domains are called differently: what is made of a source is in the units of the targets.

    Raises:
        ValueError: if a contrast is in both.
    """
    names = [{image.contrast for pair in pairs for image in pair.images if image.side == side} for side in SIDES]
    if names[0] & names[1]:
        raise ValueError(
            f"contrast: expected different names for sources and targets, received {min(names[0] & names[1])!r} for"
            " both; name them in the column contrast, or with --source-contrast and --target-contrast"
        )
