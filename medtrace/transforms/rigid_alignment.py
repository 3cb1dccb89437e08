"""Rigid alignment of a moving image with a fixed one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor

from ..checks import check_choice, check_number, check_positive
from .geometry import affine_of
from .itk_frame import INTERPOLATORS, LPS, frame_of, resample, to_itk, to_matrix, to_transform
from .masks import as_mask
from .naming import as_image, as_item, detached, named, one_per_key
from .rigid_registration import Search, match_rigidly, starting_points

_INITIAL = ("auto", "identity", "geometry", "moments")
_SMALLEST = 4  # voxels along an axis, below which there is nothing to interpolate between


class RigidTransform(NamedTuple):
    """A rigid transform and how it was estimated.

    Attributes:
        matrix: (4, 4) float64, takes RAS mm points of the fixed image to the same anatomy's points in the moving one.
        mutual_information: mutual information of the two images at the finest level, in nats.
        iterations: steps at the finest level.
        stop: why the search stopped, in SimpleITK's words.
    """

    matrix: Tensor
    mutual_information: float
    iterations: int
    stop: str

    def to_itk(self) -> Any:
        """The transform as a SimpleITK Euler3DTransform (LPS mm, fixed to moving), as expected by `sitk.Resample`."""
        return to_transform(self.matrix.numpy(), LPS, 3)


class RigidAlignment(InvertibleTransform):
    """Align an image rigidly with a fixed one by mutual information, for any two contrasts.

    Multi-resolution Mattes mutual information (Mattes et al. 2003) and regular-step gradient descent of SimpleITK.
    Images of volumes turn in space; slices (C, H, W) turn and shift in their plane, which must be parallel to the
    fixed one. Single-threaded with seeded samples: the same images give the same bytes on one machine.

    With `resample=True` the image is resampled on the fixed grid; `inverse` resamples it on its own grid, which does
    not recover interpolated or excluded values. With `resample=False` no value changes: only the affine does, and
    `inverse` restores it exactly (volumes and slices).

    Args:
        initial: where the search starts: "identity" (the affines), "geometry" (centers of the grids), "moments"
            (centers of the content), or "auto", which follows all three at the coarsest level and keeps the best.
        resample: whether to resample the image on the fixed grid, or only to change its affine.
        mode: "bilinear", "nearest" or "bspline".
        fill: the value outside the moving image; None for its minimum.
        channel: the channel of both images that is registered; all channels of the moving image move.
        levels: shrink factors, coarse to fine, in units of the smaller voxel edge.
        bins: bins of the joint histogram.
        samples: maximum number of voxels that the metric reads at a level.
        iterations: maximum number of steps at a level.
        seed: seed of the samples, at least 1.

    Raises:
        TypeError, ValueError: if a setting has the wrong type or is out of range.

    Example:
        >>> axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
        >>> fixed = torch.exp(-((axes[0] / 0.3) ** 2) - (axes[1] / 0.5) ** 2)[None]
        >>> aligned = RigidAlignment(levels=(2, 1))(fixed.roll(3, 1), fixed)
        >>> bool((aligned - fixed).abs().mean() < 0.02), bool((fixed.roll(3, 1) - fixed).abs().mean() > 0.05)
        (True, True)
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        initial: Literal["auto", "identity", "geometry", "moments"] = "auto",
        resample: bool = True,
        mode: str = "bilinear",
        fill: float | None = None,
        channel: int = 0,
        levels: Sequence[int] = (8, 4, 2, 1),
        bins: int = 32,
        samples: int = 60_000,
        iterations: int = 200,
        seed: int = 1,
    ) -> None:
        super().__init__()
        check_choice("initial", initial, _INITIAL)
        check_choice("mode", mode, tuple(INTERPOLATORS))
        settings = {"bins": bins, "samples": samples, "iterations": iterations, "seed": seed}
        for name, value in {**settings, "channel": channel}.items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: expected a whole number, received {value!r}")
        for name, value in settings.items():
            check_positive(name, value)
        if fill is not None:
            check_number("fill", fill)
        if bins < 5:
            raise ValueError(f"bins: expected at least 5, received {bins}; cubic windows need them")
        if isinstance(levels, str) or not isinstance(levels, Sequence):
            raise TypeError(f"levels: expected whole numbers, coarse to fine, received {levels!r}")
        if not levels or any(not isinstance(level, int) or level < 1 for level in levels):
            raise ValueError(f"levels: expected whole numbers from 1, coarse to fine, received {levels!r}")
        if list(levels) != sorted(levels, reverse=True):
            raise ValueError(f"levels: expected the coarsest first, received {levels!r}; sort them")
        self.initial, self.resample, self.mode, self.fill, self.channel = (
            initial,
            resample,
            mode,
            fill,
            channel,
        )
        self.search = Search(tuple(levels), bins, samples, iterations, seed)

    def __call__(
        self,
        moving: Any,
        fixed: Any,
        moving_mask: Any = None,
        fixed_mask: Any = None,
    ) -> Tensor:
        """The moving image, aligned.

        Args:
            moving: (C, H, W) or (C, H, W, D), finite, any range; the affine of a MetaTensor, else the identity.
            fixed: of the same dimension, on any grid.
            moving_mask: (1, *spatial) on the moving grid, above 0 where it may be read.
            fixed_mask: (1, *spatial) on the fixed grid, above 0 where the images are compared.

        Returns:
            The moving image on the fixed grid, or (`resample=False`) with a changed affine. The metadata include the
            transform's 4x4 matrix, fixed to moving in RAS mm, as `rigid_transform`.

        Raises:
            ValueError: if an image is constant or not finite, a mask is empty, the channel is missing or
                dimensions differ; the message names the file.
            RuntimeError: if the images do not overlap.
        """
        motion = self.estimate(moving, fixed, moving_mask, fixed_mask)
        return self.apply(moving, fixed, motion)

    def estimate(
        self,
        moving: Any,
        fixed: Any,
        moving_mask: Any = None,
        fixed_mask: Any = None,
        names: tuple[str, str] = ("moving", "fixed"),
    ) -> RigidTransform:
        """The motion alone; arguments and errors as in `__call__`, `names` being how messages call the images."""
        images = [as_image(name, image) for name, image in zip(names, (moving, fixed))]
        labels = [named(name, image) for name, image in zip(names, (moving, fixed))]
        if images[0].ndim != images[1].ndim:
            raise ValueError(
                f"{labels[0]}: expected {images[1].ndim - 1} spatial dimensions as {labels[1]}, received"
                f" {images[0].ndim - 1}; register volumes with volumes and slices with slices"
            )
        affines = [affine_of(name, image) for name, image in zip(names, (moving, fixed))]
        frame = frame_of(affines[1], images[1].ndim - 1)
        sides = [
            self._side(label, image, mask, affine, frame)
            for label, image, mask, affine in zip(labels, images, (moving_mask, fixed_mask), affines)
        ]
        (moving_image, moving_region), (fixed_image, fixed_region) = sides
        starts = starting_points(fixed_image, moving_image, fixed_region, moving_region, self.initial)
        try:
            match = match_rigidly(fixed_image, moving_image, fixed_region, moving_region, starts, self.search)
        except RuntimeError as error:
            raise RuntimeError(
                f"{labels[0]}: could not be aligned with {labels[1]}: {error}; check that both show the same body part,"
                " or start by initial='moments'"
            ) from error
        offset = float((frame @ affines[0])[2, 3])
        matrix = torch.from_numpy(to_matrix(match.transform, frame, offset))
        return RigidTransform(matrix, match.mutual_information, match.iterations, match.stop)

    def _side(self, label: str, image: Tensor, mask: Any, affine: Any, frame: Any) -> tuple[Any, Any]:
        """SimpleITK image of the registered channel, and of its mask."""
        if not -image.shape[0] <= self.channel < image.shape[0]:
            raise ValueError(
                f"{label}: expected a channel {self.channel}, received {image.shape[0]} channel(s); choose another"
                " channel"
            )
        if min(image.shape[1:]) < _SMALLEST:
            raise ValueError(
                f"{label}: expected at least {_SMALLEST} voxels along each axis, received {tuple(image.shape[1:])};"
                " pass single slices as (C, H, W)"
            )
        values = detached(image)[self.channel].float()
        region = None if mask is None else as_mask(label, mask, image, one_channel=True)[0]
        seen = values if region is None else values[region]
        if not bool(seen.max() > seen.min()):
            raise ValueError(
                f"{label}: expected intensities that differ{'' if mask is None else ' inside the mask'}, received a"
                f" constant {float(seen.max()):g}; a constant image cannot be aligned"
            )
        image_itk = to_itk(values, affine, frame, label)
        return image_itk, None if region is None else to_itk(region.to(torch.uint8), affine, frame, label)

    def apply(
        self, image: Any, fixed: Any, motion: RigidTransform, mode: str | None = None, name: str = "moving"
    ) -> Tensor:
        """Move an image that lies with the moving one (itself, its labels, another contrast).

        Args:
            image: (C, *spatial), in the moving image's space, on any grid.
            fixed: gives the grid to read it on.
            motion: from `estimate`.
            mode: None for the transform's own; "nearest" keeps the image's dtype.
            name: the image's name in messages.

        Returns:
            The image as `__call__` returns it.
        """
        mode = self.mode if mode is None else mode
        check_choice("mode", mode, tuple(INTERPOLATORS))
        values = as_image(name, image)
        own, onto = affine_of(name, values), affine_of("fixed", fixed)
        matrix = motion.matrix.numpy()
        if self.resample:
            fill = float(detached(values).min()) if self.fill is None else float(self.fill)
            frame, shape = frame_of(onto, fixed.ndim - 1), tuple(fixed.shape[1:])
            moved = resample(detached(values), own, shape, onto, matrix, frame, mode, fill, named(name, image))
            affine = onto
        else:
            fill, moved, affine = 0.0, detached(values).clone(), np.linalg.inv(matrix) @ own
        if mode == "nearest" or not self.resample:
            moved = moved.to(image.dtype if isinstance(image, Tensor) else torch.as_tensor(image).dtype)
        out: Tensor = convert_to_dst_type(moved, values, dtype=moved.dtype)[0]
        if isinstance(out, MetaTensor):
            out.affine = torch.from_numpy(affine)
            out.meta["rigid_transform"] = motion.matrix.clone()
        info = {
            "matrix": motion.matrix.tolist(),
            "affine": own.tolist(),
            "shape": list(values.shape[1:]),
            "mode": mode,
            "fill": fill,
            "resample": self.resample,
        }
        self.push_transform(out, extra_info=info)
        return out

    def inverse(self, data: Tensor) -> Tensor:
        """Invert the alignment of an image: resample it on its former grid, or restore its affine."""
        info = self.pop_transform(data)["extra_info"]
        affine = np.asarray(info["affine"])
        if info["resample"]:
            onto = affine_of("data", data)
            back = np.linalg.inv(np.asarray(info["matrix"]))
            frame = frame_of(onto, data.ndim - 1)
            values = detached(data)
            working = values if values.dtype in (torch.float32, torch.float64) else values.float()
            moved = resample(working, onto, info["shape"], affine, back, frame, info["mode"], info["fill"], "data")
            moved = moved.to(values.dtype)
        else:
            moved = detached(data).clone()
        out: Tensor = convert_to_dst_type(moved, data, dtype=moved.dtype)[0]
        if isinstance(out, MetaTensor):
            out.affine = torch.from_numpy(affine)
            out.meta.pop("rigid_transform", None)
        return out


