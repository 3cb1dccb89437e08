"""Conformal radius: how far the true point may lie from the one that a trace names, with a stated probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.checks import check_floating


class Coverage(NamedTuple):
    """Coverage of a radius on unseen subjects."""

    subjects: float
    """Fraction of subjects whose score is at most the radius."""
    points: float
    """Fraction of points within the radius, averaged over subjects."""
    standard_error: float
    """Binomial standard error over `subjects`."""
    n: int


def conformal_radius(scores: Tensor, coverage: float = 0.9) -> float:
    """Smallest radius that split conformal prediction permits: the ⌈(n + 1) · coverage⌉-th smallest score.

    Args:
        scores: (n,), one for each calibration subject (not one for each point: points of one subject are not
            exchangeable with those of another).
        coverage: probability, in (0, 1), that a new subject's score is at most the radius.

    Returns:
        The radius, in the scores' unit; infinite if n < coverage / (1 − coverage), too few subjects to promise that.

    Raises:
        TypeError: if the scores are not a floating tensor.
        ValueError: if they are not (n,), are not finite, or coverage is out of range.

    Guarantee (Vovk et al., "Algorithmic Learning in a Random World", 2005): if the calibration subjects and the new
    one are exchangeable, P(score ≤ radius) ≥ coverage, over the draw of all of them; without ties it is below
    coverage + 1 / (n + 1).
    """
    check_floating("scores", scores)
    if scores.ndim != 1 or scores.numel() == 0:
        raise ValueError(f"scores: expected (n,), one for each subject, received {tuple(scores.shape)}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("scores: expected finite numbers, received NaN or infinity; leave those subjects out")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage: expected a probability in (0, 1), received {coverage!r}")
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)
    return float(scores.sort().values[rank - 1]) if rank <= len(scores) else math.inf


def subject_score(errors: Tensor, fraction: float | None = None, generator: torch.Generator | None = None) -> float:
    """One score for a subject from the errors of its points.

    Args:
        errors: (points,), distances between the located and the true points.
        fraction: in (0, 1]: the smallest error that this fraction of the points does not exceed, so that the guarantee
            is "this fraction of a subject's points lies within r"; None takes one point at random, so that it is
            "a random point of a new subject lies within r".
        generator: for the random point.

    Raises:
        ValueError: if there are no points or the fraction is out of range.
    """
    if errors.ndim != 1 or errors.numel() == 0:
        raise ValueError(f"errors: expected (points,), received {tuple(errors.shape)}; leave empty subjects out")
    if fraction is None:
        return float(errors[int(torch.randint(len(errors), (), generator=generator))])
    if not 0 < fraction <= 1:
        raise ValueError(f"share: expected a fraction in (0, 1], received {fraction!r}")
    return float(errors.sort().values[math.ceil(fraction * len(errors) - 1e-9) - 1])


def measure_coverage(held: Tensor, within: Tensor) -> Coverage:
    """Measured coverage of a radius on unseen subjects.

    Args:
        held: (n,) bool, whether each unseen subject's score, made as the calibration's were, is at most the radius.
        within: (n,), fraction of each subject's points within the radius.
    """
    fraction = float(held.double().mean())
    error = math.sqrt(fraction * (1 - fraction) / len(held))
    return Coverage(fraction, float(within.double().mean()), error, len(held))


def conformal_factor(scores: Sequence[Tensor], coverage: float = 0.9) -> float:
    """Smallest factor within which a random point of a new subject lies with a probability: hierarchical conformal.

    Every calibration subject has the same weight, however many points it has; the new one counts as a subject whose
    points lie at infinity.

    Args:
        scores: for every calibration subject, the scores of its points, (points,).
        coverage: probability, in (0, 1).

    Returns:
        The factor, in the scores' unit; infinite if n < coverage / (1 − coverage), too few subjects to promise that.

    Raises:
        ValueError: if there are no subjects, one has no points, or the coverage is out of range.

    Guarantee (Lee, Barber and Willett, "Distribution-free inference with hierarchical data", 2023): if the calibration
    subjects and the new one are exchangeable, P(score of a random point of the new subject ≤ factor) ≥ coverage.

    Example:
        >>> conformal_factor([torch.arange(1.0, 101.0)] * 99, 0.9)
        91.0
    """
    if not scores or any(one.ndim != 1 or one.numel() == 0 for one in scores):
        raise ValueError("scores: expected (points,) of every subject, received none; leave empty subjects out")
    if not 0 < coverage < 1:
        raise ValueError(f"coverage: expected a probability in (0, 1), received {coverage!r}")
    values = torch.cat([one.double() for one in scores])
    weights = torch.cat([torch.full((len(one),), 1 / len(one), dtype=torch.float64) for one in scores])
    order = values.argsort()
    reached = weights[order].cumsum(0) >= (len(scores) + 1) * coverage - 1e-9
    return float(values[order][int(reached.int().argmax())]) if bool(reached.any()) else math.inf
