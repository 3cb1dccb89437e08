"""How intensities of scans become what a network reads, and the way back.

Everything here is an increasing piecewise-linear map from the scan's units to [-1, 1], one per channel. A translated
image of the scan's own contrast comes back through the scan's own map, one of another contrast through that contrast's
(`Contrast.intensity_map`). Four rules make such a map, each contrast its own:

- "window": fixed limits, the same for every scan, for units that have a meaning: a CT is never standardized;
- "standardized" (TraceTrans, Datasets): Nyul's histogram standardization, z-score of the foreground, and a linear
  rescaling of a window of z to [0, 1], stored as such and read as [-1, 1];
- "percentile": two percentiles of the foreground go to -1 and 1; for scans that no preparation describes;
- "range": a fixed range, such as 0 to 255 of pictures.

The paper says "Z-normalization, rescale the intensity to the [0, 1] range". Rescaling every image by its own extremes
would undo the z-score and tear the scales of before and after apart, so the window of z is one for all images of a
contrast: the median over the training images of two percentiles of their z.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.utils.enums import TraceKeys
from torch import Tensor

from medtrace.checks import check_finite, check_spatial_dims
from medtrace.storage.files import atomic_write
from medtrace.trace.contrast import ARBITRARY, BYTES, FIXED_WINDOWS, HU, Contrast, Intensity
from medtrace.trace.intensity_map import IntensityMap
from medtrace.transforms.histogram_landmarks import HistogramLandmarks
from medtrace.transforms.histogram_standardization import HistogramStandardization

VERSION = 2
FILE = "preparation.json"
BORDER_SHARE = 0.1
"""Share of exact zeros on an image's border from which on zero is taken for background."""
WINDOW_PERCENTILES = (0.1, 99.9)
QUANTILES = 2001
CURVE_KNOTS = 129
"""Points of the curve of a contrast's mean training scan."""


class Axis(StrEnum):
    """Along which slices follow each other; RAS array axis 2, 1 or 0."""

    AXIAL = "axial"
    CORONAL = "coronal"
    SAGITTAL = "sagittal"

    @property
    def index(self) -> int:  # type: ignore[override]
        """Array axis in RAS orientation."""
        return {"axial": 2, "coronal": 1, "sagittal": 0}[self.value]


