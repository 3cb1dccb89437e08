"""Translations that need no network: an intensity curve, and ridge regression on patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_whole
from medtrace.evaluation.scoring import Tracer
from medtrace.evaluation.tracers import identity
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of, zero_field
from medtrace.trace.validation import as_tensor

IDENTITY, CURVE, RIDGE = "identity", "intensity curve", "patch ridge"
BINS = 64
LEVELS = 512
"""Steps of the target's range in which a conditional median is found."""
AIR_TOLERANCE = 1e-3
"""How far above -1 all channels of a source still count as background."""
RADIUS = {2: 3, 3: 1}
"""Voxels on either side of the middle of a patch, by the number of dimensions."""
VOXELS_PER_CASE = 1 << 14
"""Maximum number of voxels per case that ridge regression learns from."""
PENALTY = 1e-4
"""Ridge of the weights, as a fraction of the features' mean square."""


def cheap_rows(training: Iterable[Mapping[str, Any]]) -> dict[str, Tracer]:
    """The rows that cost nothing, beside which a trained method has to show itself.

    Args:
        training: cases with "source" (C, *spatial) and "target" (C', *spatial) in [-1, 1], such as
            `load_dataset(folder, "training")`; iterated over twice.

    Returns:
        Row → tracer: "identity", which shows the source (only if it has as many channels as the target),
        "intensity curve" and "patch ridge".

    Raises:
        ValueError: if there is no case, or two differ in channels.

    Example:
        >>> source = torch.rand(1, 24, 24) * 2 - 1
        >>> rows = cheap_rows([{"source": source, "target": -source}])
        >>> (trace,) = rows["intensity curve"]({"source": source[None]})
        >>> bool((trace.image + source).abs().mean() < 0.02)
        True
    """
    curve = IntensityCurve.fit(training)
    ridge = PatchRidge.fit(training, curve)
    rows: dict[str, Tracer] = {IDENTITY: identity} if curve.in_channels == curve.out_channels else {}
    return {**rows, CURVE: curve.trace, RIDGE: ridge.trace}


@dataclass(frozen=True)
class IntensityCurve:
    """Each voxel's most likely target given its own source intensity: the median, which has the least absolute error.

    Of several source channels, each target channel uses the one whose curve has the smallest error.

    Attributes:
        curves: (C', BINS) float32, the target at equally spaced source intensities from -1 to 1.
        channels: channels of the source that each target channel is read from.
        background: (C',) float32, the target where the source is background.
        in_channels: channels of the source.
    """

    curves: Tensor
    channels: tuple[int, ...]
    background: Tensor
    in_channels: int

    @property
    def out_channels(self) -> int:
        """Of the target."""
        return len(self.curves)

    @classmethod
    def fit(cls, training: Iterable[Mapping[str, Any]]) -> IntensityCurve:
        """Learn from cases; see `cheap_rows`."""
        counts: np.ndarray | None = None
        outside: np.ndarray | None = None
        for source, target in _pairs(training):
            if counts is None or outside is None:
                counts = np.zeros((len(source), len(target), BINS, LEVELS), np.int64)
                outside = np.zeros((len(target), LEVELS), np.int64)
            if counts.shape[:2] != (len(source), len(target)):
                raise ValueError(
                    f"training: expected {counts.shape[0]} and {counts.shape[1]} channels in every case, received"
                    f" {len(source)} and {len(target)}"
                )
            inside = _tissue(source[None])[0, 0]
            x, y = _steps(source[:, inside], BINS), _steps(target[:, inside], LEVELS)
            for (i, bins), (j, levels) in itertools.product(enumerate(x), enumerate(y)):
                counts[i, j] += np.bincount(bins * LEVELS + levels, minlength=BINS * LEVELS).reshape(BINS, LEVELS)
            for j, levels in enumerate(_steps(target[:, ~inside], LEVELS)):
                outside[j] += np.bincount(levels, minlength=LEVELS)
        if counts is None or outside is None:
            raise ValueError("training: expected at least one case, received none")
        curves, channels = [], []
        for of_target in counts.swapaxes(0, 1):
            medians = [_medians(table) for table in of_target]
            errors = [_error(table, curve) for table, curve in zip(of_target, medians)]
            channels.append(int(np.argmin(errors)))
            curves.append(medians[channels[-1]])
        air = [_value(_median_step(row)) if row.any() else -1.0 for row in outside]
        return cls(torch.tensor(np.stack(curves)).float(), tuple(channels), torch.tensor(air).float(), len(counts))

    def __call__(self, source: Tensor) -> Tensor:
        """The image (B, C', *spatial) in [-1, 1] of sources (B, C, *spatial)."""
        place = (source.clamp(-1, 1) + 1) / 2 * (BINS - 1)
        low = place.floor().long().clamp(max=BINS - 2)
        result = [
            torch.lerp(curve[low[:, channel]], curve[low[:, channel] + 1], (place - low)[:, channel])
            for channel, curve in zip(self.channels, self.curves.to(source.device))
        ]
        return with_background(torch.stack(result, 1), source, self.background)

    def trace(self, batch: Mapping[str, Any]) -> list[Trace]:
        """Trace the sources of a batch; nothing moves."""
        return _still(batch, self(as_tensor(batch["source"])))


