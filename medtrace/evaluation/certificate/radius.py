"""Conformal radius of a method: within how many mm of the named point the true one lies, with 90 % probability."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import list_data_collate
from torch import Tensor
from tqdm import tqdm

from medtrace.data import TraceBench
from medtrace.data.landmarks.points import ImageGrid, read_landmarks
from medtrace.engines.runs import load_method
from medtrace.evaluation.certificate.corruption import Case, true_trace
from medtrace.evaluation.certificate.record import Check, Status
from medtrace.evaluation.certificate.translators import AIR, TRANSLATORS, WITH_TRUTH, translators_of
from medtrace.evaluation.conformal import Coverage, conformal_radius, measure_coverage, subject_score
from medtrace.geometry import Grid
from medtrace.io import load_trace
from medtrace.registration import register_images
from medtrace.storage.files import atomic_write
from medtrace.trace import Trace

Errors = Callable[[Case], Tensor]
"""Distances in mm of the points that a predictor names from the true ones, for one case."""
RADIUS_FORMAT = "medtrace conformal radius"
PREDICTORS = ("mean", "zero", "noisy", "registration", "translators")
TRAINING_CASES = 100
NOISE_MM = 1.0


@dataclass(frozen=True)
class Radius:
    """A radius, what it promises and how it held."""

    radius_mm: float
    coverage: float
    fraction: float | None
    predictor: str
    population: str
    calibration_subjects: int
    measured: Coverage | None
    format: str = RADIUS_FORMAT

    @property
    def statement(self) -> str:
        """The guarantee in words."""
        what = (
            "a random point of its foreground lies"
            if self.fraction is None
            else f"at least {100 * self.fraction:g} % of its points lie"
        )
        return (
            f"for a new subject of {self.population}, {what} within {self.radius_mm:.3g} mm of where the trace says,"
            f" with probability at least {100 * self.coverage:g} % over the draw of the"
            f" {self.calibration_subjects} calibration subjects and the new one, if all are exchangeable"
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = None if self.measured is None else self.measured._asdict()
        return {**asdict(self), "measured": measured, "statement": self.statement}

    def write(self, path: str | os.PathLike) -> None:
        """Write it as JSON, for `medtrace certify --radius`.

        Raises:
            ValueError: if the radius is infinite: too few subjects.
        """
        if not math.isfinite(self.radius_mm):
            needed = math.ceil(self.coverage / (1 - self.coverage) - 1e-9)
            raise ValueError(
                f"radius: {self.calibration_subjects} subject(s) guarantee nothing at {100 * self.coverage:g} %; give"
                f" at least {needed}, or a lower coverage"
            )
        atomic_write(path, json.dumps(self.as_dict(), indent=2, allow_nan=False) + "\n")


def predictor_errors(name: str, task: str, spatial_shape: Sequence[int], seed: int = 0) -> Errors:
    """Errors of a cheap predictor that needs no training of networks.

    Args:
        name: "mean" predicts the mean true displacement of 100 training cases, "zero" none, and "noisy" the truth with
            a random shift of 1 mm standard deviation along every axis, one for each subject; "registration" finds what
            `medtrace trace` finds for the true image, as for a translator that is never wrong; "translators" the same
            for one that is right, blurs, removes or adds a lesion or moves anatomy, drawn for each subject.
        task, spatial_shape, seed: of TraceBench.
    """
    if name not in PREDICTORS:
        raise ValueError(f"predictor: expected one of {', '.join(map(repr, PREDICTORS))}, received {name!r}")
    if name == "mean":
        training = TraceBench(task, spatial_shape, cases=TRAINING_CASES, seed=seed, split="training", cache=False)
        mean = torch.stack([training[index]["inverse_ddf"] for index in range(TRAINING_CASES)]).mean(0)
    generator = torch.Generator().manual_seed(seed)

    def errors(case: Case) -> Tensor:
        if name == "mean":
            return point_errors(case, mean)
        if name == "zero":
            return point_errors(case, torch.zeros_like(case["inverse_ddf"]))
        if name in ("registration", "translators"):
            return _traced_errors(case, task, "right" if name == "registration" else None, generator)
        dims = case["inverse_ddf"].shape[0]
        spacing = case["source"].affine[:3, :dims].norm(dim=0)
        shift = torch.randn(dims, generator=generator) * NOISE_MM / spacing
        return point_errors(case, case["inverse_ddf"] + shift.float().reshape(-1, *[1] * dims))

    return errors


def _traced_errors(case: Case, task: str, translator: str | None, generator: torch.Generator) -> Tensor:
    """Errors of `medtrace trace` on what a translator makes of a case; None draws one."""
    able = [name for name in translators_of(task) if name in WITH_TRUTH]
    seed = int(torch.randint(1 << 30, (1,), generator=generator))
    random = np.random.default_rng(seed)
    answer = TRANSLATORS[translator or able[int(random.integers(len(able)))]](true_trace(case), case, case, random)
    affine = case["source"].affine
    found = register_images(
        case["source"].as_tensor(), answer.image, affine, affine, alignment="none", check_starts=False, held_out=True
    )
    return point_errors({**case, "inverse_ddf": answer.inverse_ddf}, found.inverse_ddf)


def run_errors(run: str | os.PathLike) -> Errors:
    """Errors of a trained run."""
    method = load_method(run, "cpu")

    def errors(case: Case) -> Tensor:
        kept = {key: value for key, value in case.items() if isinstance(value, Tensor)}
        with torch.no_grad():
            trace: Trace = method.trace(list_data_collate([kept]))[0]
        return point_errors(case, trace.inverse_ddf.cpu())

    return errors


def point_errors(case: Case, inverse_ddf: Tensor) -> Tensor:
    """Distance in mm of the located from the true point, for every voxel of the source's foreground: (points,)."""
    inside = case["source"].as_tensor()[0] > AIR
    linear = case["source"].affine[:3, : inverse_ddf.shape[0]].double()
    apart = (inverse_ddf - case["inverse_ddf"])[:, inside].double().T @ linear.T
    return torch.linalg.vector_norm(apart, dim=1)


