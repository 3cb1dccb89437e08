"""TIFF pages of more than 8 bits, signed or real numbers, and the depth of natural images."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from medtrace.guard.declared_size import check_declared

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_KINDS = {1: "uint", 2: "int", 3: "float", 4: "uint"}
"""Values of TIFF's SampleFormat; 4 is undefined, which readers treat as unsigned."""
_EXACT = 2**24
"""Whole numbers up to which float32 holds each."""
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it finds wrong is raised here, once


class NaturalImageError(ValueError):
    """Why a natural image is not read, and the remedy; the file is named by the caller."""


class UndecodableError(Exception):
    """A compression that tifffile does not know by itself."""


class Depth(NamedTuple):
    """The storage format of a natural image's values.

    Attributes:
        kind: "uint", "int" or "float".
        bits: of a sample; 8 stands for less, too.
    """

    kind: str
    bits: int

    @property
    def code(self) -> str:
        """Such as "uint16"."""
        return f"{self.kind}{self.bits}"

    @classmethod
    def of(cls, code: str) -> Depth:
        """From its code."""
        kind = code.rstrip("0123456789")
        return cls(kind, int(code[len(kind) :]))

    def __str__(self) -> str:
        return {"uint": f"{self.bits}-bit", "int": f"signed {self.bits}-bit", "float": f"{self.bits}-bit float"}[
            self.kind
        ]

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values as a file of this depth holds them: whole numbers rounded and clipped, real ones in float32."""
        if self.kind == "float":
            return values.astype(np.float32)
        low, high = (
            (0, 2**self.bits - 1) if self.kind == "uint" else (-(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1)
        )
        width = 8 if self.bits <= 8 else 16 if self.bits <= 16 else 32
        return np.round(values).clip(low, high).astype(f"{self.kind}{width}")


def chosen_page(count: int, page: int | None) -> int:
    """The index of the page that is asked for; the only one needs no asking.

    Raises:
        NaturalImageError: if there are several and none is chosen, or the chosen one does not exist.
    """
    if page is None and count > 1:
        raise NaturalImageError(
            f"has {count} pages, but an image is one page; choose it with --page in prepare and translate, or save"
            " only that page"
        )
    if page is not None and not 1 <= page <= count:
        raise NaturalImageError(f"page: expected 1 to {count}, which the file has, received {page}")
    return (page or 1) - 1


def tiff_depth(content: bytes, page: int | None) -> Depth:
    """The depth of a TIFF's page.

    Raises:
        NaturalImageError: if its values have no unambiguous meaning as gray or RGB.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        return _checked(_page(tiff, page))


def tiff_pixels(path: Path, content: bytes, page: int | None) -> np.ndarray:
    """(rows, columns) or (rows, columns, 3) of a TIFF's page, in the file's values.

    Raises:
        NaturalImageError: if it cannot be read in its depth.
        UndecodableError: if another reader must be tried.
    """
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        one = _page(tiff, page)
        depth = _checked(one)
        check_declared(path, one.shape, math.ceil(depth.bits / 8), len(content), packed=one.compression != 1)
        _check_segments(one, len(content))
        try:
            pixels = one.asarray()
        except (KeyError, ValueError) as error:
            if "imagecodecs" not in str(error):
                raise
            raise UndecodableError(f"stores {depth} samples compressed as {one.compression.name}") from error
        axes, orientation, channels = one.axes, one.tags.valueof(274, 1), _channels(one)
    pixels = np.moveaxis(pixels, axes.index("S"), -1) if "S" in axes else pixels
    pixels = pixels if "S" in axes else pixels[..., None]
    if pixels.ndim != 3:
        raise NaturalImageError(f"expected rows and columns, received the axes {axes}; save a single plane")
    if pixels.shape[-1] > channels:
        pixels = without_alpha(pixels, 2**depth.bits - 1 if depth.kind == "uint" else 1)
    if depth.kind != "float" and depth.bits > 24:
        _check_exact(pixels)
    return turned(pixels[..., 0] if channels == 1 else pixels, orientation)


