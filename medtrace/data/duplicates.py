"""Images that occur where they must not: under two subjects, or as source and target of one pair."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from medtrace.data.lists.pair_list import Pair, PairImage
from medtrace.data.reading import read_image
from medtrace.storage.cases import content_digest


class _Image(NamedTuple):
    pair: Pair
    image: PairImage

    @property
    def path(self) -> Path:
        return self.image.path

    @property
    def series(self) -> str | None:
        """Of a DICOM folder, which may hold several images."""
        return self.image.series

    @property
    def origin(self) -> str:
        return self.pair.origin or f"case {self.pair.name}"


def check_files(pairs: Sequence[Pair]) -> None:
    """Check, by the bytes of the files, that no image is in two subjects, twice in a pair, and no pair is there twice.

    An image of two subjects could be in both training and test. File names, symbolic links and hard links are ignored.

    Args:
        pairs: pairs of all splits. Unreadable files are skipped: their reader reports them.

    Raises:
        ValueError: naming the rows, subjects and files.
    """
    images = [_Image(pair, image) for pair in pairs for image in pair.images]
    same_size: dict[object, list[_Image]] = defaultdict(list)
    for image in images:
        try:
            same_size[_size(image.path)].append(image)
        except OSError:
            continue
    contents: dict[object, list[_Image]] = defaultdict(list)
    for size, group in same_size.items():
        if len(group) > 1 and size:
            for image in group:
                contents[_digest(image.path), image.series].append(image)
    for group in contents.values():
        if len(group) > 1 and not _is_readable(group[0]):
            group.clear()
    for message in _doubled(contents).values():
        raise ValueError(message)


def same_voxels(pairs: Sequence[Pair], digests: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The pairs that hold an image which an earlier one has too, by `fingerprint`, in any orientation.

    A source and a target of one pair that are the same image, moved or turned, are accepted.

    Args:
        pairs: pairs of all splits.
        digests: name of a pair → `fingerprint` of each of its images, in the order of `Pair.images`.

    Returns:
        Name of each such pair → what is wrong, in one line.
    """
    contents: dict[str, list[_Image]] = defaultdict(list)
    for pair in pairs:
        of_pair = digests.get(pair.name, ())
        same = len(of_pair) == 2 and len(set(of_pair)) == 1
        for image, digest in zip(pair.images, of_pair[:1] if same else of_pair):
            contents[digest].append(_Image(pair, image))
    return _doubled(contents)


def _doubled(contents: Mapping[Any, Sequence[_Image]]) -> dict[str, str]:
    """Name of a pair → what it repeats."""
    content_of = {(image.pair.name, image.image.key): key for key, group in contents.items() for image in group}
    result: dict[str, str] = {}
    for group in contents.values():
        for number, image in enumerate(group):
            for other in group[:number]:
                if message := _complaint(image, other, content_of):
                    result.setdefault(image.pair.name, message)
    return result


def _complaint(image: _Image, other: _Image, content_of: Mapping[tuple[str, str], object]) -> str | None:
    files = f"{image.path} is the same image as {other.path}"
    if image.pair is other.pair:
        if not image.pair.several:
            return (
                f"{image.origin}: source and target are the same image ({files}); give the image before and the one"
                " after"
            )
        roles = f"{other.image.side} {other.image.contrast} and {image.image.side} {image.image.contrast}"
        return f"{image.origin}: {roles} are the same image ({files}); give each its own"
    if image.pair.subject != other.pair.subject:
        return (
            f"{image.origin}: subject {image.pair.subject!r}: {files} of subject {other.pair.subject!r}"
            f" ({other.origin}), so a training could see its test data; give both the same subject, or remove one"
        )
    contents = [[content_of.get((one.pair.name, i.key)) for i in one.pair.images] for one in (image, other)]
    if contents[0] == contents[1] and None not in contents[0]:
        return f"{image.origin}: is the same pair as {other.origin} ({files}); remove one"
    return None


def _is_readable(image: _Image) -> bool:
    """Broken files that are alike are not leak; their reader says what is wrong with them."""
    try:
        read_image(image.path, image.series)
    except (OSError, ValueError):
        return False
    return True


def _size(path: Path) -> object:
    """Bytes of a file, or of each file in a folder; empty where there is nothing to compare."""
    if path.is_dir():
        return tuple(sorted(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    return path.stat().st_size


def _digest(path: Path) -> str:
    """By content alone: the same series under other file names is the same."""
    if path.is_dir():
        files = sorted(content_digest(file) for file in path.rglob("*") if file.is_file())
        return hashlib.blake2b("".join(files).encode(), digest_size=20).hexdigest()
    return content_digest(path)
