"""Accuracy and regularity of a deformation, one number per case."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from medtrace import fields
from medtrace.checks import check_choice, check_field, check_finite, check_floating, check_number, check_same_shape
from medtrace.metrics.case_metric import CaseMetric
from medtrace.metrics.image import region_mean

FoldUnit = Literal["voxel", "percent"]
Rim = Literal["inside", "padded"]


def _field(name: str, value: Tensor) -> Tensor:
    check_field(name, value)
    check_finite(name, value)
    return value.detach().as_subclass(Tensor).double()


def _check_length(name: str, voxels: float) -> None:
    check_number(name, voxels)
    if not voxels >= 0:
        raise ValueError(f"{name}: expected voxels of at least 0, received {voxels!r}")


def _length(vectors: Tensor, affine: Tensor | None) -> Tensor:
    if affine is not None:
        check_floating("affine", affine)
        vectors = fields.voxel_to_mm(vectors, affine.as_subclass(Tensor))
    result: Tensor = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    return result


def deformed_region(true_ddf: Tensor, threshold: float = 0.3) -> Tensor:
    """Where the true displacement is longer than `threshold` voxels.

    Args:
        true_ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        threshold: length in voxels, at least 0.

    Returns:
        Boolean (B, 1, ...).

    Example:
        >>> true_ddf = torch.zeros(1, 2, 4, 4)
        >>> true_ddf[:, 0, 1:3] = 0.5
        >>> int(deformed_region(true_ddf).sum())
        8
    """
    _check_length("threshold", threshold)
    return _length(_field("true_ddf", true_ddf), None) > threshold


def end_point_error(
    ddf: Tensor,
    true_ddf: Tensor,
    mask: Tensor | None = None,
    *,
    affine: Tensor | None = None,
    deformed_above: float | None = None,
) -> Tensor:
    """Mean length of ddf − true_ddf per case.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        true_ddf: the same shape.
        mask: (B, 1, ...) bool or weights of the voxels in the mean.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm of the fields' grid: the result is in mm; without it in voxels.
        deformed_above: count only voxels whose true displacement is longer than this many voxels (and in the mask).

    Returns:
        (B,) >= 0, float64; NaN for a case in which nothing is deformed that much.

    Raises:
        TypeError, ValueError: on wrong types, shapes, non-finite numbers or an empty mask.

    Example:
        >>> affine = torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64))
        >>> ddf, true_ddf = torch.ones(1, 3, 4, 4, 4), torch.zeros(1, 3, 4, 4, 4)
        >>> ddf[:, 1:] = 0.0
        >>> end_point_error(ddf, true_ddf), end_point_error(ddf, true_ddf, affine=affine)  # voxels, mm
        (tensor([1.], dtype=torch.float64), tensor([2.], dtype=torch.float64))
    """
    if deformed_above is not None:
        _check_length("deformed_above", deformed_above)
    ddf, true_ddf = _field("ddf", ddf), _field("true_ddf", true_ddf)
    check_same_shape("true_ddf", true_ddf, "ddf", ddf)
    error = _length(ddf - true_ddf, affine)
    if deformed_above is None:
        return region_mean(error, mask)
    region = deformed_region(true_ddf, deformed_above).to(error.dtype)
    # the mean over both regions as a ratio of two means over the mask; 0 / 0 is NaN
    return region_mean(error * region, mask) / region_mean(region, mask)


def landmark_error(points: Tensor, true_points: Tensor, valid: Tensor | None = None) -> Tensor:
    """Mean distance of landmarks from where they should be, per case (target registration error).

    Args:
        points: (B, N, 2) or (B, N, 3), in mm.
        true_points: the same shape, in mm.
        valid: (B, N) bool: which landmarks exist, for cases with unequal numbers.

    Returns:
        (B,) in mm, float64; NaN for a case without landmarks.

    Raises:
        TypeError, ValueError: on wrong types, shapes, or non-finite coordinates of valid landmarks.

    Example:
        >>> points = torch.tensor([[[0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]])
        >>> landmark_error(points, torch.zeros(1, 2, 3))
        tensor([3.], dtype=torch.float64)
    """
    for name, value in (("points", points), ("true_points", true_points)):
        check_floating(name, value)
        if value.ndim != 3 or value.shape[-1] not in (2, 3):
            raise ValueError(f"{name}: expected (batch, landmarks, 2 or 3) in mm, received shape {tuple(value.shape)}")
    check_same_shape("true_points", true_points, "points", points)
    if valid is None:
        valid = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    elif not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid: expected a boolean tensor, received {getattr(valid, 'dtype', type(valid).__name__)}")
    elif valid.shape != points.shape[:2]:
        raise ValueError(f"valid: expected shape {tuple(points.shape[:2])}, received {tuple(valid.shape)}")
    difference = points.detach().double() - true_points.detach().double()
    check_finite("points", difference[valid], "mark missing landmarks in `valid`")
    distance = torch.linalg.vector_norm(difference, dim=-1)
    total = torch.where(valid, distance, torch.zeros_like(distance)).sum(1)
    return total / valid.sum(1)


def sd_log_jacobian(ddf: Tensor, mask: Tensor | None = None, *, floor: float = 1e-9) -> Tensor:
    """Standard deviation of log det J over the voxels of each case; 0 for rigid motion.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        mask: (B, 1, ...) bool or weights.
        floor: determinants below this (folds, whose logarithm does not exist) count as this, so that folding
            shows as a large value.

    Returns:
        (B,) >= 0, float64, with the number of voxels in the denominator.

    Example:
        >>> sd_log_jacobian(torch.zeros(1, 2, 8, 8))
        tensor([0.], dtype=torch.float64)
    """
    check_number("floor", floor)
    if not 0 < floor <= 1:
        raise ValueError(f"floor: expected a determinant in (0, 1], received {floor!r}")
    logarithm = fields.jacobian_determinant(_field("ddf", ddf)).clamp_min(floor).log()
    mean = region_mean(logarithm, mask).view(-1, *[1] * (logarithm.ndim - 1))
    return region_mean((logarithm - mean).square(), mask).sqrt()


def folded_volume(ddf: Tensor, *, unit: FoldUnit | str = "voxel", rim: Rim | str = "inside") -> Tensor:
    """Folded volume per case (Liu et al., IJCV 2024); see `fields.non_diffeomorphic_volume`.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        unit: "voxel", or "percent" of the grid's voxels, as in the paper's tables.
        rim: "inside", or "padded" as the authors' package counts.

    Returns:
        (B,) >= 0, float64.

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> folded_volume(ddf), folded_volume(0 * ddf)
        (tensor([9.], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    check_choice("unit", unit, ["voxel", "percent"])
    volume = fields.non_diffeomorphic_volume(_field("ddf", ddf), rim)
    return volume if unit == "voxel" else volume * (100 / ddf[0, 0].numel())


def mean_inverse_consistency(
    ddf: Tensor,
    inverse_ddf: Tensor,
    mask: Tensor | None = None,
    *,
    affine: Tensor | None = None,
    inside_only: bool = False,
) -> Tensor:
    """Mean inverse-consistency error of `inverse_ddf` followed by `ddf`, per case.

    Args:
        ddf: (B, 2, H, W) or (B, 3, H, W, D), in voxels.
        inverse_ddf: the same shape.
        mask: (B, 1, ...) bool or weights, on the grid of `inverse_ddf`.
        affine: (4, 4) or (B, 4, 4) voxel to RAS mm: the result is in mm; without it in voxels.
        inside_only: leave out points that `inverse_ddf` takes off the grid, where `ddf` is only extrapolated.

    Returns:
        (B,) >= 0, float64; NaN for a case whose points all leave the grid (with `inside_only`).

    Example:
        >>> ddf = torch.full((1, 2, 8, 8), 0.3)
        >>> round(float(mean_inverse_consistency(ddf, torch.zeros_like(ddf))), 4)  # what a zero inverse leaves
        0.4243
    """
    ddf, inverse_ddf = _field("ddf", ddf), _field("inverse_ddf", inverse_ddf)
    check_same_shape("ddf", ddf, "inverse_ddf", inverse_ddf)
    error = _length(fields.compose(ddf, inverse_ddf), affine)
    if not inside_only:
        return region_mean(error, mask)
    grid = fields.identity_grid(ddf.shape[2:], device=ddf.device, dtype=ddf.dtype)
    inside = fields.inside_grid(grid + inverse_ddf, ddf.shape[2:]).to(error.dtype)
    return region_mean(error * inside, mask) / region_mean(inside, mask)


class EndPointErrorMetric(CaseMetric):
    """`end_point_error` of every case, in mm, or in voxels if asked for.

    Args:
        unit: "mm" needs `affine=` in every call; "voxel" takes none.
        deformed_above: see `end_point_error`.

    Example:
        >>> metric = EndPointErrorMetric(unit="voxel")
        >>> ddf = torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> float(metric(ddf, torch.zeros(1, 2, 4, 4)))
        5.0
    """

    function = staticmethod(end_point_error)

    def __init__(self, unit: Literal["mm", "voxel"] | str = "mm", deformed_above: float | None = None) -> None:
        check_choice("unit", unit, ["mm", "voxel"])
        if deformed_above is not None:
            _check_length("deformed_above", deformed_above)
        super().__init__(deformed_above=deformed_above)
        self.unit = unit

    def measure(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(B,) of the predicted field `y_pred` and the true one `y`."""
        return super().measure(y_pred, y, **_in_unit(self.unit, **kwargs))


class LandmarkErrorMetric(CaseMetric):
    """`landmark_error` of every case, in mm: `metric(points, true_points, valid=...)`.

    Example:
        >>> float(LandmarkErrorMetric()(torch.tensor([[[0.0, 3.0, 4.0]]]), torch.zeros(1, 1, 3)))
        5.0
    """

    function = staticmethod(landmark_error)


class NonDiffeomorphicFractionMetric(CaseMetric):
    """`fields.non_diffeomorphic_fraction` of every case: `metric(ddf)`.

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> float(NonDiffeomorphicFractionMetric()(ddf))
        1.0
    """

    compares = False

    @staticmethod
    def function(y_pred: Tensor) -> Tensor:
        """(B,) in [0, 1]."""
        return fields.non_diffeomorphic_fraction(_field("y_pred", y_pred))


class NonDiffeomorphicVolumeMetric(CaseMetric):
    """`folded_volume` of every case: `metric(ddf)`; unit "voxel" or "percent", rim "inside" or "padded".

    Example:
        >>> ddf = torch.zeros(1, 2, 4, 4)
        >>> ddf[:, 0] = -2.0 * torch.arange(4.0)[:, None]  # mirrored: determinant -1
        >>> float(NonDiffeomorphicVolumeMetric(unit="percent")(ddf))
        56.25
    """

    compares = False
    function = staticmethod(folded_volume)

    def __init__(self, unit: FoldUnit | str = "voxel", rim: Rim | str = "inside") -> None:
        check_choice("unit", unit, ["voxel", "percent"])
        check_choice("rim", rim, ["inside", "padded"])
        super().__init__(unit=unit, rim=rim)


class SDLogJacobianMetric(CaseMetric):
    """`sd_log_jacobian` of every case: `metric(ddf, mask=...)`.

    Example:
        >>> stretched = 0.5 * torch.arange(8.0)[None, None, :, None].expand(1, 2, 8, 8)
        >>> round(float(SDLogJacobianMetric()(stretched)), 4)  # the same everywhere
        0.0
    """

    compares = False
    function = staticmethod(sd_log_jacobian)

    def __init__(self, floor: float = 1e-9) -> None:
        super().__init__(floor=floor)


class InverseConsistencyMetric(CaseMetric):
    """`mean_inverse_consistency` of every case: `metric(ddf, inverse_ddf, affine=...)`.

    Args:
        unit: "mm" needs `affine=` in every call; "voxel" takes none.
        inside_only: see `mean_inverse_consistency`.

    Example:
        >>> ddf = torch.full((1, 2, 8, 8), 0.5)
        >>> float(InverseConsistencyMetric(unit="voxel")(ddf, -ddf))
        0.0
    """

    function = staticmethod(mean_inverse_consistency)

    def __init__(self, unit: Literal["mm", "voxel"] | str = "mm", inside_only: bool = False) -> None:
        check_choice("unit", unit, ["mm", "voxel"])
        super().__init__(inside_only=inside_only)
        self.unit = unit

    def measure(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """(B,) of the field `y_pred` and its claimed inverse `y`."""
        return super().measure(y_pred, y, **_in_unit(self.unit, **kwargs))


def _in_unit(unit: str, affine: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
    """The keywords of a call in mm, which needs an affine, or in voxels, which takes none."""
    if unit == "mm" and affine is None:
        raise TypeError("affine: expected a (4, 4) tensor for millimeters, received None; or use unit='voxel'")
    return {**kwargs, "affine": affine if unit == "mm" else None}