def without_alpha(pixels: np.ndarray, opaque: float) -> np.ndarray:
    """(rows, columns, C) without its last channel, which must be opaque everywhere."""
    if bool((pixels[..., -1] != opaque).any()):
        raise NaturalImageError("has transparent pixels; flatten the natural image onto a background first")
    return pixels[..., :-1]


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Upright, from one of EXIF's eight orientations."""
    mirrored = {2: (1,), 3: (0, 1), 4: (0,), 7: (0, 1)}.get(orientation, ())
    pixels = np.flip(pixels, mirrored)
    if orientation in (5, 7):
        return np.swapaxes(pixels, 0, 1)
    return np.rot90(pixels, {6: -1, 8: 1}[orientation]) if orientation in (6, 8) else pixels


def _page(tiff: Any, page: int | None) -> Any:
    index = chosen_page(_count(tiff), page)
    if index >= len(tiff.pages):
        raise NaturalImageError("holds its pages as one block, which cannot be divided; save only the page you need")
    return tiff.pages[index]


def _count(tiff: Any) -> int:
    """Pages, also where a program such as ImageJ describes one block of several."""
    described = [math.prod(series.shape) // max(math.prod(series.keyframe.shape), 1) for series in tiff.series]
    return max(len(tiff.pages), sum(described))


def _channels(page: Any) -> int:
    return page.samplesperpixel - len(page.extrasamples)


def _checked(page: Any) -> Depth:
    kind, bits = _KINDS.get(int(page.sampleformat)), int(page.bitspersample)
    photometric = int(page.photometric)
    if photometric == _CMYK:
        raise NaturalImageError("stores CMYK colors, which are undefined without a profile; convert it to RGB")
    if kind is None or photometric not in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR):
        name = getattr(page.photometric, "name", photometric)
        raise NaturalImageError(f"stores {name} of format {int(page.sampleformat)}; save it as gray or RGB")
    if _channels(page) not in (1, 3) or any(int(extra) == 0 for extra in page.extrasamples):
        raise NaturalImageError(f"has {page.samplesperpixel} channels; expected gray or RGB, save a single channel")
    if page.imagedepth != 1:
        raise NaturalImageError(f"has {page.imagedepth} planes in one page; save a single one, or the volume as NIfTI")
    if photometric == _PALETTE and bits <= 8 and kind == "uint":
        _check_palette(page)
    if bits <= 8 and kind == "uint":
        return Depth("uint", 8)
    if photometric in (_WHITE_IS_ZERO, _PALETTE, _YCBCR):
        name = getattr(page.photometric, "name", photometric)
        raise NaturalImageError(f"stores {bits}-bit values as {name}; save it as gray with black as zero, or RGB")
    return Depth(kind, bits)


def _check_palette(page: Any) -> None:
    """Refuse a palette of more than 8 bits; what 8 bits hold is written times 257, or times 256."""
    colors = page.colormap
    if colors is not None and bool((colors % 257).any()) and bool((colors % 256).any()):
        raise NaturalImageError("has a palette of 16-bit colors; save it as RGB or gray")


def _check_segments(page: Any, stored: int) -> None:
    """Refuse parts that the file does not have; they would be read as zeros."""
    for offset, count in zip(page.dataoffsets, page.databytecounts):
        if offset <= 0 or count <= 0 or offset + count > stored:
            raise NaturalImageError("lacks a part of its pixels; it is damaged or cut short, take an intact copy")


def _check_exact(pixels: np.ndarray) -> None:
    if bool((pixels.astype(np.float32).astype(np.float64) != pixels).any()):
        extreme = max(abs(int(pixels.min())), abs(int(pixels.max())))
        raise NaturalImageError(
            f"holds whole numbers up to {extreme}, more than the {_EXACT} that float32 holds exactly; rescale them"
        )
