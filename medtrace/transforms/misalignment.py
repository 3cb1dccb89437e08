"""Random motion of an image, as in a second scan of a patient who moved, with the exact displacement."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from monai.config import KeysCollection
from monai.data.meta_obj import get_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.enums import TransformBackends
from monai.utils.misc import ensure_tuple
from monai.utils.type_conversion import convert_to_tensor
from torch import Tensor

from ..checks import check_choice
from ..fields import identity_grid, warp
from .geometry import affine_of
from .misalignment_draw import MISALIGNMENT_LEVELS, Misalignment, MisalignmentDraw
from .naming import as_item, check_probability, detached, named, one_per_key

MODES = ("bilinear", "nearest")


class RandMisalign(RandomizableTransform, InvertibleTransform):
    """Rotate, shift, scale and optionally deform an image at random, with one interpolation.

    Every number is drawn uniformly between minus and plus its bound (`Misalignment`). Rotation, scaling and smooth
    part are joined into one displacement, which reads the image once. The grid and the affine stay: the anatomy
    moves on it. Rotations are rigid in mm where the image is a MetaTensor, else voxels are taken as isotropic.
    A displacement of exactly zero returns the values untouched.

    Replayable: `drawn` holds the numbers of the last call, `apply(image, drawn)` repeats them bit for bit, on any
    image of the same dimension, and `displacement(image, drawn)` is the field. Invertible if it is a MetaTensor that
    MONAI traces: `inverse` reads the image through the exact inverse map, which does not recover values that were
    interpolated or left the grid.

    Args:
        level: a name of `MISALIGNMENT_LEVELS`: 0 to 5, "table1" or "nonrigid".
        misalignment: custom bounds, instead of a level.
        prob: probability of any motion; otherwise `drawn` is the identity.
        mode: "bilinear" (trilinear in 3D), or "nearest" for labels, which keep their type.
        fill: values outside the image: "border", the nearest voxel, or a number, for example -1 where that
            is air (in bilinear mode fading over one voxel).

    Raises:
        TypeError: if a setting has the wrong type.
        ValueError: if a choice is unknown, or not exactly one of level and misalignment is given.

    Example:
        >>> transform = RandMisalign(level=3).set_random_state(0)
        >>> image = torch.rand(1, 32, 32)
        >>> moved = transform(image)
        >>> moved.shape, bool((moved != image).any())
        (torch.Size([1, 32, 32]), True)
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        level: str | int | None = None,
        misalignment: Misalignment | None = None,
        prob: float = 1.0,
        mode: Literal["bilinear", "nearest"] = "bilinear",
        fill: float | Literal["border"] = "border",
    ) -> None:
        check_probability(prob)
        RandomizableTransform.__init__(self, prob)
        self.misalignment = _bounds(level, misalignment)
        _check_reading(mode, fill)
        self.mode, self.fill = mode, fill
        self.drawn: MisalignmentDraw | None = None

    def randomize(self, data: Any = None) -> None:
        """Draw `drawn` for an image (C, H, W) or (C, H, W, D)."""
        super().randomize(None)
        self.drawn = _drawn(self, self.misalignment, _image("data", data).ndim - 1)

    def __call__(self, img: Any, randomize: bool = True) -> Tensor:
        """The image, moved.

        Args:
            img: (C, H, W) or (C, H, W, D); floating, or whole or boolean labels with mode="nearest".
            randomize: whether to sample again; False repeats `drawn`.

        Returns:
            A tensor of the image's shape; a MetaTensor with unchanged affine for a MetaTensor.

        Raises:
            TypeError: if it is not an array, or labels are read in bilinear mode.
            ValueError: if the shape is wrong, the fill is not a value of the labels' type, or nothing was sampled yet.
        """
        _image("img", img)
        if randomize:
            self.randomize(img)
        if self.drawn is None:
            raise ValueError("randomize: expected True at the first call, received False; nothing was drawn to repeat")
        return self.apply(img, self.drawn)

    def apply(self, img: Any, draw: MisalignmentDraw) -> Tensor:
        """Move an image by a given draw, whatever `prob`; Args, Returns and Raises as for a call."""
        moved = _moved("img", img, draw, self.mode, self.fill)
        self.push_transform(moved, extra_info=_traced(draw, self.mode, self.fill))
        return moved

    def inverse(self, data: Tensor) -> Tensor:
        """Move an image back by the draw that it was moved by."""
        return _moved_back("data", data, self.pop_transform(data)["extra_info"])

    def displacement(self, img: Any, draw: MisalignmentDraw) -> Tensor:
        """The displacement of a draw on an image's grid: (spatial_dims, *spatial) float32, pull, in voxels."""
        return _displacement("img", img, draw)


