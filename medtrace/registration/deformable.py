"""Greedy compositional registration of two images on one grid, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.checks import check_batched, check_choice, check_finite, check_number, check_positive, check_whole
from medtrace.fields import invert
from medtrace.kernels import threads
from medtrace.kernels.greedy import operations
from medtrace.kernels.greedy_interface import Slopes, Windows
from medtrace.losses.mind import mind_ssc
from medtrace.registration.pyramid import Step, enlarge, pyramid, shrink
from medtrace.registration.scaling import scaled
from medtrace.registration.unfolding import unfold

SIMILARITIES = ("mse", "lncc", "mi", "nmi", "mind")
UPDATE_VOXELS = 1.5
FIELD_VOXELS = 0.6
"""Default standard deviations of the Gaussians on updates and on the field, in voxels of the geometric mean size."""

DOUBT = 0.05
"""Fraction of the similarity by which a zero field must beat that of the coarser levels to replace it as the start."""

PATIENCE = 8
"""Iterations over which a level's similarity must have risen."""


@dataclass(frozen=True)
class Deformable:
    """Settings of a deformable registration.

    Attributes:
        similarity: "lncc" (squared local correlation, blind to the sign of contrast), "mse" (squared difference, of one
            contrast), "mi" or "nmi" (mutual information, plain or normalized), "mind" (squared difference of
            self-similarity descriptors).
        radius: radius of the windows of "lncc", in voxels of a level.
        update_smoothing_mm: standard deviation of the Gaussian on every update, in mm of the full resolution; a level
            whose voxels are k times larger smooths k times as far. None takes 1.5 voxels.
        field_smoothing_mm: likewise on the field after every update. None takes 0.6 voxels.
        symmetry: fraction α of the force that acts at the fixed image's edges, in [0, 1): 0 is the usual force.
        step: longest update of an iteration, in voxels of a level.
        iterations: maximum iterations on the levels from coarse to fine; the last is the full resolution, and coarser
            ones that would leave an axis too short are left out.
        tolerance: a level ends when its similarity has risen by less than this fraction in 8 iterations; 0 for never.
        floor: floor of a window's variance, in squared intensities of the image from 0 to 1: what is below is noise.
        unfolding: maximum number of rounds of smoothing where the field folds; 0 leaves folds.
    """

    similarity: str = "lncc"
    radius: int = 2
    update_smoothing_mm: float | None = None
    field_smoothing_mm: float | None = None
    symmetry: float = 0.5
    step: float = 1.0
    iterations: tuple[int, ...] = (100, 50, 20, 10)
    tolerance: float = 1e-3
    floor: float = 1e-4
    unfolding: int = 10

    def __post_init__(self) -> None:
        check_choice("similarity", self.similarity, SIMILARITIES)
        check_whole("radius", self.radius, 1)
        for name in ("update_smoothing_mm", "field_smoothing_mm"):
            value = getattr(self, name)
            if value is not None:
                _check_least(name, value)
        check_number("symmetry", self.symmetry)
        if not 0 <= self.symmetry < 1:
            raise ValueError(f"symmetry: expected a fraction in [0, 1), received {self.symmetry!r}; 1 diverges")
        check_positive("step", self.step)
        if not self.iterations:
            raise ValueError("iterations: expected one number per level, coarse to fine, received none")
        for count in self.iterations:
            check_whole("iterations", count, 0)
        _check_least("tolerance", self.tolerance)
        check_positive("floor", self.floor)
        check_whole("unfolding", self.unfolding, 0)


def _check_least(name: str, value: float) -> None:
    check_number(name, value)
    if not 0 <= value < math.inf:
        raise ValueError(f"{name}: expected a finite number of at least 0, received {value!r}")


class LevelHistory(NamedTuple):
    """The progress at one resolution."""

    factor: tuple[int, ...]
    """Voxels of the full resolution that one of the level covers, per axis."""
    similarity: tuple[float, ...]
    """Per iteration: mean LNCC² over the voxels, mutual information, or minus half the mean squared difference."""
    stopped: bool
    """Whether the similarity stopped rising before the iterations ran out."""


