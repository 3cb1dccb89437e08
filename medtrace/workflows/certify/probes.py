"""The checks that ask the run again: does it answer the same, a still pair with stillness, a moved image with a moved
answer?"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.fields import compose, warp
from medtrace.io import write_image
from medtrace.metrics import certificate as measure
from medtrace.storage.files import scratch_directory
from medtrace.trace import Trace
from medtrace.workflows.certify.record import Check, judged, skipped
from medtrace.workflows.certify.thresholds import Thresholds
from medtrace.workflows.register import register
from medtrace.workflows.runs import load_method
from medtrace.workflows.translate import run_preparation, translate

Translator = Callable[[Tensor], Trace]
"""From a source (C, *spatial) in its own units to its trace on the same grid."""
RUN_CHECKS = ("reproduction", "equivariance", "identical pair")


class Equivariance(NamedTuple):
    """How a method answers a deformed input, beside its deformed answer."""

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
        trace: its answer to the source, on the source's grid.
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
    share = float((again.image - trace.image).abs().mean()) / max(float(trace.image.max() - trace.image.min()), 1e-12)
    apart = float(torch.linalg.vector_norm(again.ddf - trace.ddf, dim=0).mean())
    reproduction = judged(
        "reproduction",
        {"reproduction_share": share, "reproduction_field_voxels": apart},
        thresholds,
        "the run makes this image of this source again",
    )
    shape = tuple(trace.image.shape[1:])
    found = [
        equivariance(translator, trace, measure.smooth_displacement(shape, thresholds.probe_voxels, seed))
        for seed in range(thresholds.probes)
    ]
    worst = max(found, key=lambda one: one.ratio)
    figures = {f"equivariance_{name}": value for name, value in worst._asdict().items()}
    return [reproduction, judged("equivariance", figures, thresholds, "a deformed source gives a deformed answer")]


def identical_pair_check(trace: Trace, thresholds: Thresholds) -> Check:
    """Judge the trace of a source registered to itself."""
    length = torch.linalg.vector_norm(trace.ddf, dim=0)
    figures = {
        "identical_pair_voxels": float(length.max()),
        "identical_pair_mean_voxels": float(length.mean()),
        "identical_pair_change": float((trace.image - trace.source).abs().max()),
    }
    return judged("identical pair", figures, thresholds, "two equal images are left alone")


def run_checks(
    run: str | os.PathLike, trace: Trace, thresholds: Thresholds, contrast: str | None = None, device: str | None = None
) -> list[Check]:
    """The checks that a run allows: of a translator reproduction and equivariance, of a registration identical pairs.

    Args:
        run: folder of the training that made the trace.
        trace: of a scan in its own units, as `translate` or `register` leaves it.
        thresholds: limits and settings.
        contrast: of the image, where the run was trained on several.
        device: such as "cuda:0".
    """
    method = load_method(run, "cpu")
    flat = trace.spatial_dims == 2
    if trace.source.shape[0] != 1:
        return [skipped(name, "colour pictures cannot be handed to the run again") for name in RUN_CHECKS]
    if flat and run_preparation(run, method).picture:
        return [skipped(name, "pictures cannot be handed to the run again without loss") for name in RUN_CHECKS]
    with scratch_directory() as folder:
        file = folder / "source.nii.gz"
        if not method.translates:
            write_image(file, trace.source, trace.source_affine)
            found = register(
                file, file, folder / "pair", run=run, contrast=contrast, device=device, progress=False, report=False
            ).trace
            reason = "the run registers pairs; the target is not part of a trace"
            return [*(skipped(name, reason) for name in RUN_CHECKS[:2]), identical_pair_check(found, thresholds)]
        if not trace.same_grid:
            return [skipped(name, "source and image lie on two grids") for name in RUN_CHECKS]

        def translator(source: Tensor) -> Trace:
            write_image(file, source, trace.source_affine)
            settings: dict[str, Any] = {"contrast": contrast, "device": device, "progress": False, "report": False}
            made = translate(run, file, folder / "trace", overwrite=True, **settings)
            return _flat(made) if flat else made

        checks = translator_checks(translator, trace, thresholds)
    return [*checks, skipped("identical pair", "the run translates one image; it registers no pair")]


def without_run() -> list[Check]:
    """What is left out where no run is given."""
    return [skipped(name, "needs the run: pass --run RUN_DIR") for name in RUN_CHECKS]


def _flat(trace: Trace) -> Trace:
    """The 2D trace of a volume of one slice."""
    return Trace.build(
        trace.source[..., 0],
        trace.image[..., 0],
        trace.ddf[:2, ..., 0],
        inverse_ddf=trace.inverse_ddf[:2, ..., 0],
        affine=trace.affine,
        source_affine=trace.source_affine,
        source_contrasts=trace.source_contrasts,
        contrasts=trace.contrasts,
    )
