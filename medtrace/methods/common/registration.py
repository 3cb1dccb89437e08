"""What the methods that register pairs have in common: their pairs, their masks and their trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_batched, check_range, check_same_shape
from medtrace.geometry.grid import Grid
from medtrace.methods.base import Batch, Method, affines_of, plain
from medtrace.networks.metamorphic import MetamorphicOutput, joint_mask
from medtrace.trace import Trace

Segmentation = Callable[[Tensor], Tensor]


class Pair(NamedTuple):
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
    pathology, and "source_mask", the source's, (B, 1, *spatial), boolean or in [0, 1]. What is absent is empty; with a
    `segmentation`, what is absent is segmented. So healthy to pathological needs "mask", pathological to healthy
    "source_mask", and pathological to pathological both.

    Args:
        segmentation: takes images (B, C, *spatial) and gives their pathology (B, 1, *spatial), boolean or in [0, 1]. A
            network among the callables becomes a sub-module, runs in evaluation mode and is not trained.
        segment_source: whether it also segments sources without a mask.
    """

    def __init__(self, segmentation: Segmentation | None = None, segment_source: bool = False) -> None:
        super().__init__()
        if segmentation is not None and not callable(segmentation):
            raise TypeError(
                "segmentation: expected something to call with the target (B, C, *spatial), received"
                f" {type(segmentation).__name__}"
            )
        self.segmentation = segmentation
        self.segment_source = segment_source

    def pair(self, batch: Batch) -> Pair:
        """Take the pairs and their masks from a batch.

        Raises:
            TypeError: if an image is no floating tensor.
            ValueError: if an image is missing, leaves [-1, 1], or the two are not on one grid.
        """
        for name in ("source", "target"):
            if name not in batch:
                raise ValueError(f"{name}: registration takes source and target, received {sorted(batch)}")
        source, target = plain(batch["source"]), plain(batch["target"])
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
        return Pair(source, target, mask, source_mask)

    def answer(self, pair: Pair) -> MetamorphicOutput:
        """Register the pairs of a batch; a method that changes no intensity gives 0 for it."""
        raise NotImplementedError

    @torch.no_grad()
    def trace(self, batch: Batch) -> list[Trace]:
        """Register each pair of the batch."""
        with eval_mode(self):
            pair = self.pair(batch)
            output = self.answer(pair)
        return traces_of(batch, output.image, output.ddf, pair.joint_mask(output.ddf))

    @property
    def registers(self) -> bool:
        """It is all that it does."""
        return True

    @staticmethod
    def _mask(mask: Tensor | None) -> Tensor | None:
        return plain(mask) if isinstance(mask, Tensor) else mask

    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> list[Trace]:
        """Register pairs.

        Args:
            moving: (B, C, *spatial) in [-1, 1], the source.
            fixed: of the same shape, on the same grid in space, the target.
            mask: (B, 1, *spatial), pathology of `fixed`, where intensity may change.
            source_mask: likewise, pathology of `moving`.

        Returns:
            One trace per pair.
        """
        batch = {"source": moving, "target": fixed, "mask": mask, "source_mask": source_mask}
        return self.trace({name: value for name, value in batch.items() if value is not None})


@torch.no_grad()
def _segmented(segmentation: Segmentation, image: Tensor) -> Tensor:
    if not isinstance(segmentation, nn.Module):
        return plain(segmentation(image))
    with eval_mode(segmentation):
        return plain(segmentation(image))


def traces_of(batch: Batch, image: Tensor, ddf: Tensor, mask: Tensor, velocity: Tensor | None = None) -> list[Trace]:
    """One trace per item of a registered batch; the inverse is that of `ddf` itself.

    Args:
        batch: "source" and "target".
        image: (B, C, *spatial).
        ddf: (B, spatial_dims, *spatial) in voxels.
        mask: (B, 1, *spatial) in [0, 1].
        velocity: (B, spatial_dims, *spatial) or None.

    Raises:
        ValueError: if source and target are not on one grid, to 1e-3 of a voxel.
    """
    affines, source_affines = affines_of(batch["target"]), affines_of(batch["source"])
    for affine, other in zip(affines, source_affines):
        if not Grid(tuple(image.shape[2:]), affine).coincides(Grid(tuple(image.shape[2:]), other)):
            raise ValueError(
                f"source: expected the target's grid in space, received affine {other.tolist()} beside"
                f" {affine.tolist()}; resample the source onto the target's grid first"
            )
    source = plain(batch["source"])
    return [
        Trace.build(
            source=source[item],
            image=image[item],
            ddf=ddf[item],
            mask=mask[item],
            velocity=None if velocity is None else velocity[item],
            affine=affine,
            source_affine=affine,
        )
        for item, affine in enumerate(affines)
    ]
