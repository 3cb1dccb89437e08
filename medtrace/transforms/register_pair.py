"""Registration of one key of an item to another, together with everything aligned with it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor

from ..checks import check_choice
from ..fields import sample
from ..registration import Deformable, Registration, register_images
from ..trace.geometry import pull, pulled_points
from .geometry import affine_of
from .masks import as_mask
from .naming import as_image, as_item, detached, named, one_per_key

ALIGNMENT_ALONE = Deformable(iterations=(0,), unfolding=0)
"""`settings` of `RegisterPaird` that aligns and does not deform."""
_MODES = ("bilinear", "nearest")
_ON_FAIL = ("raise", "keep")


class RegisterPaird(MapTransform, InvertibleTransform):
    """Align and deform an image to another (see `medtrace.registration.register`); all keys move by one field.

    Values are interpolated once, from the moving grid onto the fixed one. `inverse` resamples them on the moving grid
    through the inverse field, which does not recover interpolated or excluded values. The same images give identical
    bytes. Slices (C, H, W) and volumes (C, H, W, D), on their own grids, with the affine of a MetaTensor, else the
    identity.

    Args:
        keys: the keys that move: the moving image and everything aligned with it (labels, further contrasts).
        fixed_key: the image to register to; it does not change.
        moving_key: the image that is registered; None for the first of `keys`.
        mask_key: (1, *spatial), above 0 in pathology of the fixed image that has no counterpart; None for none.
        moving_mask_key: likewise on the moving grid. Also list it in `keys` if it should move.
        mode: how each key is read on the fixed grid, one for all or one per key: "nearest" for labels, whose type is
            kept.
        ddf_key: where to put the displacement (spatial_dims, *fixed spatial) in fixed voxels; None for nowhere.
        verdict_key: where to put the `Verdict`; None for nowhere.
        on_fail: action on a verdict of FAIL: "raise", or "keep" the result.
        allow_missing_keys: skip keys that are absent; without the moving key, all others must be absent too.
        **settings: of `register`: alignment, similarity, spacing, settings, check_starts.

    Raises:
        ValueError: if the moving key is not one of the keys, or a setting is unknown.

    Example:
        >>> fixed = torch.zeros(1, 48, 48)
        >>> fixed[:, 12:30, 14:36], fixed[:, 16:24, 18:24] = 1.0, 2.0
        >>> item = {"moving": fixed.roll(4, 1), "fixed": fixed, "labels": (fixed.roll(4, 1) > 1).byte()}
        >>> transform = RegisterPaird(("moving", "labels"), "fixed", mode=("bilinear", "nearest"), ddf_key="ddf")
        >>> item = transform(item)
        >>> item["ddf"].shape, item["labels"].dtype
        (torch.Size([2, 48, 48]), torch.uint8)
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        keys: KeysCollection,
        fixed_key: str,
        moving_key: str | None = None,
        mask_key: str | None = None,
        moving_mask_key: str | None = None,
        mode: str | Sequence[str] = "bilinear",
        ddf_key: str | None = None,
        verdict_key: str | None = None,
        on_fail: str = "raise",
        allow_missing_keys: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.moving_key = self.keys[0] if moving_key is None else moving_key
        if self.moving_key not in self.keys:
            raise ValueError(f"moving_key: expected one of the keys {self.keys}, received {moving_key!r}; add it")
        if fixed_key in self.keys:
            raise ValueError(f"fixed_key: expected a key that does not move, received {fixed_key!r} of {self.keys}")
        known = ("alignment", "similarity", "spacing", "settings", "check_starts")
        for name in settings:
            check_choice("settings", name, known)
        check_choice("on_fail", on_fail, _ON_FAIL)
        self.modes = dict(zip(self.keys, one_per_key("mode", mode, self.keys)))
        for one in self.modes.values():
            check_choice("mode", one, _MODES)
        self.fixed_key, self.on_fail, self.settings = fixed_key, on_fail, settings
        self.mask_keys = (mask_key, moving_mask_key)
        self.result_keys = {"ddf": ddf_key, "verdict": verdict_key}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Register the item's keys.

        Raises:
            KeyError: if the moving or fixed image or a mask is absent.
            RuntimeError: if the verdict is FAIL and `on_fail` is "raise".
            TypeError, ValueError: see `register`.
        """
        item = as_item(data)
        present = list(self.key_iterator(item))
        if not present:
            return item
        for key in (self.moving_key, self.fixed_key, *self.mask_keys):
            if key is not None and key not in item:
                raise KeyError(f"{key!r}: expected it in the item to register {present}, received {list(item)}; add it")
        fixed = as_image(str(self.fixed_key), item[self.fixed_key])
        result = self._register(item, fixed)
        if result.verdict.grade == "FAIL" and self.on_fail == "raise":
            label = named(str(self.moving_key), item[self.moving_key])
            raise RuntimeError(f"{label}: could not be registered: {result.verdict.text()}; on_fail='keep' keeps it")
        for key in present:
            item[key] = self._move(str(key), item[key], fixed, result, self.modes[key])
        for name, key in self.result_keys.items():
            if key is not None:
                item[key] = getattr(result, name)
        return item

    def _register(self, item: Mapping[Hashable, Any], fixed: Tensor) -> Registration:
        moving = as_image(str(self.moving_key), item[self.moving_key])
        masks = [
            None if key is None else as_mask(str(key), item[key], image, one_channel=True)
            for key, image in zip(self.mask_keys, (fixed, moving))
        ]
        names = str(self.moving_key), str(self.fixed_key)
        affines = [torch.from_numpy(affine_of(name, image)) for name, image in zip(names, (moving, fixed))]
        images = detached(moving).float(), detached(fixed).float()
        return register_images(*images, *affines, mask=masks[0], moving_mask=masks[1], **self.settings)

    def _move(self, name: str, value: Any, fixed: Tensor, result: Registration, mode: str) -> Tensor:
        image = as_image(name, value)
        if image.shape[1:] != result.inverse_ddf.shape[1:]:
            raise ValueError(
                f"{named(name, image)}: expected the moving grid {tuple(result.inverse_ddf.shape[1:])}, received"
                f" {tuple(image.shape[1:])}; resample it"
            )
        own, onto = (torch.from_numpy(affine_of(*pair)) for pair in ((name, image), ("fixed", fixed)))
        moved = _read(detached(image), result.ddf, torch.linalg.solve(own, onto), mode)
        out = _like(moved if mode == "bilinear" else moved.to(_own_dtype(value)), image, onto)
        info = {"inverse": result.inverse_ddf, "affine": own.tolist(), "mode": mode}
        self.push_transform(out, extra_info=info)
        return out

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the item's keys on the moving grid."""
        item = as_item(data)
        for key in self.key_iterator(item):
            value = item[key]
            info = self.pop_transform(value)["extra_info"]
            own = torch.tensor(info["affine"], dtype=torch.float64)
            onto = torch.from_numpy(affine_of(str(key), value))
            back = _read(detached(value), torch.as_tensor(info["inverse"]), torch.linalg.solve(onto, own), info["mode"])
            item[key] = _like(back, value, own)
        for key in self.result_keys.values():
            item.pop(key, None)
        return item


def _read(values: Tensor, ddf: Tensor, matrix: Tensor, mode: str) -> Tensor:
    """Values (C, *spatial) at matrix · (p + ddf(p)); with nearest-neighbor interpolation they keep their type."""
    if mode == "bilinear":
        return pull(values.float(), ddf, matrix)
    return sample(values[None], pulled_points(ddf, matrix), mode="nearest")[0]


def _own_dtype(value: Any) -> torch.dtype:
    """The type of an item's values, before they are read as an image."""
    return value.dtype if isinstance(value, Tensor) else torch.as_tensor(value).dtype


def _like(moved: Tensor, image: Tensor, affine: Tensor) -> Tensor:
    out: Tensor = convert_to_dst_type(moved, image, dtype=moved.dtype)[0]
    if isinstance(out, MetaTensor):
        out.affine = affine
    return out


RegisterPairD = RegisterPairDict = RegisterPaird
