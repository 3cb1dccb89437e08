"""A registration independent of the method, to score correspondences that the method does not provide itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.checks import check_batched, check_choice, check_finite, check_positive, check_same_shape
from medtrace.storage.files import remove

BACKENDS = ("simpleitk", "ants")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let SimpleITK work on one thread: a metric's sums over threads differ in the last bits from run to run."""
    # A registration's own SetNumberOfThreads does not reach the metric; only the global default does.
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def independent_registration(
    source: Tensor,
    image: Tensor,
    *,
    backend: str = "simpleitk",
    control_spacing: float = 10.0,
    num_bins: int = 32,
    iterations: int = 30,
    region: Tensor | None = None,
    samples: int | None = None,
    evaluations: int = 2000,
) -> Tensor:
    """Register `source` onto `image` by a classical method.

    TraceTrans scores its α-row with such a field (from ANTs), because at α = 1 the model's own field is not trained.
    "simpleitk" is one cubic B-spline with Mattes mutual information at two resolutions, using every voxel; the same
    images give the same field. "ants" is ANTsPy's SyN from the identity (`pip install medtrace[ants]`) with its own
    settings.

    Args:
        source: (B, 1, *spatial), the moving image, any range.
        image: (B, 1, *spatial), the fixed image, such as a method's prediction.
        backend: "simpleitk" or "ants".
        control_spacing: voxels between control points ("simpleitk").
        num_bins: bins of the mutual information.
        iterations: steps of L-BFGS-B at each resolution ("simpleitk").
        region: boolean (B, 1, *spatial), the voxels of `image` that count ("simpleitk"); None for all.
        samples: maximum number of voxels used, regularly spaced ("simpleitk"); None for all.
        evaluations: maximum number of evaluations of the mutual information at each resolution ("simpleitk").

    Returns:
        Displacement (B, spatial_dims, *spatial) in voxels on the grid of `image`, pull convention, float32.

    Raises:
        ImportError: if ANTsPy is requested and not installed.
        ValueError: if the shapes differ, there is more than one channel, or an image is not finite.
    """
    check_batched("source", source, channels=1)
    check_batched("image", image, channels=1)
    check_same_shape("source", source, "image", image)
    check_choice("backend", backend, BACKENDS)
    check_positive("control_spacing", control_spacing)
    check_finite("source", source)
    check_finite("image", image)
    fields = []
    regions = [None] * len(source) if region is None else list(region.detach().cpu().numpy())
    for moving, fixed, inside in zip(
        source.detach().cpu().double().numpy(), image.detach().cpu().double().numpy(), regions
    ):
        if np.ptp(moving) == 0 or np.ptp(fixed) == 0:
            fields.append(np.zeros(fixed.shape[1:])[None].repeat(fixed.ndim - 1, 0))  # nothing to register
        elif backend == "ants":
            fields.append(_by_ants(moving[0], fixed[0], num_bins))
        else:
            with one_thread():
                used = None if inside is None else inside[0]
                method = _method(num_bins, iterations, evaluations, _fraction(fixed, used, samples))
                fields.append(_by_simpleitk(method, moving[0], fixed[0], control_spacing, used))
    return torch.from_numpy(np.stack(fields)).to(image.device, torch.float32)


def _by_ants(moving: np.ndarray, fixed: np.ndarray, num_bins: int) -> np.ndarray:
    try:
        import ants
    except ImportError as error:
        raise ImportError("backend: expected ANTsPy for 'ants', which is not installed; pip install antspyx") from error

    target = ants.from_numpy(fixed - fixed.min())
    result = ants.registration(
        target,
        ants.from_numpy(moving - moving.min()),
        type_of_transform="SyNOnly",
        initial_transform="identity",
        syn_sampling=num_bins,
        random_seed=1,
    )
    # The field is obtained by pulling the coordinates themselves.
    index = np.indices(fixed.shape, dtype=np.float64)
    pulled = [
        ants.apply_transforms(target, ants.from_numpy(axis), result["fwdtransforms"], interpolator="linear").numpy()
        for axis in index
    ]
    inside = (
        ants.apply_transforms(target, ants.from_numpy(np.ones_like(fixed)), result["fwdtransforms"]).numpy() > 0.999
    )
    for path in (*result["fwdtransforms"], *result["invtransforms"]):
        remove(path)
    return np.where(inside, np.stack(pulled) - index, 0.0)


def _fraction(fixed: np.ndarray, inside: np.ndarray | None, samples: int | None) -> float:
    """The fraction of the counted voxels that gives `samples` of them."""
    count = fixed.size if inside is None else max(int(inside.sum()), 1)
    return 1.0 if samples is None else min(1.0, samples / count)


def _method(num_bins: int, iterations: int, evaluations: int, fraction: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(num_bins)
    if fraction < 1:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(fraction, seed=1)
    else:
        method.SetMetricSamplingStrategy(method.NONE)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-6,
        numberOfIterations=iterations,
        maximumNumberOfFunctionEvaluations=evaluations,
    )
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([1.0, 0.0])
    return method


def _by_simpleitk(
    method: sitk.ImageRegistrationMethod,
    moving: np.ndarray,
    fixed: np.ndarray,
    control_spacing: float,
    inside: np.ndarray | None,
) -> np.ndarray:
    # SimpleITK reads arrays last axis first: transposed, its axes are the tensor's.
    moving_image, fixed_image = (sitk.GetImageFromArray(np.ascontiguousarray(array.T)) for array in (moving, fixed))
    mesh = [max(2, round((size - 1) / control_spacing)) for size in fixed.shape]
    transform = sitk.BSplineTransformInitializer(fixed_image, mesh, order=3)
    if inside is not None:
        method.SetMetricFixedMask(sitk.GetImageFromArray(np.ascontiguousarray(inside.T.astype(np.uint8))))
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed_image, moving_image)
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, fixed_image.GetSize(), fixed_image.GetOrigin(), fixed_image.GetSpacing()
    )
    return np.ascontiguousarray(sitk.GetArrayFromImage(field).T)
