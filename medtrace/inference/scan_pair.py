"""Two scans, each on its own grid and in its own units, as a registration wants them, and its answer brought back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.bias import in_corrected_intensities
from medtrace.data.masks import read_labels, read_mask
from medtrace.data.preparation.intensity import find_foreground
from medtrace.data.preparation.rules import Preparation
from medtrace.data.reading import is_natural_image, read_image
from medtrace.geometry.resampling import Reorientation, resize, shape_at_spacing, spacing_of
from medtrace.io.nifti import check_orthogonal
from medtrace.methods.common.registration import RegistrationPair
from medtrace.trace.contrast import Contrast
from medtrace.trace.geometry import pull, same_grid
from medtrace.trace.intensity_map import IntensityMap
from medtrace.trace.prediction import Prediction
from medtrace.trace.validation import as_tensor

MATCHED_PERCENTILES = (0.5, 2.0, 5.0, *range(10, 100, 10), 95.0, 98.0, 99.5)
"""Percentiles of healthy tissue at which `matched` brings the source to the target's intensities."""
_IN_PLANE = 1e-3


@dataclass(frozen=True)
class ScanPair:
    """Two scans as they were read: (C, *spatial) float32 in their own units, masks (1, *spatial) boolean or None.

    A single slice of a scan is a 2D image here, like a natural image.
    """

    source: Tensor
    target: Tensor
    source_affine: Tensor
    affine: Tensor
    source_mask: Tensor | None
    mask: Tensor | None
    natural_image: bool
    source_labels: Tensor | None = None
    """(1, *spatial) int32, a segmentation of the source."""

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.target.ndim - 1

    @property
    def to_source(self) -> Tensor | None:
        """From target to source voxels by the two headers, or None where they share one grid."""
        if same_grid(self.source, self.target, self.affine, self.source_affine):
            return None
        return torch.linalg.solve(self.source_affine, self.affine)

    @property
    def source_mask_on_target(self) -> Tensor | None:
        """The source's mask read at the target's voxels, (1, *spatial) in [0, 1]."""
        if self.source_mask is None:
            return None
        return self.on_target(self.source_mask.float()).clamp(0, 1)

    def on_target(self, image: Tensor) -> Tensor:
        """An image of the source's grid, (C, *spatial), read at the target's voxels by the two headers."""
        to_source = self.to_source
        return image if to_source is None else pull(image, self.still, to_source)

    def joint_mask(self, ddf: Tensor) -> Tensor:
        """Either scan's pathology at the target's voxels, boolean (1, *spatial); the source's moves by a field."""
        joint = torch.zeros(1, *self.target.shape[1:], dtype=torch.bool)
        if self.mask is not None:
            joint |= self.mask > 0.5
        if self.source_mask is not None:
            joint |= pull(self.source_mask.float(), ddf, self.to_source) > 0.5
        return joint

    @property
    def still(self) -> Tensor:
        """The zero displacement on the target's grid."""
        return torch.zeros(()).expand(self.spatial_dims, *self.target.shape[1:])


def read_pair(
    source: Path,
    target: Path,
    mask: Path | None = None,
    source_mask: Path | None = None,
    source_labels: Path | None = None,
    *,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
) -> ScanPair:
    """Read two scans, or two natural images, with their masks.

    Args:
        source: a file or DICOM folder (see `medtrace.data.reading`).
        target: likewise.
        mask: pathology of the target, on its grid.
        source_mask: pathology of the source, on its grid.
        source_labels: segmentation of the source, on its grid.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto orthogonal grids.

    Raises:
        FileNotFoundError: if there is nothing at a path.
        ValueError: if a file cannot be used or the two do not belong together; the message names the file.
    """
    if is_natural_image(source) != is_natural_image(target):
        raise ValueError(f"{target}: expected a {_kind(source)}, as {source} is, received a {_kind(target)}")
    moving = read_image(source, source_series, resample_tilt=resample_tilt)
    fixed = read_image(target, target_series, resample_tilt=resample_tilt)
    if moving.shape[0] != fixed.shape[0]:
        raise ValueError(
            f"{target}: expected {moving.shape[0]} channel(s) like {source}, received {fixed.shape[0]}; convert one of"
            " them"
        )
    regions = [
        None if path is None else read_mask(path, image, image_path)
        for path, image, image_path in ((source_mask, moving, source), (mask, fixed, target))
    ]
    regions.append(None if source_labels is None else read_labels(source_labels, moving, source))
    for path, image in ((source, moving), (target, fixed)):
        try:
            check_orthogonal("affine", image.affine.numpy())  # before minutes of work that could not be saved
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    flat = [image.ndim == 3 or image.shape[-1] == 1 for image in (moving, fixed)]
    if flat[0] != flat[1]:
        kinds = ("volume", "single slice")
        raise ValueError(
            f"{target}: is a {kinds[flat[1]]}, but {source} is a {kinds[flat[0]]}; give two volumes or two slices"
        )
    affines = [image.affine.double().cpu() for image in (moving, fixed)]
    if flat[0]:
        _check_planes(source, target, affines)

    def cut(values: Tensor) -> Tensor:
        return as_tensor(values)[..., 0] if flat[0] and values.ndim == 4 else as_tensor(values)

    source_region, region, labels = (None if values is None else cut(values) for values in regions)
    return ScanPair(
        cut(moving), cut(fixed), affines[0], affines[1], source_region, region, is_natural_image(source), labels
    )


