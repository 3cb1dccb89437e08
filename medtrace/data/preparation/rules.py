"""A run's record of how its training images were prepared, so that a new source is prepared in the same way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from torch import Tensor

from medtrace.checks import check_finite, check_spatial_dims
from medtrace.data.preparation.intensity import (
    ContrastStandard,
    find_foreground,
    foreground_values,
    percentile_knots,
    standard_knots,
    without_metadata,
)
from medtrace.storage.files import atomic_write
from medtrace.trace.contrast import ARBITRARY, BYTES, FIXED_WINDOWS, Contrast, Intensity
from medtrace.trace.intensity_map import IntensityMap

VERSION = 2
FILE = "preparation.json"


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
        intensity: which rule makes the intensity map of a contrast that `contrasts` does not describe.
        standards: per contrast, its standard ("standardized").
        contrasts: per contrast, what its numbers mean, its rule and the way back to its units.
        source_contrast: the contrast that all sources had, None where they had several.
        targets: contrast of a source → that of its target.
        percentiles: which percentiles become -1 and 1 ("percentile").
        value_range: which intensities become -1 and 1 ("range").
        axis: slicing axis (2D scans).
        natural_image: whether images are natural images without anatomy, which are never reoriented.
        spacing: voxel size of the training images in mm: rows and columns of a slice and the distance of
            slices, or the three axes of a volume in RAS order; None where it is unknown or differed.
        spatial_shape: grid of the training images, None where it differed.
        channels: channels of each training image, None if unknown.
        depth: code of the natural images' depth, such as "uint16" (see `natural_images.Depth`); None if unknown, or
            of scans.
        range_origin: how `value_range` was found, for people.
        page: which page of the natural images was taken, None if they have one.
        sources: contrasts of a network's source channels in their order, where it reads or makes several images at
            once; otherwise empty.
        outputs: likewise of the channels that it makes.
        missing: sources that some training pair lacked.
        align: whether the images of a pair were aligned to the first.
    """

    spatial_dims: int
    intensity: Intensity = Intensity.PERCENTILE
    standards: Mapping[str, ContrastStandard] = field(default_factory=dict)
    source_contrast: str | None = None
    percentiles: tuple[float, float] = (0.5, 99.5)
    value_range: tuple[float, float] | None = None
    axis: Axis = Axis.AXIAL
    natural_image: bool = False
    spacing: tuple[float, ...] | None = None
    spatial_shape: tuple[int, ...] | None = None
    channels: int | None = None
    depth: str | None = None
    range_origin: str | None = None
    page: int | None = None
    contrasts: Mapping[str, Contrast] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    align: bool = False

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

    @property
    def in_channels(self) -> int | None:
        """Channels of what a network reads, None if unknown."""
        return None if self.channels is None else self.channels * max(1, len(self.sources))

    @property
    def out_channels(self) -> int | None:
        """Channels of what it makes, None if unknown."""
        return None if self.channels is None else self.channels * max(1, len(self.outputs))

    def contrast(self, name: str | None = None) -> Contrast | None:
        """The contrast of a source; None if not on record.

        Args:
            name: name of the contrast; None is the sources', where they had one.
        """
        if self.intensity is Intensity.RANGE and self.value_range is not None:
            low, high = map(float, self.value_range)
            unit = BYTES if (low, high) == FIXED_WINDOWS[BYTES] else ARBITRARY
            return Contrast(name or "image", unit, Intensity.RANGE, limits=(low, high), background=low)
        return self.contrasts.get(self._chosen(name) or "")

    def target(self, name: str | None = None) -> Contrast | None:
        """The contrast of an image made from a source: as `contrast`, for its target.

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

    def normalize(
        self, image: Tensor, contrast: str | None = None, foreground: Tensor | None = None
    ) -> tuple[Tensor, IntensityMap]:
        """Convert an image to the network's input.

        Args:
            image: (C, *spatial), in the scan's units.
            contrast: which standard to use; None is the sources', where they had one.
            foreground: (1, *spatial) boolean; None finds it (see `find_foreground`), and with the rule "range" takes
                all of the image.

        Returns:
            The image as float32 in [-1, 1], background -1, and the map that made it.

        Raises:
            ValueError: if a number is not finite, the channels differ from training, the foreground is
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
        channels = [foreground_values(channel, foreground[0]) for channel in image]
        if rule is Intensity.PERCENTILE:
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
            ValueError: if it is not a preparation of this version.
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
            raise ValueError(f"{path}: is not a valid preparation ({error}); run `medtrace prepare` again") from error


def target_units(preparation: Preparation, channels: int) -> Callable[[Tensor], Tensor] | None:
    """From [-1, 1] to the units of the target, by the rule of its contrast alone; None where there are several targets
    or no such way: of a percentile rule only its own scan has one.

    Example:
        >>> import torch
        >>> ct = Contrast.of("CT=HU")
        >>> back = target_units(Preparation(2, contrasts={"CT": ct}, targets={"CT": "CT"}), 1)
        >>> float(back(torch.full((1, 2, 2), -1.0))[0, 0, 0])
        -1024.0
    """
    if preparation.intensity is Intensity.RANGE:
        contrast = preparation.contrast()
    else:
        names = {*preparation.targets.values(), *preparation.outputs}
        contrast = preparation.contrasts.get(names.pop()) if len(names) == 1 else None
    if contrast is None or not (contrast.fixed or contrast.curve is not None):
        return None
    return contrast.intensity_map(channels).inverse
