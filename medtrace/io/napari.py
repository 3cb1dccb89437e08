"""A trace as layers of napari, which the manifest `medtrace/napari.yaml` names; napari itself is not needed here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medtrace.io.trace_folder import INDEX, load_trace
from medtrace.io.trace_members import IMAGES, ON_SOURCE_GRID
from medtrace.trace import Trace

Layer = tuple[np.ndarray, dict[str, Any], str]
"""Data, settings and kind of a layer, as napari calls it."""
ARROWS = 20_000
"""Arrows that napari draws without delay; fields of more voxels show every second, third, ... of each axis."""


def napari_reader(path: str | Sequence[str]) -> Callable[[Any], list[Layer]] | None:
    """What reads a path for napari: a function of the path, or None where it is not the folder of one trace.

    Example:
        >>> napari_reader("scan.nii.gz") is None
        True
    """
    if isinstance(path, (str, Path)) and (Path(path) / INDEX).is_file():
        return lambda folder: napari_layers(load_trace(folder))
    return None


def napari_layers(trace: Trace) -> list[Layer]:
    """The images of a trace, the length of its displacement, and arrows to where each voxel came from.

    Args:
        trace: in 2D or 3D.

    Returns:
        Layers (data, settings, kind): a layer `image` for each channel of each image, (*spatial); `displacement (mm)`,
        (*spatial); last a layer `vectors`, (N, 2, spatial_dims), starts and displacements in voxels of the target.
        Each has the affine that places it beside the others: in 3D to RAS mm, in 2D to mm along the axes of the target
        grid. Only the translated image is visible at first.

    Example:
        >>> trace = Trace.build(torch.rand(1, 8, 8), torch.rand(1, 8, 8), torch.zeros(2, 8, 8))
        >>> [(settings["name"], kind) for _, settings, kind in napari_layers(trace)][-2:]
        [('displacement (mm)', 'image'), ('came from', 'vectors')]
    """
    dims = trace.spatial_dims
    target, source = _world(trace, trace.affine), _world(trace, trace.source_affine)
    layers: list[Layer] = []
    for name in IMAGES:
        value = getattr(trace, name)
        if value is None:
            continue
        for index, channel in enumerate(value.cpu().numpy()):
            label = name if len(value) == 1 else f"{name} {index}"
            settings = {"affine": source if name in ON_SOURCE_GRID else target, "visible": name == "image"}
            layers.append((channel, {"name": label, "colormap": "gray", **settings}, "image"))
    ddf = trace.ddf.cpu()
    millimeters = torch.einsum("xd,d...->x...", trace.affine[:3, :dims].to(ddf), ddf)
    length = torch.linalg.vector_norm(millimeters, dim=0).numpy()
    hidden = {"affine": target, "visible": False}
    layers.append((length, {"name": "displacement (mm)", "colormap": "magma", **hidden}, "image"))
    layers.append((_arrows(ddf.numpy()), {"name": "came from", **hidden}, "vectors"))
    return layers


def _world(trace: Trace, affine: torch.Tensor) -> np.ndarray:
    """(dims + 1, dims + 1), voxels of a grid to where napari shows them."""
    if trace.spatial_dims == 3:
        return affine.cpu().numpy()
    to_target = torch.linalg.solve(trace.affine, affine).cpu().numpy()
    spacing = np.linalg.norm(trace.affine[:3, :2].cpu().numpy(), axis=0)
    world = np.eye(3)
    world[:2, :2], world[:2, 2] = spacing[:, None] * to_target[:2, :2], spacing * to_target[:2, 3]
    return world


def _arrows(ddf: np.ndarray) -> np.ndarray:
    """(N, 2, dims) of every n-th voxel of a field (dims, *spatial): start and displacement."""
    dims = len(ddf)
    step = 1
    while math.prod(math.ceil(size / step) for size in ddf.shape[1:]) > ARROWS:
        step += 1
    starts = np.stack(np.meshgrid(*(np.arange(0, size, step) for size in ddf.shape[1:]), indexing="ij"))
    moved = ddf[(slice(None), *(slice(None, None, step),) * dims)]
    return np.stack([starts.reshape(dims, -1).T, moved.reshape(dims, -1).T], axis=1).astype(np.float32)
