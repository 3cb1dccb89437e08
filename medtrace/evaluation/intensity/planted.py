"""Planted hallucinations: a lesion in a translation that is not in its source, or the reverse; are they marked?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage, stats
from torch import Tensor

from medtrace.evaluation.certificate.corruption import rebuilt
from medtrace.evaluation.intensity.cases import RunCases
from medtrace.evaluation.intensity.interval import IntensityInterval
from medtrace.fields import identity_grid, inside_grid, sample
from medtrace.trace import Trace
from medtrace.trace.geometry import pulled_points
from medtrace.trace.tissue import find_tissue
from medtrace.trace.validation import as_tensor

RADIUS_MM = (5.0, 10.0)
"""Of a planted lesion, uniform."""
CONTRAST = 0.25
"""Between a lesion and what it replaces, as a translation shows them, at least, as a fraction of the tissue's span from
its 2nd to its 98th percentile."""
LEVELS = 32
"""Intensities that a lesion may have."""
EDGE_VOXELS = 0.5
"""Over which a lesion's border blends."""
CLEAN, ADDED, REMOVED, CARRIED = "clean", "lesion added", "lesion removed", "lesion translated"
KINDS: Mapping[str, str] = {
    CLEAN: "the run's own translation",
    ADDED: "a lesion painted into the translation, not in the source",
    REMOVED: "a lesion painted into the source, with the translation of the source without it",
    CARRIED: "a lesion painted into the source, with the run's translation of that",
}


class Lesion(NamedTuple):
    """A round lesion.

    Attributes:
        weight: (1, *spatial) in [0, 1].
        level: its intensity.
        radius_mm: its radius.
    """

    weight: Tensor
    level: float
    radius_mm: float

    def painted(self, image: Tensor) -> Tensor:
        """An image (C, *spatial) with the lesion."""
        return torch.lerp(image, torch.full_like(image, self.level), self.weight)


class Answered(NamedTuple):
    """The marked part of a case."""

    kind: str
    subject: str
    marked: bool
    """Anywhere."""
    found: bool
    """Within the lesion; of a clean case as `marked`."""


def draw_lesion(image: Tensor, tissue: Tensor, affine: Tensor, random: np.random.Generator) -> Lesion:
    """A lesion within tissue, of a level that stands out from where it lies.

    Args:
        image: (C, *spatial) into which it is painted.
        tissue: boolean (1, *spatial).
        affine: (4, 4), voxel to RAS mm.
        random: random numbers for place, radius and level.

    Raises:
        ValueError: if no place holds it.
    """
    weight, radius = _draw_ball(tissue, affine, random)
    return Lesion(weight, _draw_level(image, image, tissue, weight > 0.5, random), radius)


def draw_source_lesion(trace: Trace, tissue: Tensor, random: np.random.Generator) -> Lesion:
    """A lesion in a trace's source, of a level that stands out in the translation as its contrast has it.

    Args:
        trace: the trace into whose source it is painted.
        tissue: boolean (1, *spatial), on the grid of the translation.
        random: random numbers for place, radius and level.

    Returns:
        The lesion on the source's grid.

    Raises:
        ValueError: if no place holds it.
    """
    weight, radius = _draw_ball(_on_source(trace, tissue), trace.source_affine, random)
    inside = trace.transfer(weight) > 0.5
    return Lesion(weight, _draw_level(trace.warped, trace.image, tissue, inside, random), radius)


def _on_source(trace: Trace, mask: Tensor) -> Tensor:
    """A mask (1, *spatial) of the translation's grid on the source's, false where that leads off the former."""
    to_target = None if trace.same_grid else torch.linalg.solve(trace.affine, trace.source_affine)
    places = pulled_points(trace.inverse_ddf, to_target)
    return sample(mask[None], places, mode="nearest")[0] & inside_grid(places, mask.shape[1:])[0]


def _draw_ball(tissue: Tensor, affine: Tensor, random: np.random.Generator) -> tuple[Tensor, float]:
    """The weight (1, *spatial) of a ball within tissue, and its radius in mm."""
    shape = tissue.shape[1:]
    dims = len(shape)
    spacing = affine[:3, :dims].double().norm(dim=0)
    depth = ndimage.distance_transform_edt(tissue[0].numpy(), sampling=spacing.tolist())
    radius = float(random.uniform(*RADIUS_MM))
    places = np.argwhere(depth > min(radius, 0.9 * float(depth.max())))
    if not len(places):
        raise ValueError(f"tissue: expected room for a lesion of {radius:.1f} mm, received none; leave the case out")
    center = torch.from_numpy(places[int(random.integers(len(places)))]).double()
    grid = identity_grid(shape, dtype=torch.float64)
    away = ((grid - center.reshape(-1, *[1] * dims)) * spacing.reshape(-1, *[1] * dims)).square().sum(0).sqrt()
    weight = torch.sigmoid((radius - away) / (EDGE_VOXELS * float(spacing.min())))
    return weight.float()[None], radius


