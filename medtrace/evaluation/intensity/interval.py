"""Intervals of a translation's intensities: the true value lies within ± u, by voxel, with a stated probability."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from medtrace.checks import check_choice
from medtrace.evaluation.conformal import conformal_factor, conformal_radius
from medtrace.evaluation.intensity.features import (
    CONSTANT,
    EDGES,
    LEVELS,
    SOURCE_EDGES,
    TEXTURE,
    UNEXPLAINED,
    Change,
    Scale,
    fit_scale,
    local_features,
    smoothed,
    source_features,
    unexplained_change,
)
from medtrace.storage.files import atomic_write
from medtrace.trace import Trace

FORMAT = "medtrace intensity interval"
FILE = "intensity_interval.json"
"""In the folder of a run, where `medtrace translate` looks for it."""
CHOICES: Mapping[str, tuple[str, ...]] = {
    "constant": (CONSTANT,),
    "tissue": LEVELS,
    "edges": (*LEVELS, EDGES, SOURCE_EDGES),
    "residual": (*LEVELS, EDGES, SOURCE_EDGES, UNEXPLAINED),
}
"""Local uncertainties that are tried; the one of the shortest intervals is taken."""
SIGMA_VOXELS = 1.0
"""Standard deviation of the Gaussian that smooths features, in voxels of the calibration's grid."""
REGIONS = (0.7, 1.2, 2.0)
"""Likewise those through which unexplained change is looked for: regions of three sizes."""
REGION_FLOOR = 0.03
"""Of a region's scale, as a fraction of the span of levels: what a flat source hides is not read as nothing."""
UNITS = ("subject", "case")
"""The counts of a calibration."""
CLEAN = 0.97
"""Probability with which nothing is marked in a case without unexplained change."""
VOXELS = 4000
"""Maximum number of a case's voxels used in a fit."""


class Translated(Protocol):
    """The members of a trace that an interval reads."""

    @property
    def image(self) -> Tensor: ...

    @property
    def warped(self) -> Tensor: ...

    @property
    def affine(self) -> Tensor: ...


class Known(NamedTuple):
    """A translation whose truth is known.

    Attributes:
        subject: name of the subject; several cases may be of one.
        trace: in the networks' range or any other unit.
        target: (C', *spatial), the true image in the image's unit.
    """

    subject: str
    trace: Trace
    target: Tensor

    @property
    def change(self) -> Change:
        """The part of the translation that its source's contrast does not explain."""
        return unexplained_change(self.trace.image, self.trace.warped)