def calibrate_radius(
    errors: Errors,
    predictor: str,
    *,
    task: str = "postop",
    spatial_shape: Sequence[int] = (48, 48),
    calibration: int = 1000,
    test: int = 1000,
    coverage: float = 0.9,
    fraction: float | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Radius:
    """Calibrate a radius on TraceBench's validation subjects and measure it on its test subjects.

    Args:
        errors: errors of the predictor; see `run_errors` and `predictor_errors`.
        predictor: its name.
        task, spatial_shape, seed: of TraceBench.
        calibration, test: subjects.
        coverage: probability promised.
        fraction: None makes the promise for a random point of a subject's foreground; a number, for this fraction of
            its points.
        progress: show a bar.

    Returns:
        The radius and its measured coverage. Each subject has one score: its points are not exchangeable with
        another's, but subjects are, since they are drawn independently from the same distribution.
    """
    generator = torch.Generator().manual_seed(seed)

    def subjects(split: str, count: int) -> Iterator[Tensor]:
        data = TraceBench(task, spatial_shape, cases=count, seed=seed, split=split, cache=False)
        for index in tqdm(range(count), desc=split, disable=None if progress else True, unit="subject"):
            yield errors(data[index])

    scores = torch.tensor([subject_score(e, fraction, generator) for e in subjects("validation", calibration)])
    radius = conformal_radius(scores, coverage)
    held, within = [], []
    for result in subjects("test", test):
        held.append(subject_score(result, fraction, generator))
        within.append(float((result <= radius).double().mean()))
    measured = measure_coverage(torch.tensor(held) <= radius, torch.tensor(within))
    population = f"TraceBench {task} at {'x'.join(map(str, spatial_shape))}"
    return Radius(radius, coverage, fraction, predictor, population, calibration, measured)


def calibrate_radius_on_landmarks(
    subjects: Iterable[tuple[Trace, Tensor, Tensor]],
    population: str,
    *,
    coverage: float = 0.9,
    fraction: float | None = None,
    seed: int = 0,
) -> Radius:
    """Calibrate a radius on subjects with landmarks; its coverage is measured by leaving out one at a time.

    Args:
        subjects: trace, landmarks of the source and of the target (N, 3) in RAS mm, one item for each subject.
        population: where they come from, for the statement.
        coverage, fraction: as in `calibrate_radius`; a random point is a random landmark.
        seed: seed of the random landmarks.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = [
        torch.linalg.vector_norm(trace.locate(source) - torch.as_tensor(target, dtype=torch.float64), dim=1)
        for trace, source, target in subjects
    ]
    scores = torch.tensor([subject_score(result, fraction, generator) for result in errors])
    radius = conformal_radius(scores, coverage)
    left_out = [conformal_radius(torch.cat([scores[:k], scores[k + 1 :]]), coverage) for k in range(len(scores))]
    measured = None
    if len(scores) > 1 and all(math.isfinite(value) for value in left_out):
        held = scores <= torch.tensor(left_out)
        within = torch.tensor([float((result <= own).double().mean()) for result, own in zip(errors, left_out)])
        measured = measure_coverage(held, within)
    return Radius(radius, coverage, fraction, "traces", population, len(scores), measured)


def read_subjects(path: str | os.PathLike, space: str | None = None) -> list[tuple[Trace, Tensor, Tensor]]:
    """Read a CSV with the columns `trace, source_landmarks, target_landmarks`, one row for each subject.

    Args:
        path: the list; files in it may be relative to it. For landmark files see `read_landmarks`.
        space: "RAS", "LPS" or "voxel", the landmark files' axes if the files do not state them.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a column is missing, two files of a subject name different landmarks, or a landmark lies outside
            its image.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a CSV of traces and landmarks")
    with open(path, newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    columns = ("trace", "source_landmarks", "target_landmarks")
    if not rows or any(not row.get(column) for row in rows for column in columns):
        raise ValueError(f"{path}: expected rows with the columns {', '.join(columns)}; correct the file")
    result = []
    for row in rows:
        trace = load_trace(path.parent / row["trace"])
        source_names, source = _landmarks(path.parent, row, "source", trace.source, trace.source_affine, space)
        target_names, target = _landmarks(path.parent, row, "target", trace.image, trace.affine, space)
        if source_names != target_names or not source_names:
            raise ValueError(
                f"{path}: {row['source_landmarks']} and {row['target_landmarks']} name different landmarks, or none"
            )
        result.append((trace, source, target))
    return result


def _landmarks(
    folder: Path, row: Mapping[str, str], name: str, image: Tensor, affine: Tensor, space: str | None
) -> tuple[list[str], Tensor]:
    """Landmarks of one image of a trace, checked to be on it."""
    grid = Grid((*image.shape[1:], 1)[:3], affine)
    member = f"{row['trace']}/{'source' if name == 'source' else 'image'}"
    return read_landmarks(folder / row[f"{name}_landmarks"], space, ImageGrid(grid, member))


def radius_check(path: str | os.PathLike) -> Check:
    """Report a conformal radius; it is not a test of this trace, so it always passes."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a file that `medtrace calibrate radius` wrote")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != RADIUS_FORMAT:
            raise ValueError("another format")
        figures = {"radius_mm": float(values["radius_mm"]), "coverage": float(values["coverage"])}
        reason = str(values["statement"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: holds no conformal radius ({error}); run `medtrace calibrate radius`") from error
    return Check("conformal radius", Status.PASS, reason, figures)


def radius_text(radius: Radius) -> str:
    """A radius and its measured coverage as lines of text."""
    lines = [f"predictor {radius.predictor}: {radius.statement}"]
    result = radius.measured
    if result is None:
        lines.append("coverage not measured: too few subjects")
    else:
        lines.append(
            f"measured on {result.n} unseen subjects: {100 * result.subjects:.1f} % of subjects"
            f" (± {100 * result.standard_error:.1f}), {100 * result.points:.1f} % of their points;"
            f" promised {100 * radius.coverage:g} %"
        )
    return "\n".join(lines)
