"""Photographs cut to the face, which a cascade finds or a mask outlines."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.data import lbp_frontal_face_cascade_filename
from skimage.feature import Cascade
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.data.lists.pair_list import Pair, PairImage
from medtrace.data.masks import read_mask
from medtrace.data.natural_images.files import natural_image_depth, read_natural_image, write_natural_image
from medtrace.data.natural_images.tiff import Depth
from medtrace.storage.files import make_directory

MARGIN = 1.7
"""Edge of what is cut out, by the edge of the square in which the cascade sees eyes, nose and mouth."""
OVAL = (0.52, 0.72)
"""Half axes of the face's mask, across and down, by the edge of that square."""
SEARCHED = 400
"""Pixels of the longer side of the photograph in which faces are sought."""
SMALLEST = 8
"""A face takes at least this part of the shorter side."""
ENDING = ".faces"


class Face(NamedTuple):
    """A square about a face, in pixels of a photograph.

    Attributes:
        across: of its center, from the left.
        down: of its center, from the top.
        size: size of its edge.
    """

    across: float
    down: float
    size: float


class CutFaces(NamedTuple):
    """Pairs of photographs that were cut to the face.

    Attributes:
        pairs: with the files of the cut photographs, and a mask of the face each.
        notes: what was found and chosen, one line each.
        failures: a line for each pair that was left out.
    """

    pairs: list[Pair]
    notes: list[str]
    failures: list[str]