@dataclass(frozen=True)
class IntensityInterval:
    """The interval of true intensities about a translation's, and the limit of unexplained change.

    Attributes:
        coverage: probability that a random tissue voxel of a new subject lies within its interval.
        factor: factor of the scale.
        uncertainty: one of `CHOICES`.
        scale: weights of its features.
        levels: minimum and maximum intensity between which `LEVELS` lie.
        sigma_mm: width of the Gaussian that smooths features.
        regions_mm: widths of those with which unexplained change is sought.
        region_scales: weights of the features of the source, for each.
        limit: limit of unexplained change over its scale.
        clean: probability that a case without unexplained change stays below the limit.
        unit: "subject", or "case" if cases stood in for subjects.
        population: where they come from.
        calibration: number of subjects, or cases.
        measured: coverage measured on unseen ones (see `measure_interval`).
        weights_sha256: SHA-256 of the file of the weights that it was calibrated for, None if not recorded.
    """

    coverage: float
    factor: float
    uncertainty: str
    scale: Mapping[str, float]
    levels: tuple[float, float]
    sigma_mm: float
    regions_mm: tuple[float, ...]
    region_scales: tuple[Mapping[str, float], ...]
    limit: float
    clean: float
    unit: str
    population: str
    calibration: int
    measured: Mapping[str, Any] | None = None
    weights_sha256: str | None = None
    format: str = FORMAT

    @property
    def statement(self) -> str:
        """The guarantee in words; of cases that stood in for subjects there is none."""
        if self.unit == "case":
            return (
                f"estimated on {self.calibration} cases of {self.population}: the true intensity lies within its"
                f" interval in {100 * self.coverage:g} % of tissue voxels; cases of few subjects guarantee nothing for"
                " a new one"
            )
        return (
            f"for a new {self.unit} of {self.population}, the true intensity of a random tissue voxel lies within its"
            f" interval with probability at least {100 * self.coverage:g} % over the draw of the {self.calibration}"
            f" calibration {self.unit}s and the new one, if all are exchangeable"
        )

    def half_width(self, trace: Translated, change: Change | None = None, slice_axis: int | None = None) -> Tensor:
        """Half of the interval (C', *spatial), in the unit of the trace's image.

        Args:
            trace: trace of a translation, in the calibration's unit.
            change: its unexplained change (see `unexplained_change`); None computes it.
            slice_axis: for a volume that was translated slice by slice, the axis across the slices.
        """
        change = change or unexplained_change(trace.image, trace.warped)
        sigma = voxels_of(self.sigma_mm, trace.affine, trace.image.ndim - 1, slice_axis)
        features = local_features(trace.image, trace.warped, change, sigma, self.levels)
        return torch.from_numpy(self.factor * Scale(dict(self.scale), self.levels).at(features)).float()

    def excess(self, trace: Translated, change: Change | None = None, slice_axis: int | None = None) -> Tensor:
        """Unexplained change over its limit (1, *spatial), in tissue: above 1 it is marked.

        Args:
            trace, change, slice_axis: as for `half_width`.
        """
        change = change or unexplained_change(trace.image, trace.warped)
        result = region_excess(trace, change, self.regions_mm, self.region_scales, self.levels, slice_axis)
        return torch.from_numpy(result / self.limit).float()[None]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "statement": self.statement}

    def check_bounded(self) -> None:
        """Check that it promises something.

        Raises:
            ValueError: if it is infinite: too few subjects.
        """
        if not math.isfinite(self.factor):
            needed = 2 * math.ceil(self.coverage / (1 - self.coverage) - 1e-9)
            raise ValueError(
                f"factor: {self.calibration} {self.unit}(s) guarantee nothing at {100 * self.coverage:g} %; give at"
                f" least {needed} in all, half of them for the scales, a lower coverage, or calibrate on cases"
                " (--unit case)"
            )

    def write(self, path: str | os.PathLike) -> Path:
        """Write it as JSON; in the folder of a run, as `FILE`, `medtrace translate` reads it.

        Raises:
            ValueError: if it is infinite: too few subjects.
        """
        self.check_bounded()
        path = Path(path)
        atomic_write(path, json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")
        return path

    @classmethod
    def read(cls, path: str | os.PathLike) -> IntensityInterval:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is another.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a file that `medtrace calibrate intensity` wrote")
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("format") != FORMAT:
                raise ValueError("another format")
            content.pop("statement", None)
            result = cls(**content)
            for value in (result.factor, result.limit, *result.scale.values()):
                if not math.isfinite(float(value)):
                    raise ValueError("a number that is not finite")
            pairs = zip(result.regions_mm, result.region_scales, strict=True)
            list(pairs)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: holds no intensity interval ({error}); run `medtrace calibrate intensity`"
            ) from error
        return result


def voxels_of(sigma_mm: float, affine: Tensor, dims: int, slice_axis: int | None = None) -> list[float]:
    """A Gaussian's width in voxels of every axis; 0 across slices that were translated one by one."""
    edges = affine[:3, :dims].double().norm(dim=0).tolist()
    return [0.0 if axis == slice_axis else sigma_mm / edge for axis, edge in enumerate(edges)]


