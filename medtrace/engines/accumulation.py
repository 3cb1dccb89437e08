"""A batch in parts that are taken through the networks one after the other (gradient accumulation)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from medtrace.methods.base import Batch


def parts_of(batch: Batch, count: int) -> Iterator[tuple[float, Batch]]:
    """Split a batch along its items.

    Args:
        batch: tensors (B, ...) and lists of B; "source" determines B. Entries of another length go into every part.
        count: number of parts, 1 or more; a batch of fewer items has as many parts as items.

    Returns:
        For each part, its fraction of the batch's items, in (0, 1], and the part; sizes differ by at most one.
    """
    items = len(batch["source"])
    count = min(count, items)
    if count <= 1:
        yield 1.0, batch
        return
    ends = [items * number // count for number in range(count + 1)]
    for first, last in pairwise(ends):
        part = {name: _slice(value, first, last, items) for name, value in batch.items()}
        yield (last - first) / items, part


def _slice(value: Any, first: int, last: int, items: int) -> Any:
    batched = value.ndim > 0 if isinstance(value, Tensor) else isinstance(value, (list, tuple))
    if batched and len(value) == items:
        return value[first:last]
    if isinstance(value, Mapping):
        return {name: _slice(inner, first, last, items) for name, inner in value.items()}
    return value
