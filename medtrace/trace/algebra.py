"""Composition and inversion of traces."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from medtrace.geometry.grid import Grid
from medtrace.trace.chain import FieldPart, TransformChain
from medtrace.trace.contrast import Contrast


class Between(Protocol):
    """The members of a `Trace` that the algebra reads."""

    @property
    def source(self) -> Tensor: ...

    @property
    def image(self) -> Tensor: ...

    @property
    def ddf(self) -> Tensor: ...

    @property
    def inverse_ddf(self) -> Tensor: ...

    @property
    def mask(self) -> Tensor | None: ...

    @property
    def affine(self) -> Tensor: ...

    @property
    def source_affine(self) -> Tensor: ...

    @property
    def source_contrasts(self) -> tuple[Contrast, ...] | None: ...

    @property
    def contrasts(self) -> tuple[Contrast, ...] | None: ...


def chain_of(trace: Between) -> TransformChain:
    """The fields of a trace as a chain of one part."""
    way_back = FieldPart(trace.inverse_ddf, trace.source_affine)
    return TransformChain((FieldPart(trace.ddf, trace.affine, known_inverse=way_back),))


def composed(first: Between, second: Between) -> dict[str, Any]:
    """Arguments of `Trace.build` for the trace from the first's source to the second's image."""
    if first.source.ndim != second.source.ndim:
        raise ValueError(
            f"second: expected a trace in {first.source.ndim - 1}D, as the first is, received one in"
            f" {second.source.ndim - 1}D; give both the same number of axes"
        )
    middle, other = (
        Grid.of(image, affine) for image, affine in ((first.image, first.affine), (second.source, second.source_affine))
    )
    if not _overlap(middle, other):
        raise ValueError(
            "second: expected a trace whose source overlaps the first's image, received two that do not overlap;"
            " swap them, or check their headers"
        )
    chain = chain_of(first).then(chain_of(second))
    target, source = Grid.of(second.image, second.affine), Grid.of(first.source, first.source_affine)
    device = first.source.device
    return {
        "source": first.source,
        "image": second.image.to(device),
        "ddf": chain.displacement(target).float().to(device),
        "inverse_ddf": chain.inverse().displacement(source).float().to(device),
        "mask": _joined(first, second, target),
        "affine": second.affine,
        "source_affine": first.source_affine,
        "source_contrasts": first.source_contrasts,
        "contrasts": second.contrasts,
    }


def inverted(trace: Between) -> dict[str, Any]:
    """Arguments of `Trace.build` for the trace from the image back to the source."""
    mask = None
    if trace.mask is not None:
        source = Grid.of(trace.source, trace.source_affine)
        back = chain_of(trace).inverse()
        mask = back.resample(trace.mask, Grid.of(trace.mask, trace.affine), source).clamp_(0, 1).to(trace.source.device)
    return {
        "source": trace.image,
        "image": trace.source,
        "ddf": trace.inverse_ddf,
        "inverse_ddf": trace.ddf,
        "mask": mask,
        "affine": trace.source_affine,
        "source_affine": trace.affine,
        "source_contrasts": trace.contrasts,
        "contrasts": trace.source_contrasts,
    }


def _joined(first: Between, second: Between, target: Grid) -> Tensor | None:
    """Where either allows a change of intensity; None if one of them allows it everywhere."""
    if first.mask is None or second.mask is None:
        return None
    earlier = chain_of(second).resample(first.mask, Grid.of(first.mask, first.affine), target)
    return torch.maximum(earlier.clamp_(0, 1).to(second.mask.device), second.mask)


def _overlap(first: Grid, second: Grid) -> bool:
    boxes = [(grid.corners.amin(0), grid.corners.amax(0)) for grid in (first, second)]
    slack = max(*first.spacing, *second.spacing)
    return bool(((boxes[0][0] <= boxes[1][1] + slack) & (boxes[1][0] <= boxes[0][1] + slack)).all())
