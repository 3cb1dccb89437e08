"""The result of registering a pair of scans, by any engine."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.registration import Alignment, Verdict
from medtrace.trace import Trace
from medtrace.trace.intensity_map import IntensityMap


class PairRegistration(NamedTuple):
    """The result of registering a pair of scans, on their own grids and in their own units."""

    trace: Trace
    maps: tuple[IntensityMap, IntensityMap]
    """Of source and target to [-1, 1]."""
    ssd: tuple[float, float] | None
    """Mean squared difference of intensities in [0, 1], before and after; None between two contrasts."""
    verdict: Verdict
    alignment: Alignment
    method: str
    record: dict[str, Any]
    """The entries about it in `trace.json`."""
    device: torch.device = torch.device("cpu")
    target: Tensor | None = None
    """The target in the source's units, where the maps do not give it."""


def mean_square(image: Tensor, target: Tensor) -> float:
    """Mean squared difference of intensities from [-1, 1], as if they were from [0, 1]."""
    return float(((image - target) / 2).double().square().mean())