@dataclass(frozen=True)
class PatchRidge:
    """Each voxel's target as a linear function of the source and of its intensity curve in the patch about it.

    Attributes:
        curve: the curve whose image is added as further channels.
        kernel: (C', C + C', *patch) float32.
        bias: (C',) float32.
    """

    curve: IntensityCurve
    kernel: Tensor
    bias: Tensor

    @classmethod
    def fit(
        cls, training: Iterable[Mapping[str, Any]], curve: IntensityCurve | None = None, radius: int | None = None
    ) -> PatchRidge:
        """Learn from cases; see `cheap_rows`.

        Args:
            training: the cases.
            curve: curve learned from them; None learns it.
            radius: voxels on either side of the middle; None is 3 in 2D (7 x 7) and 1 in 3D (3 x 3 x 3).
        """
        curve = IntensityCurve.fit(training) if curve is None else curve
        square: Tensor | None = None
        product: Tensor | None = None
        dims = 2
        for source, target in _pairs(training):
            dims = source.ndim - 1
            features, wanted = _samples(source, target, curve, _radius(radius, dims))
            if square is None or product is None:
                square = features.new_zeros(features.shape[1], features.shape[1])
                product = features.new_zeros(features.shape[1], wanted.shape[1])
            square += features.T @ features
            product += features.T @ wanted
        if square is None or product is None:
            raise ValueError("training: expected at least one case, received none")
        scale = float(square.diagonal()[:-1].mean()) or 1.0
        ridge = torch.full((len(square),), PENALTY * scale, dtype=square.dtype)
        ridge[-1] = PENALTY * 1e-3 * scale  # the bias is penalized only as far as nothing else determines it
        weights = torch.linalg.solve(square + torch.diag(ridge), product)
        size = 2 * _radius(radius, dims) + 1
        kernel = weights[:-1].T.reshape(curve.out_channels, -1, *[size] * dims)
        return cls(curve, kernel.float(), weights[-1].float())

    def __call__(self, source: Tensor) -> Tensor:
        """The image (B, C', *spatial) in [-1, 1] of sources (B, C, *spatial)."""
        dims, radius = source.ndim - 2, self.kernel.shape[-1] // 2
        convolution = F.conv2d if dims == 2 else F.conv3d
        padded = F.pad(self._features(source), [radius] * (2 * dims), mode="replicate")
        image = convolution(padded, self.kernel.to(source.device), self.bias.to(source.device))
        return with_background(image.clamp(-1, 1), source, self.curve.background)

    def _features(self, source: Tensor) -> Tensor:
        return torch.cat([source, self.curve(source)], 1)

    def trace(self, batch: Mapping[str, Any]) -> list[Trace]:
        """Trace the sources of a batch; nothing moves."""
        return _still(batch, self(as_tensor(batch["source"])))


def with_background(image: Tensor, source: Tensor, background: Tensor) -> Tensor:
    """The image (B, C', *spatial) with the targets' background (C',) where the source (B, C, *spatial) has none."""
    air = background.to(image).reshape(1, -1, *[1] * (image.ndim - 2))
    return torch.where(_tissue(source), image, air)


def _tissue(source: Tensor) -> Tensor:
    """Where a channel of (B, C, *spatial) is above background."""
    return (source > -1 + AIR_TOLERANCE).any(1, keepdim=True)


def _still(batch: Mapping[str, Any], image: Tensor) -> list[Trace]:
    return traces_of(batch["source"], Prediction(image, zero_field(image), zero_field(image)))


def _pairs(training: Iterable[Mapping[str, Any]]) -> Iterable[tuple[Tensor, Tensor]]:
    cases: Any = training
    numbered: Iterable[Mapping[str, Any]] = (
        (cases[k] for k in range(len(cases))) if hasattr(cases, "__getitem__") else training
    )
    for case in numbered:
        yield as_tensor(case["source"]).cpu().float(), as_tensor(case["target"]).cpu().float()


def _samples(source: Tensor, target: Tensor, curve: IntensityCurve, radius: int) -> tuple[Tensor, Tensor]:
    """Patches (N, F + 1), the last entry 1, and targets (N, C'), float64, of tissue at regular steps."""
    inside = _tissue(source[None])[0, 0]
    places = inside.nonzero()
    places = places[:: max(1, -(-len(places) // VOXELS_PER_CASE))]
    dims = inside.ndim
    channels = torch.cat([source, curve(source[None])[0]])[None]
    padded = F.pad(channels, [radius] * (2 * dims), mode="replicate")[0]
    shifts: Sequence[tuple[int, ...]] = list(itertools.product(range(2 * radius + 1), repeat=dims))
    patches = [padded[(slice(None), *(places + torch.tensor(shift)).T)] for shift in shifts]
    features = torch.stack(patches, 1).flatten(0, 1).T.double()
    wanted = target[(slice(None), *places.T)].T.double()
    return torch.cat([features, features.new_ones(len(features), 1)], 1), wanted


def _radius(radius: int | None, dims: int) -> int:
    if radius is not None:
        check_whole("radius", radius, 0)
        return radius
    return RADIUS[dims]


def _steps(values: Tensor, count: int) -> np.ndarray:
    """Nearest of `count` equally spaced values from -1 to 1."""
    result: np.ndarray = ((values.clamp(-1, 1) + 1) / 2 * (count - 1)).round().long().numpy()
    return result


def _value(step: float) -> float:
    return 2 * step / (LEVELS - 1) - 1


def _median_step(counts: np.ndarray) -> int:
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def _medians(table: np.ndarray) -> np.ndarray:
    """The target's median in every bin of the source; between filled bins it runs linearly, beyond them it stays."""
    filled = np.flatnonzero(table.any(1))
    if not len(filled):
        return np.full(BINS, -1.0)
    medians: np.ndarray = np.interp(np.arange(BINS), filled, [_value(_median_step(table[k])) for k in filled])
    return medians


def _error(table: np.ndarray, curve: np.ndarray) -> float:
    values = 2 * np.arange(LEVELS) / (LEVELS - 1) - 1
    return float((table * np.abs(values[None] - curve[:, None])).sum())
