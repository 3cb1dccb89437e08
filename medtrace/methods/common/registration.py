"""Components of the methods that register pairs: their pairs, their masks and their trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_batched, check_range, check_same_shape
from medtrace.methods.base import Abilities, Batch, Method
from medtrace.networks.metamorphic import joint_mask
from medtrace.networks.stacked_pair import StackedPair
from medtrace.trace.prediction import Prediction, check_one_grid
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

    Args:
        segmentation: takes images (B, C, *spatial) and returns their pathology (B, 1, *spatial), boolean or in [0, 1].
            A network among the callables becomes a sub-module, runs in evaluation mode and is not trained.
        segment_source: whether it also segments sources without a mask.
    """

    abilities = Abilities(tasks=("register",), masks=True, identity_start=True)

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

    def predict(self, batch: Batch) -> Prediction:
        """Register each pair of the batch; the two images of a pair are on one grid in space."""
        pair = self.pair(batch)
        check_one_grid(batch["source"], batch["target"])
        return self.answer(pair)

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


@torch.no_grad()
def _segmented(segmentation: Segmentation, image: Tensor) -> Tensor:
    if not isinstance(segmentation, nn.Module):
        return as_tensor(segmentation(image))
    with eval_mode(segmentation):
        return as_tensor(segmentation(image))