def find_faces(photograph: Tensor) -> list[Face]:
    """Find faces seen from the front, by scikit-image's cascade of local binary patterns.

    Args:
        photograph: (C, X, Y), C is 1 or 3, in any range of values.

    Returns:
        The faces, the largest first.

    Example:
        >>> from skimage.data import astronaut
        >>> (face,) = find_faces(torch.from_numpy(astronaut()).permute(2, 1, 0).float())
        >>> 180 < face.across < 260 and 80 < face.down < 160
        True
    """
    gray = photograph.float().mean(0, keepdim=True)[None]
    scale = min(1.0, SEARCHED / max(gray.shape[2:]))
    size = [max(1, round(scale * edge)) for edge in gray.shape[2:]]
    seen = F.interpolate(gray, size, mode="bilinear", antialias=True, align_corners=False)[0, 0].T
    low, high = float(seen.min()), float(seen.max())
    if high <= low:
        return []
    pixels = np.ascontiguousarray(((seen - low) / (high - low) * 255).numpy().astype(np.uint8))
    least = max(24, min(pixels.shape) // SMALLEST)
    if least > min(pixels.shape):
        return []
    found = _cascade().detect_multi_scale(
        img=pixels, scale_factor=1.1, step_ratio=1, min_size=(least, least), max_size=pixels.shape
    )
    faces = [
        Face((one["c"] + one["width"] / 2) / scale, (one["r"] + one["height"] / 2) / scale, one["width"] / scale)
        for one in found
    ]
    return sorted(faces, key=lambda face: -face.size)


@functools.cache
def _cascade() -> Cascade:
    return Cascade(lbp_frontal_face_cascade_filename())


def cut_to_faces(
    pairs: Sequence[Pair], folder: str | os.PathLike, *, edge: int = 256, largest: bool = False, page: int | None = None
) -> CutFaces:
    """Cut photographs to their faces and write them, with masks of the faces.

    Each photograph is cut about its own face, so source and target agree in the size and position of the face. Where a
    pair has a mask of the face in its first photograph, that photograph is cut about the mask, which is cut as well;
    otherwise the mask is an oval in the square that the cascade finds.

    Args:
        pairs: pairs of photographs, one on each side.
        folder: receives `NAME_source.png`, `NAME_target.png` and `NAME_mask.png`; created if missing.
        edge: pixels of the photographs' edges.
        largest: take the largest of several faces; otherwise several are refused.
        page: page of photographs that have several pages, from 1.

    Returns:
        The pairs with the new files, and notes. A pair fails if a photograph shows no face, or several and `largest` is
        not set.
    """
    check_positive("edge", edge)
    make_directory(folder)
    result = CutFaces([], [], [])
    for pair in pairs:
        try:
            files, notes = _cut_pair(pair, Path(folder), edge, largest, page)
        except (OSError, ValueError) as error:
            result.failures.append(f"case {pair.name}: {error}")
            continue
        result.pairs.append(replace(pair, **files))
        result.notes.extend(notes)
    return result


def _cut_pair(pair: Pair, folder: Path, edge: int, largest: bool, page: int | None) -> tuple[dict[str, Any], list[str]]:
    """The new files of a pair, by their names in it, and what must be said."""
    if pair.several:
        raise ValueError(f"{pair.origin}: faces: expected one photograph on each side, received several; list one")
    files: dict[str, Any] = {}
    notes = []
    for image in pair.images:
        own_mask = pair.mask if image == pair.first else None
        photograph = read_natural_image(image.path, page)
        outline = None if own_mask is None else read_mask(own_mask, photograph, image.path)
        face, note = _face_of(photograph.as_tensor(), outline, image, largest)
        notes += [note] if note else []
        values = cut(photograph.as_tensor(), face, edge)
        files[image.side] = write_natural_image(
            folder / f"{pair.name}_{image.side}", values, natural_image_depth(image.path, page)
        )
        if image == pair.first:
            inside = oval(edge) if outline is None else cut(outline.float(), face, edge, fill=0.0) > 0.5
            files["mask"] = write_natural_image(folder / f"{pair.name}_mask", inside.float() * 255, Depth("uint", 8))
    return files, notes


def _face_of(values: Tensor, outline: Tensor | None, image: PairImage, largest: bool) -> tuple[Face, str]:
    """The face to cut about, and what must be said of it."""
    if outline is not None:
        inside = torch.nonzero(outline[0])
        first, last = inside.amin(0).double(), inside.amax(0).double() + 1
        across, down = ((first + last) / 2).tolist()
        return Face(across, down, float((last - first).max()) / (2 * max(OVAL))), ""
    faces = find_faces(values)
    if not faces:
        raise ValueError(
            f"{image.path}: faces: expected a face seen from the front, found none; give its mask (column mask, of the"
            " source), or crop the photographs yourself and leave out --faces"
        )
    if len(faces) > 1 and not largest:
        places = "; ".join(f"{one.size:.0f} pixels at ({one.across:.0f}, {one.down:.0f})" for one in faces)
        raise ValueError(
            f"{image.path}: faces: expected one, found {len(faces)} ({places}, from the left and the top); take the"
            " largest with --largest-face, give its mask, or crop the photograph"
        )
    note = f"{image.path.name}: {len(faces)} faces, the largest was taken" if len(faces) > 1 else ""
    return faces[0], note


def cut(image: Tensor, face: Face, edge: int, fill: float | None = None) -> Tensor:
    """A square of `MARGIN` times a face's size about its center, resampled.

    Args:
        image: (C, X, Y).
        face: where.
        edge: pixels of the result's edges.
        fill: what lies beyond the image; None repeats its border.

    Returns:
        (C, edge, edge).

    Example:
        >>> cut(torch.rand(3, 60, 50), Face(30.0, 25.0, 20.0), 16).shape
        torch.Size([3, 16, 16])
    """
    half = MARGIN * face.size / 2
    first = [round(middle - half) for middle in (face.across, face.down)]
    size = max(1, round(2 * half))
    rows = [torch.arange(start, start + size) for start in first]
    inside = [(place >= 0) & (place < length) for place, length in zip(rows, image.shape[1:])]
    places = [place.clamp(0, length - 1) for place, length in zip(rows, image.shape[1:])]
    part = image.float()[:, places[0]][:, :, places[1]]
    if fill is not None:
        part = torch.where(inside[0][:, None] & inside[1][None], part, fill)
    scaled = F.interpolate(part[None], (edge, edge), mode="bilinear", antialias=True, align_corners=False)
    return scaled[0]


def oval(edge: int) -> Tensor:
    """The mask of a face in what `cut` gives, (1, edge, edge), where nobody outlined it."""
    line = ((torch.arange(edge) + 0.5) / edge - 0.5) * MARGIN
    across, down = torch.meshgrid(line, line, indexing="ij")
    return ((across / OVAL[0]).square() + (down / OVAL[1]).square() <= 1)[None]