class RigidAlignmentd(MapTransform, InvertibleTransform):
    """Dictionary form of `RigidAlignment`: the moving key is registered with the fixed one, and all keys move.

    Args:
        keys: the keys that move: the moving image and everything aligned with it (labels, further contrasts).
        fixed_key: the image to align with; it does not change.
        moving_key: the image that is registered; None for the first of `keys`.
        moving_mask_key: mask on the moving grid; None for none. Also list it in `keys` if it should move.
        fixed_mask_key: mask on the fixed grid; None for none.
        mode: how each key is read on the fixed grid, one for all or one per key: "nearest" for labels.
        motion_key: where to put the `RigidTransform.matrix` in the item; None for nowhere but the metadata.
        allow_missing_keys: skip keys that are absent; without the moving key, all others must be absent too.
        **settings: those of `RigidAlignment`: initial, resample, fill, channel, levels, bins, samples, iterations,
            seed.

    Raises:
        ValueError: if the moving key is not one of the keys.

    Example:
        >>> axes = torch.meshgrid(*[torch.linspace(-1, 1, 32)] * 2, indexing="ij")
        >>> fixed = torch.exp(-((axes[0] / 0.3) ** 2) - (axes[1] / 0.5) ** 2)[None]
        >>> transform = RigidAlignmentd(["after"], fixed_key="before", levels=(2, 1))
        >>> item = transform({"before": fixed, "after": fixed.roll(3, 1)})
        >>> bool((item["after"] - fixed).abs().mean() < 0.02)
        True
    """

    backend = RigidAlignment.backend

    def __init__(
        self,
        keys: KeysCollection,
        fixed_key: str,
        moving_key: str | None = None,
        moving_mask_key: str | None = None,
        fixed_mask_key: str | None = None,
        mode: str | Sequence[str] = "bilinear",
        motion_key: str | None = None,
        allow_missing_keys: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.aligner = RigidAlignment(**settings)
        self.moving_key = self.keys[0] if moving_key is None else moving_key
        if self.moving_key not in self.keys:
            raise ValueError(f"moving_key: expected one of the keys {self.keys}, received {moving_key!r}; add it")
        if fixed_key in self.keys:
            raise ValueError(f"fixed_key: expected a key that does not move, received {fixed_key!r} of {self.keys}")
        self.modes = dict(zip(self.keys, one_per_key("mode", mode, self.keys)))
        for one in self.modes.values():
            check_choice("mode", one, tuple(INTERPOLATORS))
        self.fixed_key, self.motion_key = fixed_key, motion_key
        self.mask_keys = (moving_mask_key, fixed_mask_key)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Align the item's keys; see `RigidAlignment.__call__`."""
        item = as_item(data)
        present = list(self.key_iterator(item))
        if not present:
            return item
        for key in (self.moving_key, self.fixed_key, *self.mask_keys):
            if key is not None and key not in item:
                raise KeyError(f"{key!r}: expected it in the item to align {present}, received {list(item)}; add it")
        moving_mask, fixed_mask = (None if key is None else item[key] for key in self.mask_keys)
        fixed = item[self.fixed_key]
        names = (str(self.moving_key), str(self.fixed_key))
        motion = self.aligner.estimate(item[self.moving_key], fixed, moving_mask, fixed_mask, names)
        for key in present:
            item[key] = self.aligner.apply(item[key], fixed, motion, self.modes[key], str(key))
        if self.motion_key is not None:
            item[self.motion_key] = motion.matrix
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Take the item's keys back to their own grids."""
        item = as_item(data)
        for key in self.key_iterator(item):
            item[key] = self.aligner.inverse(item[key])
        if self.motion_key is not None:
            item.pop(self.motion_key, None)
        return item


RigidAlignmentD = RigidAlignmentDict = RigidAlignmentd
