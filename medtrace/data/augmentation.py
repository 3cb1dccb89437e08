"""Random changes of training cases, by MONAI's transforms: one motion for all images, masks and labels of a case."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    CastToTyped,
    Compose,
    MapTransform,
    Rand2DElasticd,
    Rand3DElasticd,
    RandAdjustContrastd,
    RandAffined,
    RandFlipd,
    Randomizable,
    RandSpatialCropd,
    SpatialPadd,
    Transform,
)

from medtrace.data.around import Around
from medtrace.data.neighbors import TogetherWithNeighborsd
from medtrace.data.preparation.rules import Axis, Preparation
from medtrace.methods.base import NEIGHBORS
from medtrace.methods.settings import AugmentationSettings
from medtrace.trace.contrast import ARBITRARY
from medtrace.trace.validation import as_tensor

IMAGES = ("source", "target", NEIGHBORS)
REGIONS = ("mask", "source_mask", "source_labels", "target_labels", "source_structure", "target_structure")
_KINDS = {"mask": torch.bool, "source_mask": torch.bool, "source_labels": torch.int32, "target_labels": torch.int32}
BACKGROUND_TOLERANCE = 1e-3
"""How far above -1 still counts as background."""
POINTS = ("source_landmarks", "target_landmarks")


class SharpBackgroundd(Around):
    """Move images without mixing foreground and background: a skull-stripped brain keeps its edge.

    Linear interpolation creates a rim of half-dark voxels where tissue meets a background of exactly -1, which no
    unmoved image has: a network learns to reproduce it. Here a voxel is foreground if most of what it is interpolated
    from is, and then gets the weighted mean of the foreground alone.

    Args:
        keys: keys of the images in [-1, 1]; one without background is moved as usual.
        around: the motion, by linear interpolation, of the images and of the keys `foreground_key` of them.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case."""
        items = dict(data)
        for key in self.key_iterator(items):
            items[foreground_key(key)] = as_tensor(items[key]).gt(-1 + BACKGROUND_TOLERANCE).float()
        moved: dict[Hashable, Any] = self.around(items)
        for key in self.key_iterator(items):
            weight = as_tensor(moved.pop(foreground_key(key)))
            inside = ((moved[key] + 1) / weight.clamp_min(0.5) - 1).clamp(-1, 1)
            moved[key] = torch.where(weight >= 0.5, inside, torch.full_like(inside, -1.0))
        return moved


def foreground_key(key: Hashable) -> str:
    """Entry of an image's foreground while it is moved."""
    return f"{key}_foreground"


class MoveOnGridd(Randomizable, MapTransform):
    """Forget where random motion has taken a grid: the image stays on its own.

    MONAI's spatial transforms write the motion into the affine, so that a case's images would change position from
    epoch to epoch, and keep a list of the applied operations.

    Args:
        keys: keys of the images.
        around: the transforms that are applied to them.
    """

    def __init__(self, keys: KeysCollection, around: Compose) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        self.around = around

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> MoveOnGridd:
        """Seed what is done."""
        super().set_random_state(seed, state)
        self.around.set_random_state(seed, state)
        return self

    def randomize(self, data: Any) -> None:
        """Everything is drawn by what is done."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply to a case.

        Raises:
            ValueError: if it has landmarks, which would stay where they are.
        """
        items = dict(data)
        result = [key for key in POINTS if key in items]
        if result:
            raise ValueError(
                f"{result[0]}: expected none in an augmented case, since points are not moved with the image; read the"
                " cases without landmarks, or set augmentation.on=false"
            )
        moved: dict[Hashable, Any] = self.around(items)
        for key in self.key_iterator(items):
            values = as_tensor(moved[key])
            before = items[key]
            moved[key] = MetaTensor(values, meta=before.meta) if isinstance(before, MetaTensor) else values
        return moved


def augmentation(
    settings: AugmentationSettings, preparation: Preparation | None, spatial_dims: int, neighbors: int = 0
) -> list[Transform]:
    """The transforms of training cases that settings ask for.

    Args:
        settings: which, and how often.
        preparation: preparation of the data set, which says where left and right are and what the intensities mean.
        spatial_dims: 2 or 3.
        neighbors: slices on either side that sources are read with.

    Returns:
        Transforms of a case, for `Compose`; none where augmentation is off.
    """
    if not settings.on:
        return []
    motion = _motion(settings, left_right_axis(preparation, spatial_dims), spatial_dims)
    keys = (*IMAGES, *REGIONS)
    steps: list[Transform] = []
    if motion:
        cast = CastToTyped(tuple(_KINDS), dtype=[torch.float32] * len(_KINDS), allow_missing_keys=True)
        back = CastToTyped(tuple(_KINDS), dtype=list(_KINDS.values()), allow_missing_keys=True)
        sharp = SharpBackgroundd(IMAGES, Compose([cast, *motion, back]))
        steps.append(MoveOnGridd(keys, Compose([sharp])))
    if settings.intensity and curves_allowed(preparation):
        bent = RandAdjustContrastd(["source"], prob=settings.intensity, gamma=settings.gamma, allow_missing_keys=True)
        steps.append(TogetherWithNeighborsd(bent) if neighbors else bent)
    return steps