class Deformation(NamedTuple):
    """A deformation and how it was estimated."""

    ddf: Tensor
    """(D, *spatial), in voxels, pull: `fixed(p)` is like `moving(p + ddf(p))`."""
    inverse: Tensor
    """(D, *spatial), in voxels: the inverse displacement."""
    inverse_residual: float
    """Maximum inverse-consistency error in voxels, over points that stay inside the grid."""
    levels: tuple[LevelHistory, ...]
    folds_mended: int
    """Voxels that folded before unfolding."""
    folds: int
    """Voxels that fold."""


@threads.own_pool()
def deform(
    moving: Tensor,
    fixed: Tensor,
    *,
    spacing: Sequence[float] | None = None,
    mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    settings: Deformable | None = None,
    start: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Deformation:
    """Register an image with another on the same grid, coarse to fine, by compositional updates.

    An iteration warps, takes the similarity's derivative as a force, smooths it by a Gaussian (fluid), shortens it to
    a step, composes u ← d + u∘(id + d) and smooths the field by a Gaussian (elastic), as greedy does (Yushkevich et
    al., 2016); the force acts at both images' edges (Avants et al., 2008). A level starts from the coarser one's field,
    or from zero if that field makes the images less similar. Intensities are scaled by their .5 and 99.5 percentiles
    outside the masks. Finally, folds are smoothed away and the field is inverted point by point. The same images give
    identical bytes for any number of threads.

    Args:
        moving: (C, H, W) or (C, H, W, D), any range.
        fixed: the same shape.
        spacing: mm per voxel and axis; None for 1.
        mask: (1, *spatial) boolean or in [0, 1], what to leave out of the fixed image: it is ignored both in the
            windows and at their centers.
        moving_mask: likewise of the moving image, with which it moves.
        settings: see `Deformable`.
        start: (D, *spatial), in voxels: the displacement that the coarsest level starts from, such as a network's; None
            for zero.
        progress: called with the number of iterations done and planned, as for a progress bar.

    Returns:
        See `Deformation`; float32.

    Raises:
        TypeError, ValueError: if a shape, a type or a number is wrong.

    Example:
        >>> fixed = torch.zeros(1, 32, 32)
        >>> fixed[:, 8:20, 10:24] = 1.0
        >>> result = deform(fixed.roll(1, 1), fixed, settings=Deformable("mse"))
        >>> result.ddf.shape, result.folds
        (torch.Size([2, 32, 32]), 0)
    """
    images = _checked(moving, fixed, mask, moving_mask)
    if start is not None:
        check_finite("start", start)
        if start.shape != (fixed.ndim - 1, *fixed.shape[1:]):
            raise ValueError(
                f"start: expected a displacement {(fixed.ndim - 1, *fixed.shape[1:])}, received {tuple(start.shape)}"
            )
    return deform_scaled(images, spacing, settings, progress, start)


def deform_scaled(
    images: ScaledImages,
    spacing: Sequence[float] | None,
    settings: Deformable | None,
    progress: Callable[[int, int], None] | None = None,
    start: Tensor | None = None,
) -> Deformation:
    """`deform` for images that are already checked and scaled.

    Args:
        images: see `ScaledImages`.
        spacing, settings, progress, start: as in `deform`.

    Raises:
        ValueError: if the weight is nowhere above 0, or the spacing is wrong.
    """
    if not bool((images.weight > 0).any()):
        raise ValueError("mask: expected voxels outside it, received a mask that covers the image")
    settings, fixed = settings or Deformable(), images.fixed
    shape = fixed.shape[1:]
    sizes = tuple(float(size) for size in (spacing or (1.0,) * len(shape)))
    if len(sizes) != len(shape) or not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"spacing: expected {len(shape)} numbers above 0, in mm, received {spacing!r}")
    steps = pyramid(shape, sizes, settings.iterations)
    planned, done = sum(step.iterations for step in steps), 0
    coarse = steps[0].factor
    field = fixed.new_zeros(len(shape), *shrink(images.weight, coarse).shape[1:], dtype=torch.float32)
    if start is not None:
        factors = torch.tensor(coarse, dtype=torch.float32, device=fixed.device).reshape(-1, *[1] * len(shape))
        field = shrink(start.detach().to(fixed.device, torch.float32), coarse) / factors
    history: list[LevelHistory] = []
    for step in steps:
        field = enlarge(field, coarse, step.factor, shape)
        level = _Level(images, step, sizes, settings, field)
        history.append(level.run(_after(progress, done, planned), doubt=bool(history)))
        done, coarse, field = done + step.iterations, step.factor, level.field
    field, before, left = unfold(field, settings.unfolding)
    inverse = invert(field[None], tolerance=1e-3)
    return Deformation(field, inverse.ddf[0], float(inverse.residual[0]), tuple(history), before, left)


