"""What a run remembers of its training images, so that a new source is treated as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from torch import Tensor

from medtrace.checks import check_finite, check_spatial_dims
from medtrace.data.preparation.intensity import (
    ContrastStandard,
    IntensityMap,
    find_foreground,
    foreground_values,
    percentile_knots,
    standard_knots,
    without_metadata,
)
from medtrace.storage.files import atomic_write

VERSION = 1
FILE = "preparation.json"


class Intensity(StrEnum):
    """The rules that `medtrace.data.preparation.intensity` describes."""

    STANDARDIZED = "standardized"
    PERCENTILE = "percentile"
    RANGE = "range"


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
class Preparation:
    """Everything needed to treat a new source as the training images were treated.

    Attributes:
        spatial_dims: 2 for slices, 3 for volumes.
        intensity: which rule makes the intensity map.
        contrasts: per contrast, its standard ("standardized").
        source_contrast: the contrast that all sources had, None where they had several.
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
    contrasts: Mapping[str, ContrastStandard] = field(default_factory=dict)
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

    def __post_init__(self) -> None:
        check_spatial_dims(self.spatial_dims)
        object.__setattr__(self, "intensity", Intensity(self.intensity))
        object.__setattr__(self, "axis", Axis(self.axis))
        if self.intensity is Intensity.RANGE and self.value_range is None:
            raise ValueError('value_range: expected (low, high) with intensity="range", received None')
        if self.intensity is Intensity.STANDARDIZED and not self.contrasts:
            raise ValueError('contrasts: expected at least one standard with intensity="standardized", received none')

    def normalize(
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
        image = without_metadata(image)
        check_finite("image", image)
        if self.channels is not None and image.shape[0] != self.channels:
            raise ValueError(
                f"image: expected {self.channels} channel(s), as in training, received {image.shape[0]}; give an image"
                " of the same kind"
            )
        intensity_map = self._map(image, contrast, foreground)
        return intensity_map.forward(image), intensity_map

    def _map(self, image: Tensor, contrast: str | None, foreground: Tensor | None) -> IntensityMap:
        if self.intensity is Intensity.RANGE and self.value_range is not None:
            knots = tuple(map(float, self.value_range))
            network = ((-1.0, 1.0),) * image.shape[0]
            whole = foreground is None or bool(foreground.all())
            return IntensityMap((knots,) * image.shape[0], network, None if whole else foreground, background=knots[0])
        foreground = find_foreground(image) if foreground is None else foreground
        if not bool(foreground.any()):
            raise ValueError("foreground: expected at least one voxel, received none; check the mask")
        channels = [foreground_values(channel, foreground[0]) for channel in image]
        if self.intensity is Intensity.PERCENTILE:
            knots_of = [percentile_knots(values, self.percentiles) for values in channels]
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
        values = without_metadata(image)
        outside = ((values < self.value_range[0]) | (values > self.value_range[1])).any(0, keepdim=True)
        return int((outside if foreground is None else outside & foreground).sum())

    def _standard(self, contrast: str | None) -> ContrastStandard:
        if contrast is None:
            contrast = self.source_contrast if len(self.contrasts) > 1 else next(iter(self.contrasts))
        if contrast is None or contrast not in self.contrasts:
            raise ValueError(
                f"contrast: expected one of {', '.join(map(repr, self.contrasts))}, received {contrast!r}; name the"
                " kind of image"
            )
        return self.contrasts[contrast]

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
            contrasts = {
                name: ContrastStandard(**{key: tuple(value) for key, value in standard.items()})
                for name, standard in content.pop("contrasts").items()
            }
            settings: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in content.items()
            }
            return cls(contrasts=contrasts, **settings)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
            raise ValueError(f"{path}: is no valid preparation ({error}); run `medtrace prepare` again") from error
