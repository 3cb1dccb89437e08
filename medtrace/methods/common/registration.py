"""Components of the methods that register pairs: their pairs, their masks and their trace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_batched, check_choice, check_range, check_same_shape
from medtrace.fields import warp
from medtrace.methods.base import Abilities, Batch, Method
from medtrace.networks.metamorphic import joint_mask
from medtrace.networks.stacked_pair import StackedPair
from medtrace.registration.deformable import Deformable, deform
from medtrace.registration.presets import PRESETS
from medtrace.trace.prediction import Prediction, affines_of, check_one_grid
from medtrace.trace.validation import as_tensor

Segmentation = Callable[[Tensor], Tensor]


class RegistrationPair(NamedTuple):
    """A batch of pairs on one grid, without metadata."""

    source: Tensor
    target: Tensor
    mask: Tensor | None
    source_mask: Tensor | None

    def joint_mask(self, ddf: Tensor) -> Tensor:
        """Pathology on the target's grid, (B, 1, *spatial): the target's own and the source's, pulled by `ddf`."""
        return joint_mask(ddf, self.mask, self.source_mask)


class RegistrationMethod(Method):
    """A method that registers a source to a target, either of which may show pathology.

    A batch has "source" and "target", (B, C, *spatial) in [-1, 1] on one grid, and may have "mask", the target's
    pathology, and "source_mask", the source's, (B, 1, *spatial), boolean or in [0, 1]. A missing mask is empty; with a
    `segmentation`, it is segmented. So healthy to pathological needs "mask", pathological to healthy "source_mask", and
    pathological to pathological both.

    The engine of `medtrace.registration` may continue each pair's field from the network's, without its coarsest level
    (`set_sampling({"continued_by": "thorough"})`, instance optimization after a network as in VoxelMorph's paper): it
    runs on the CPU, compares outside the masks and leaves no folds. An image that the network changed within the mask
    stays there as the network made it.

    Args:
        segmentation: takes images (B, C, *spatial) and returns their pathology (B, 1, *spatial), boolean or in [0, 1].
            A network among the callables becomes a sub-module, runs in evaluation mode and is not trained.
        segment_source: whether it also segments sources without a mask.
    """

    abilities = Abilities(tasks=("register",), masks=True, identity_start=True, continued=True)
    continued_by: str | None = None
    """A preset of `medtrace.registration.presets`, by which the engine continues a network's field."""

    def io_network(self) -> nn.Module:
        """Source and target as channels of one tensor in, the warped source out."""
        return StackedPair(self.networks)

    def __init__(self, segmentation: Segmentation | None = None, segment_source: bool = False) -> None:
        super().__init__()
        if segmentation is not None and not callable(segmentation):
            raise TypeError(
                "segmentation: expected a callable that takes the target (B, C, *spatial), received"
                f" {type(segmentation).__name__}"
            )
        self.segmentation = segmentation
        self.segment_source = segment_source

    def pair(self, batch: Batch) -> RegistrationPair:
        """Take the pairs and their masks from a batch.

        Raises:
            TypeError: if an image is not a floating tensor.
            ValueError: if an image is missing, leaves [-1, 1], or the two are not on one grid.
        """
        for name in ("source", "target"):
            if name not in batch:
                raise ValueError(f"{name}: registration takes source and target, received {sorted(batch)}")
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_batched("source", source)
        check_batched("target", target)
        check_same_shape("source", source, "target", target)
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        mask, source_mask = (self._mask(batch.get(name)) for name in ("mask", "source_mask"))
        if self.segmentation is not None:
            mask = _segmented(self.segmentation, target) if mask is None else mask
            if self.segment_source and source_mask is None:
                source_mask = _segmented(self.segmentation, source)
        return RegistrationPair(source, target, mask, source_mask)

    def answer(self, pair: RegistrationPair) -> Prediction:
        """Register the pairs of a batch; a method that changes no intensity gives 0 for `appearance`."""
        raise NotImplementedError

    @property
    def leaves_out_masks(self) -> bool:
        """Whether pathology is left out of the comparison of two images."""
        return True

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Choose whether the engine continues the network's fields.

        Args:
            values: {"continued_by": name of a preset of `medtrace.registration.presets`, or None}.

        Raises:
            ValueError: if a name is unknown.
        """
        for name in values:
            check_choice("sampling", name, ("continued_by",))
        preset = values.get("continued_by", self.continued_by)
        if preset is not None:
            check_choice("continued_by", preset, tuple(PRESETS))
        self.continued_by = preset

    def predict(self, batch: Batch) -> Prediction:
        """Register each pair of the batch; the two images of a pair are on one grid in space."""
        pair = self.pair(batch)
        check_one_grid(batch["source"], batch["target"])
        result = self.answer(pair)
        if self.continued_by is None:
            return result
        return self._continued(pair, result, PRESETS[self.continued_by], _spacings(batch["target"]))

    @torch.no_grad()
    def _continued(
        self,
        pair: RegistrationPair,
        first: Prediction,
        preset: Callable[[Sequence[float]], Deformable],
        spacings: Sequence[Sequence[float]],
    ) -> Prediction:
        """The engine's fields, which start from a prediction's."""
        masks = (pair.mask, pair.source_mask) if self.leaves_out_masks else (None, None)
        found = []
        for item, spacing in enumerate(spacings):
            settings = preset(spacing)
            mask, moving_mask = (None if one is None else one[item].detach().float().cpu() for one in masks)
            start, moving, fixed = (one[item].detach().float().cpu() for one in (first.ddf, pair.source, pair.target))
            finer = replace(settings, iterations=settings.iterations[1:] or settings.iterations)
            given: dict[str, Any] = {"mask": mask, "moving_mask": moving_mask, "start": start}
            found.append(deform(moving, fixed, spacing=spacing, settings=finer, **given))
        ddf, inverse = (torch.stack(fields).to(first.ddf) for fields in zip(*((one.ddf, one.inverse) for one in found)))
        warped, region = warp(pair.source, ddf), pair.joint_mask(ddf)
        change = torch.zeros_like(warped)
        if first.appearance is not None and bool(first.appearance.any()):
            change = region * (first.image - warped)
        return Prediction(warped + change, ddf, inverse, mask=region, appearance=change)

    @staticmethod
    def _mask(mask: Tensor | None) -> Tensor | None:
        return as_tensor(mask) if isinstance(mask, Tensor) else mask

    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Prediction:
        """Register pairs on one grid in space.

        Args:
            moving: (B, C, *spatial) in [-1, 1], the source.
            fixed: of the same shape, the target.
            mask: (B, 1, *spatial), pathology of `fixed`, where intensity may change.
            source_mask: likewise, pathology of `moving`.
        """
        batch = {"source": moving, "target": fixed, "mask": mask, "source_mask": source_mask}
        return self.predict({name: value for name, value in batch.items() if value is not None})


def _spacings(image: Tensor) -> list[list[float]]:
    """Mm per voxel and axis of each image of a batch; 1 of those without metadata."""
    return [affine[:3, : image.ndim - 2].norm(dim=0).tolist() for affine in affines_of(image)]


@torch.no_grad()
def _segmented(segmentation: Segmentation, image: Tensor) -> Tensor:
    if not isinstance(segmentation, nn.Module):
        return as_tensor(segmentation(image))
    with eval_mode(segmentation):
        return as_tensor(segmentation(image))
