"""The classical row of a registration table: SimpleITK's diffeomorphic Demons, with the lesion left out of its cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_batched, check_finite, check_positive, check_same_shape
from medtrace.fields import warp
from medtrace.networks.metamorphic import joint_mask
from medtrace.registration.independent_registration import one_thread
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor

SHRINK_FACTORS = (4, 2, 1)
_LEAST_SIZE = 8  # voxels that an axis keeps at the coarsest resolution


class Level(NamedTuple):
    """A pair and its masks at one resolution."""

    moving: sitk.Image
    fixed: sitk.Image
    moving_mask: sitk.Image
    fixed_mask: sitk.Image


def simpleitk_registration(
    source: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    source_mask: Tensor | None = None,
    *,
    rounds: int = 25,
    iterations: int = 2,
    field_smoothing: float = 1.5,
    update_smoothing: float = 1.0,
) -> Tensor:
    """Register a pair by diffeomorphic Demons at three resolutions (Vercauteren et al., NeuroImage 2009).

    Demons follow the difference of the images and take no mask. So that a lesion does not drive the field
    (cost-function masking; Brett et al., NeuroImage 2001), the target's masked part is filled, before every round, with
    the source as warped so far: the difference there is then zero, and the field comes from around it by smoothing. The
    same pair gives the same field.

    Args:
        source: (1, H, W) or (1, H, W, D), the moving image, any range.
        target: the same shape, the fixed image, of the same contrast.
        mask: the same shape, boolean or in [0, 1], what to leave out of the target; None leaves out nothing.
        source_mask: likewise of the source; it moves with the source.
        rounds: fillings at each resolution.
        iterations: Demons steps after each filling.
        field_smoothing, update_smoothing: standard deviations, in voxels of a resolution, of the Gaussians on the
            displacement and on every step's update.

    Returns:
        (spatial_dims, *spatial) float32, voxels, pull: `target(p)` is like `source(p + ddf(p))`.

    Raises:
        TypeError: if an image is not a floating tensor.
        ValueError: if shapes differ, there is more than one channel, a number is not finite or a setting not positive.
    """
    check_positive("rounds", rounds)
    check_positive("iterations", iterations)
    check_positive("field_smoothing", field_smoothing)
    check_positive("update_smoothing", update_smoothing)
    images = {"source": as_tensor(source)[None], "target": as_tensor(target)[None]}
    for name, given in (("mask", mask), ("source_mask", source_mask)):
        images[name] = torch.zeros_like(images["target"]) if given is None else as_tensor(given)[None].float()
    for name, image in images.items():
        check_batched(name, image, channels=1)
        check_same_shape("source", images["source"], name, image)
        check_finite(name, image)
    with one_thread():
        moving, fixed, fixed_mask, moving_mask = (_to_itk(image[0, 0]) for image in images.values())
        field: sitk.Image | None = None
        for factor in SHRINK_FACTORS:
            level = Level(*(_coarser(image, factor) for image in (moving, fixed, moving_mask, fixed_mask)))
            field = _on_grid(field, level.fixed)
            for _ in range(rounds):
                demons = _demons(iterations, field_smoothing, update_smoothing)
                field = demons.Execute(_filled(level, field), level.moving, field)
        result = np.ascontiguousarray(sitk.GetArrayFromImage(field).T)
    return torch.from_numpy(result).to(images["target"].device, torch.float32)


def simpleitk_tracer(batch: Mapping[str, Any]) -> list[Trace]:
    """Trace of `simpleitk_registration` for every pair of a batch: the image is the warped source.

    Args:
        batch: "source" and "target" (B, 1, *spatial), and optionally "mask" and "source_mask".
    """
    masks = [batch.get(name) for name in ("mask", "source_mask")]
    fields = [
        simpleitk_registration(source, batch["target"][item], *(None if mask is None else mask[item] for mask in masks))
        for item, source in enumerate(batch["source"])
    ]
    ddf = torch.stack(fields)
    mask, source_mask = (None if mask is None else as_tensor(mask) for mask in masks)
    prediction = Prediction(warp(as_tensor(batch["source"]), ddf), ddf, mask=joint_mask(ddf, mask, source_mask))
    return traces_of(batch["source"], prediction, batch["target"])


def _to_itk(image: Tensor) -> sitk.Image:
    # SimpleITK reads arrays last axis first: transposed, its axes are the tensor's.
    return sitk.GetImageFromArray(np.ascontiguousarray(image.cpu().double().numpy().T))


def _coarser(image: sitk.Image, factor: int) -> sitk.Image:
    factors = [max(1, min(factor, size // _LEAST_SIZE)) for size in image.GetSize()]
    if max(factors) == 1:
        return image
    variances = [(one / 2) ** 2 if one > 1 else 0.0 for one in factors]
    return sitk.Shrink(sitk.DiscreteGaussian(image, variances), factors)


def _on_grid(field: sitk.Image | None, like: sitk.Image) -> sitk.Image:
    """A displacement, in voxels of the full resolution, on another grid; zero for None."""
    if field is None:
        zero = sitk.Image(like.GetSize(), sitk.sitkVectorFloat64, like.GetDimension())
        zero.CopyInformation(like)
        return zero
    method = sitk.ResampleImageFilter()
    method.SetReferenceImage(like)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOutputPixelType(sitk.sitkVectorFloat64)
    method.UseNearestNeighborExtrapolatorOn()  # shrunken grids end half a coarse voxel before the image does
    return method.Execute(field)


def _filled(level: Level, field: sitk.Image) -> sitk.Image:
    """The fixed image with the warped moving one where either mask is."""
    warping = sitk.DisplacementFieldTransform(sitk.Image(field))  # the transform empties the image that it gets
    warped, mask = (_warped(image, level.fixed, warping) for image in (level.moving, level.moving_mask))
    # Blurred masks: a voxel that holds some lesion is lesion.
    outside = sitk.Cast((level.fixed_mask < 0.05) * (mask < 0.05), sitk.sitkFloat64)
    return warped + outside * (level.fixed - warped)


def _warped(image: sitk.Image, like: sitk.Image, warping: sitk.Transform) -> sitk.Image:
    method = sitk.ResampleImageFilter()
    method.SetReferenceImage(like)
    method.SetTransform(warping)
    method.SetInterpolator(sitk.sitkLinear)
    method.UseNearestNeighborExtrapolatorOn()
    return method.Execute(image)


def _demons(
    iterations: int, field_smoothing: float, update_smoothing: float
) -> sitk.DiffeomorphicDemonsRegistrationFilter:
    method = sitk.DiffeomorphicDemonsRegistrationFilter()
    method.SetNumberOfIterations(iterations)
    method.SetStandardDeviations(field_smoothing)
    method.SetSmoothUpdateField(True)
    method.SetUpdateFieldStandardDeviations(update_smoothing)
    return method
