"""Histogram standardization of MR intensities after Nyul, Udupa & Zhang 2000."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.inverse import InvertibleTransform
from monai.transforms.transform import MapTransform
from monai.utils.enums import TransformBackends
from monai.utils.type_conversion import convert_to_dst_type
from torch import Tensor

from ..checks import check_floating, check_number
from ..geometry.grid import Grid
from ..guard.notices import notify
from .histogram_landmarks import HistogramLandmarks, as_landmarks
from .mask_rule import ON_GRID, inside_of
from .masks import as_mask
from .naming import as_image, as_item, detached, load_image, named, one_per_key
from .nifti_voxels import nifti_voxels
from .percentiles import percentiles_of, piecewise_linear

DECILES = (10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0)

# Percentiles closer than this fraction of the range between the cutoffs are one landmark.
_TIE = 1e-6

Masking = Callable[[Tensor], Any]


def above_mean(image: Tensor) -> Tensor:
    """Mask of the voxels brighter than the image's mean: the usual head mask if none was drawn.

    Args:
        image: (C, H, W) or (C, H, W, D), any range.

    Returns:
        A boolean mask of the same shape.

    Raises:
        TypeError: if the image is not a tensor of floating numbers.

    Example:
        >>> import torch
        >>> above_mean(torch.tensor([[0.0, 1.0, 5.0]]))
        tensor([[False, False,  True]])
    """
    check_floating("image", image)
    return image > image.mean()


class HistogramStandardization(InvertibleTransform):
    """Map an image's histogram landmarks onto trained standard landmarks, linearly in between.

    The image's percentiles (inside the mask) are mapped to the standard landmarks; between two landmarks the map is
    linear, and beyond the cutoffs the first and the last piece continue (linear extrapolation, no clipping), so the map
    never falls. Nyul, Udupa & Zhang 2000, "New variants of a method of MRI scale standardization", variant with
    percentile landmarks. All channels of an image share one histogram.

    Percentiles that coincide in an image (typically because background was not masked) are one landmark, which
    goes to the standard value of the highest of them; the map stays continuous.

    The inverse undoes the same image's map and needs it to be strictly increasing; where trained landmarks
    coincide (again background), intensities were merged and `inverse` raises.

    Args:
        landmarks: the result of `train`, or the path of its JSON file.
        contrast: whose landmarks to use; None for the only contrast there is.
        masking: function of the image (C, *spatial) giving the mask whose voxels make the histogram, for
            example `above_mean`. None takes every voxel. The map is applied to every voxel in either case.
            Use the masking of the training.

    Raises:
        TypeError: if landmarks or masking have the wrong type.
        ValueError: if the file is not a landmarks file or the contrast is unknown.

    Example:
        >>> import torch
        >>> bright, dark = 200 * torch.rand(1, 8, 8, 8), 50 * torch.rand(1, 8, 8, 8)
        >>> landmarks = HistogramStandardization.train([bright, dark])
        >>> standardize = HistogramStandardization(landmarks)
        >>> abs(float(standardize(bright).median() - standardize(dark).median())) < 10
        True
    """

    backend = [TransformBackends.TORCH, TransformBackends.NUMPY]  # noqa: RUF012 (MONAI's contract)

    def __init__(
        self,
        landmarks: HistogramLandmarks | str | Path,
        contrast: str | None = None,
        masking: Masking | None = None,
    ) -> None:
        super().__init__()
        if masking is not None and not callable(masking):
            raise TypeError(f"masking: expected a function of the image, received {type(masking).__name__}")
        self.landmarks = as_landmarks(landmarks)
        self.standard = self.landmarks.of(contrast)
        self.contrast = contrast
        self.masking = masking

    def __call__(self, img: Any, mask: Any = None, name: str = "img") -> Tensor:
        """Standardize one image.

        Args:
            img: (C, H, W) or (C, H, W, D), finite, any range; float64 stays float64, everything else becomes float32.
            mask: (1, *spatial) or (C, *spatial), True or above 0 where voxels make the histogram; it
                takes the place of `masking`.
            name: the image's name in messages.

        Returns:
            The image on the standard scale, a MetaTensor with the metadata of `img` while MONAI tracks metadata.

        Raises:
            ValueError: if the image is constant between its cutoffs, not finite, or the mask is empty; the message
                names the file.
        """
        image = as_image(name, img)
        label = named(name, img)
        values = _histogram_values(label, image, mask if mask is not None else self.masking)
        knots, images = _map_points(label, self.landmarks.percentiles, values, self.standard)
        out: Tensor = convert_to_dst_type(piecewise_linear(detached(image), knots, images), image)[0]
        self.push_transform(out, extra_info={"knots": knots, "images": images})
        return out

    def inverse(self, data: Tensor) -> Tensor:
        """Map a standardized image back to its own intensities.

        Raises:
            ValueError: if the map merged intensities (standard landmarks coincide).
        """
        info = self.pop_transform(data)["extra_info"]
        knots, images = info["knots"], info["images"]
        if any(b <= a for a, b in pairwise(images)):
            raise ValueError(
                f"{named('img', data)}: expected strictly increasing standard landmarks, received {images}; this map"
                " merged intensities and has no inverse: train with a mask that leaves out the background"
            )
        restored: Tensor = convert_to_dst_type(piecewise_linear(detached(data), images, knots), data)[0]
        return restored

    @staticmethod
    def train(
        images: Iterable[Any],
        masks: Iterable[Any] | Masking | None = None,
        cutoff: Sequence[float] = (0.01, 0.99),
        *,
        percentiles: Sequence[float] = DECILES,
        standard_range: Sequence[float] = (0.0, 100.0),
        contrast: str = "image",
    ) -> HistogramLandmarks:
        """Average the landmarks of many images of one contrast.

        Each image's percentiles are mapped linearly, its cutoffs onto `standard_range`, and averaged over
        images (Nyul, Udupa & Zhang 2000, training step). One image is in memory at a time.

        Args:
            images: paths, or channel-first arrays or tensors of finite numbers, at least one.
            masks: one mask (path or array, above 0 inside) per image, or a function of the image such as
                `above_mean`, which is the usual choice for heads. None takes every voxel.
            cutoff: (pc1, pc2) as fractions in [0, 1], around the percentiles.
            percentiles: landmarks between the cutoffs, in percent.
            standard_range: (s1, s2), where the cutoffs go.
            contrast: the name under which the landmarks are stored.

        Returns:
            The landmarks, ready for `HistogramStandardization` or `save`.

        Raises:
            TypeError: if images or cutoffs have the wrong type.
            ValueError: if there is no image, the numbers of images and masks differ, or an image is constant, not
                finite or has an empty mask; the message names the file.
        """
        if not isinstance(contrast, str):
            raise TypeError(f"contrast: expected a name, received {contrast!r}")
        percents = _all_percentiles(cutoff, percentiles)
        low, high = _pair_of_numbers("standard_range", standard_range)
        if isinstance(images, (str, Path)):
            raise TypeError(f"images: expected a list of images or paths, received the single path {images}")
        for name, several in (("images", images), ("masks", masks)):
            if not (isinstance(several, Iterable) or (name == "masks" and (several is None or callable(several)))):
                raise TypeError(f"{name}: expected one per image, received {type(several).__name__}")
        scaled = []
        for label, values in _training_values(images, masks):
            result = np.asarray(_spread_percentiles(label, values, percents))
            scaled.append(low + (high - low) * (result - result[0]) / (result[-1] - result[0]))
        if not scaled:
            raise ValueError("images: expected at least one image, received none; pass images or paths")
        return HistogramLandmarks(percents, {contrast: tuple(np.mean(scaled, axis=0))}, (low, high))


class HistogramStandardizationd(MapTransform, InvertibleTransform):
    """Dictionary form of `HistogramStandardization`, with its own landmarks for each key.

    Args:
        keys: the images.
        landmarks: landmarks of every contrast, or the path of their JSON file.
        contrasts: the contrast of each key; None takes the key itself (or the only contrast there is).
        mask_key: key of the mask whose voxels make the histogram; None for `masking`, or every voxel.
        masking: as in `HistogramStandardization`.
        allow_missing_keys: skip keys that are absent.

    Raises:
        ValueError: if a key's contrast has no landmarks.

    Example:
        >>> import torch
        >>> items = [{"t1": 200 * torch.rand(1, 8, 8, 8)}, {"t1": 50 * torch.rand(1, 8, 8, 8)}]
        >>> landmarks = HistogramStandardizationd.train(items, ["t1"])
        >>> transform = HistogramStandardizationd(["t1"], landmarks)
        >>> first, second = (float(transform(item)["t1"].median()) for item in items)
        >>> abs(first - second) < 10
        True
    """

    backend = HistogramStandardization.backend

    def __init__(
        self,
        keys: KeysCollection,
        landmarks: HistogramLandmarks | str | Path,
        contrasts: str | Sequence[str] | None = None,
        mask_key: str | None = None,
        masking: Masking | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        trained = as_landmarks(landmarks)
        named_contrasts: Sequence[Any] = (
            one_per_key("contrasts", contrasts, self.keys) if contrasts is not None else self.keys
        )
        single = contrasts is None and len(trained.contrasts) == 1
        self.mask_key = mask_key
        self.transforms = {
            key: HistogramStandardization(trained, None if single else str(contrast), masking)
            for key, contrast in zip(self.keys, named_contrasts)
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Standardize the images of one item; see `HistogramStandardization.__call__`."""
        item = as_item(data)
        mask = _mask_of(item, self.mask_key)
        for key in self.key_iterator(item):
            item[key] = self.transforms[key](item[key], mask, name=str(key))
        return item

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Map the images of one item back to their own intensities."""
        item = as_item(data)
        for key in self.key_iterator(item):
            item[key] = self.transforms[key].inverse(item[key])
        return item

    @staticmethod
    def train(
        data: Iterable[Mapping[Hashable, Any]],
        keys: KeysCollection,
        mask_key: str | None = None,
        masking: Masking | None = None,
        **settings: Any,
    ) -> HistogramLandmarks:
        """Train the landmarks of several contrasts, each under its key.

        Args:
            data: items (or a MONAI dataset) whose `keys` are images or paths.
            keys: the contrasts.
            mask_key: key of each item's mask.
            masking: a function of the image, if there is no mask.
            **settings: `cutoff`, `percentiles`, `standard_range` of `HistogramStandardization.train`.

        Returns:
            Landmarks of all contrasts together.
        """
        items = data if isinstance(data, Sequence) else list(data)
        trained: HistogramLandmarks | None = None
        for key in (keys,) if isinstance(keys, str) else tuple(keys):
            for number, item in enumerate(items):
                if key not in item:
                    raise ValueError(f"data: expected {key!r} in item {number}, received {list(item)}; add it")
            masks = masking if mask_key is None else (_mask_of(item, mask_key) for item in items)
            one = HistogramStandardization.train((item[key] for item in items), masks, contrast=str(key), **settings)
            trained = one if trained is None else trained.merge(one)
        if trained is None:
            raise ValueError("keys: expected at least one key, received none")
        return trained


def _all_percentiles(cutoff: Sequence[float], percentiles: Sequence[float]) -> tuple[float, ...]:
    """The cutoffs in percent around the percentiles, checked."""
    bounds = _pair_of_numbers("cutoff", cutoff)
    if not 0 <= bounds[0] < bounds[1] <= 1:
        raise ValueError(f"cutoff: expected 2 increasing fractions in [0, 1], received {bounds}")
    low, high = 100 * bounds[0], 100 * bounds[1]
    between = _numbers("percentiles", percentiles)
    if any(not low < percent < high for percent in between):
        raise ValueError(
            f"percentiles: expected numbers between the cutoffs {low} and {high}, received {between}; widen the cutoff"
        )
    return (low, *between, high)


def _pair_of_numbers(name: str, values: Any) -> tuple[float, float]:
    numbers = _numbers(name, values)
    if len(numbers) != 2:
        raise ValueError(f"{name}: expected 2 numbers, received {numbers}")
    return numbers[0], numbers[1]


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected numbers, received {values!r}")
    result = tuple(values)
    for value in result:
        check_number(name, value)
    return tuple(float(value) for value in result)


def _training_values(images: Iterable[Any], masks: Any) -> Iterable[tuple[str, Tensor]]:
    """The name of each image in messages, and the voxels that make its histogram."""
    if masks is not None:
        for name, image, mask in _paired(images, masks):
            yield named(name, image), _histogram_values(named(name, image), as_image(name, image), mask)
        return
    for number, image in enumerate(images):
        name = f"image {number}"
        voxels = nifti_voxels(name, image)
        if voxels is not None:
            yield named(name, image), voxels
        else:
            loaded = load_image(name, image)
            yield named(name, loaded), detached(as_image(name, loaded)).reshape(-1)


def _paired(images: Iterable[Any], masks: Any) -> Iterable[tuple[str, Any, Any]]:
    """Name, image and mask (array or function) of each image, read where a path is given."""
    if callable(masks):
        for number, image in enumerate(images):
            yield f"image {number}", load_image(f"image {number}", image), masks
        return
    missing = object()
    remaining = iter(masks)
    number = -1
    for number, image in enumerate(images):
        mask = next(remaining, missing)
        if mask is missing:
            raise ValueError(f"masks: expected one mask per image, received {number}; pass as many as images")
        loaded = load_image(f"image {number}", image)
        yield f"image {number}", loaded, _loaded_mask(f"mask {number}", mask, loaded)
    if next(remaining, missing) is not missing:
        raise ValueError(f"masks: expected {number + 1}, one per image, received more; pass as many as images")


def _loaded_mask(name: str, mask: Any, image: Any) -> Any:
    """A mask that a path names, by the rule for masks in files and on the image's grid; any other unchanged."""
    if not isinstance(mask, (str, Path)):
        return mask
    loaded = load_image(name, mask)
    if isinstance(image, MetaTensor) and loaded.shape[1:] == image.shape[1:]:
        own, grid = Grid.of(loaded), Grid.of(image)
        if not own.coincides(grid, ON_GRID):
            raise ValueError(f"{named(name, mask)}: lies up to {own.distance(grid):.3g} mm off its image; resample it")
    try:
        inside, rule = inside_of(detached(loaded))
    except ValueError as error:
        raise ValueError(f"{named(name, mask)}: {error}") from error
    if rule is not None:
        notify(mask, rule)
    return inside