@dataclass(frozen=True)
class ContrastStandard:
    """What training subjects taught about one contrast.

    Attributes:
        window: z-scores that become 0 and 1.
        percentages: percentiles of an image's foreground that Nyul's standardization moves; empty without it.
        landmarks: the standard intensities they are moved to.
    """

    window: tuple[float, float]
    percentages: tuple[float, ...] = ()
    landmarks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Preparation:
    """Everything needed to treat a new source as the training images were treated.

    Attributes:
        spatial_dims: 2 for slices, 3 for volumes.
        intensity: which rule makes the intensity map of a contrast that `contrasts` does not tell of.
        standards: per contrast, its standard ("standardized").
        contrasts: per contrast, what its numbers mean, its rule and the way back to its units.
        source_contrast: the contrast that all sources had, None where they had several.
        targets: contrast of a source → that of its target.
        percentiles: which percentiles become -1 and 1 ("percentile").
        value_range: which intensities become -1 and 1 ("range").
        axis: slicing axis (2D scans).
        picture: whether images are pictures without anatomy, which are never reoriented.
        spacing: voxel size of the training images in mm: rows and columns of a slice and the distance of
            slices, or the three axes of a volume in RAS order; None where it is unknown or differed.
        spatial_shape: grid of the training images, None where it differed.
        channels: channels of the training images, None if unknown.
        depth: code of the pictures' depth, such as "uint16" (see `pictures.Depth`); None if unknown, or of scans.
        range_origin: how `value_range` was found, for people.
        page: which page of the pictures was taken, None if they have one.
    """

    spatial_dims: int
    intensity: Intensity = Intensity.PERCENTILE
    standards: Mapping[str, ContrastStandard] = field(default_factory=dict)
    source_contrast: str | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    value_range: tuple[float, float] | None = None
    axis: Axis = Axis.AXIAL
    picture: bool = False
    spacing: tuple[float, ...] | None = None
    spatial_shape: tuple[int, ...] | None = None
    channels: int | None = None
    depth: str | None = None
    range_origin: str | None = None
    page: int | None = None
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_spatial_dims(self.spatial_dims)
        object.__setattr__(self, "intensity", Intensity(self.intensity))
        object.__setattr__(self, "axis", Axis(self.axis))
        if self.intensity is Intensity.RANGE and self.value_range is None:
            raise ValueError('value_range: expected (low, high) with intensity="range", received None')
        if self.intensity is Intensity.STANDARDIZED and not self.standards:
            raise ValueError('standards: expected at least one standard with intensity="standardized", received none')
        if self.intensity is Intensity.WINDOW and not self.contrasts:
            raise ValueError('contrasts: expected at least one contrast with intensity="window", received none')

    def contrast(self, name: str | None = None) -> Contrast | None:
        """What the numbers of a source mean, None where that is not on record.

        Args:
            name: of the contrast; None is the sources', where they had one.
        """
        if self.intensity is Intensity.RANGE and self.value_range is not None:
            low, high = map(float, self.value_range)
            unit = BYTES if (low, high) == FIXED_WINDOWS[BYTES] else ARBITRARY
            return Contrast(name or "image", unit, Intensity.RANGE, limits=(low, high), background=low)
        return self.contrasts.get(self._chosen(name) or "")

    def target(self, name: str | None = None) -> Contrast | None:
        """What the numbers of an image made from a source mean: as `contrast`, of its target.

        Raises:
            ValueError: if the contrast is unknown.
        """
        chosen = self._chosen(name)
        if self.intensity is Intensity.RANGE or chosen is None or not self.contrasts:
            return self.contrast(name)
        if chosen not in self.targets:
            raise ValueError(
                f"contrast: expected one of {', '.join(map(repr, self.targets))}, received {chosen!r}; name what the"
                " run translates"
            )
        return self.contrasts.get(self.targets[chosen])

    def _chosen(self, name: str | None) -> str | None:
        if name is not None or self.source_contrast is not None:
            return name or self.source_contrast
        known = self.contrasts or self.standards
        return next(iter(known)) if len(known) == 1 else None

    def normalise(
        self, image: Tensor, contrast: str | None = None, foreground: Tensor | None = None
    ) -> tuple[Tensor, IntensityMap]:
        """Bring an image to what the network reads.

        Args:
            image: (C, *spatial), in the scan's units.
            contrast: which standard to use; None is the sources', where they had one.
            foreground: (1, *spatial) boolean; None finds it (see `find_foreground`), and with the rule "range" takes
                all of the image.

        Returns:
            The image as float32 in [-1, 1], background -1, and the map that made it.

        Raises:
            ValueError: if a number is not finite, the channels are others than in training, the foreground is
                empty or constant, or the contrast is unknown.
        """
        image = _plain(image)
        check_finite("image", image)
        if self.channels is not None and image.shape[0] != self.channels:
            raise ValueError(
                f"image: expected {self.channels} channel(s), as in training, received {image.shape[0]}; give an image"
                " of the same kind"
            )
        intensity_map = self._map(image, contrast, foreground)
        return intensity_map.forward(image), intensity_map

    def _map(self, image: Tensor, contrast: str | None, foreground: Tensor | None) -> IntensityMap:
        known = self.contrasts.get(self._chosen(contrast) or "")
        if known is not None and known.fixed:
            whole = foreground is None or bool(foreground.all())
            return known.intensity_map(image.shape[0], None if whole else foreground)
        rule = self.intensity if known is None else known.rule
        if self.intensity is Intensity.RANGE and self.value_range is not None:
            knots = tuple(map(float, self.value_range))
            network = ((-1.0, 1.0),) * image.shape[0]
            whole = foreground is None or bool(foreground.all())
            return IntensityMap((knots,) * image.shape[0], network, None if whole else foreground, background=knots[0])
        foreground = find_foreground(image) if foreground is None else foreground
        if not bool(foreground.any()):
            raise ValueError("foreground: expected at least one voxel, received none; check the mask")
        channels = [_values(channel, foreground[0]) for channel in image]
        if rule is Intensity.PERCENTILE:
            knots_of = [_percentile_knots(values, self.percentiles) for values in channels]
        else:
            standard = self._standard(contrast)
            knots_of = [standard_knots(values, standard) for values in channels]
        scan, network = zip(*knots_of)
        return IntensityMap(scan, network, None if bool(foreground.all()) else foreground)

    def count_outside(self, image: Tensor, foreground: Tensor | None = None) -> int:
        """Pixels of an image that the value range clips; 0 with other rules, whose ends are meant to.

        Args:
            image: (C, *spatial), in the file's values.
            foreground: (1, *spatial) boolean, where to count; None is everywhere.
        """
        if self.intensity is not Intensity.RANGE or self.value_range is None:
            return 0
        values = _plain(image)
        outside = ((values < self.value_range[0]) | (values > self.value_range[1])).any(0, keepdim=True)
        return int((outside if foreground is None else outside & foreground).sum())

    def _standard(self, contrast: str | None) -> ContrastStandard:
        chosen = self._chosen(contrast)
        if chosen is None or chosen not in self.standards:
            known = {**self.standards, **self.contrasts}
            raise ValueError(
                f"contrast: expected one of {', '.join(map(repr, known))}, received {contrast!r}; name the kind"
                " of image"
            )
        return self.standards[chosen]

    def save(self, path: str | os.PathLike) -> None:
        """Write as JSON."""
        content = {"version": VERSION, **asdict(self)}
        atomic_write(path, json.dumps(content, indent=2, allow_nan=False) + "\n", make_parents=True)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Preparation:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no preparation of this version.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; `medtrace prepare` makes it")
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            version = content.pop("version", None)
            if version != VERSION:
                raise ValueError(f"expected version {VERSION}, received {version!r}")
            standards = {
                name: ContrastStandard(**{key: tuple(value) for key, value in standard.items()})
                for name, standard in content.pop("standards").items()
            }
            contrasts = {name: Contrast.from_dict(values) for name, values in content.pop("contrasts").items()}
            targets = dict(content.pop("targets").items())
            settings: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
            }
            return cls(standards=standards, contrasts=contrasts, targets=targets, **settings)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path}: is no valid preparation ({error}); run `medtrace prepare` again") from error


