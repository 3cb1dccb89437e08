"""The record that every method returns: where each voxel came from and how its intensity changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from medtrace.checks import check_finite
from medtrace.fields import inside_grid, sample
from medtrace.trace.algebra import chain_of, composed, inverted
from medtrace.trace.appearance import contrast_change, expected_image
from medtrace.trace.chain import TransformChain
from medtrace.trace.contrast import Contrast
from medtrace.trace.geometry import inverse_on_source, pull, pulled_points, same_grid, to_voxels
from medtrace.trace.ledger import TraceLedger, make_ledger
from medtrace.trace.validation import (
    affine_or_identity,
    as_tensor,
    check_affine,
    check_contrasts,
    check_one_plane,
    check_own_grid,
    check_unbatched,
    checked_tensor,
    share_unit,
)


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """One translated image and the decomposition of its change, unbatched. Build it with `Trace.build`.

    Attributes:
        source: the input image, (C, *source_spatial).
        image: the translated image, on the target grid, (C', *spatial).
        ddf: (spatial_dims, *spatial), pull displacement on the target grid, in target voxels:
            source voxel = source_affine⁻¹ · affine · (p + ddf(p)).
        inverse_ddf: (spatial_dims, *source_spatial), in source voxels, where a source point q goes:
            target voxel = affine⁻¹ · source_affine · (q + inverse_ddf(q)).
        warped: source resampled by ddf, (C, *spatial).
        appearance: what contrast explains, (C', *spatial), in the image's units, or None if C differs from C' and no
            contrasts are known. If source and image share a unit, the explained change of intensity, image - warped;
            across units, where differences are meaningless, the expected image itself (see `expected_image`).
        mask: (1, *spatial) in [0, 1], where appearance may change, or None.
        affine: (4, 4) float64, target voxel to RAS mm; pixel (i, j) of a 2D image is voxel (i, j, 0).
        source_affine: (4, 4) float64, source voxel to RAS mm.
        velocity: (spatial_dims, *spatial), stationary velocity in target voxels, or None.
        interval: (C', *spatial), at least 0, in the image's units: the true intensity lies within image ± interval with
            the probability for which a run was calibrated (see `medtrace.evaluation.intensity.interval`), or None.
        unexplained: (1, *spatial) in [0, 1], 1 where the image shows more than field and contrast explain, beyond what
            is usual for the run, or None.
        source_contrasts: the contrast of each channel of source and warped; None is unknown.
        contrasts: likewise of image and appearance. Unless both are known and differ, source and image are treated as
            having one unit.

    Raises:
        TypeError: if a member is not a tensor of the right type.
        ValueError: if shapes, devices or planes do not match, an affine is singular or a number is not finite.

    Example:
        >>> image, ddf = torch.rand(1, 8, 8), torch.zeros(2, 8, 8)
        >>> ddf[0] = 1.0
        >>> trace = Trace.build(image, image, ddf, affine=torch.eye(4, dtype=torch.float64))
        >>> trace.locate(torch.tensor([[3.0, 4.0, 0.0]])).round()  # mm: where a point of the source goes
        tensor([[2., 4., 0.]], dtype=torch.float64)
    """

    source: Tensor
    image: Tensor
    ddf: Tensor
    inverse_ddf: Tensor
    warped: Tensor
    appearance: Tensor | None
    mask: Tensor | None
    affine: Tensor
    source_affine: Tensor
    velocity: Tensor | None = None
    interval: Tensor | None = None
    unexplained: Tensor | None = None
    source_contrasts: tuple[Contrast, ...] | None = None
    contrasts: tuple[Contrast, ...] | None = None

    def __post_init__(self) -> None:
        for name in TENSORS:
            value = getattr(self, name)
            if value is not None or name not in OPTIONAL:
                dtype = torch.float64 if name.endswith("affine") else torch.float32
                object.__setattr__(self, name, checked_tensor(name, value, dtype))
        check_unbatched("source", self.source)
        check_unbatched("image", self.image, spatial_dims=self.spatial_dims)
        self._check_members()
        check_contrasts("source_contrasts", self.source_contrasts, self.source)
        check_contrasts("contrasts", self.contrasts, self.image)
        for name in ("affine", "source_affine"):
            object.__setattr__(self, name, check_affine(name, getattr(self, name)))
        if self.spatial_dims == 2:
            check_one_plane(self.affine, self.source_affine, self.image.shape[1:])

    def _check_members(self) -> None:
        spatial_dims, grid, source_grid = self.spatial_dims, self.image.shape[1:], self.source.shape[1:]
        expected: dict[str, Sequence[int]] = {
            "ddf": (spatial_dims, *grid),
            "inverse_ddf": (spatial_dims, *source_grid),
            "warped": (self.source.shape[0], *grid),
            "appearance": tuple(self.image.shape),
            "mask": (1, *grid),
            "velocity": (spatial_dims, *grid),
            "interval": tuple(self.image.shape),
            "unexplained": (1, *grid),
        }
        for name, shape in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != tuple(shape):
                raise ValueError(
                    f"{name}: expected shape {tuple(shape)} (source {tuple(self.source.shape)}, image"
                    f" {tuple(self.image.shape)}), received {tuple(value.shape)}; a Trace is unbatched"
                )
        for name in TENSORS:
            value = getattr(self, name)
            if value is None:
                continue
            check_finite(name, value)
            if value.device != self.source.device:
                raise ValueError(
                    f"{name}: expected the source's device {self.source.device}, received {value.device};"
                    " move all of it to one device"
                )
        if self.interval is not None and not float(self.interval.min()) >= 0:
            raise ValueError(
                f"interval: expected half widths of at least 0, received {float(self.interval.min()):g}; pass half of"
                " upper minus lower end"
            )
        for name, mask in (("mask", self.mask), ("unexplained", self.unexplained)):
            if mask is not None and not (float(mask.min()) >= 0 and float(mask.max()) <= 1):
                raise ValueError(
                    f"{name}: expected values in [0, 1], received {float(mask.min()):g} to {float(mask.max()):g};"
                    " threshold the labels first"
                )

    @classmethod
    def build(
        cls,
        source: Tensor,
        image: Tensor,
        ddf: Tensor,
        *,
        inverse_ddf: Tensor | None = None,
        mask: Tensor | None = None,
        velocity: Tensor | None = None,
        affine: Tensor | None = None,
        source_affine: Tensor | None = None,
        tissue: Tensor | None = None,
        source_contrasts: Sequence[Contrast] | None = None,
        contrasts: Sequence[Contrast] | None = None,
    ) -> Trace:
        """Trace of a translation: computes warped, the inverse and the appearance.

        Args:
            source: (C, *source_spatial) floating.
            image: (C', *spatial) floating.
            ddf: (spatial_dims, *spatial), in target voxels, pull.
            inverse_ddf: as the attribute; None inverts `ddf` at the source's voxels.
            mask: (1, *spatial), boolean or in [0, 1]. With it, appearance is mask · (image - warped); without
                it, the change of contrast of tissue (see `contrast_change`). Across units it is `expected_image`.
            velocity: (spatial_dims, *spatial) or None.
            affine: (4, 4) of the target grid; None is the identity (1 mm voxels).
            source_affine: (4, 4) of the source grid; None is `affine`.
            tissue: (1, *spatial), non-zero where the change of contrast is estimated, such as a brain mask; None finds
                it (see `find_tissue`). It is not used with a mask.
            source_contrasts, contrasts: as the attributes, one per channel.

        Returns:
            The trace: detached, float32 (affines float64), on the source's device.

        Raises:
            TypeError: if an argument is not a tensor of the right type.
            ValueError: as the class says, or if the source and target grids differ in shape and no affine relates them.

        Warns:
            UserWarning: if the inverse is off by more than 0.1 voxel somewhere (a field that folds has no inverse).
        """
        source, image = (checked_tensor(name, value) for name, value in (("source", source), ("image", image)))
        spatial_dims = check_unbatched("source", source)
        check_unbatched("image", image, spatial_dims=spatial_dims)
        ddf = checked_tensor("ddf", ddf)
        if ddf.shape != (spatial_dims, *image.shape[1:]):
            raise ValueError(
                f"ddf: expected shape {(spatial_dims, *image.shape[1:])} (unbatched, the image's grid), received"
                f" {tuple(ddf.shape)}"
            )
        if affine is None and source_affine is None and source.shape[1:] != image.shape[1:]:
            raise ValueError(
                f"affine: expected the affines of two grids {tuple(source.shape[1:])} and {tuple(image.shape[1:])},"
                " received none; pass affine and source_affine"
            )
        affine = affine_or_identity("affine", affine, source.device)
        source_affine = (
            affine if source_affine is None else affine_or_identity("source_affine", source_affine, source.device)
        )
        if mask is not None:
            carried = mask
            mask = checked_tensor("mask", mask)
            if mask.shape != (1, *image.shape[1:]):
                raise ValueError(
                    f"mask: expected shape {(1, *image.shape[1:])} (one channel, the image's grid), received"
                    f" {tuple(mask.shape)}"
                )
            check_own_grid("mask", carried, affine)
        for name, value in (("source", source), ("image", image), ("ddf", ddf)):
            check_finite(name, value)
        to_source: Tensor | None = torch.linalg.solve(source_affine, affine)
        if same_grid(source, image, affine, source_affine):
            to_source = None
        warped = pull(source, ddf, to_source)
        before = None if source_contrasts is None else tuple(source_contrasts)
        after = None if contrasts is None else tuple(contrasts)
        if inverse_ddf is None:
            inverse_ddf = inverse_on_source(ddf, source.shape[1:], to_source)
        return cls(
            source=source,
            image=image,
            ddf=ddf,
            inverse_ddf=inverse_ddf,
            warped=warped,
            appearance=_appearance(warped, image, mask, tissue, share_unit(before, after)),
            mask=mask,
            affine=affine,
            source_affine=source_affine,
            velocity=velocity,
            source_contrasts=before,
            contrasts=after,
        )

    @property
    def same_unit(self) -> bool:
        """Whether differences of image and source are meaningful: their units agree, or are not both known."""
        return share_unit(self.source_contrasts, self.contrasts)

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return self.source.ndim - 1

    @property
    def same_grid(self) -> bool:
        """Whether source and target share one grid."""
        return same_grid(self.source, self.image, self.affine, self.source_affine)

    @property
    def covered(self) -> Tensor:
        """Boolean (1, *spatial): target voxels whose pulled point lies inside the source grid."""
        return inside_grid(self._source_coordinates(), self.source.shape[1:])[0]

    def to(self, device: torch.device | str) -> Trace:
        """The same trace on another device."""
        members = {name: getattr(self, name) for name in TENSORS}
        moved: Mapping[str, Any] = {name: value.to(device) for name, value in members.items() if value is not None}
        return replace(self, **moved)

    def locate(self, points_mm: Any) -> Tensor:
        """Where points of the source are in the target.

        Args:
            points_mm: (N, 3), RAS mm, in 2D too.

        Returns:
            (N, 3) float64, RAS mm: x + source_affine · inverse_ddf read linearly at x. In 2D the out-of-plane
            coordinate is kept. Points off the source grid move like the nearest border point; `in_source` reports
            which.

        Raises:
            TypeError: if the points are not numbers.
            ValueError: if their shape is not (N, 3) or a number is not finite.
        """
        return self._move(points_mm, self.inverse_ddf, self.source_affine)

    def origin(self, points_mm: Any) -> Tensor:
        """Where points of the target came from in the source: the reverse of `locate`, through `ddf`."""
        return self._move(points_mm, self.ddf, self.affine)

    def in_source(self, points_mm: Any) -> Tensor:
        """Boolean (N,): which points (N, 3), RAS mm, are on the source grid (a single slice is one voxel thick)."""
        return self._inside(points_mm, self.source.shape[1:], self.source_affine)

    def in_target(self, points_mm: Any) -> Tensor:
        """Boolean (N,): which points (N, 3), RAS mm, are on the target grid (a single slice is one voxel thick)."""
        return self._inside(points_mm, self.image.shape[1:], self.affine)

    def transfer(self, labels: Tensor) -> Tensor:
        """Warp labels from the source grid to the target grid.

        Args:
            labels: (C, *source_spatial), integer or boolean (read at the nearest voxel) or soft, floating
                (linearly).

        Returns:
            (C, *spatial) of the same type; half precision is returned in float32. Outside the source, values are those
            of its border.

        Raises:
            TypeError: if it is not a tensor.
            ValueError: if its grid is not the source's, by its shape or, for a `MetaTensor`, its affine.
        """
        if not isinstance(labels, Tensor):
            raise TypeError(f"labels: expected a torch tensor, received {type(labels).__name__}; convert it first")
        if labels.ndim != self.source.ndim or labels.shape[1:] != self.source.shape[1:]:
            raise ValueError(
                f"labels: expected (channel, *{tuple(self.source.shape[1:])}), the source's grid, received"
                f" {tuple(labels.shape)}"
            )
        check_own_grid("labels", labels, self.source_affine)
        mode = "bilinear" if labels.is_floating_point() else "nearest"
        return sample(as_tensor(labels)[None], self._source_coordinates(), mode=mode)[0]

    def ledger(self, target: Tensor | None = None, region: Tensor | None = None) -> TraceLedger:
        """Split the change into deformation, appearance and what neither explains.

        Args:
            target: the true image, of the image's shape, for the error column.
            region: boolean (1, *spatial) to which the summary is limited; None is everywhere.

        Returns:
            The columns and their summary; image = warped + appearance + residual to float32 rounding, and across units
            image = appearance + residual.

        Raises:
            TypeError: if target or region is not a tensor.
            ValueError: if a shape is wrong or the region is empty.
        """
        for name, value in (("target", target), ("region", region)):
            check_own_grid(name, value, self.affine)
        return make_ledger(self, target, region)

    @property
    def chain(self) -> TransformChain:
        """Both fields as a chain, to which affines and other fields can be added without interpolating twice."""
        return chain_of(self)

    def then(self, second: Trace) -> Trace:
        """The trace from this one's source to the image of a second, whose source is this one's image.

        Each field is read at the points to which the other maps, `warped` is interpolated once, and the change of
        intensity is decomposed again. Raises ValueError if the two do not overlap, or differ in dimension.
        """
        return Trace.build(**composed(self, second))

    def inverse(self) -> Trace:
        """The trace from the image back to the source."""
        return Trace.build(**inverted(self))

    def __repr__(self) -> str:
        def shape(value: Tensor | None) -> str:
            return "None" if value is None else str(tuple(value.shape))

        return (
            f"Trace(source={shape(self.source)}, image={shape(self.image)}, mask={shape(self.mask)},"
            f" largest displacement {float(torch.linalg.vector_norm(self.ddf, dim=0).max()):.2f} voxels,"
            f" {self.source.device})"
        )

    def _source_coordinates(self) -> Tensor:
        to_source = None if self.same_grid else torch.linalg.solve(self.source_affine, self.affine)
        return pulled_points(self.ddf, to_source)

    def _move(self, points_mm: Any, displacement: Tensor, affine: Tensor) -> Tensor:
        points = self._points(points_mm)
        voxels = to_voxels(points, affine)[:, : self.spatial_dims]
        moved = sample(displacement[None], voxels.to(displacement.dtype).T[None])[0].T.to(points.dtype)
        return points + moved @ affine[:3, : self.spatial_dims].T

    def _inside(self, points_mm: Any, shape: Sequence[int], affine: Tensor) -> Tensor:
        voxels = to_voxels(self._points(points_mm), affine)
        inside = inside_grid(voxels[:, : self.spatial_dims].T[None], shape)[0, 0]
        return inside & (voxels[:, 2].abs() <= 0.5) if self.spatial_dims == 2 else inside

    def _points(self, points_mm: Any) -> Tensor:
        try:
            points = torch.as_tensor(points_mm, dtype=torch.float64, device=self.source.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"points_mm: expected numbers (N, 3), received {type(points_mm).__name__}") from error
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points_mm: expected shape (N, 3), RAS mm, also in 2D, received {tuple(points.shape)}")
        check_finite("points_mm", points)
        return points


TENSORS = tuple(field.name for field in fields(Trace) if not field.name.endswith("contrasts"))
"""Names of the members that are tensors or None."""
OPTIONAL = ("appearance", "mask", "velocity", "interval", "unexplained")
"""Names of the members that may be None."""


def _appearance(
    warped: Tensor, image: Tensor, mask: Tensor | None, tissue: Tensor | None, one_unit: bool
) -> Tensor | None:
    if not one_unit:
        return expected_image(warped, image, tissue=tissue)
    if warped.shape != image.shape:
        return None
    if mask is None:
        return contrast_change(warped, image, tissue=tissue)
    if not bool(mask.any()):
        return warped.new_zeros(()).expand(warped.shape)
    return (image - warped).mul_(mask)
