"""A registration that knows nothing of the method, to score correspondences that the method does not give itself."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_batched, check_finite, check_positive, check_same_shape


def independent_registration(
    source: Tensor, image: Tensor, *, control_spacing: float = 10.0, num_bins: int = 32, iterations: int = 30
) -> Tensor:
    """Register `source` onto `image` with SimpleITK: cubic B-splines, Mattes mutual information, two resolutions.

    TraceTrans scores its α-row by such a field (from ANTs), because at α = 1 the model's own is not trained. The
    same images give the same field: every voxel is used, and the gradient is summed on one thread.

    Args:
        source: (B, 1, *spatial), the moving image, any range.
        image: (B, 1, *spatial), the fixed image, such as a method's prediction.
        control_spacing: voxels between the control points of the finest level.
        num_bins: bins of the mutual information.
        iterations: steps of L-BFGS-B at each resolution.

    Returns:
        Displacement (B, spatial_dims, *spatial) in voxels on the grid of `image`, pull convention, float32.

    Raises:
        ValueError: if the shapes differ, there is more than one channel, or an image is not finite.
    """
    check_batched("source", source, channels=1)
    check_batched("image", image, channels=1)
    check_same_shape("source", source, "image", image)
    check_positive("control_spacing", control_spacing)
    check_finite("source", source)
    check_finite("image", image)
    pairs = zip(source.detach().cpu().double().numpy(), image.detach().cpu().double().numpy())
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # sums over threads differ from run to run
    try:
        fields = [_register_one(moving[0], fixed[0], control_spacing, num_bins, iterations) for moving, fixed in pairs]
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return torch.from_numpy(np.stack(fields)).to(image.device, torch.float32)


def _register_one(
    moving: np.ndarray, fixed: np.ndarray, control_spacing: float, num_bins: int, iterations: int
) -> np.ndarray:
    if np.ptp(moving) == 0 or np.ptp(fixed) == 0:
        return np.zeros((fixed.ndim, *fixed.shape))  # a constant image corresponds to itself everywhere
    # SimpleITK reads arrays last axis first: transposed, its axes are the tensor's.
    moving_image, fixed_image = (sitk.GetImageFromArray(np.ascontiguousarray(array.T)) for array in (moving, fixed))
    mesh = [max(2, round((size - 1) / control_spacing)) for size in fixed.shape]
    transform = sitk.BSplineTransformInitializer(fixed_image, mesh, order=3)
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(num_bins)
    method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGSB(gradientConvergenceTolerance=1e-6, numberOfIterations=iterations)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed_image, moving_image)
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed_image.GetSize(), fixed_image.GetOrigin(), fixed_image.GetSpacing()
    )
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).T)
