"""A small picture of a trace: what there was, what it became, and how far it moved."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from medtrace.report.samples import png_of
from medtrace.report.view import View, view_of
from medtrace.trace import Trace

HEIGHT = 144
"""Pixels, twice of what a page shows."""
SHOWN = "source, warped source, image"


def thumbnail(trace: Trace, target: Tensor | None = None) -> bytes:
    """The middle axial slice of the source, the warped source and the image (or a target), side by side, as PNG.

    Args:
        trace: 2D or 3D; color images of three channels are shown in color.
        target: (C, *spatial) on the image's grid, instead of the image, such as the target of a registration.

    Returns:
        The file's bytes: 144 pixels high, each image in its own window.
    """
    moved = trace.warped
    last = trace.image if target is None else target
    own = view_of(trace.affine, moved.shape[1:], voxel_weight=_weight(moved))
    before = view_of(trace.source_affine, trace.source.shape[1:], voxel_weight=_weight(trace.source))
    parts = [_tile(trace.source, before), _tile(moved, own), _tile(last, own)]
    gap = np.zeros((HEIGHT, 4, 3), np.uint8)
    joined = np.concatenate([parts[0], gap, parts[1], gap, parts[2]], axis=1)
    return png_of(joined)


def _weight(image: Tensor) -> Tensor:
    """The difference of an image from its minimum, voxel by voxel."""
    gray = image.mean(0)
    return gray - gray.min()


def _tile(image: Tensor, view: View) -> np.ndarray:
    page = view.page(image).astype(np.float64)
    page = page[..., :3] if page.shape[-1] >= 3 else np.repeat(page[..., :1], 3, axis=-1)
    low, high = np.percentile(page, (1, 99.5))
    pixels = np.clip((page - low) / max(high - low, 1e-12), 0, 1) * 255
    rows, columns = pixels.shape[:2]
    width = max(8, min(3 * HEIGHT, round(HEIGHT * columns / (rows * view.aspect))))
    whole = Image.fromarray(pixels.astype(np.uint8)).resize((width, HEIGHT), Image.Resampling.BILINEAR)
    return np.asarray(whole)