class RandMisalignd(MapTransform, RandomizableTransform, InvertibleTransform):
    """Dictionary form of `RandMisalign`.

    `drawn` maps every key of the last item to its draw; `apply(item, drawn)` repeats them. `inverse`, such as
    MONAI's `Invertd` calls, moves the keys back and drops the displacements.

    Args:
        keys: the images.
        level: as in `RandMisalign`, as are misalignment and prob.
        misalignment: custom bounds, instead of a level.
        prob: probability of any motion; unless `together`, it is decided for each key.
        mode: one for all keys or one per key: "nearest" for labels.
        fill: one for all keys or one per key.
        together: one sample for all keys, which must have one dimension, or a separate one for every key. Percentages
            are of each key's own grid.
        ddf_key: where to write the displacement, a tensor (spatial_dims, *spatial) in voxels: together, one name,
            and all keys must have the same grid; apart, one name per key. None writes none.
        allow_missing_keys: skip keys that are absent.

    Example:
        >>> transform = RandMisalignd(["image", "label"], level=3, mode=["bilinear", "nearest"], ddf_key="ddf")
        >>> transform = transform.set_random_state(0)
        >>> item = transform({"image": torch.rand(1, 16, 16), "label": (torch.rand(1, 16, 16) > 0.5).float()})
        >>> item["ddf"].shape, item["label"].unique()
        (torch.Size([2, 16, 16]), tensor([0., 1.]))
    """

    backend = RandMisalign.backend

    def __init__(
        self,
        keys: KeysCollection,
        level: str | int | None = None,
        misalignment: Misalignment | None = None,
        prob: float = 1.0,
        mode: str | Sequence[str] = "bilinear",
        fill: float | str | Sequence[float | str] = "border",
        together: bool = True,
        ddf_key: str | Sequence[str] | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        check_probability(prob)
        RandomizableTransform.__init__(self, prob)
        self.misalignment = _bounds(level, misalignment)
        self.mode = one_per_key("mode", mode, self.keys)
        self.fill = one_per_key("fill", fill, self.keys)
        for one_mode, one_fill in zip(self.mode, self.fill):
            _check_reading(one_mode, one_fill)
        self.together = together
        self.ddf_keys: tuple[str, ...] = () if ddf_key is None else ensure_tuple(ddf_key)
        expected = 1 if together else len(self.keys)
        if ddf_key is not None and len(self.ddf_keys) != expected:
            raise ValueError(
                f"ddf_key: expected {expected} name(s) with together={together} for the keys {self.keys}, received"
                f" {ddf_key!r}"
            )
        self.drawn: dict[Hashable, MisalignmentDraw] = {}

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draw `drawn` for an item."""
        self.drawn = {}
        for key in self.key_iterator(as_item(data)):
            if self.together and self.drawn:
                self.drawn[key] = next(iter(self.drawn.values()))
                continue
            RandomizableTransform.randomize(self, None)
            self.drawn[key] = _drawn(self, self.misalignment, _image(str(key), data[key]).ndim - 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The item with its images moved, and the displacement if `ddf_key` is given.

        Raises:
            TypeError, ValueError: as for `RandMisalign.__call__`, or if one displacement is requested and grids differ.
        """
        self.randomize(data)
        return self.apply(data, self.drawn)

    def apply(self, data: Mapping[Hashable, Any], drawn: Mapping[Hashable, MisalignmentDraw]) -> dict[Hashable, Any]:
        """Move the images of an item by given draws, one for every key that is present."""
        item = as_item(data)
        present = list(self.key_iterator(item, self.mode, self.fill))
        lacking = [key for key, *_ in present if key not in drawn]
        if lacking:
            raise ValueError(f"drawn: expected a draw for {lacking}, received those of {list(drawn)}; add them")
        fields = {key: _displacement(str(key), data[key], drawn[key]) for key, *_ in present} if self.ddf_keys else {}
        if self.together:
            _check_one_field(fields)
        for key, mode, fill in present:
            item[key] = _moved(str(key), data[key], drawn[key], mode, fill)
            self.push_transform(item[key], extra_info=_traced(drawn[key], mode, fill))
        for key, name in self._field_names(fields).items():
            item[name] = fields[key]
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move the images of an item back by the draws that they were moved by; see `RandMisalign.inverse`."""
        item = as_item(data)
        for key in self.key_iterator(item):
            item[key] = _moved_back(str(key), item[key], self.pop_transform(item[key])["extra_info"])
        for name in self.ddf_keys:
            item.pop(name, None)
        return item

    def _field_names(self, present: Mapping[Hashable, Tensor]) -> dict[Hashable, str]:
        """Where each displacement goes: together the first one, apart each under its own key's name."""
        if self.together:
            return dict(zip(list(present)[:1], self.ddf_keys))
        return {key: name for key, name in zip(self.keys, self.ddf_keys) if key in present}


def _bounds(level: str | int | None, misalignment: Misalignment | None) -> Misalignment:
    if (level is None) == (misalignment is None):
        raise ValueError(
            f"level, misalignment: expected one of them, received {level!r} and {misalignment!r}; levels are"
            f" {', '.join(MISALIGNMENT_LEVELS)}"
        )
    if misalignment is not None:
        if not isinstance(misalignment, Misalignment):
            raise TypeError(f"misalignment: expected a Misalignment, received {misalignment!r}; pass names as level")
        return misalignment
    check_choice("level", str(level), MISALIGNMENT_LEVELS)
    return MISALIGNMENT_LEVELS[str(level)]


def _drawn(transform: RandomizableTransform, bounds: Misalignment, spatial_dims: int) -> MisalignmentDraw:
    """A sample from the transform's own state, or the identity if skipped by `prob`."""
    if not transform._do_transform:
        return MisalignmentDraw.identity(spatial_dims)
    return bounds.draw(transform.R, spatial_dims)


def _displacement(name: str, img: Any, draw: MisalignmentDraw) -> Tensor:
    return draw.displacement(*_grid(name, _image(name, img)))


def _grid(name: str, image: Tensor) -> tuple[tuple[int, ...], list[float] | None]:
    """Shape and, of a MetaTensor, voxel size."""
    shape = tuple(image.shape[1:])
    if not isinstance(image, MetaTensor):
        return shape, None
    axes = torch.from_numpy(affine_of(name, image))[:3, : len(shape)]
    return shape, torch.linalg.vector_norm(axes, dim=0).tolist()


def _traced(draw: MisalignmentDraw, mode: str, fill: float | str) -> dict[str, Any]:
    """MONAI's record of a draw, as plain values."""
    control = None if draw.control is None else [*map(_listed, draw.control)]
    return {**draw._asdict(), "control": control, "mode": mode, "fill": fill}


def _listed(values: Any) -> list[Any]:
    result: list[Any] = torch.as_tensor(values).tolist()
    return result


def _moved_back(name: str, img: Any, traced: Mapping[str, Any]) -> Tensor:
    """An image read through the inverse of the draw that moved it."""
    image = _image(name, img)
    shape, spacing = _grid(name, image)
    control = traced["control"]
    draw = MisalignmentDraw(
        tuple(traced["angles_degrees"]),
        tuple(traced["translation_percent"]),
        traced["scale"],
        None if control is None else torch.tensor(control, dtype=torch.float64).numpy(),
    )
    places = identity_grid(shape, dtype=torch.float64)
    ddf = (draw.push(places, shape, spacing) - places).float()
    return _pulled(name, image, ddf, traced["mode"], traced["fill"])


def _moved(name: str, img: Any, draw: MisalignmentDraw, mode: str, fill: float | str) -> Tensor:
    image = _image(name, img)
    return _pulled(name, image, _displacement(name, image, draw), mode, fill)


def _pulled(name: str, image: Tensor, ddf: Tensor, mode: str, fill: float | str) -> Tensor:
    values = detached(image)
    if mode == "bilinear" and not values.is_floating_point():
        raise TypeError(
            f'{named(name, image)}: expected floating-point values for mode="bilinear", received {values.dtype}; use'
            ' mode="nearest" for labels or call .float()'
        )
    ddf = ddf.to(values.device)
    moved = _read(named(name, image), values, ddf, mode, fill) if bool(ddf.any()) else values.clone()
    return MetaTensor(moved).copy_meta_from(image) if isinstance(image, MetaTensor) else moved


def _read(label: str, values: Tensor, ddf: Tensor, mode: str, fill: float | str) -> Tensor:
    """Values (C, *spatial) pulled through a displacement; a number fills the uncovered voxels."""
    if fill == "border":
        return warp(values[None], ddf[None], mode, "border")[0]
    number = torch.tensor(float(fill)).to(values.dtype)
    if not values.is_floating_point() and float(number) != float(fill):
        raise ValueError(
            f"fill: expected a value of {values.dtype}, the type of {label}, received {fill!r}; choose a label"
        )
    both = torch.cat([values, torch.ones_like(values[:1])])
    read = warp(both[None], ddf[None], mode, "zeros")[0]
    moved, covered = read[:-1], read[-1:]
    if mode == "nearest":
        return torch.where(covered > 0, moved, number.to(moved))
    return moved + float(fill) * (1 - covered)


def _image(name: str, img: Any) -> Tensor:
    """The image as a tensor (C, H, W) or (C, H, W, D) of its own type."""
    label = named(name, img)
    if not isinstance(img, Tensor) and not hasattr(img, "__array__"):
        raise TypeError(f"{label}: expected a tensor or array, received {type(img).__name__}; load it first")
    image: Tensor = convert_to_tensor(img, track_meta=isinstance(img, MetaTensor) and get_track_meta())
    if image.ndim not in (3, 4) or image.numel() == 0 or image.is_complex():
        raise ValueError(
            f"{label}: expected real numbers (C, H, W) or (C, H, W, D), received {image.dtype} of shape"
            f" {tuple(image.shape)}; add the channel axis, for example by EnsureChannelFirst"
        )
    return image


def _check_reading(mode: Any, fill: Any) -> None:
    check_choice("mode", mode, MODES)
    if isinstance(fill, str):
        check_choice("fill", fill, ("border",))
    elif isinstance(fill, bool) or not isinstance(fill, Real):
        raise TypeError(f"fill: expected a number or 'border', received {fill!r}")


def _check_one_field(fields: Mapping[Hashable, Tensor]) -> None:
    """Check that all keys moved by the same displacement on the same grid."""
    first = next(iter(fields), None)
    for key, field in fields.items():
        if first is not None and (field.shape != fields[first].shape or not torch.equal(field, fields[first])):
            raise ValueError(
                f"ddf_key: expected one grid for all keys, received {tuple(fields[first].shape[1:])} of {first!r} and"
                f" {tuple(field.shape[1:])} of {key!r} (or other voxel sizes); resample, or leave ddf_key out"
            )


RandMisalignD = RandMisalignDict = RandMisalignd
