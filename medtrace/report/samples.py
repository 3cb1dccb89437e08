"""A strip of pictures: what a training's first validation cases look like by now."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from medtrace.report.drawing import anatomy
from medtrace.report.view import View, view_of
from medtrace.trace import Trace

PIXELS = 192
"""Approximate pixels of the longer side of an image."""
_GAP = 6


def sample_strip(cases: Sequence[tuple[Trace, Tensor | None]]) -> np.ndarray:
    """Source, target and prediction of each case beside each other, one case a row, as they are on a page.

    Args:
        cases: trace and target (C, *spatial), all in [-1, 1]; a volume is shown by its middle axial plane.

    Returns:
        (rows, columns, 3) in 0-255, on white.

    Raises:
        ValueError: if there is no case.
    """
    if not cases:
        raise ValueError("cases: expected at least one, received none")
    return _stack([_stack(_pictures(trace, target), 1) for trace, target in cases], 0)


def png_of(pixels: np.ndarray) -> bytes:
    """Pixels (rows, columns, 3) in 0-255 as PNG; the same pixels give the same bytes."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="png")
    return stream.getvalue()


def _pictures(trace: Trace, target: Tensor | None) -> list[np.ndarray]:
    view = view_of(trace.affine, trace.image.shape[1:])
    own = view if trace.same_grid else view_of(trace.source_affine, trace.source.shape[1:])
    shown = [(own, trace.source), *([] if target is None else [(view, target)]), (view, trace.image)]
    return [_picture(view, image) for view, image in shown]


def _picture(view: View, image: Tensor) -> np.ndarray:
    pixels = anatomy(view, image)
    gray = ((np.clip(pixels, -1, 1) + 1) * 127.5).round().astype(np.uint8)
    rows, columns = gray.shape[0] * view.aspect, gray.shape[1]
    scale = PIXELS / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    return np.asarray(Image.fromarray(gray).convert("RGB").resize(size, Image.Resampling.BICUBIC))


def _stack(pictures: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """Pictures along an axis with gaps between, padded with white to one size across it."""
    across = 1 - axis
    longest = max(picture.shape[across] for picture in pictures)
    parts = []
    for number, picture in enumerate(pictures):
        before = [[0, 0], [0, 0], [0, 0]]
        before[across][1] = longest - picture.shape[across]
        before[axis][0] = _GAP if number else 0
        parts.append(np.pad(picture, before, constant_values=255))
    return np.concatenate(parts, axis=axis)
