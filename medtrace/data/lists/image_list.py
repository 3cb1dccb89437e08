"""Which images a command is to work on, each with its own name."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medtrace.data.lists.names import check_file_name, check_name, name_key, normalized
from medtrace.data.lists.tables import read_table, read_text
from medtrace.data.natural_images.files import NATURAL_IMAGES
from medtrace.data.reading import ITK_FORMATS
from medtrace.guard.volume_files import VOLUMES

LISTS = (".csv", ".txt")
COLUMNS = ("image", "name", "mask", "contrast", "series")
_SCANS = tuple(ending for ending in (*VOLUMES, *ITK_FORMATS) if ending != ".dcm")
_IMAGES = (*_SCANS, *NATURAL_IMAGES)
_DICOM = ("", ".dcm", ".ima")
"""Endings of DICOM files, beside the numbers in which a UID ends."""


@dataclass(frozen=True)
class ListedImage:
    """An image to work on.

    Attributes:
        path: file, or folder of one DICOM series.
        name: of its result; unlike every other one also where case and Unicode form do not count.
        mask: foreground of the image on its grid.
        contrast: of the image, where a run was trained on several.
        series: which volume of a DICOM folder that holds several (see `medtrace.data.reading.read_image`).
    """

    path: Path
    name: str = ""
    mask: Path | None = None
    contrast: str | None = None
    series: str | None = None


def is_one_image(path: str | os.PathLike) -> bool:
    """Whether a path is one image: a file that is not a list, or a folder of one DICOM series.

    A folder that holds nothing but folders, or more scans (NIfTI, NRRD, MetaImage) and natural images than files that
    may be DICOM, holds several images.
    """
    path = Path(path)
    if not path.is_dir():
        return path.suffix.lower() not in LISTS
    entries = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    files = [entry for entry in entries if entry.is_file()]
    if entries and not files:
        return False
    images = sum(map(_is_image, files))
    slices = sum(entry.suffix.lower() in _DICOM or entry.suffix[1:].isdigit() for entry in files)
    return images <= slices


def list_images(paths: Sequence[str | os.PathLike]) -> list[ListedImage]:
    """The images that paths stand for.

    An image is named after its file without ending; images that would share a name take as many of their folders' names
    before it as it takes to distinguish them.

    Args:
        paths: images; folders of images, searched with their sub-folders; lists: a CSV file with the column `image`
            and, as wanted, `name`, `mask`, `contrast` and `series`, or a text file with a path a line. Paths in a list
            are relative to its folder.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no image, a list cannot be read, or an image or name occurs twice.
    """
    found = [image for path in paths for image in _images_of(Path(path))]
    if not found:
        raise ValueError(f"images: expected at least one, received none in {', '.join(map(str, paths))}")
    for (place, series), count in Counter((image.path.resolve(), image.series) for image in found).items():
        if count > 1:
            which = "" if series is None else f" with series {series}"
            raise ValueError(f"images: expected each once, received {place}{which} {count} times; give it once")
    named = [image.name for image in found if image.name]
    open_ = [image for image in found if not image.name]
    names = iter(_distinct([image.path for image in open_], taken=named))
    result = [image if image.name else replace(image, name=next(names)) for image in found]
    _check_distinct(result)
    return result


def _images_of(path: Path) -> list[ListedImage]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if is_one_image(path):
        return [ListedImage(path)]
    if path.is_dir():
        return [ListedImage(image) for image in _search(path)]
    return _read_csv(path) if path.suffix.lower() == ".csv" else _read_lines(path)


def _search(folder: Path) -> Iterable[Path]:
    """The images below a folder; a sub-folder without files of images in it is taken for a DICOM series."""
    entries = sorted(folder.iterdir())
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from [entry] if any(entry.iterdir()) and is_one_image(entry) else _search(entry)
        elif _is_image(entry) and not _is_other_half(entry):
            yield entry


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(_IMAGES)


def _is_other_half(path: Path) -> bool:
    """Whether a file holds the voxels of a pair whose header, of the same stem, is listed."""
    for ending in (".img", ".img.gz"):
        if path.name.lower().endswith(ending):
            header = f"{path.name[: -len(ending)]}.hdr"
            return any(path.with_name(name).is_file() for name in (header, f"{header}.gz"))
    return False


def _read_lines(path: Path) -> list[ListedImage]:
    lines = [line.strip() for line in read_text(path).splitlines()]
    return [_listed(path, f"line {n}", {"image": line}) for n, line in enumerate(lines, 1) if line]


def _read_csv(path: Path) -> list[ListedImage]:
    table = read_table(path, (), COLUMNS)
    if table.unused:
        raise ValueError(
            f"{path}: expected the column image and, as wanted, name, mask, contrast and series, received"
            f" {', '.join(table.unused)}; rename or remove it"
        )
    return [_listed(path, where, row) for where, row in table.rows]


def _listed(path: Path, where: str, row: Mapping[str, str]) -> ListedImage:
    if "image" not in row:
        raise ValueError(f"{path}: {where}: no value for image; fill it in or remove the row")
    name = row.get("name", "")
    if name:
        name = check_name(f"{path}: {where}: name", name, "it names a folder, so rename it")
    mask = path.parent / row["mask"] if "mask" in row else None
    image = ListedImage(path.parent / row["image"], name, mask, row.get("contrast"), row.get("series"))
    for file in (image.path, image.mask):
        if file is not None and not file.exists():
            raise FileNotFoundError(
                f"{path}: {where}: no such file {file}; correct the path, which is relative to the list's folder"
            )
    return image


def _distinct(paths: Sequence[Path], taken: Sequence[str]) -> list[str]:
    parts = [(*path.resolve().parent.parts[1:], _stem(path)) for path in paths]
    lengths = [1] * len(paths)
    while True:
        names = ["_".join(part[-length:]) for part, length in zip(parts, lengths)]
        groups = defaultdict(list)
        for number, name in enumerate(names):
            groups[name_key(name)].append(number)
        given = {name_key(name) for name in taken}
        doubled = [group for name, group in groups.items() if len(group) > 1 or name in given]
        # The shortest first: "a/b" and "a_b" must not grow in step.
        shortest = [min(lengths[number] for number in group) for group in doubled]
        longer = [
            n for group, minimum in zip(doubled, shortest) for n in group if minimum == lengths[n] < len(parts[n])
        ]
        if not longer:
            return names
        for number in longer:
            lengths[number] += 1


def _stem(path: Path) -> str:
    name = path.resolve().name
    endings = sorted((*_IMAGES, ".dcm"), key=len, reverse=True)
    ending = next((ending for ending in endings if name.lower().endswith(ending)), "")
    stem = normalized(name[: len(name) - len(ending)]).lstrip(".")
    return stem or "image"


def _check_distinct(images: Sequence[ListedImage]) -> None:
    first: dict[str, ListedImage] = {}
    for image in images:
        remedy = "give names in a list (CSV with the columns image and name)"
        check_file_name(str(image.path), image.name, remedy)
        other = first.setdefault(name_key(image.name), image)
        if other is not image:
            raise ValueError(f"images: {other.path} and {image.path} would both be called {image.name!r}; {remedy}")