def region_excess(
    trace: Translated,
    change: Change,
    regions_mm: Sequence[float],
    scales: Sequence[Mapping[str, float]],
    levels: tuple[float, float],
    slice_axis: int | None = None,
) -> np.ndarray:
    """Greatest unexplained change over its usual size (*spatial), over regions of every size and all channels."""
    result = np.zeros(change.tissue.shape, np.float32)
    inside = change.residual * change.tissue
    for width, weights in zip(regions_mm, scales):
        sigma = voxels_of(width, trace.affine, trace.image.ndim - 1, slice_axis)
        features = source_features(trace.warped, sigma, len(change.residual))
        over = np.abs(smoothed(inside, sigma)) / Scale(dict(weights), levels).at(features)
        result = np.maximum(result, over.max(0))
    return result * change.tissue


def calibrate_interval(
    cases: Iterable[Known], population: str, *, coverage: float = 0.9, clean: float = CLEAN, unit: str = "subject"
) -> IntensityInterval:
    """Calibrate on translations whose truth is known: scales on every second subject, factors on the others.

    The local uncertainty is the one of `CHOICES` whose intervals are shortest on the first half, calibrated there.

    Args:
        cases: cases of subjects that the method was not trained on.
        population: where they come from, for the statement.
        coverage: probability promised for a random tissue voxel of a new subject.
        clean: probability promised that nothing is marked in a case without unexplained change; with n subjects it is
            at most n / (n + 1), the largest of them.
        unit: "subject", or "case", which treats every case as a subject: the promise is then about such cases, such
            as slices of the same persons, and is an estimate without a guarantee.

    Raises:
        ValueError: if there are fewer than two subjects, or the unit is another.
    """
    check_choice("unit", unit, UNITS)
    known = [one._replace(subject=f"{number}") if unit == "case" else one for number, one in enumerate(cases)]
    subjects = list(dict.fromkeys(one.subject for one in known))
    if len(subjects) < 2:
        raise ValueError(f"cases: expected at least two {unit}s to calibrate on, received {len(subjects)}; give more")
    learned = [(one, one.change) for one in known if one.subject in set(subjects[::2])]
    held = [(one, one.change) for one in known if one.subject in set(subjects[1::2])]
    values = np.concatenate([one.trace.image.numpy().ravel()[::7] for one, _ in learned])
    levels = (float(np.percentile(values, 1)), float(np.percentile(values, 99)))
    first = known[0].trace
    edge = float(first.affine[:3, : first.spatial_dims].double().norm(dim=0).min())
    looked = [_looked_at(one, SIGMA_VOXELS * edge, levels, seed) for seed, one in enumerate(learned)]
    scales = {
        name: fit_scale([one.features for one in looked], [one.errors for one in looked], names, levels)
        for name, names in CHOICES.items()
    }
    widths = {name: _mean_width(looked, scale, coverage) for name, scale in scales.items()}
    chosen = min(widths, key=lambda name: widths[name])
    regions = tuple(width * edge for width in REGIONS)
    region_scales = tuple(_region_scale(learned, width, levels) for width in regions)
    scores = _scores(
        [_looked_at(one, SIGMA_VOXELS * edge, levels, seed) for seed, one in enumerate(held)], scales[chosen]
    )
    largest: dict[str, float] = {}
    for one, change in held:
        over = float(region_excess(one.trace, change, regions, region_scales, levels).max())
        largest[one.subject] = max(over, largest.get(one.subject, 0.0))
    # With n, no more than n / (n + 1) can be promised; the file says what is.
    clean = min(clean, len(largest) / (len(largest) + 1))
    return IntensityInterval(
        coverage=coverage,
        factor=conformal_factor(scores, coverage * len(scores) / (len(scores) + 1) if unit == "case" else coverage),
        uncertainty=chosen,
        scale=scales[chosen].weights,
        levels=levels,
        sigma_mm=SIGMA_VOXELS * edge,
        regions_mm=regions,
        region_scales=region_scales,
        limit=conformal_radius(torch.tensor(list(largest.values()), dtype=torch.float64), clean),
        clean=clean,
        unit=unit,
        population=population,
        calibration=len(scores),
    )


