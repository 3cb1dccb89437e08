"""Lists of pairs and of single images as `medtrace prepare` reads them, written from records."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from medtrace.data.lists.folder_layouts import read_acdc
from medtrace.data.lists.layouts import read_layout
from medtrace.data.lists.pair_list import LABELS, Pair
from medtrace.data.lists.tables import read_text
from medtrace.data.reading import read_values
from medtrace.methods.recipes import Domain, Domains, Pairs
from medtrace.storage.files import atomic_write, make_directory

WRITTEN = {field.name for field in fields(Pair)} - {"sources", "targets", "channels", "origin"}
SMOKE_SUBJECTS = 6
"""Number of subjects of a data set, or of each of two domains, in a smoke test."""


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write rows as a JSON list, files by their absolute paths and what is empty left out."""
    make_directory(path.parent)
    kept = [
        {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in row.items() if value}
        for row in rows
    ]
    atomic_write(path, json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
    return path


def pair_list(preparation: Pairs, place: Path, path: Path, smoke: bool = False) -> Path:
    """Write the pairs of a published layout as a list.

    Args:
        preparation: which pairs.
        place: where they lie.
        path: path of the list.
        smoke: only a few subjects.

    Raises:
        ValueError: if no pair remains.
    """
    pairs = read_layout(place, preparation.select, preparation.layout).pairs
    if preparation.source:
        pairs = [_turned(pair, preparation.source) for pair in pairs]
    if preparation.labeled:
        pairs = [replace(pair, split="") for pair in pairs if all(getattr(pair, name) for name in LABELS)]
        if not pairs:
            raise ValueError(f"{place}: expected pairs whose images both have labels, received none; add the labels")
    if smoke:
        subjects = list(dict.fromkeys(pair.subject for pair in pairs))[:SMOKE_SUBJECTS]
        pairs = [pair for pair in pairs if pair.subject in subjects]
    return write_rows(path, [{name: getattr(pair, name) for name in WRITTEN} for pair in pairs])


def _turned(pair: Pair, source: str) -> Pair:
    """A pair whose source is the contrast that is translated from, such as MR."""
    if source.casefold() in pair.contrast.casefold() or source.casefold() not in pair.target_contrast.casefold():
        return pair
    turned: dict[str, Any] = {}
    for name in ("", "_labels", "_landmarks", "_lesion", "_series"):
        turned |= {f"source{name}": getattr(pair, f"target{name}"), f"target{name}": getattr(pair, f"source{name}")}
    return replace(pair, **turned, contrast=pair.target_contrast, target_contrast=pair.contrast, mask=None)


def domain_lists(preparation: Domains, place: Path, folder: Path, smoke: bool = False) -> tuple[Path, Path]:
    """Write the images of two domains as two lists, each with the split of its subjects.

    Raises:
        ValueError: if a domain has too few subjects.
    """
    lists = []
    for side in (preparation.source, preparation.target):
        rows = _READERS[side.layout](side, place / side.folder)
        subjects = list(dict.fromkeys(row["subject"] for row in rows))
        chosen = subjects[: SMOKE_SUBJECTS if smoke else side.subjects]
        split = _dealt(chosen, preparation.fractions)
        if preparation.enclosed is not None:
            _check_enclosed(preparation.enclosed, [row["labels"] for row in rows if row["subject"] in split])
        kept = [{**row, "split": split[row["subject"]]} for row in rows if row["subject"] in split]
        if len(set(split.values())) < 2:
            raise ValueError(
                f"{place / side.folder}: expected subjects for training and test, received {len(chosen)}; add subjects"
            )
        lists.append(write_rows(folder / f"{side.folder}.json", kept))
    return lists[0], lists[1]


def _check_enclosed(labels: tuple[int, int], files: Sequence[Path]) -> None:
    """Check that one label is surrounded by another, in the planes of the first file that shows both.

    Raises:
        ValueError: if something else surrounds it.
    """
    inner, outer = labels
    for file in files:
        values = read_values(file).numpy()[0]
        if not ((values == inner).any() and (values == outer).any()):
            continue
        around = [0, 0]
        for axis, step in itertools.product((0, 1), (-1, 1)):
            beside = np.roll(values, step, axis)
            border = (values == inner) & (beside != inner)
            around[0] += int((border & (beside == outer)).sum())
            around[1] += int(border.sum())
        if 2 * around[0] < around[1]:
            raise ValueError(
                f"{file}: expected label {inner} within label {outer}, which is {around[0]} of {around[1]} of what"
                f" surrounds it; number the labels of both domains alike, as `medtrace reproduce` describes"
            )
        return


def _dealt(subjects: Sequence[str], fractions: Sequence[float]) -> dict[str, str]:
    """Subject → split, at random by seed 0, at least one of each that is asked for."""
    names = [name for name, share in zip(("training", "validation", "test"), fractions) if share]
    counts = {name: max(1, round(share * len(subjects))) for name, share in zip(names, filter(None, fractions))}
    counts["training"] = len(subjects) - sum(count for name, count in counts.items() if name != "training")
    splits = [name for name, count in counts.items() for _ in range(max(0, count))]
    order = np.random.default_rng(0).permutation(len(subjects))
    return {subjects[index]: split for index, split in zip(order, splits)}


def _b_scans(domain: Domain, place: Path) -> list[dict[str, Any]]:
    rows = []
    for image in sorted(path for path in (place / "images").iterdir() if path.is_file() and path.name[0] != "."):
        labels = place / "labels" / image.name
        if not labels.is_file():
            raise FileNotFoundError(f"{labels}: no such file; expected the layers of {image}, add them or remove it")
        eye = f"{domain.contrast}-{image.stem.partition('_')[0]}"
        rows.append({"subject": eye, "case": f"{domain.contrast}-{image.stem}", "image": image, "labels": labels})
    return rows


def _acdc(domain: Domain, place: Path) -> list[dict[str, Any]]:
    rows = []
    for study in read_acdc(place):
        info = dict(
            line.split(":", 1) for line in read_text(Path(study.origin) / "Info.cfg").splitlines() if ":" in line
        )
        if (
            study.visit == "ED"
            and study.labels
            and (not domain.groups or info.get("Group", "").strip() in domain.groups)
        ):
            rows.append(_scan(domain, study.subject, study.images["cine"], study.labels))
    return rows


def _ukbiobank(domain: Domain, place: Path) -> list[dict[str, Any]]:
    rows = []
    for image in sorted(place.glob("*/sa_ED.nii.gz")):
        labels = image.with_name("label_sa_ED.nii.gz")
        if labels.is_file():
            rows.append(_scan(domain, image.parent.name, image, labels))
    return rows


def _scan(domain: Domain, subject: str, image: Path, labels: Path) -> dict[str, Any]:
    name = f"{domain.contrast}-{subject}"
    return {"subject": name, "image": image, "labels": labels, "contrast": domain.contrast}


_READERS = {"b-scans": _b_scans, "acdc": _acdc, "ukbiobank": _ukbiobank}
