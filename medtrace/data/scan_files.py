"""Paths of a prepared data set's scans, for comparison with a method's output."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medtrace.data.lists.pair_list import Pair, PairImage
from medtrace.guard.notices import notify
from medtrace.storage.files import atomic_write

SUFFIX = ".scans.json"
"""Suffix that the file's name adds to that of the data set's folder, next to which it is stored."""
FORMAT = "medtrace scans"
VERSION = 1


@dataclass(frozen=True)
class ScanFiles:
    """The scans of a pair.

    Attributes:
        images: sources and targets in the order of `Pair.images`, the first of which gives the grid.
        mask: foreground of the first image, or None.
        labels: side → labels of its first image, of pairs that have them on both.
        align: whether the others were aligned to the first.
        resample_tilt: see `medtrace.data.reading.read_image`.
        page: likewise.
    """

    images: Sequence[PairImage]
    mask: Path | None = None
    align: bool = True
    resample_tilt: bool = False
    page: int | None = None
    labels: Mapping[str, Path] = field(default_factory=dict)

    def of(self, side: str) -> list[PairImage]:
        """The images of a side."""
        return [image for image in self.images if image.side == side]


def scan_files_of(dataset: str | os.PathLike) -> Path:
    """The file that says where the scans of a data set lie."""
    folder = Path(dataset).absolute()
    return folder.with_name(folder.name + SUFFIX)


def write_scan_files(
    dataset: str | os.PathLike, pairs: Iterable[Pair], *, align: bool, resample_tilt: bool, page: int | None
) -> None:
    """Write where the scans of pairs lie, beside a data set's folder as `FOLDER.scans.json`.

    File names are often patient names: neither the folder, which is passed on, nor what a run stores contains them.
    Where the file cannot be written, a notice is issued.

    Args:
        dataset: the folder.
        pairs: that it was prepared from.
        align: as in `ScanFiles`.
        resample_tilt: likewise.
        page: likewise.
    """
    place = Path(dataset).absolute()

    def entry(path: Path) -> dict[str, str]:
        path = path.absolute()
        return {"path": str(path), "relative": _relative(path, place)}

    content = {
        "format": FORMAT,
        "version": VERSION,
        "align": align,
        "resample_tilt": resample_tilt,
        "page": page,
        "pairs": {
            pair.name: {
                "images": [
                    {
                        "side": image.side,
                        "channel": image.channel,
                        "contrast": image.contrast,
                        "series": image.series,
                        **entry(image.path),
                    }
                    for image in pair.images
                ],
                "mask": None if pair.mask is None else entry(pair.mask),
                "labels": {side: entry(path) for side, path in _labels(pair).items()},
            }
            for pair in pairs
        },
    }
    path = scan_files_of(dataset)
    try:
        if path.exists() and json.loads(path.read_text(encoding="utf-8")).get("format") != FORMAT:
            raise FileExistsError("it is another file")
        atomic_write(path, json.dumps(content, indent=1) + "\n")
    except (OSError, ValueError, AttributeError) as error:
        notify(os.fspath(dataset), f"{path} cannot be written ({error}); evaluate will not score delivered scans")


def read_scan_files(dataset: str | os.PathLike) -> dict[str, ScanFiles]:
    """Name of a pair → its scans, as `write_scan_files` wrote them; empty for a data set of an earlier version.

    A scan is looked up at its absolute path, then at the same path relative to the data set, which may have moved with
    it.

    Raises:
        ValueError: if the file is not one of this version.
    """
    folder, path = Path(dataset), scan_files_of(dataset)
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if (content["format"], content["version"]) != (FORMAT, VERSION):
            raise ValueError(f"expected {FORMAT} of version {VERSION}")
        return {
            name: ScanFiles(
                tuple(
                    PairImage(
                        str(image["side"]),
                        int(image["channel"]),
                        str(image["contrast"]),
                        _found(folder, image),
                        image["series"],
                    )
                    for image in pair["images"]
                ),
                None if pair["mask"] is None else _found(folder, pair["mask"]),
                bool(content["align"]),
                bool(content["resample_tilt"]),
                content["page"],
                {side: _found(folder, place) for side, place in pair.get("labels", {}).items()},
            )
            for name, pair in content["pairs"].items()
        }
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: does not say where the scans are ({error}); run `medtrace prepare` again") from error


def _labels(pair: Pair) -> dict[str, Path]:
    if pair.source_labels is None or pair.target_labels is None:
        return {}
    return {"source": pair.source_labels, "target": pair.target_labels}


def _relative(path: Path, place: Path) -> str:
    try:
        return os.path.relpath(path, place)
    except ValueError:  # another drive
        return ""


def _found(folder: Path, entry: Mapping[str, Any]) -> Path:
    absolute, relative = Path(entry["path"]), str(entry["relative"])
    beside = folder / relative
    return beside if relative and not absolute.exists() and beside.exists() else absolute
