"""Photographs that a preparation cuts to the face before it reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medtrace.data.faces import ENDING, CutFaces, cut_to_faces
from medtrace.data.lists.pair_list import Pair
from medtrace.workflows.preparation.writing import NATURAL_IMAGE_SIZE


def faces_of(
    pairs: Sequence[Pair],
    natural_images: bool,
    out: Path,
    *,
    faces: bool,
    largest: bool,
    resize: int | None,
    page: int | None,
) -> CutFaces:
    """The pairs, cropped to their faces if requested.

    Args:
        pairs: pairs of the list.
        natural_images: whether they are photographs.
        out: the dataset's folder; the faces are written next to it.
        faces: whether they are cropped.
        largest: if there are several faces, take the largest.
        resize: edge of the photographs, see `prepare`.
        page: page of photographs that have several.

    Raises:
        ValueError: if the settings do not go together.
    """
    if not faces:
        if largest:
            raise ValueError("largest_face: expected with faces, received alone; give faces too")
        return CutFaces(list(pairs), [], [])
    if not natural_images:
        raise ValueError("faces: expected photographs (PNG, JPEG, ...), received scans; leave faces out")
    if resize == 0:
        raise ValueError("faces: expected one size for all photographs, received resize 0, which keeps theirs")
    folder = out.with_name(f"{out.name}{ENDING}")
    result = cut_to_faces(pairs, folder, edge=resize or NATURAL_IMAGE_SIZE, largest=largest, page=page)
    return result._replace(notes=[*result.notes, f"faces and their masks are in {folder}, which `evaluate` reads"])
