"""Reported scores of a row on the slices of a test person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medtrace import metrics
from medtrace.data.preparation.rules import Preparation, target_units
from medtrace.evaluation.edges import RANGE
from medtrace.evaluation.scoring import Scores
from medtrace.metrics.paired import bootstrap_interval
from medtrace.trace import Trace
from medtrace.trace.validation import as_tensor

MAE, SSIM, UNITS = "foreground_mae", "foreground_ssim", "foreground_mae_units"


def slice_scores(preparation: Preparation) -> Scores:
    """The columns `MAE` (0 to 255), `SSIM` and `UNITS` (in the target's units), over the target's foreground.

    Args:
        preparation: preparation of the data set. For a target in arbitrary units, the unit is that of the mean training
            scan, to which image and target are brought by one curve.
    """
    back = target_units(preparation, 1)

    def scores(trace: Trace, case: Mapping[str, Any]) -> dict[str, float]:
        image, target = as_tensor(trace.image)[None], as_tensor(case["target"])[None]
        inside = metrics.foreground_of(target)
        values = {
            MAE: metrics.mean_absolute_error(image, target, inside, data_range=RANGE, output_range=255),
            SSIM: metrics.structural_similarity(image, target, inside, data_range=RANGE),
        }
        if back is not None:
            values[UNITS] = (back(image[0]) - back(target[0])).abs()[inside[0].expand_as(target[0])].mean()
        return {name: float(value) for name, value in values.items()}

    return scores


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Interval of a mean over slices, by `medtrace.metrics.paired.bootstrap_interval`.

    The slices are of one person: it says how far the mean would vary with other slices of that person, and nothing
    about other persons.

    Example:
        >>> low, high = interval([1.0, 2.0, 3.0])
        >>> 1 <= low < 2 < high <= 3
        True
    """
    return bootstrap_interval(values, seed=seed)