def _mask_of(item: Mapping[Hashable, Any], mask_key: str | None) -> Any:
    if mask_key is None:
        return None
    if mask_key not in item:
        raise ValueError(f"mask_key: expected {mask_key!r} in the item, received {list(item)}; add the mask")
    return item[mask_key]


def _histogram_values(label: str, image: Tensor, mask: Any) -> Tensor:
    """The voxels that make the histogram: inside a mask, a masking function's mask, or all."""
    values = detached(image)
    if mask is None:
        return values.reshape(-1)
    inside = as_mask(label, mask(image) if callable(mask) else mask, values)
    return values[inside.expand(values.shape)]


def _spread_percentiles(label: str, values: Tensor, percents: Sequence[float]) -> list[float]:
    """Percentiles whose cutoffs differ."""
    result = percentiles_of(values, percents)
    if not result[-1] > result[0]:
        raise ValueError(
            f"{label}: expected intensities that differ between the {percents[0]:g} % and {percents[-1]:g} % cutoffs,"
            f" received a constant {result[0]:g}; leave the image out, or mask its background"
        )
    return result


def _map_points(
    label: str, percents: Sequence[float], values: Tensor, standard: Sequence[float]
) -> tuple[list[float], list[float]]:
    """The points of the piecewise-linear map, coinciding percentiles merged into the highest of them."""
    result = _spread_percentiles(label, values, percents)
    tie = _TIE * (result[-1] - result[0])
    last = [b - a > tie for a, b in pairwise(result)] + [True]
    knots = [x for x, keep in zip(result, last) if keep]
    images = [float(y) for y, keep in zip(standard, last) if keep]
    return knots, images


HistogramStandardizationD = HistogramStandardizationDict = HistogramStandardizationd
