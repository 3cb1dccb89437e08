"""The interval of a run, applied to its translation of a scan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import torch
from torch import Tensor

from medtrace.data.preparation.rules import Preparation
from medtrace.engines.checkpoint_choice import weights_file
from medtrace.evaluation.intensity.features import unexplained_change
from medtrace.evaluation.intensity.interval import FILE, IntensityInterval
from medtrace.guard.notices import caution
from medtrace.inference.delivery import Delivered
from medtrace.io.digest import sha256
from medtrace.trace import Trace
from medtrace.trace.geometry import pull

OTHER_WEIGHTS = "the interval of intensities is not recorded as calibrated for these weights"
AGAIN = "calibrate again (medtrace calibrate intensity, with the same --checkpoint)"


class _Translated(NamedTuple):
    """A translation in the networks' range, on the scan's grid."""

    image: Tensor
    warped: Tensor
    affine: Tensor


def interval_of(run: Path) -> IntensityInterval | None:
    """The interval calibrated for the weights that a run uses; None if there is none.

    A caution is given if the run's interval is for other weights: another checkpoint, or an earlier training.

    Raises:
        ValueError: if the file is damaged.
    """
    if not (run / FILE).is_file():
        return None
    interval = IntensityInterval.read(run / FILE)
    if serves(interval, run):
        return interval
    caution(run / FILE, f"{OTHER_WEIGHTS}, and is left out; {AGAIN}")
    return None


def serves(interval: IntensityInterval, run: Path) -> bool:
    """Whether an interval was calibrated for the weights that a run uses (see `using_checkpoint`)."""
    weights = weights_file(run)
    return weights.is_file() and interval.weights_sha256 == sha256(weights)


def with_interval(
    trace: Trace, delivered: Delivered, source: Tensor, preparation: Preparation, interval: IntensityInterval
) -> tuple[Trace, dict[str, Any]]:
    """A trace with its interval and the mask of unexplained change, and their metadata.

    Args:
        trace: trace of a scan, source and image on one grid.
        delivered: of which the trace was made.
        source: (C, *spatial) as the networks read it.
        preparation: preparation of the run.
        interval: interval of the run, in the networks' range.
    """
    shown = _Translated(delivered.parts.image, pull(source, delivered.parts.ddf, None), trace.affine)
    axis = _slice_axis(preparation, trace.affine) if trace.spatial_dims == 3 else None
    change = unexplained_change(shown.image, shown.warped)
    half = delivered.half_width(interval.half_width(shown, change, axis))
    marks = (interval.excess(shown, change, axis) > 1).float()
    tissue = torch.from_numpy(change.tissue)
    told = {
        "statement": interval.statement,
        "coverage": interval.coverage,
        "mean_half_width": float(half[:, tissue].mean()) if bool(tissue.any()) else 0.0,
        "unexplained_voxels": int(marks.sum()),
    }
    return replace(trace, interval=half, unexplained=marks), told


def _slice_axis(preparation: Preparation, affine: Tensor) -> int | None:
    """The array axis across the slices that a 2D network translates one by one; None for a 3D network."""
    if preparation.spatial_dims == 3:
        return None
    body_axes = nibabel.io_orientation(affine.double().numpy())[:, 0].tolist()
    return body_axes.index(float(preparation.axis.index))
