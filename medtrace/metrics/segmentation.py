"""How well a segmentation agrees with the truth, and how it comes back through a trace (Plasticine, Section IV-A)."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.checks import check_choice, check_same_shape, check_whole
from medtrace.fields import identity_grid, sample
from medtrace.metrics.case_metric import CaseMetric, required
from medtrace.trace import Trace

INTERPOLATIONS = ("linear", "nearest")


class Overlap(NamedTuple):
    """Agreement of label maps, per case.

    Attributes:
        accuracy: (B,) fraction of the voxels with the right label.
        dice: (B, classes) 2·|P∩T| / (|P| + |T|), the background first.
        iou: (B, classes) |P∩T| / |P∪T|.
    """

    accuracy: Tensor
    dice: Tensor
    iou: Tensor


def label_overlap(pred: Tensor, target: Tensor, num_classes: int) -> Overlap:
    """Count how label maps agree.

    Args:
        pred: (B, 1, H, W[, D]) integer labels from 0 (background) to num_classes − 1.
        target: the same shape.
        num_classes: with the background.

    Returns:
        The overlap, float64. A class that neither map shows is NaN; one that only one of them shows is 0.

    Raises:
        TypeError: if a map is not an integer tensor.
        ValueError: if the shapes differ or a label is out of range.

    Example:
        >>> overlap = label_overlap(torch.tensor([[[[0, 1, 1, 1]]]]), torch.tensor([[[[0, 0, 1, 1]]]]), 2)
        >>> overlap.dice, overlap.accuracy
        (tensor([[0.6667, 0.8000]], dtype=torch.float64), tensor([0.7500], dtype=torch.float64))
    """
    pred, target = _labels("pred", pred, num_classes), _labels("target", target, num_classes)
    check_same_shape("pred", pred, "target", target)
    first, second = (_shares(labels, num_classes) for labels in (pred, target))
    both = (first & second).flatten(2).sum(2).double()
    sizes = first.flatten(2).sum(2).double() + second.flatten(2).sum(2).double()
    accuracy = (pred == target).flatten(1).double().mean(1)
    return Overlap(accuracy, 2 * both / sizes, both / (sizes - both))


def segmentation_scores(pred: Tensor, target: Tensor, classes: Mapping[str, int]) -> dict[str, float]:
    """Accuracy, Dice and IoU of one case, the columns of Plasticine's Table I.

    Args:
        pred: (1, H, W[, D]) integer labels from 0 (background) to the highest of `classes`.
        target: the same shape.
        classes: name → label, 1 to the number of classes.

    Returns:
        `accuracy` (all voxels, background included), `dice` and `miou` (means over the classes without the background),
        `dice_with_background`, `miou_with_background`, and `dice_<name>` of every class. A class that neither map
        shows is left out of the means. The paper does not say whether the background counts; its cardiac row without
        translation (.956, .253, .237) is close to what a segmentation of nothing but background has among four classes
        if it does: .956, .244, .239.

    Example:
        >>> pred, target = torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]]])
        >>> round(segmentation_scores(pred, target, {"lesion": 1})["dice_lesion"], 2)
        0.8
    """
    count = _checked_classes(classes)
    maps = [value[None] if isinstance(value, Tensor) else value for value in (pred, target)]
    result = label_overlap(maps[0], maps[1], count)
    dice, iou = result.dice[0], result.iou[0]
    return {
        "accuracy": float(result.accuracy[0]),
        "dice": float(dice[1:].nanmean()),
        "miou": float(iou[1:].nanmean()),
        "dice_with_background": float(dice.nanmean()),
        "miou_with_background": float(iou.nanmean()),
        **{f"dice_{name}": float(dice[label]) for name, label in classes.items()},
    }


def warp_to_source(
    trace: Trace,
    labels: Tensor,
    num_classes: int,
    *,
    interpolation: str = "linear",
    follow: bool = True,
) -> Tensor:
    """Bring labels from the target grid to the source grid: m∘φ⁻¹ (Plasticine, Figure 6).

    The reverse of `Trace.transfer`: a source voxel takes the label of the target point that the inverse field gives.

    Args:
        trace: trace of the translation.
        labels: (1, *spatial) integer labels on the image's grid, from 0 to num_classes − 1.
        num_classes: with the background.
        interpolation: "linear" reads the fraction of every class linearly and takes the largest (of equal ones the
            lowest label), which is smoother at borders; "nearest" takes the nearest voxel's label.
        follow: False leaves the field out: the control in which no voxel has moved.

    Returns:
        (1, *source_spatial) of the same integer type. Outside the target, its border is repeated.

    Raises:
        TypeError, ValueError: on wrong types, shapes or choices.

    Example:
        >>> image, ddf = torch.zeros(1, 6, 6), torch.zeros(2, 6, 6)
        >>> ddf[0] = -2.0  # the target shows what lay two voxels lower in the array
        >>> trace = Trace.build(image, image, ddf, affine=torch.eye(4, dtype=torch.float64))
        >>> labels = torch.zeros(1, 6, 6, dtype=torch.long)
        >>> labels[0, 4, 3] = 1
        >>> warp_to_source(trace, labels, 2).nonzero().tolist()
        [[0, 2, 3]]
    """
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    if not isinstance(trace, Trace):
        raise TypeError(f"trace: expected a Trace, received {type(trace).__name__}; see medtrace.io.load_trace")
    labels = _labels("labels", labels[None] if isinstance(labels, Tensor) else labels, num_classes)
    if labels.shape[2:] != trace.image.shape[1:]:
        expected, received = (1, *trace.image.shape[1:]), tuple(labels.shape[1:])
        raise ValueError(f"labels: expected {expected}, the grid of the trace's image, received {received}")
    points = _points_in_target(trace, follow)
    if interpolation == "nearest":
        return sample(labels.to(points.device), points, mode="nearest")[0]
    fractions = sample(_shares(labels, num_classes).to(points), points)
    return fractions.argmax(1).to(labels.dtype)


def _points_in_target(trace: Trace, follow: bool) -> Tensor:
    """Target voxel coordinates (1, spatial_dims, *source_spatial) of every source voxel."""
    inverse = trace.inverse_ddf if follow else torch.zeros_like(trace.inverse_ddf)
    points = identity_grid(inverse.shape[1:], device=inverse.device, dtype=torch.float64) + inverse
    if not trace.same_grid:
        dims = trace.spatial_dims
        to_target = torch.linalg.solve(trace.affine, trace.source_affine)
        offset = to_target[:dims, 3].reshape(dims, *[1] * dims)
        points = torch.einsum("ij,j...->i...", to_target[:dims, :dims], points) + offset
    return points.to(inverse.dtype)[None]


def _labels(name: str, labels: Any, num_classes: int) -> Tensor:
    check_whole("num_classes", num_classes, 1)
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        received = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"{name}: expected integer labels, received {received}; round and convert them first")
    if labels.ndim not in (4, 5) or labels.shape[1] != 1 or labels.numel() == 0:
        raise ValueError(
            f"{name}: expected one channel of labels on a grid of at least one voxel, received shape"
            f" {tuple(labels.shape)}"
        )
    minimum, maximum = int(labels.min()), int(labels.max())
    if minimum < 0 or maximum >= num_classes:
        raise ValueError(f"{name}: expected labels from 0 to {num_classes - 1}, received {minimum} to {maximum}")
    return labels.detach().as_subclass(Tensor)


def class_shares(name: str, labels: Tensor, num_classes: int) -> Tensor:
    """Label maps (B, 1, *spatial) as boolean (B, num_classes, *spatial), checked; `name` is for messages."""
    return _shares(_labels(name, labels, num_classes), num_classes)


def _shares(labels: Tensor, num_classes: int) -> Tensor:
    """Boolean (B, num_classes, ...), one channel per class."""
    numbers = torch.arange(num_classes, device=labels.device).reshape(1, -1, *[1] * (labels.ndim - 2))
    return labels == numbers


def _checked_classes(classes: Mapping[str, int]) -> int:
    if not isinstance(classes, Mapping) or not all(
        isinstance(label, Integral) and not isinstance(label, bool) for label in classes.values()
    ):
        raise TypeError(f"classes: expected whole numbers by name, received {classes!r}")
    if sorted(classes.values()) != list(range(1, len(classes) + 1)):
        raise ValueError(f"classes: expected names of the labels 1 to {len(classes)}, received {dict(classes)}")
    return len(classes) + 1


class _LabelMetric(CaseMetric):
    """A metric of label maps (B, 1, ...).

    Args:
        num_classes: with the background, which is label 0.
        include_background: whether the background counts in the mean over the classes.
    """

    score: str

    def __init__(self, num_classes: int, include_background: bool = False) -> None:
        super().__init__()
        check_whole("num_classes", num_classes, 1)
        self.num_classes = num_classes
        self.include_background = include_background

    def measure(self, y_pred: Tensor, y: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """(B,) in [0, 1]."""
        values: Tensor = getattr(label_overlap(y_pred, required("y", y), self.num_classes), self.score)
        return values if values.ndim == 1 else values[:, 0 if self.include_background else 1 :].nanmean(1)


class LabelAccuracyMetric(_LabelMetric):
    """Fraction of the voxels with the right label, background included.

    Example:
        >>> pred, target = torch.tensor([[[[0, 1, 1, 1]]]]), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> LabelAccuracyMetric(2, include_background=True)(pred, target)
        tensor([[0.7500]], dtype=torch.float64)
    """

    score = "accuracy"


class LabelDiceMetric(_LabelMetric):
    """Mean Dice over the classes that a case shows.

    Example:
        >>> pred, target = torch.tensor([[[[0, 1, 1, 1]]]]), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> LabelDiceMetric(2)(pred, target)
        tensor([[0.8000]], dtype=torch.float64)
    """

    score = "dice"


class LabelIoUMetric(_LabelMetric):
    """Mean intersection over union over the classes that a case shows.

    Example:
        >>> pred, target = torch.tensor([[[[0, 1, 1, 1]]]]), torch.tensor([[[[0, 0, 1, 1]]]])
        >>> LabelIoUMetric(2)(pred, target)
        tensor([[0.6667]], dtype=torch.float64)
    """

    score = "iou"
