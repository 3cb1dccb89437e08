"""The page's data about a trace: its grids, its arrays, and how to show them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_same_shape
from medtrace.fields import folded_voxels, jacobian_determinant, voxel_to_mm
from medtrace.guard.memory import check_memory
from medtrace.report.certificate import certificate_html, certificate_words
from medtrace.report.view import PlaneName, view_of
from medtrace.report.viewer.framing import box_of, is_photograph, start_of, tissue_of
from medtrace.report.viewer.packing import (
    Packed,
    pack_field,
    pack_image,
    pack_labels,
    pack_mask,
    preview_field,
    preview_image,
)
from medtrace.trace import Trace
from medtrace.trace.contrast import unit_label
from medtrace.trace.geometry import layers
from medtrace.trace.tissue import find_background

CURVE_POINTS = 2048
"""Places at which the change of contrast is stored, where it depends on the warped source alone."""
SAMPLED = 1 << 20
"""Values of an image that are looked at for percentiles and for the curve."""
PREVIEWED = 1 << 22
"""Voxels of a grid above which the page opens with a coarse preview, and reads the full resolution after it."""
_BYTES_PER_VOXEL = 24
"""A field in 16 bits, images, and what packs them."""
_PLANES: tuple[PlaneName, ...] = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class ReportCase:
    """One trace of a report.

    Attributes:
        name: shown to the reader, and in the files of scores; keep identifiers of patients out of it.
        trace: what to show.
        target: (C', *spatial), the true image, for an error map.
        labels: (1, *source_spatial) integers on the source's grid.
        method: what made the trace.
        notes: sentences shown with the case.
        certificate: as `read_certificate` or `Certificate.as_dict` returns it; its provenance is left out of the page.
        registration: whether the image is the source registered to `target`, not a translation.
    """

    name: str
    trace: Trace
    target: Tensor | None = None
    labels: Tensor | None = None
    method: str | None = None
    notes: tuple[str, ...] = field(default=())
    certificate: Mapping[str, Any] | None = None
    registration: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.trace, Trace):
            raise TypeError(f"trace: expected a Trace, received {type(self.trace).__name__}; see Trace.build")
        if self.target is not None:
            check_same_shape("target", self.target, "image", self.trace.image)
        grid = (1, *self.trace.source.shape[1:])
        if self.labels is not None and tuple(self.labels.shape) != grid:
            raise ValueError(f"labels: expected {grid}, the source's grid, received {tuple(self.labels.shape)}")


def scene_of(case: ReportCase) -> tuple[dict[str, Any], dict[str, Packed]]:
    """Describe a case for the page.

    Args:
        case: the trace and what goes with it.

    Returns:
        Its description for JSON, and its arrays by name.

    Raises:
        ValueError: if there is not enough memory; it states how much is needed.
    """
    trace = case.trace
    voxels = math.prod(trace.image.shape[1:]) + math.prod(trace.source.shape[1:])
    check_memory(
        f"a page of {voxels:,} voxels",
        voxels * _BYTES_PER_VOXEL,
        "crop the scans to what matters, or show a trace on a coarser grid",
    )
    folds = folded_voxels(trace.ddf[None])[0]
    arrays = dict(_arrays(case))
    if bool(folds.any()):
        arrays["folds"] = pack_mask(folds)
    photograph = is_photograph(trace)
    tissue = None if photograph else tissue_of(trace)
    if tissue is not None:
        arrays["tissue"] = pack_mask(tissue)
    description: dict[str, Any] = {
        "name": case.name,
        "method": case.method,
        "notes": list(case.notes),
        "certificate": None if case.certificate is None else _certificate(case.name, case.certificate),
        "spatialDims": trace.spatial_dims,
        "registration": case.registration,
        "photograph": photograph,
        "source": _grid(trace.source_affine, trace.source.shape, None if photograph else _source_tissue(trace)),
        "target": _grid(trace.affine, trace.image.shape, tissue),
        "windows": {"source": _window(trace.source), "image": _window(trace.image)},
        "channelWindows": {
            "source": [_window(channel) for channel in trace.source],
            "image": [_window(channel) for channel in trace.image],
        },
        "ranges": _ranges(case),
        "units": {"source": unit_label(trace.source_contrasts), "image": unit_label(trace.contrasts)},
        "sameUnit": trace.same_unit,
        "appearance": {"kind": "none"},
        "folds": int(np.count_nonzero(folds.cpu().numpy())),
        "start": start_of(trace),
    }
    if trace.appearance is not None:
        description["appearance"] = _appearance(trace, trace.appearance)
        if description["appearance"]["kind"] == "stored":
            arrays["appearance"] = pack_image(trace.appearance)
    return description, arrays


def _arrays(case: ReportCase) -> Iterator[tuple[str, Packed]]:
    trace = case.trace
    for name, image in (("source", trace.source), ("image", trace.image)):
        if image[0].numel() > PREVIEWED:
            yield f"{name}_preview", preview_image(image)
        yield name, pack_image(image)
    for name, field_ in (("ddf", trace.ddf), ("inverse", trace.inverse_ddf)):
        if field_[0].numel() > PREVIEWED:
            yield f"{name}_preview", preview_field(field_)
        yield name, pack_field(field_)
    if trace.velocity is not None:
        yield "velocity", pack_field(trace.velocity)
    if trace.mask is not None:
        yield "mask", pack_mask(trace.mask)
    if trace.unexplained is not None:
        yield "unexplained", pack_mask(trace.unexplained)
    if case.target is not None:
        yield "truth", pack_image(case.target)
    if case.labels is not None:
        yield "labels", pack_labels(case.labels)


def _certificate(name: str, certificate: Mapping[str, Any]) -> dict[str, Any]:
    """Verdict and table. Provenance names files, and these may name patients."""
    shown = {**certificate, "case": name, "provenance": None}
    stale = bool(certificate.get("stale"))
    title = str(certificate.get("title", "Certificate")).lower()
    return {
        "title": title,
        "verdict": certificate["verdict"],
        "stale": stale,
        "words": certificate_words(shown),
        "html": certificate_html(shown, style=False),
    }


def _source_tissue(trace: Trace) -> Tensor | None:
    """Where the source differs from its background, on its own grid."""
    background = find_background(trace.source[0])
    if background is None:
        return None
    inside = (trace.source[:1] < background.low) | (trace.source[:1] > background.high)
    return inside if bool(inside.any()) else None


def _grid(affine: Tensor, shape: torch.Size, inside: Tensor | None) -> dict[str, Any]:
    """Size, affine (row by row), planes and shown box of a grid; a 2D image is one slice."""
    spatial = tuple(shape[1:])
    names = _PLANES if len(spatial) == 3 else _PLANES[:1]
    planes = {}
    for name in names:
        view = view_of(affine, spatial, name)
        planes[name] = {
            "horizontal": view.horizontal,
            "vertical": view.vertical,
            "normal": 2 if view.normal is None else view.normal,
            "flipHorizontal": bool(view.flip_horizontal),
            "flipVertical": bool(view.flip_vertical),
            "letters": view.letters,
        }
    return {
        "channels": shape[0],
        "shape": [*spatial, 1][:3],
        "affine": affine.double().reshape(-1).tolist(),
        "box": box_of(inside, spatial),
        "planes": planes,
    }


def _window(image: Tensor) -> list[float]:
    """Intensities that are black and white: the .5 and, of what is brighter, the 99.5 percentile."""
    values = _some(image).numpy()
    low = float(np.percentile(values, 0.5))
    inside = values[values > low]
    high = float(np.percentile(inside, 99.5)) if inside.size else low + 1.0
    return [low, high if high > low else low + 1.0]


def _some(values: Tensor) -> Tensor:
    """At most some million of the values, evenly spread, for percentiles."""
    flat = values.detach().as_subclass(Tensor).cpu().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLED)]


def _ranges(case: ReportCase) -> dict[str, float]:
    """The values at the ends of every color map; for the Jacobian as a power of two."""
    trace = case.trace
    image, appearance = _some(trace.image), None if trace.appearance is None else _some(trace.appearance)
    changes = [] if appearance is None else [appearance]
    if not trace.same_unit and appearance is not None:
        changes.append(image - appearance)
    elif trace.same_unit and trace.source.shape[0] == trace.image.shape[0]:
        residual = image - _some(trace.warped)
        changes.append(residual if appearance is None else residual - appearance)
    if case.target is not None:
        changes.append(_some(case.target.to(torch.float32)) - image)
    ddf = torch.stack([_some(component) for component in trace.ddf])
    in_mm = voxel_to_mm(ddf.reshape(1, len(ddf), -1, *(1,) * (len(ddf) - 1)), trace.affine)
    displacement = torch.linalg.vector_norm(in_mm, dim=1)
    logarithm = _some(jacobian_determinant(trace.ddf[None])).clamp_min(1e-3).log2()
    change = max((_far(column) for column in changes), default=0.0) or 1.0
    return {
        "displacement": max(_far(displacement), 0.1),
        "jacobian": min(max(_far(logarithm), 0.1), 3.0),
        **dict.fromkeys(("appearance", "residual", "trust", "error"), change),
    }


def _far(values: Tensor) -> float:
    """The 99.8 percentile of the absolute values."""
    return float(np.percentile(values.abs().numpy(), 99.8))


def _appearance(trace: Trace, explained: Tensor) -> dict[str, Any]:
    """The source of the explained change of intensity on the page: the mask, a curve, or an array."""
    close = 1e-4 * float(trace.image.max() - trace.image.min()) + 1e-12
    if trace.same_unit and trace.mask is not None and _masked_apart(trace, explained, trace.mask) <= close:
        return {"kind": "mask"}
    curves = []
    for warped, appearance in zip(trace.warped, explained):
        curve = _curve(warped.cpu().numpy().ravel(), appearance.cpu().numpy().ravel())
        if curve is None:
            return {"kind": "stored"}
        curves.append(curve)
    return {"kind": "curve", "curves": curves}


def _masked_apart(trace: Trace, explained: Tensor, mask: Tensor) -> float:
    """Maximum difference of the explained change from that within the mask."""
    apart = 0.0
    for part in layers(trace.image.shape[1:]):
        change = (trace.image[:, part] - trace.warped[:, part]).mul_(mask[:, part])
        apart = max(apart, float(change.sub_(explained[:, part]).abs_().max()))
    return apart


def _curve(warped: np.ndarray, appearance: np.ndarray) -> dict[str, Any] | None:
    """The appearance as a function of the warped intensity, or None where it is not one."""
    low, high = float(warped.min()), float(warped.max())
    knots = np.linspace(low, high, CURVE_POINTS)
    every = slice(None, None, max(1, warped.size // SAMPLED))
    order = np.argsort(warped[every])
    values = np.interp(knots, warped[every][order], appearance[every][order])
    spread = float(appearance.max() - appearance.min())
    for first in range(0, warped.size, SAMPLED):
        part = slice(first, first + SAMPLED)
        if float(np.abs(np.interp(warped[part], knots, values) - appearance[part]).max()) > spread / 100 + 1e-12:
            return None
    return {"low": low, "high": high, "values": [float(f"{value:.7g}") for value in values]}
