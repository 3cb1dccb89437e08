"""Cases of TraceBench whose target shows another contrast than the source, in its own unit: T1 to T2, MR to CT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data import TraceBench
from medtrace.data.preparation.intensity import fit_contrast, foreground_quantiles, mean_curve
from medtrace.trace import Contrast
from medtrace.trace.contrast import HU
from medtrace.transforms.naming import detached

SOURCE = "T1"
SCALE = 1000.0
"""Arbitrary units of a T1 that saturates."""
CURVES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "T2": ((0.0, 0.1, 0.25, 0.58, 0.7, 1.0), (0.0, 900.0, 860.0, 540.0, 380.0, 250.0)),
    "CT": ((0.0, 0.05, 0.28, 0.58, 0.7, 1.0), (-1000.0, 0.0, 15.0, 38.0, 28.0, 60.0)),
}
"""Contrast → magnitudes of TraceBench's T1 (air 0, fluid .22 to .28, gray matter .58, white matter .70) and what they
are in its unit: T2 in arbitrary units, CT in HU. Neither rises throughout."""
LEARNED_FROM = 8
"""Cases of the validation split that the contrasts' populations are learned from."""


def crossed_case(case: Mapping[str, Any], contrasts: tuple[Contrast, Contrast]) -> dict[str, Any]:
    """A case whose source is in arbitrary units and whose target is in those of another contrast.

    Args:
        case: of TraceBench, "source" and "target" (1, *spatial) in [-1, 1].
        contrasts: contrasts of source and target, see `crossed_contrasts`.

    Returns:
        The case with both images changed, and the entry "contrasts".
    """
    images = {"source": SCALE * _magnitude(case["source"]), "target": shown(case["target"], contrasts[1].name)}
    named = {name: MetaTensor(image, affine=case[name].affine) for name, image in images.items()}
    return {**case, **named, "contrasts": contrasts}


def shown(image: Tensor, contrast: str) -> Tensor:
    """A T1 of TraceBench, (1, *spatial) in [-1, 1], as another contrast shows it, in its unit.

    Example:
        >>> air_and_white_matter = torch.tensor([[-1.0, 0.4]])
        >>> shown(air_and_white_matter, "CT").round().tolist()
        [[-1000.0, 28.0]]
    """
    values = np.interp(_magnitude(image).numpy(), *CURVES[contrast])
    return torch.from_numpy(values.astype(np.float32))


def crossed_contrasts(
    target: str, task: str, spatial_shape: tuple[int, ...], seed: int = 0
) -> tuple[Contrast, Contrast]:
    """The contrasts of source and target, learned as `prepare` does from cases that are not assessed.

    Args:
        target: a name of `CURVES`.
        task: task of TraceBench.
        spatial_shape: spatial shape of the cases.
        seed: seed of the cases.

    Raises:
        ValueError: if the target is unknown.
    """
    if target not in CURVES:
        raise ValueError(f"target_contrast: expected one of {', '.join(CURVES)}, received {target!r}")
    data = TraceBench(task, spatial_shape, cases=LEARNED_FROM, seed=seed, split="validation")
    cases = [data[index] for index in range(LEARNED_FROM)]
    sources = [SCALE * _magnitude(case["source"]) for case in cases]
    images = [shown(case["target"], target) for case in cases]
    return _learned(Contrast.of(SOURCE), sources), _learned(Contrast.of(target), images)


def _learned(contrast: Contrast, images: list[Tensor]) -> Contrast:
    """With what its images say of its units: of all voxels in HU, where air is a value, else of those above 0."""
    quantiles = [
        foreground_quantiles(image, torch.ones_like(image, dtype=torch.bool) if contrast.unit == HU else image > 0)[0]
        for image in images
    ]
    deviation = float(np.median([values.std() for values in quantiles]))
    if contrast.fixed:
        return replace(contrast, deviation=deviation)
    curve = mean_curve(quantiles, fit_contrast(quantiles))
    return replace(contrast, curve=curve, background=0.0, deviation=deviation)


def _magnitude(image: Tensor) -> Tensor:
    magnitude: Tensor = (detached(image).float() + 1) / 2
    return magnitude
