"""The checks that ask the run again: does it answer the same, a still pair with stillness, a moved image with a moved
answer?"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.evaluation.certificate import figures as measure
from medtrace.evaluation.certificate.record import Check, assessed, skipped
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.fields import compose, warp
from medtrace.trace import Trace

Translator = Callable[[Tensor], Trace]
"""From a source (C, *spatial) in its own units to its trace on the same grid."""
RUN_CHECKS = ("reproduction", "equivariance", "identical pair")


class Equivariance(NamedTuple):
    """A method's prediction for a deformed input, compared with its deformed prediction."""

    ratio: float
    """Mean |G(x∘T) − G(x)∘T| over mean |G(x)∘T − G(x)|, in the foreground: 0 is equivariant, 1 as far off as a method
    that ignores T."""
    field_voxels: float
    """Mean length of T∘φ' − φ∘T, φ and φ' being the maps p + ddf(p) of the two traces."""
    probe_voxels: float
    """Mean length of the small deformation T in the foreground."""


def equivariance(translator: Translator, trace: Trace, probe: Tensor) -> Equivariance:
    """Deform the source a little and compare: G(x∘T) with G(x)∘T, and the fields, T∘φ' with φ∘T.

    Args:
        translator: the method G.
        trace: its prediction for the source, on the source's grid.
        probe: T as a displacement (spatial_dims, *spatial), in voxels, pull.
    """
    if not trace.same_grid:
        raise ValueError("trace: expected source and image on one grid, received two")
    moved = translator(warp(trace.source[None], probe[None])[0])
    expected = warp(trace.image[None], probe[None])[0]
    region = measure.foreground(trace.source, trace.image)
    if not bool(region.any()):
        raise ValueError("trace: expected images with contrast, received constant ones")

    def mean(value: Tensor) -> float:
        return float(value.abs().double().mean(0)[region[0]].mean())

    change = mean(expected - trace.image)
    maps = compose(probe[None], moved.ddf[None]) - compose(trace.ddf[None], probe[None])
    return Equivariance(
        mean(moved.image - expected) / max(change, 1e-12),
        float(torch.linalg.vector_norm(maps[0], dim=0)[region[0]].mean()),
        float(torch.linalg.vector_norm(probe, dim=0)[region[0]].mean()),
    )


def translator_checks(translator: Translator, trace: Trace, thresholds: Thresholds) -> list[Check]:
    """Reproduction and equivariance of a method that translates one image."""
    again = translator(trace.source)
    fraction = float((again.image - trace.image).abs().mean()) / max(
        float(trace.image.max() - trace.image.min()), 1e-12
    )
    apart = float(torch.linalg.vector_norm(again.ddf - trace.ddf, dim=0).mean())
    reproduction = assessed(
        "reproduction",
        {"reproduction_share": fraction, "reproduction_field_voxels": apart},
        thresholds,
        "the run reproduces this image from this source",
    )
    shape = tuple(trace.image.shape[1:])
    result = [
        equivariance(translator, trace, measure.smooth_displacement(shape, thresholds.probe_voxels, seed))
        for seed in range(thresholds.probes)
    ]
    worst = max(result, key=lambda one: one.ratio)
    figures = {f"equivariance_{name}": value for name, value in worst._asdict().items()}
    return [reproduction, assessed("equivariance", figures, thresholds, "a deformed source gives a deformed image")]


def identical_pair_check(trace: Trace, thresholds: Thresholds) -> Check:
    """Assess the trace of a source registered to itself."""
    length = torch.linalg.vector_norm(trace.ddf, dim=0)
    figures = {
        "identical_pair_voxels": float(length.max()),
        "identical_pair_mean_voxels": float(length.mean()),
        "identical_pair_change": float((trace.image - trace.source).abs().max()),
    }
    return assessed("identical pair", figures, thresholds, "two equal images are left unchanged")


def without_run() -> list[Check]:
    """The checks that are skipped if no run is given."""
    return [skipped(name, "needs the run: pass --run RUN_DIR") for name in RUN_CHECKS]