def measure_interval(interval: IntensityInterval, cases: Iterable[Known]) -> dict[str, Any]:
    """Coverage of an interval on unseen subjects.

    Returns:
        `subjects`, `cases`; `covered`, the mean over subjects of the fraction of tissue voxels within their interval,
        with its standard deviation `covered_sd` and `least`; `half_width`, the mean in tissue; `constant_half_width`,
        what a constant interval of the same coverage would need on these same cases; `marked`, the fraction of cases in
        which something is marked.
    """
    covered: dict[str, list[float]] = {}
    widths, marks, errors = [], [], []
    for one in cases:
        change = one.change
        inside = torch.from_numpy(change.tissue)
        half = interval.half_width(one.trace, change)[:, inside]
        error = (one.target - one.trace.image).abs()[:, inside]
        covered.setdefault(one.subject, []).append(float((error <= half).double().mean()))
        widths.append(float(half.mean()))
        errors.append(error.flatten().double())
        marks.append(bool((interval.excess(one.trace, change) > 1).any()))
    means = np.array([np.mean(values) for values in covered.values()])
    return {
        "subjects": len(means),
        "cases": len(marks),
        "covered": float(means.mean()),
        "covered_sd": float(means.std(ddof=1)) if len(means) > 1 else None,
        "least": float(means.min()),
        "half_width": float(np.mean(widths)),
        "constant_half_width": conformal_factor(errors, float(means.mean()) * len(errors) / (len(errors) + 1)),
        "marked": float(np.mean(marks)),
    }


class _Looked(NamedTuple):
    """Features and errors at some tissue voxels of a case."""

    subject: str
    features: dict[str, np.ndarray]
    errors: np.ndarray


def _looked_at(known: tuple[Known, Change], sigma_mm: float, levels: tuple[float, float], seed: int) -> _Looked:
    one, change = known
    sigma = voxels_of(sigma_mm, one.trace.affine, one.trace.image.ndim - 1)
    features = local_features(one.trace.image, one.trace.warped, change, sigma, levels)
    errors = (one.target - one.trace.image).abs().numpy()
    places = np.flatnonzero(np.broadcast_to(change.tissue, errors.shape))
    if not len(places):
        raise ValueError(f"{one.subject}: expected a case with tissue, received none; leave it out")
    places = np.random.default_rng(seed).permutation(places)[:VOXELS]
    return _Looked(one.subject, {n: v.reshape(-1)[places] for n, v in features.items()}, errors.ravel()[places])


def _scores(looked: Sequence[_Looked], scale: Scale) -> list[Tensor]:
    """Errors over their scale, of every subject."""
    result: dict[str, list[np.ndarray]] = {}
    for one in looked:
        result.setdefault(one.subject, []).append(one.errors / scale.at(one.features))
    return [torch.from_numpy(np.concatenate(values)) for values in result.values()]


def _mean_width(looked: Sequence[_Looked], scale: Scale, coverage: float) -> float:
    """Mean half width on cases, of the factor that covers so much of them."""
    scores = _scores(looked, scale)
    factor = conformal_factor(scores, coverage * len(scores) / (len(scores) + 1))
    return factor * float(np.mean([scale.at(one.features).mean() for one in looked]))


def _region_scale(
    cases: Sequence[tuple[Known, Change]], width_mm: float, levels: tuple[float, float]
) -> dict[str, float]:
    """Weights of the source's features by which the size of unexplained change goes."""
    features, sizes = [], []
    for number, (one, change) in enumerate(cases):
        sigma = voxels_of(width_mm, one.trace.affine, one.trace.image.ndim - 1)
        own = source_features(one.trace.warped, sigma, len(change.residual))
        size = np.abs(smoothed(change.residual * change.tissue, sigma))
        places = np.flatnonzero(np.broadcast_to(change.tissue, size.shape))
        places = np.random.default_rng(number).permutation(places)[:VOXELS]
        features.append({name: values.reshape(-1)[places] for name, values in own.items()})
        sizes.append(size.ravel()[places])
    weights = fit_scale(features, sizes, (CONSTANT, SOURCE_EDGES, TEXTURE), levels).weights
    return {**weights, CONSTANT: weights.get(CONSTANT, 0.0) + REGION_FLOOR * (levels[1] - levels[0])}