def _after(progress: Callable[[int, int], None] | None, done: int, planned: int) -> Callable[[int], None] | None:
    """A level's progress as part of the total."""
    return None if progress is None else lambda count: progress(done + count, planned)


class ScaledImages(NamedTuple):
    """The images to register, on one grid."""

    moving: Tensor
    """(C, *spatial), scaled (see `scaling.scaled`)."""
    fixed: Tensor
    """Likewise."""
    weight: Tensor
    """(1, *spatial) in [0, 1], weights of the fixed image's voxels."""
    moving_mask: Tensor | None
    """(1, *spatial) in [0, 1], what is left out of the moving image."""


def _checked(moving: Tensor, fixed: Tensor, mask: Tensor | None, moving_mask: Tensor | None) -> ScaledImages:
    given = {"moving": moving, "fixed": fixed}
    for name, image in given.items():
        check_batched(name, image[None] if isinstance(image, Tensor) else image)
        check_finite(name, image)
    if moving.shape != fixed.shape:
        raise ValueError(
            f"moving: expected the shape of fixed {tuple(fixed.shape)}, received {tuple(moving.shape)}; resample it"
        )
    masks = []
    for name, region in (("mask", mask), ("moving_mask", moving_mask)):
        if region is not None:
            if region.shape != (1, *fixed.shape[1:]):
                raise ValueError(
                    f"{name}: expected shape {(1, *fixed.shape[1:])}, received {tuple(region.shape)}; resample it"
                )
            region = region.detach().to(fixed.device, torch.float32).clamp(0, 1)
        masks.append(region)
    weight = torch.ones_like(fixed[:1], dtype=torch.float32) if masks[0] is None else 1 - masks[0]
    moved = None if masks[1] is None else 1 - masks[1]
    return ScaledImages(scaled(moving, moved), scaled(fixed, weight), weight, masks[1])