def patches(size: Sequence[int]) -> list[Transform]:
    """Cut the same random part out of all images and maps of a case.

    Args:
        size: voxels per axis; a smaller case is padded, images with -1 and maps with 0.
    """
    keys = (*IMAGES, *REGIONS)
    pad = {"spatial_size": tuple(size), "allow_missing_keys": True}
    return [
        SpatialPadd(IMAGES, mode="constant", constant_values=-1.0, **pad),
        SpatialPadd(REGIONS, mode="constant", constant_values=0, **pad),
        RandSpatialCropd(keys, roi_size=tuple(size), random_size=False, allow_missing_keys=True),
    ]


def left_right_axis(preparation: Preparation | None, spatial_dims: int) -> int | None:
    """The axis of a prepared image that runs from left to right; None where it has none, as a sagittal slice."""
    if spatial_dims == 3 or preparation is None or preparation.natural_image:
        return 0
    return None if preparation.axis is Axis.SAGITTAL else 0


def curves_allowed(preparation: Preparation | None) -> bool:
    """Whether the sources' intensities may be bent: they mean nothing by themselves, and the targets' are others.

    Where source and target share a contrast, the target would have to be changed in the same way; where the unit is
    fixed, as with HU, a number identifies a tissue.
    """
    return _unbent(preparation) is None


def _unbent(preparation: Preparation | None) -> str | None:
    """Why the sources' intensities stay as they are; None where they may be bent."""
    if preparation is None:
        return "their meaning is not on record"
    if preparation.natural_image:
        return "a natural image"
    sources = preparation.sources or tuple(preparation.targets)
    if not sources or not (preparation.outputs or preparation.targets):
        return "their contrasts are not on record"
    for name in sources:
        known = preparation.contrasts.get(name)
        if known is None:
            return f"the unit of {name} is not on record"
        if known.unit != ARBITRARY:
            return f"{name} has a fixed unit, {known.unit}"
        if name in (*preparation.outputs, preparation.targets.get(name)):
            return f"{name} is also the target's contrast"
    return None


def _motion(settings: AugmentationSettings, axis: int | None, dims: int) -> list[Transform]:
    linear = (*IMAGES, *map(foreground_key, IMAGES))
    keys = (*linear, *REGIONS)
    mode = ["bilinear"] * len(linear) + ["nearest"] * len(REGIONS)
    angle, scale = np.deg2rad(settings.degrees), settings.scale
    steps: list[Transform] = []
    if settings.flip and axis is not None:
        steps.append(RandFlipd(keys, prob=settings.flip, spatial_axis=axis, allow_missing_keys=True))
    shared: dict[str, Any] = {
        "rotate_range": [angle] if dims == 2 else [angle] * 3,
        "scale_range": [scale] * dims,
        "translate_range": [settings.shift_voxels] * dims,
        "mode": mode,
        "padding_mode": "border",
        "allow_missing_keys": True,
    }
    if settings.elastic_voxels and settings.motion and dims == 3:
        sigma, magnitude = elastic_3d(settings)
        steps.append(
            Rand3DElasticd(
                keys,
                sigma_range=(sigma, sigma),
                magnitude_range=(0.0, magnitude),
                prob=settings.motion,
                **shared,
            )
        )
    elif settings.elastic_voxels and dims == 2:
        steps.append(
            Rand2DElasticd(
                keys,
                spacing=(settings.elastic_spacing,) * 2,
                magnitude_range=(0.0, settings.elastic_voxels),
                prob=settings.motion,
                **shared,
            )
        )
    elif settings.motion:
        steps.append(RandAffined(keys, prob=settings.motion, cache_grid=False, **shared))
    return steps


def elastic_3d(settings: AugmentationSettings) -> tuple[float, float]:
    """Smoothing in voxels and magnitude by which MONAI's elastic motion in 3D is that of the settings.

    MONAI smooths uniform noise in [-1, 1] by a Gaussian of σ voxels and multiplies it. σ is half the spacing of the
    control points in 2D. Smoothing reduces noise of variance 1/3 to a standard deviation of √(1/3) · (4π σ²)^(-3/4),
    and less near the borders, beyond which there is none.
    """
    sigma = settings.elastic_spacing / 2
    return sigma, settings.elastic_voxels / (math.sqrt(1 / 3) * (4 * math.pi * sigma**2) ** -0.75)


def describe(settings: AugmentationSettings, preparation: Preparation | None, spatial_dims: int) -> str:
    """One line of what is drawn, and what is left out and why."""
    if not settings.on:
        return "off"
    parts: Sequence[str] = [
        "left-right flips"
        if left_right_axis(preparation, spatial_dims) is not None
        else "no flips (a sagittal slice has no left and right)",
        f"rotations up to {settings.degrees:g} degrees",
        f"scaling up to {settings.scale:.0%}",
        f"shifts up to {settings.shift_voxels:g} voxels",
        f"elastic up to {settings.elastic_voxels:g} voxel(s)",
        "bent source intensities"
        if (reason := _unbent(preparation)) is None
        else f"source intensities unchanged ({reason})",
    ]
    return ", ".join(parts)