def find_foreground(image: Tensor, contrast: Contrast | None = None) -> Tensor:
    """Tell tissue from background.

    Args:
        image: (C, *spatial).
        contrast: what its numbers mean, where that is known.

    Returns:
        Boolean (1, *spatial). Of a contrast in HU, where 0 is water, all of it counts as foreground. Otherwise, where
        at least a tenth of the image's border is exactly 0 in all channels, as in skull-stripped and defaced scans, 0
        is background; otherwise (CT, noise around the head) all of it counts as foreground.
    """
    zero = (_plain(image) == 0).all(dim=0, keepdim=True)
    if contrast is not None and contrast.unit == HU:
        return torch.ones_like(zero)
    border = torch.zeros_like(zero)
    for axis in range(1, zero.ndim):
        if zero.shape[axis] > 1:
            border.select(axis, 0).fill_(True)
            border.select(axis, -1).fill_(True)
    on_border = zero[border]
    if on_border.numel() == 0 or float(on_border.float().mean()) < BORDER_SHARE:
        return torch.ones_like(zero)
    return ~zero


def foreground_quantiles(image: Tensor, foreground: Tensor | None = None) -> list[np.ndarray]:
    """Per channel, 0.05 % quantiles of the foreground's intensities: what is learned from needs no more.

    Raises:
        ValueError: if there is no foreground or it is constant.
    """
    image = _plain(image)
    foreground = find_foreground(image) if foreground is None else foreground
    channels = (_values(channel, foreground[0]) for channel in image)
    return [np.quantile(values.astype(np.float64), np.linspace(0, 1, QUANTILES)) for values in channels]