def _kind(path: Path) -> str:
    return "natural image" if is_natural_image(path) else "scan"


def _check_planes(source: Path, target: Path, affines: list[Tensor]) -> None:
    to_source = torch.linalg.solve(*affines)
    tilt = max(float(to_source[:2, 2].abs().max()), float(to_source[2, :2].abs().max()))
    if tilt > _IN_PLANE:
        raise ValueError(
            f"{target}: its plane is tilted relative to that of {source}, and a 2D registration stays in the plane;"
            " give slices of the same orientation"
        )


def corrected_pair(
    pair: ScanPair, preparation: Preparation, contrast: str | None = None
) -> tuple[ScanPair, Contrast | None]:
    """A pair without the bias fields that a run's training images were freed of, and what the source's numbers mean.

    Args:
        pair: the scans.
        preparation: preparation of the run.
        contrast: contrast of both, where the preparation knows several; the target's is the one that it is paired with.

    Raises:
        ValueError: if N4 finds no field.
    """
    source = preparation.contrast(contrast)
    paired = source is not None and source.name in preparation.targets
    target = preparation.target(contrast) if paired else source
    if not any(one is not None and one.bias_corrected for one in (source, target)):
        return pair, source
    images = (pair.source, pair.source_affine, source), (pair.target, pair.affine, target)
    moving, fixed = (
        as_tensor(in_corrected_intensities(MetaTensor(image, affine=affine), contrast))
        for image, affine, contrast in images
    )
    return replace(pair, source=moving, target=fixed), source


def intensity_maps(
    pair: ScanPair, preparation: Preparation, matched: bool, contrast: str | None = None
) -> tuple[IntensityMap, IntensityMap]:
    """Maps of source and target to [-1, 1], found in tissue outside the pathology.

    Args:
        pair: the scans.
        preparation: whose rule to follow; the percentile rule sends the 0.5th and 99.5th percentiles to -1 and 1.
        matched: whether the source's map sends its percentiles (`MATCHED_PERCENTILES`) to the target's, as scans from
            two machines need; the preparation's rule then applies to the target alone.
        contrast: contrast of both, where the preparation knows several.
    """
    target_map = _own_map(pair.target, pair.mask, preparation, contrast)
    source_map = _own_map(pair.source, pair.source_mask, preparation, contrast)
    if not matched:
        return source_map, target_map
    scan = _percentiles(pair.source, pair.source_mask)
    network = replace(target_map, foreground=None).forward(_percentiles(pair.target, pair.mask))
    knots = [_rising(x, y) for x, y in zip(scan.tolist(), network.tolist())]
    return replace(source_map, scan=tuple(x for x, _ in knots), network=tuple(y for _, y in knots)), target_map


def _healthy(image: Tensor, mask: Tensor | None) -> Tensor:
    foreground = find_foreground(image)
    healthy = foreground if mask is None else foreground & ~mask
    if not bool(healthy.any()):
        raise ValueError("mask: expected tissue outside the pathology, received a mask that covers all of it")
    return healthy


def _own_map(image: Tensor, mask: Tensor | None, preparation: Preparation, contrast: str | None) -> IntensityMap:
    _, result = preparation.normalize(image, contrast, _healthy(image, mask))
    if result.foreground is None and mask is None:
        return result
    foreground = find_foreground(image)
    return replace(result, foreground=None if bool(foreground.all()) else foreground)


