"""Registration of two scans by the engine of `medtrace.registration`, as a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medtrace.data.preparation.rules import Preparation
from medtrace.guard.memory import check_memory
from medtrace.guard.progress import duration
from medtrace.inference.scan_pair import ScanPair, intensity_maps
from medtrace.registration import Deformable, register_images
from medtrace.registration.contrast import ONE_CONTRAST
from medtrace.registration.presets import PRESETS
from medtrace.registration.register import Registration as Answer
from medtrace.trace import Trace
from medtrace.trace.intensity_map import IntensityMap
from medtrace.workflows.registration.pair import PairRegistration, mean_square

MASK_ROLES = ("both", "exclude", "appearance")
BYTES_PER_WORKING_VOXEL = 200
"""Bytes per working voxel, for the deformation and its verdict. Measured as the growth of the resident memory to its
peak (Linux, VmHWM) of two cropped heads of one channel with masks, of 3 mm worked on at 1.5 mm (838,000 voxels): 202
bytes, images included."""
_BYTES_FOR_MIND = 260
"""Likewise with its twelve channels: 400 bytes at 3 mm, images included."""
_BYTES_PER_VOXEL = 75
"""Of both images together: fields in float64 while they are composed, and the trace. Measured likewise, of 1 mm worked
on at 3 mm (5.9 million voxels): 69 bytes. The sum of both is a bound: at both 2 and 1.5 mm it grew by 196 to 207 bytes
per working voxel, where the bound is 350."""
SECONDS_PER_MILLION = 1.3
"""Processor seconds of a registration for a million working voxels: 1.1 at 1 mm, 1.5 at 3 mm
(docs/results/registration.md, "On a quiet machine")."""
_BINS = 64


@dataclass(frozen=True)
class Greedy:
    """Settings of the engine.

    Attributes:
        similarity: "auto", or one of `medtrace.registration.deformable.SIMILARITIES`.
        preset: one of PRESETS, or None for what suits the pair.
        update_smoothing: mm of the Gaussian on updates; None for the preset's.
        field_smoothing: likewise on the field.
        mask_role: whether what the masks cover is left out of the similarity ("exclude"), may change in intensity
            ("appearance"), or both.
    """

    similarity: str = "auto"
    preset: str | None = None
    update_smoothing: float | None = None
    field_smoothing: float | None = None
    mask_role: str = "both"

    def settings(self) -> Callable[[Sequence[float]], Deformable] | None:
        """Settings for the spacing of a grid, or None for those that suit the pair."""
        given = {"update_smoothing_mm": self.update_smoothing, "field_smoothing_mm": self.field_smoothing}
        changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.preset is None and not changed:
            return None
        return lambda spacing: replace(PRESETS[self.preset or "standard"](spacing), **changed)


def register_greedy(
    pair: ScanPair, how: Greedy, *, alignment: str, spacing: float | None, match: bool | None
) -> PairRegistration:
    """Register a pair of scans without a trained network."""
    maps = intensity_maps(
        pair, Preparation(spatial_dims=pair.spatial_dims, natural_image=pair.natural_image), match is not False
    )
    check_room(pair, spacing, how.similarity)
    excluded = how.mask_role != "appearance"
    answer = register_images(
        pair.source,
        pair.target,
        pair.source_affine,
        pair.affine,
        alignment=alignment,
        similarity=how.similarity,
        mask=pair.mask if excluded else None,
        moving_mask=pair.source_mask if excluded else None,
        spacing=spacing,
        settings=how.settings(),
    )
    one_contrast = answer.verdict.figures["contrast_correlation"] >= ONE_CONTRAST
    healthy = ~pair.joint_mask(answer.ddf)
    shown = _shown(pair.target, maps) if one_contrast else expected(pair.target, answer.warped, healthy)
    trace = _trace(pair, answer, shown, how.mask_role)
    ssd = _ssd(pair, maps, trace) if one_contrast else None
    record = {
        "similarity": answer.settings.similarity,
        "similarity_reason": answer.settings_reason,
        "mask_role": how.mask_role,
        "settings": asdict(answer.settings),
        "working_shape": list(answer.deformation.ddf.shape[1:]),
        "working_spacing_mm": spacing,
    }
    return PairRegistration(
        trace, maps, ssd, answer.verdict, answer.alignment, "greedy registration", record, target=shown
    )


def _trace(pair: ScanPair, answer: Answer, shown: Tensor, role: str) -> Trace:
    fields: dict[str, Any] = {
        "inverse_ddf": answer.inverse_ddf,
        "affine": pair.affine,
        "source_affine": pair.source_affine,
    }
    if role == "exclude" or (pair.mask is None and pair.source_mask is None):
        nowhere = torch.zeros(()).expand(1, *answer.ddf.shape[1:])
        trace = Trace.build(source=pair.source, image=answer.warped, ddf=answer.ddf, mask=nowhere, **fields)
        return replace(trace, image=trace.warped)  # one volume, not two of the same
    mask = pair.joint_mask(answer.ddf)
    image = torch.where(mask, shown, answer.warped)
    return Trace.build(source=pair.source, image=image, ddf=answer.ddf, mask=mask, **fields)


def _shown(target: Tensor, maps: tuple[IntensityMap, IntensityMap]) -> Tensor:
    """The target in the source's intensities."""
    return maps[0].inverse(maps[1].forward(target), maps[1].foreground)


