"""Locations of a recipe's data sets in a user's folder, and messages about missing ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medtrace.data.lists.folder_layouts import is_acdc
from medtrace.data.lists.json_layouts import is_learn2reg
from medtrace.data.lists.layouts import LAYOUTS
from medtrace.methods.recipes import Domain, PaperData, Recipe

SHOWN = 4
"""Names of a folder that a message shows."""
LIST = ("pairs.csv", "pairs.json")


def find_data(recipe: Recipe, root: Path) -> dict[str, Path]:
    """Name → place of the data sets of a paper that are there: `root` itself, or its folder of that name.

    Raises:
        FileNotFoundError: if there is none; the message describes each expected layout.
    """
    result = {}
    for data in recipe.data:
        place = next((found for one in (root / data.name, root) if (found := _place(data, one))), None)
        if place is not None:
            result[data.name] = place
    if result:
        return result
    wanted = "; or ".join(f"{data.title}: {data.layout}" for data in recipe.data)
    raise FileNotFoundError(f"data: expected in {root} {wanted}; {_seen(root)}")


def _place(data: PaperData, place: Path) -> Path | None:
    """The file or folder that a preparation begins with."""
    if not place.exists():
        return None
    return _FINDERS[data.preparation.kind](data.preparation, place)


def _layout(preparation: Any, place: Path) -> Path | None:
    if preparation.layout == "list":
        return next((path for path in (place, *(place / name for name in LIST)) if path.is_file()), None)
    if preparation.layout == "learn2reg":
        files = sorted(place.glob("*dataset.json")) if place.is_dir() else [place]
        return next((path for path in files if is_learn2reg(path)), None)
    return place if LAYOUTS[preparation.layout].recognize(place) else None


def _domains(preparation: Any, place: Path) -> Path | None:
    sides = (preparation.source, preparation.target)
    there = all(_is_domain(side, place / side.folder) for side in sides)
    return place if there else None


def _is_domain(domain: Domain, place: Path) -> bool:
    if not place.is_dir():
        return False
    if domain.layout == "acdc":
        return is_acdc(place)
    if domain.layout == "ukbiobank":
        return any(place.glob("*/sa_ED.nii.gz"))
    return all((place / part).is_dir() for part in ("images", "labels"))


_FINDERS: Mapping[str, Callable[[Any, Path], Path | None]] = {
    "pairs": _layout,
    "crossed": _layout,
    "domains": _domains,
}


def _seen(root: Path) -> str:
    if not root.exists():
        return "there is no such folder; check the path"
    if root.is_file():
        return "it is a file of another type; give the folder of the data"
    names = sorted(path.name for path in root.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    held = f"it holds {', '.join(names[:SHOWN])}{more}" if names else "it is empty"
    return f"{held}; give the folder that holds the data, or arrange it in that layout"
