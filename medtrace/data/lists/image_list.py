"""The images that a command processes, each with its own name."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from medtrace.data.lists.names import check_file_name, check_name, name_key, normalized
from medtrace.data.lists.pair_list import OPTIONAL as PAIR_COLUMNS
from medtrace.data.lists.pair_list import divided_sides
from medtrace.data.lists.tables import read_table, read_text
from medtrace.data.natural_images.files import NATURAL_IMAGES
from medtrace.data.reading import ITK_FORMATS
from medtrace.guard.volume_files import VOLUMES

LISTS = (".csv", ".json", ".txt")
COLUMNS = ("image", "name", "mask", "contrast", "series")
PAIRED = ("subject", "case", "source", "source_series")
"""Further columns of a pair list that a translation reads."""
_SCANS = tuple(ending for ending in (*VOLUMES, *ITK_FORMATS) if ending != ".dcm")
_IMAGES = (*_SCANS, *NATURAL_IMAGES)
_DICOM = ("", ".dcm", ".ima")
"""Endings of DICOM files, beside the numbers in which a UID ends."""


@dataclass(frozen=True)
class ListedImage:
    """An image to work on.

    Attributes:
        path: file, or folder of one DICOM series.
        name: name of its result; unique even if case and Unicode form are ignored.
        mask: foreground of the image on its grid.
        contrast: contrast of the image, where a run was trained on several.
        series: which volume of a DICOM folder that holds several (see `medtrace.data.reading.read_image`).
        sources: for a run that reads several contrasts, each present contrast → its file and which volume of it; `path`
            is the first. Otherwise empty.
    """

    path: Path
    name: str = ""
    mask: Path | None = None
    contrast: str | None = None
    series: str | None = None
    sources: Mapping[str, tuple[Path, str | None]] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Every image by its contrast, or the one by ""."""
        return {name: path for name, (path, _) in self.sources.items()} or {"": self.path}


def is_one_image(path: str | os.PathLike) -> bool:
    """Whether a path is one image: a file that is not a list, or a folder of one DICOM series.

    A folder that holds only folders, or more scans (NIfTI, NRRD, MetaImage) and natural images than files that
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


def list_images(paths: Sequence[str | os.PathLike], *, several: bool = False) -> list[ListedImage]:
    """The images that paths stand for.

    An image is named after its file without ending; images that would share a name are prefixed with as many of their
    folders' names as are needed to distinguish them.

    Args:
        paths: images; folders of images, searched with their sub-folders; lists: CSV or JSON with the column `image`
            and, optionally, `name`, `mask`, `contrast` and `series`, or a text file with one path per line; a pair
            list, of which `source`, or `source_NAME` of each contrast (all but one may be empty), is read. Paths in a
            list are relative to its folder.
        several: whether a row may hold several contrasts (`ListedImage.sources`).

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if there is no image, a list cannot be read, or an image or name occurs twice.
    """
    found = [image for path in paths for image in _images_of(Path(path))]
    if not several and (divided := next((image for image in found if image.sources), None)) is not None:
        raise ValueError(
            f"images: expected one contrast per image, received {', '.join(divided.sources)} of {divided.name}; give a"
            " list with the column image"
        )
    if not found:
        raise ValueError(f"images: expected at least one, received none in {', '.join(map(str, paths))}")
    places = [
        (path.resolve(), series)
        for image in found
        for path, series in image.sources.values() or [(image.path, image.series)]
    ]
    for (place, series), count in Counter(places).items():
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
    return _read_lines(path) if path.suffix.lower() == ".txt" else _read_table(path)


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


def _read_table(path: Path) -> list[ListedImage]:
    table = read_table(path, (), (*COLUMNS, *PAIRED), ("source",))
    names = {column for _, row in table.rows for column in row}
    unused = [name for name in table.unused if not _of_pairs(name)] if names & {*PAIRED, *table.parts} else table.unused
    if unused:
        raise ValueError(
            f"{path}: expected the column image and, optionally, name, mask, contrast and series, received"
            f" {', '.join(unused)}; rename or remove it"
        )
    contrasts = divided_sides(path, table.parts, [row for _, row in table.rows]).get("source", ())
    return [_listed(path, where, row, contrasts) for where, row in table.rows]


def _of_pairs(column: str) -> bool:
    """Whether a column is one of a pair list that says nothing of what is to be translated."""
    name = column.strip().casefold()
    return name.startswith("target") or name in PAIR_COLUMNS


def _listed(path: Path, where: str, row: Mapping[str, str], contrasts: Sequence[str] = ()) -> ListedImage:
    sources = {
        name: (path.parent / row[f"source_{name}"], row.get(f"source_{name}_series"))
        for name in contrasts
        if f"source_{name}" in row
    }
    given = row.get("image", row.get("source"))
    if given is None and not sources:
        wanted = f"one of {', '.join(f'source_{name}' for name in contrasts)}" if contrasts else "image"
        raise ValueError(f"{path}: {where}: no value for {wanted}; fill it in or remove the row")
    if given is not None and sources:
        raise ValueError(f"{path}: {where}: expected image, or columns source_NAME, received both; remove one")
    name = row.get("name", "") or _case(row)
    if name:
        name = check_name(f"{path}: {where}: name", name, "it names a folder, so rename it")
    mask = path.parent / row["mask"] if "mask" in row else None
    series = row.get("series", row.get("source_series"))
    first = path.parent / given if given is not None else next(iter(sources.values()))[0]
    contrast = row.get("contrast")
    if len(contrasts) == 1:
        contrast, (_, series), sources = contrasts[0], sources[contrasts[0]], {}
    image = ListedImage(first, name, mask, contrast, series, sources)
    for file in (*image.files.values(), image.mask):
        if file is not None and not file.exists():
            raise FileNotFoundError(
                f"{path}: {where}: no such file {file}; correct the path, which is relative to the list's folder"
            )
    return image


def _case(row: Mapping[str, str]) -> str:
    """The name that a pair list gives, as `Pair.name` has it; empty where it gives none."""
    subject, case = row.get("subject", ""), row.get("case", row.get("subject", ""))
    return case if case.startswith(subject) else f"{subject}_{case}"


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
