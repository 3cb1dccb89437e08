"""What a run delivers of a scan: the image on the scan's own grid, in the units of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.progress import Progress
from torch import Tensor

from medtrace.data.contrasts import body_of
from medtrace.data.preparation.rules import Preparation
from medtrace.fields import warp
from medtrace.inference.fitting import Division, translate_fitting
from medtrace.inference.scan_translation import TranslatedArrays, translate_array
from medtrace.inference.sources import SourceImages
from medtrace.methods.base import Method
from medtrace.networks.patches import PatchInferer
from medtrace.trace.contrast import HU, Contrast
from medtrace.trace.intensity_map import IntensityMap


class Delivered(NamedTuple):
    """A method's output for a scan.

    Attributes:
        image: (C, *spatial) on the scan's grid, in the units of what it shows.
        parts: the networks' output on that grid, with its image in [-1, 1].
        foreground: (1, *spatial) boolean, outside which the image is background; None means everywhere.
        contrasts: contrasts of the image's channels, None if unknown.
        patches: how the scan was divided, None if it was not.
        backs: the maps from the image's channels back to their units.
    """

    image: Tensor
    parts: TranslatedArrays
    foreground: Tensor | None
    contrasts: tuple[Contrast, ...] | None
    patches: PatchInferer | None
    backs: tuple[IntensityMap, ...]

    def half_width(self, half: Tensor) -> Tensor:
        """Half of an interval about `parts.image`, (C, *spatial) in [-1, 1], in the units of the image.

        The map to units is not linear, so an interval is longer on one side; the longer side is returned.
        """
        upper, lower = (_in_units(self.parts.image + sign * half, self.backs, self.foreground) for sign in (1, -1))
        return torch.maximum(upper - self.image, self.image - lower).clamp_min(0)


def deliver(
    method: Method,
    preparation: Preparation,
    sources: SourceImages,
    contrast: str | None,
    division: Division,
    *,
    fit: bool = False,
    bar: Progress,
    name: str | Path = "image",
) -> Delivered:
    """Run a method on a scan and convert its output to the scan's grid and the target's units.

    Args:
        method: method of the run.
        preparation: preparation of the run.
        sources: the scan, as the networks read it.
        contrast: contrast of the source, if the run was trained on several.
        division: how it is passed through the networks.
        fit: if memory runs out, use what fits.
        bar: shows the progress.
        name: name of the image, for messages.

    Raises:
        ValueError: if the run does not fit the scan, or its target cannot be mapped to units.
    """
    after = after_of(preparation, contrast, sources)
    backs = _ways_back(preparation, sources, after)
    parts, patches = translate_fitting(
        lambda how, shown: translate_array(method, preparation, sources.normalized, sources.affine, *how, shown),
        *(method, preparation, division, fit, bar, name),
    )
    moved = _moved_foreground(backs[0].foreground, parts.ddf)
    return Delivered(_in_units(parts.image, backs, moved), parts, moved, after, patches, tuple(backs))


def way_back(scan: Tensor, own: IntensityMap, before: Contrast | None, after: Contrast | None) -> IntensityMap:
    """The map from a network's image to units: the scan's own, or of another contrast that contrast's.

    Args:
        scan: (C, *spatial), in its units.
        own: its map to [-1, 1].
        before: contrast of the scan, None if unknown.
        after: contrast of the image.

    Returns:
        The map; its foreground is the scan's, outside which the image has its contrast's background.
    """
    if before is None or after is None or before.name == after.name:
        return own
    foreground = own.foreground
    if foreground is None and before.unit == HU and after.background is not None:
        foreground = body_of(scan)
    return after.intensity_map(scan.shape[0], None if after.background is None else foreground)


def after_of(preparation: Preparation, contrast: str | None, sources: SourceImages) -> tuple[Contrast, ...] | None:
    """The contrast of each channel of a translated image; None if unknown."""
    if preparation.sources:
        known = [preparation.contrasts.get(name) for name in preparation.outputs]
        return tuple(one for one in known if one is not None) if None not in known else None
    after = preparation.target(contrast)
    return None if after is None else (after,) * sources.scan.shape[0]


def _ways_back(
    preparation: Preparation, sources: SourceImages, after: tuple[Contrast, ...] | None
) -> list[IntensityMap]:
    """The map of the image to units, or where a network reads or makes several, that of each channel."""
    own = next(iter(sources.maps.values()))
    before = None if sources.contrasts is None else sources.contrasts[0]
    if not preparation.sources:
        return [way_back(sources.scan, own, before, None if after is None else after[0])]
    named = dict(zip(sources.maps, sources.contrasts or ()))
    return [
        way_back(
            sources.scan[:1], sources.maps.get(name, own), named.get(name, before), None if after is None else after[k]
        )
        for k, name in enumerate(preparation.outputs)
    ]


def _in_units(image: Tensor, backs: Sequence[IntensityMap], foreground: Tensor | None) -> Tensor:
    if len(backs) == 1:
        return backs[0].inverse(image, foreground)
    if len(backs) != len(image):
        raise ValueError(
            f"image: expected {len(backs)} channel(s) from the network, received {len(image)}; train again"
        )
    return torch.cat([back.inverse(image[k : k + 1], foreground) for k, back in enumerate(backs)])


def _moved_foreground(foreground: Tensor | None, ddf: Tensor) -> Tensor | None:
    if foreground is None:
        return None
    return warp(foreground.float()[None], ddf[None])[0] > 0.5
