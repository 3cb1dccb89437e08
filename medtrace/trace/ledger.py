"""Decomposition of an image's change into deformation, appearance and residual."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from medtrace.checks import check_finite, check_same_shape
from medtrace.trace.geometry import layers
from medtrace.trace.validation import as_tensor, checked_tensor


class Explained(Protocol):
    """The members of a `Trace` that a ledger reads."""

    @property
    def source(self) -> Tensor: ...

    @property
    def image(self) -> Tensor: ...

    @property
    def warped(self) -> Tensor: ...

    @property
    def appearance(self) -> Tensor | None: ...

    @property
    def same_grid(self) -> bool: ...

    @property
    def same_unit(self) -> bool: ...


class LedgerSummary(NamedTuple):
    """Mean absolute value of each column, in the image's units (for deformation, in the source's); None if the column
    does not exist."""

    change: float | None
    deformation: float | None
    appearance: float | None
    residual: float | None
    error: float | None
    explained_fraction: float | None
    """1 - sum(residual²) / sum((image - source)²); None if nothing changed or the grids differ. Across units
    1 - sum(residual²) / sum((image - mean(image))²)."""


class TraceLedger(NamedTuple):
    """The decomposition of the change: `image = warped + appearance + residual`, and if source and image are in
    different units `image = appearance + residual`. Each column is (C, *spatial) or None."""

    deformation: Tensor | None
    """warped - source, if both are on one grid."""
    appearance: Tensor | None
    residual: Tensor | None
    """What neither explains; None if source and image have different channel counts, or different units and no
    appearance."""
    error: Tensor | None
    """target - image, if a target was given."""
    summary: LedgerSummary


def make_ledger(trace: Explained, target: Tensor | None, region: Tensor | None) -> TraceLedger:
    """The columns of `Trace.ledger`."""
    comparable = trace.source.shape[0] == trace.image.shape[0]
    residual = error = None
    if not trace.same_unit:
        comparable = False
        residual = None if trace.appearance is None else trace.image - trace.appearance
    elif comparable:
        residual = trace.image - trace.warped
        if trace.appearance is not None:
            residual = residual - trace.appearance
    if target is not None:
        target = checked_tensor("target", target).to(trace.image.device)
        check_same_shape("image", trace.image, "target", target)
        check_finite("target", target)
        error = target - trace.image
    deformation = trace.warped - trace.source if trace.same_grid else None
    change = trace.image - trace.source if trace.same_grid and comparable else None
    inside = _inside(trace, region)

    def size(column: Tensor | None) -> float | None:
        return None if column is None else _sum(column, inside, 1) / _count(column, inside)

    explained = None
    spread = change
    if not trace.same_unit and residual is not None:
        spread = trace.image - _mean(trace.image, inside)
    if spread is not None and residual is not None:
        total, left = _sum(spread, inside, 2), _sum(residual, inside, 2)
        explained = 1.0 - left / total if total > 0 else None
    summary = LedgerSummary(
        change=size(change),
        deformation=size(deformation),
        appearance=size(trace.appearance),
        residual=size(residual),
        error=size(error),
        explained_fraction=explained,
    )
    return TraceLedger(deformation, trace.appearance, residual, error, summary)


def _sum(column: Tensor, inside: Tensor | None, power: int) -> float:
    """Sum of |values|^power in float64, some layers at a time, over the region or everywhere."""
    total = 0.0
    for part in layers(column.shape[1:]):
        values = column[:, part].double().abs_()
        values = values if inside is None else values[:, inside[part]]
        total += float(values.pow_(power).sum())
    return total


def _mean(image: Tensor, inside: Tensor | None) -> Tensor:
    """Of each channel, (C, 1, ...), over the region or everywhere."""
    values = image.flatten(1) if inside is None else image[:, inside]
    return values.double().mean(1).to(image.dtype).reshape(-1, *(1,) * (image.ndim - 1))


def _count(column: Tensor, inside: Tensor | None) -> int:
    return column.numel() if inside is None else column.shape[0] * int(inside.sum())


def _inside(trace: Explained, region: Tensor | None) -> Tensor | None:
    """The region, (*spatial); None is everywhere."""
    grid = trace.image.shape[1:]
    if region is None:
        return None
    if not isinstance(region, Tensor):
        raise TypeError(f"region: expected a torch tensor, received {type(region).__name__}; convert it first")
    if region.shape != (1, *grid):
        raise ValueError(f"region: expected shape {(1, *grid)}, received {tuple(region.shape)}")
    inside = as_tensor(region)[0].to(trace.image.device) > 0
    if not bool(inside.any()):
        raise ValueError("region: expected at least one voxel, received an empty mask; pass None for everywhere")
    return inside