class _Level:
    """One resolution of a registration."""

    def __init__(
        self, images: ScaledImages, step: Step, sizes: Sequence[float], settings: Deformable, field: Tensor
    ) -> None:
        self.step, self.settings = step, settings
        fixed, moving = shrink(images.fixed, step.factor), shrink(images.moving, step.factor)
        if settings.similarity == "mind":
            fixed, moving = (mind_ssc(image[:, None]).flatten(0, 1) for image in (fixed, moving))
        elif settings.similarity in ("mi", "nmi"):
            fixed, moving = fixed.clamp(0, 1), moving.clamp(0, 1)
        shape = tuple(fixed.shape[1:])
        ops = operations(shape, fixed.device)
        self.ops = ops
        self.fixed = [ops.volume(channel.contiguous()) for channel in fixed]
        self.moving = [ops.volume(channel.contiguous()) for channel in moving]
        self.still = ops.volume(shrink(images.weight, step.factor)[0].contiguous())
        moved = images.moving_mask
        self.moving_mask = None if moved is None else ops.volume(shrink(moved, step.factor)[0].contiguous())
        self.array = ops.field(field.contiguous().clone())
        both = settings.symmetry > 0
        self.fixed_slopes = [ops.slopes(image) if both else None for image in self.fixed]
        self.windows: list[Windows] | None = None
        mean = math.prod(sizes) ** (1 / len(sizes))
        update = UPDATE_VOXELS * mean if settings.update_smoothing_mm is None else settings.update_smoothing_mm
        elastic = FIELD_VOXELS * mean if settings.field_smoothing_mm is None else settings.field_smoothing_mm
        coarse = max(step.factor)
        edges = [size * factor for size, factor in zip(sizes, step.factor)]
        self.update = [coarse * update / edge for edge in edges]
        self.elastic = [coarse * elastic / edge for edge in edges]
        self.gain: float | None = None

    @property
    def field(self) -> Tensor:
        """A copy of the displacement, in voxels of the level."""
        return self.ops.tensor(self.array)

    def run(self, progress: Callable[[int], None] | None, doubt: bool) -> LevelHistory:
        """Iterate until the similarity stops rising.

        Args:
            progress: called with the iterations done.
            doubt: whether to start without the coarser levels' field if that makes the images less similar, as can
                happen between two contrasts: what is brighter than the background in both need not match inside.
        """
        values: list[float] = []
        stopped = False
        none = self.ops.field(torch.zeros_like(self.field)) if doubt and self.step.iterations else None
        alone = None if none is None else self._likeness(none)
        for count in range(self.step.iterations):
            values.append(self._iterate())
            if none is not None and alone is not None and count == 0 and alone > (1 + DOUBT) * values[0]:
                self.array, self.gain = none, None
                values = [self._iterate()]
            if progress is not None:
                progress(count + 1)
            if _settled(values, self.settings.tolerance):
                stopped = count + 1 < self.step.iterations
                break
        return LevelHistory(self.step.factor, tuple(values), stopped)

    def _likeness(self, field: Any) -> float:
        weight = self._weight(field)
        value = sum(
            self._similarity(channel, self.ops.warp(self.moving[channel], field)[0], fixed, weight).value
            for channel, fixed in enumerate(self.fixed)
        )
        return float(value) / (max(float(weight.sum()), 1e-6) * len(self.fixed))

    def _iterate(self) -> float:
        ops = self.ops
        weight = self._weight(self.array)
        total, value = None, 0.0
        for channel, (fixed, by_fixed) in enumerate(zip(self.fixed, self.fixed_slopes)):
            warped, by_space = ops.warp(self.moving[channel], self.array)
            slopes = self._similarity(channel, warped, fixed, weight)
            total = ops.force(slopes, by_space, by_fixed, self.settings.symmetry, total)
            value += slopes.value
        update, longest = ops.smooth(total, self.update)
        update = ops.scale(update, self._factor(longest))
        self.array = ops.compose(self.array, update)
        if max(self.elastic) > 0:
            self.array, _ = ops.smooth(self.array, self.elastic)
        return value / (max(float(weight.sum()), 1e-6) * len(self.fixed))

    def _weight(self, field: Any) -> Any:
        if self.moving_mask is None:
            return self.still
        masked, _ = self.ops.warp(self.moving_mask, field)
        self.windows = None
        return self.still * (1 - masked)

    def _similarity(self, channel: int, warped: Any, fixed: Any, weight: Any) -> Slopes:
        settings, ops = self.settings, self.ops
        both = settings.symmetry > 0
        if settings.similarity == "lncc":
            if self.windows is None:
                self.windows = [ops.windows(image, weight, settings.radius) for image in self.fixed]
            windows = self.windows[channel]
            return ops.lncc(warped, fixed, weight, weight, windows, settings.radius, settings.floor, both)
        if settings.similarity in ("mi", "nmi"):
            return ops.information(warped, fixed, weight, settings.similarity == "nmi", both)
        return ops.difference(warped, fixed, weight)

    def _factor(self, longest: float) -> float:
        """The factor of an update, which is at most a step long.

        Local correlation has its own scale, so that updates become shorter near the optimum; for the others the first
        update of a level is a step long, and sets the scale.
        """
        if not longest > 0:
            return 0.0
        if self.gain is None:
            self.gain = 1.0 if self.settings.similarity == "lncc" else self.settings.step / longest
        return min(self.gain, self.settings.step / longest)


def _settled(values: list[float], tolerance: float) -> bool:
    """Whether the best of the last iterations is barely better than the best before them."""
    if tolerance <= 0 or len(values) < 2 * PATIENCE:
        return False
    before, now = max(values[:-PATIENCE]), max(values[-PATIENCE:])
    return now - before < tolerance * max(abs(now), 1e-9)