def _draw_level(image: Tensor, shown: Tensor, tissue: Tensor, inside: Tensor, random: np.random.Generator) -> float:
    """An intensity of an image that another, which shows it in its own contrast, has far from what lies inside."""
    values, others = image[0, tissue[0]].numpy(), shown[0, tissue[0]].numpy()
    least, greatest = (float(value) for value in np.percentile(values, (2, 98)))
    levels = np.linspace(least, greatest, LEVELS)
    low, high = (float(value) for value in np.percentile(others, (2, 98)))
    replaced = float((shown[0, inside[0]] if bool(inside.any()) else shown[0, tissue[0]]).mean())
    contrast = np.abs(_seen_as(levels, values, others) - replaced) / max(high - low, 1e-6)
    able = np.flatnonzero(contrast >= CONTRAST)
    chosen = int(random.choice(able)) if len(able) else int(contrast.argmax())
    return float(levels[chosen])


def _seen_as(levels: np.ndarray, values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The mean of an image where another has given levels."""
    order = np.argsort(values)
    parts = [part for part in np.array_split(order, LEVELS) if len(part)]
    knots = [float(values[part].mean()) for part in parts]
    result: np.ndarray = np.interp(levels, knots, [float(others[part].mean()) for part in parts])
    return result


def plant(cases: RunCases, interval: IntensityInterval, count: int, seed: int) -> Iterator[Answered]:
    """Ask for the marks of a run's own translations and of ones with planted hallucinations.

    Args:
        cases: cases of the run, whose test subjects are used.
        interval: interval of the run.
        count: cases of each kind of `KINDS`.
        seed: seed of the lesions.
    """
    items = cases.items("test")
    chosen = [items[number] for number in range(min(count, len(items)))]
    drawn = []
    for number, (item, trace) in enumerate(cases.traced(chosen)):
        random = np.random.default_rng([seed, number])
        tissue = find_tissue(trace.warped, trace.image)
        added = draw_lesion(trace.image, tissue, trace.affine, random)
        carried = draw_source_lesion(trace, tissue, random)
        source = carried.painted(trace.source)
        subject = str(item["subject"])
        yield _answer(CLEAN, subject, trace, None, interval)
        image = rebuilt(trace, image=added.painted(trace.image), inverse_ddf=trace.inverse_ddf)
        yield _answer(ADDED, subject, image, added.weight, interval)
        without = rebuilt(trace, source=source, inverse_ddf=trace.inverse_ddf)
        yield _answer(REMOVED, subject, without, _moved(without, carried.weight), interval)
        drawn.append((_with_source(item, source), carried.weight))
    for (item, trace), (_, weight) in zip(cases.traced([one for one, _ in drawn]), drawn):
        yield _answer(CARRIED, str(item["subject"]), trace, _moved(trace, weight), interval)


def _with_source(item: Mapping[str, Any], source: Tensor) -> dict[str, Any]:
    replaced = item["source"].clone()
    replaced[:] = source
    return {**item, "source": replaced}


def _moved(trace: Trace, weight: Tensor) -> Tensor:
    return trace.transfer(weight)


def _answer(kind: str, subject: str, trace: Trace, lesion: Tensor | None, interval: IntensityInterval) -> Answered:
    marks = interval.excess(trace) > 1
    anywhere = bool(marks.any())
    found = anywhere if lesion is None else bool((marks & (as_tensor(lesion) > 0.5)).any())
    return Answered(kind, subject, anywhere, found)


def planted_table(answers: Sequence[Answered]) -> str:
    """The fraction of marked cases of each kind, with 95 % intervals (Wilson), as Markdown."""
    lines = ["| case | n | marked [95 %] | marked in the lesion [95 %] |", "|---|--:|--:|--:|"]
    for kind, what in KINDS.items():
        group = [one for one in answers if one.kind == kind]
        if group:
            anywhere = _rate([one.marked for one in group])
            inside = "" if kind == CLEAN else _rate([one.found for one in group])
            lines.append(f"| {kind}: {what} | {len(group)} | {anywhere} | {inside} |")
    return "\n".join(lines)


def _rate(values: Sequence[bool]) -> str:
    result = stats.binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return f"{sum(values)} [{100 * result.low:.0f}, {100 * result.high:.0f} %]"