def fit_contrast(images: Sequence[np.ndarray], standardize: bool = True) -> ContrastStandard:
    """Learn a contrast's standard from training images.

    Args:
        images: quantiles of the foreground of each training image (see `foreground_quantiles`).
        standardize: whether to train Nyul's landmarks; otherwise there is the z-score only.

    Returns:
        The standard; its window is the median over images of the 0.1 and 99.9 percentiles of z.

    Raises:
        ValueError: if there is no image.
    """
    if not images:
        raise ValueError("images: expected at least one training image, received none")
    trained = ContrastStandard((0.0, 1.0))
    if standardize:
        landmarks = HistogramStandardization.train([torch.from_numpy(values)[None, None] for values in images])
        trained = ContrastStandard((0.0, 1.0), landmarks.percentiles, landmarks.of())
    limits = []
    for values in images:
        _, moved = _standardized(values, trained)
        limits.append(np.percentile((moved - moved.mean()) / moved.std(), WINDOW_PERCENTILES))
    low, high = np.median(limits, axis=0)
    return replace(trained, window=(float(low), float(high)))


def mean_curve(images: Sequence[np.ndarray], standard: ContrastStandard) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the map of a contrast's mean training scan, in its units and in [-1, 1].

    Args:
        images: quantiles of the foreground of each training image (see `foreground_quantiles`).
        standard: that they taught.

    Returns:
        Units and network values: at every network value the mean over the training scans of the units that become it.
    """
    network = np.linspace(-1.0, 1.0, CURVE_KNOTS)
    knots = [standard_knots(values, standard) for values in images]
    units = np.mean([np.interp(network, y, x) for x, y in knots], axis=0)
    rising = np.concatenate([[True], np.diff(np.maximum.accumulate(units)) > 0])
    rising[-1] = True
    units, network = units[rising], network[rising]
    return tuple(map(float, units)), tuple(map(float, network))


def standard_knots(values: np.ndarray, standard: ContrastStandard) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of Nyul's map, the z-score and the window for one channel, in scan units and in [-1, 1].

    Args:
        values: sorted foreground intensities.
        standard: of the contrast.
    """
    (x, y), moved = _standardized(values, standard)
    z = (y - moved.mean()) / moved.std()
    low, high = standard.window
    return _limited(x, 2 * (z - low) / (high - low) - 1)


def _standardized(values: np.ndarray, standard: ContrastStandard) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Knots of Nyul's map for an image (the identity without landmarks), and its intensities through them."""
    if not standard.percentages:
        ends = np.array([values[0], values[-1]], dtype=np.float64)
        return (ends, ends), values.astype(np.float64)
    landmarks = HistogramLandmarks(standard.percentages, {"image": standard.landmarks})
    moved: Any = HistogramStandardization(landmarks)(MetaTensor(torch.from_numpy(values)[None, None]))
    points = moved.applied_operations[-1][TraceKeys.EXTRA_INFO]
    return (np.array(points["knots"]), np.array(points["images"])), moved.numpy().ravel().astype(np.float64)


def _limited(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Continue the outer pieces to y = -1 and 1, and cut there."""
    rising = np.concatenate([[True], np.diff(y) > 0])
    x, y = x[rising], y[rising]
    if len(x) < 2:
        raise ValueError("landmarks: expected increasing standard intensities; train the standardization again")
    x_low = x[0] + (-1 - y[0]) * (x[1] - x[0]) / (y[1] - y[0]) if y[0] > -1 else np.interp(-1, y, x)
    x_high = x[-1] + (1 - y[-1]) * (x[-1] - x[-2]) / (y[-1] - y[-2]) if y[-1] < 1 else np.interp(1, y, x)
    inside = (y > -1) & (y < 1)
    return (
        (float(x_low), *x[inside].tolist(), float(x_high)),
        (-1.0, *y[inside].tolist(), 1.0),
    )


def _percentile_knots(
    values: np.ndarray, percentiles: tuple[float, float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    low, high = np.percentile(values.astype(np.float64), percentiles)
    if not high > low:
        low, high = float(values[0]), float(values[-1])
    return (float(low), float(high)), (-1.0, 1.0)


def _values(image: Tensor, foreground: Tensor) -> np.ndarray:
    values = np.sort(image[foreground].cpu().numpy().astype(np.float32))
    if values.size == 0:
        raise ValueError("foreground: expected at least one voxel, received none; check the mask")
    if not values[-1] > values[0]:
        raise ValueError(f"image: is constant ({values[0]:g}) in its foreground; check the scan and its mask")
    return values


def _plain(image: Tensor) -> Tensor:
    return image.as_tensor() if hasattr(image, "as_tensor") else image