def expected(target: Tensor, warped: Tensor, healthy: Tensor) -> Tensor:
    """The target in the source's units where contrasts differ: E[warped | target] over healthy voxels, per channel.

    Args:
        target: (C, *spatial).
        warped: the source at its voxels, likewise.
        healthy: (1, *spatial) boolean, the voxels that count.
    """
    result = torch.empty_like(target)
    for x, y, into in zip(target, warped, result):
        known, value = x[healthy[0]].double().numpy(), y[healthy[0]].double().numpy()
        edges = np.unique(np.quantile(known, np.linspace(0, 1, _BINS + 1)))
        index = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, max(len(edges) - 2, 0))
        count = np.bincount(index)
        filled = count > 0
        places, means = (np.bincount(index, weights=of)[filled] / count[filled] for of in (known, value))
        into.copy_(torch.from_numpy(np.interp(x.double().numpy(), places, means)))
    return result


def _ssd(pair: ScanPair, maps: tuple[IntensityMap, IntensityMap], trace: Trace) -> tuple[float, float]:
    target = maps[1].forward(pair.target)
    before = pair.on_target(maps[0].forward(pair.source)).clamp(-1, 1)
    bare = replace(maps[0], foreground=None)
    return mean_square(before, target), mean_square(bare.forward(trace.image), target)


def check_room(pair: ScanPair, spacing: float | None, similarity: str = "auto") -> None:
    """Check that there is memory for a registration.

    Raises:
        ValueError: if not; it states how much is needed.
    """
    check_memory(
        f"a registration of {working_voxels(pair, spacing):,} voxels, for images of {_voxels(pair):,}",
        memory_of(pair, spacing, similarity),
        "register on a coarser grid (a larger --spacing), or crop the scans",
    )


def working_voxels(pair: ScanPair, spacing: float | None) -> int:
    """Voxels of the grid that a pair is registered on."""
    voxels = math.prod(pair.target.shape[1:])
    edges = np.linalg.norm(pair.affine.numpy()[:3, : pair.spatial_dims], axis=0)
    return round(voxels * (1.0 if spacing is None else float(np.prod(edges / spacing))))


def memory_of(pair: ScanPair, spacing: float | None, similarity: str = "auto") -> int:
    """Peak memory of a registration in bytes."""
    per_voxel = _BYTES_FOR_MIND if similarity == "mind" else BYTES_PER_WORKING_VOXEL
    return working_voxels(pair, spacing) * per_voxel + _voxels(pair) * _BYTES_PER_VOXEL


def _voxels(pair: ScanPair) -> int:
    """Of both images together."""
    return math.prod(pair.target.shape[1:]) + math.prod(pair.source.shape[1:])


def seconds_of(pair: ScanPair, spacing: float | None) -> str:
    """The approximate duration of a registration in words, without writing its trace and page."""
    seconds = max(1.0, SECONDS_PER_MILLION * working_voxels(pair, spacing) / 1e6)
    return f"about {duration(seconds)} of processor time, and more to write the trace and its page"