def _percentiles(image: Tensor, mask: Tensor | None) -> Tensor:
    inside = _healthy(image, mask)[0]
    values = [np.percentile(channel[inside].numpy().astype(np.float64), MATCHED_PERCENTILES) for channel in image]
    return torch.from_numpy(np.stack(values))


def _rising(x: list[float], y: list[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The knots at which both coordinates rise; percentiles repeat where many voxels are equal."""
    kept = [(x[0], y[0])]
    for point in zip(x[1:], y[1:]):
        if point[0] > kept[-1][0] and point[1] > kept[-1][1]:
            kept.append(point)
    if len(kept) < 2:
        raise ValueError("source: expected tissue of several intensities to match, received one; do not match them")
    first, second = zip(*kept)
    return first, second


class WorkingGrid:
    """The grid that a pair is registered on: the target's, its axes turned to RAS, at its own voxel size.

    Args:
        pair: the scans.
        preparation: gives the voxel size, or for natural images the shape; None for either keeps the target's.
        spacing: voxel size in mm to use instead, along every axis; for a slice, along both.
    """

    def __init__(self, pair: ScanPair, preparation: Preparation, spacing: float | None = None) -> None:
        self.pair = pair
        shape = (*pair.target.shape[1:], 1)[:3]
        if pair.natural_image:
            self.plan = Reorientation.none(shape)
        else:
            normal = int(nibabel.io_orientation(pair.affine.numpy())[2, 0]) if pair.spatial_dims == 2 else None
            self.plan = Reorientation.to_ras(pair.affine, shape, normal)
        self.own_shape = tuple(shape[axis] for axis in self.plan.order)[: pair.spatial_dims]
        own = spacing_of(self.plan.affine(pair.affine))
        if spacing is not None:
            self.shape = shape_at_spacing(self.own_shape, own, (spacing,) * 3)
        elif pair.natural_image and preparation.spatial_shape:
            self.shape = preparation.spatial_shape
        elif not pair.natural_image and preparation.spacing is not None:
            self.shape = shape_at_spacing(self.own_shape, own, preparation.spacing)
        else:
            self.shape = self.own_shape
        self.spacing = tuple(edge * size / new for edge, size, new in zip(own, self.own_shape, self.shape))

    def bring(self, source: Tensor, target: Tensor) -> RegistrationPair:
        """The pair on this grid, batched, with its masks as fractions of a voxel.

        Args:
            source: (C, *spatial) in [-1, 1], on the source's own grid; it is sampled linearly at the target's voxels
                by both headers, and extended by its border.
            target: likewise, on the target's grid.
        """
        pair = self.pair
        masks = [
            None if mask is None else self._to(mask.float()).clamp(0, 1)[None]
            for mask in (pair.mask, pair.source_mask_on_target)
        ]
        return RegistrationPair(
            # Interpolation may leave the range by a rounding error.
            self._to(pair.on_target(source)).clamp(-1, 1)[None],
            self._to(target).clamp(-1, 1)[None],
            *masks,
        )

    def _to(self, image: Tensor) -> Tensor:
        return resize(_flat(self.plan.apply(_volume(image)), image.ndim), self.shape)

    def back(self, output: Prediction) -> tuple[Tensor, Tensor]:
        """Displacement (spatial_dims, *spatial), in voxels, and intensity (C, *spatial) on the target's own grid."""
        ratio = torch.tensor([own / size for own, size in zip(self.own_shape, self.shape)])
        ddf = resize(output.ddf[0].cpu() * ratio.reshape(-1, *[1] * len(self.shape)), self.own_shape)
        if ddf.shape[0] == 2:
            ddf = _volume(torch.cat([ddf, torch.zeros_like(ddf[:1])]))
        ddf = self.plan.undo_field(ddf)
        if self.pair.spatial_dims == 2:
            ddf = _flat(ddf, 3)[:2]
        if output.appearance is None or (self.pair.mask is None and self.pair.source_mask is None):
            # Intensity may not change anywhere.
            return ddf, torch.zeros(()).expand(self.pair.target.shape)
        intensity = _volume(resize(output.appearance[0].cpu(), self.own_shape))
        return ddf, _flat(self.plan.undo(intensity), self.pair.target.ndim)


def _volume(image: Tensor) -> Tensor:
    return image[..., None] if image.ndim == 3 else image


def _flat(volume: Tensor, ndim: int) -> Tensor:
    return volume[..., 0] if ndim == 3 else volume
