"""The base of every metric: one number per case, kept until the summary."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
from monai.metrics.metric import CumulativeIterationMetric
from torch import Tensor

from medtrace.checks import check_number
from medtrace.metrics.table import Summary, summarize


class ComparingMetric(CumulativeIterationMetric):
    """A MONAI metric that says so if it is called with anything but images; MONAI takes a `y` that is none for None."""

    def __call__(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Any:
        """Measure a batch, or lists of channel-first items, and keep the values.

        Raises:
            TypeError: if either is neither a tensor nor a list of tensors.
            ValueError: if a list is empty, or of another length.
        """
        for name, value in (("y_pred", y_pred), ("y", y)):
            items = value if isinstance(value, (list, tuple)) else [value]
            if value is None and name == "y":
                continue
            if not items:
                raise ValueError(f"{name}: expected at least one item, received none")
            for item in items:
                if not isinstance(item, Tensor):
                    raise TypeError(
                        f"{name}: expected a batch or a list of channel-first tensors, received {type(item).__name__}"
                    )
        return super().__call__(y_pred, y, **kwargs)


class CaseMetric(ComparingMetric):
    """A MONAI metric that keeps one value per case.

    `metric(y_pred, y, mask=mask)` takes batches (or lists of channel-first items, then also lists of masks) and
    returns (B, 1); `get_buffer()` holds all cases (N, 1); `aggregate()` is their mean, `summary()` reports more.
    An infinite value (PSNR of a perfect case) or an undefined one (NaN: a ratio without a denominator) stays in the
    buffer, is left out of the mean, and is counted in the summary; `aggregate()` then warns with the number.

    A metric names its `function`, whose settings it takes; or it has a `measure` of its own.

    Args:
        settings: the function's keywords that are the same for all cases, of which `data_range` is checked here.

    Example:
        >>> from medtrace.metrics import MAEMetric
        >>> metric = MAEMetric(data_range=(0, 1))
        >>> metric(torch.tensor([[[[0.0]]], [[[0.5]]]]), torch.ones(2, 1, 1, 1)).flatten()
        tensor([1.0000, 0.5000], dtype=torch.float64)
        >>> round(float(metric.aggregate()), 3), metric.summary().n
        (0.75, 2)
    """

    function: ClassVar[staticmethod[..., Tensor]]
    """Values (B,) of a batch."""
    compares: ClassVar[bool] = True
    """Whether the function takes `y` too."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        if "data_range" in settings:
            range_width(settings["data_range"])
        self.settings = settings

    def measure(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Values (B,) of a batch: `measure(y_pred, y)`, and the metric's own keywords such as `mask`."""
        if self.compares:
            return self.function(y_pred, required("y", y), **kwargs, **self.settings)
        if y is not None:
            raise TypeError("y: expected None, this metric takes one field, received a second argument; leave it out")
        return self.function(y_pred, **kwargs, **self.settings)

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        return self.measure(y_pred, y, **kwargs)[:, None]

    def _compute_list(self, y_pred: Any, y: Any = None, **kwargs: Any) -> Tensor:
        count = len(y_pred)
        if y is not None and len(y) != count:
            raise ValueError(f"y: expected {count} items as y_pred has, received {len(y)}")
        values = []
        for item in range(count):
            single = {name: _item(name, value, item, count) for name, value in kwargs.items()}
            target = None if y is None else y[item].detach().unsqueeze(0)
            values.append(self._compute_tensor(y_pred[item].detach().unsqueeze(0), target, **single))
        return torch.cat(values)

    def aggregate(self) -> Tensor:
        """Mean over the cases with a finite value (), infinite if all are; NaN before the first case."""
        values = self.get_buffer()
        if values is None:
            return torch.tensor(torch.nan)
        summary = self.summary()
        left_out = summary.infinite + summary.undefined
        if left_out and summary.n > left_out:
            warnings.warn(
                f"{type(self).__name__}: the mean leaves out {summary.infinite} infinite and {summary.undefined}"
                f" undefined value(s) of {summary.n} cases; see summary()",
                stacklevel=2,
            )
        return torch.tensor(summary.mean, dtype=values.dtype)

    def summary(self) -> Summary:
        """n, mean, SD and median over the cases so far, with the counts of infinite and undefined ones."""
        values = self.get_buffer()
        return summarize([] if values is None else values.flatten().tolist())


def _item(name: str, value: Any, item: int, count: int) -> Any:
    """One item's fraction of a keyword argument that comes as a list or a batch; anything else is for all."""
    if isinstance(value, (list, tuple)):
        if len(value) != count:
            raise ValueError(f"{name}: expected {count} items as y_pred has, received {len(value)}")
        entry = value[item]
        return entry.unsqueeze(0) if isinstance(entry, Tensor) else entry
    if isinstance(value, Tensor) and value.ndim > 2 and value.shape[0] == count:
        return value[item : item + 1]
    return value


def range_width(data_range: tuple[float, float]) -> float:
    """Checked high − low of a range given as (low, high)."""
    if not isinstance(data_range, (tuple, list)) or len(data_range) != 2:
        raise TypeError(f"data_range: expected (low, high), for instance (-1, 1), received {data_range!r}")
    check_number("data_range", data_range[0])
    check_number("data_range", data_range[1])
    low, high = float(data_range[0]), float(data_range[1])
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"data_range: expected low < high, both finite, received {data_range!r}")
    return high - low


def required(name: str, value: Tensor | None) -> Tensor:
    """The second argument of a metric that compares, or a TypeError."""
    if value is None:
        raise TypeError(f"{name}: expected a tensor to compare with, received None")
    return value
