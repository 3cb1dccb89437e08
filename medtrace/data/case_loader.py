"""Batches of cases that share a size, from data sets of several sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from monai.data import DataLoader
from torch.utils.data import Dataset, RandomSampler, Sampler, SequentialSampler

Size = tuple[int, ...]


class CaseLoader(DataLoader):
    """MONAI's loader, whose batches hold cases of one size.

    Cases keep their sizes: nothing is padded or cropped. In order, a batch ends where the size changes; shuffled,
    cases wait until a batch of their size is full, and the remaining ones form smaller batches at the end of the epoch.
    With a sampler from the caller (a fraction of the cases for each of several processes) batches hold one case, so
    that all processes have the same number. A data set of one size, or one that reports no sizes (see `sizes_of`), is
    loaded as by MONAI.

    Args:
        dataset: such as `load_dataset` returns, also wrapped in `DeterministicDataset` or `RandomPartner`.
        batch_size: cases at most.
        shuffle: draw a new order in each epoch.
        sampler: gives the order instead.
        num_workers: processes that load.
        options: further arguments of torch's `DataLoader`.

    Example:
        >>> import torch
        >>> from monai.data import Dataset
        >>> cases = [torch.zeros(1, size, 8) for size in (8, 8, 9)]
        >>> data = Dataset(cases)
        >>> data.sizes = [tuple(case.shape[1:]) for case in cases]
        >>> [len(batch) for batch in CaseLoader(data, batch_size=4)]
        [2, 1]
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        sampler: Sampler | None = None,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        sizes = sizes_of(dataset)
        if batch_size == 1 or sizes is None or len(set(sizes)) < 2:
            options |= {"batch_size": batch_size, "shuffle": shuffle, "sampler": sampler}
        elif sampler is not None:
            options |= {"batch_size": 1, "sampler": sampler}
        else:
            order: Sampler[int] = RandomSampler(dataset) if shuffle else SequentialSampler(dataset)  # type: ignore[arg-type]
            options["batch_sampler"] = SameSizeBatches(order, sizes, batch_size, keep_order=not shuffle)
        super().__init__(dataset, num_workers=num_workers, **options)


class SameSizeBatches(Sampler[list[int]]):
    """Batches of indices whose cases have one size.

    Args:
        sampler: of the indices; each is drawn once.
        sizes: sizes of the cases.
        batch_size: indices at most.
        keep_order: end a batch where the size changes, instead of waiting for others of that size.
    """

    def __init__(self, sampler: Sampler[int], sizes: Sequence[Size], batch_size: int, keep_order: bool = False) -> None:
        self.sampler = sampler
        self.sizes = sizes
        self.batch_size = batch_size
        self.keep_order = keep_order

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[Size, list[int]] = defaultdict(list)
        for index in self.sampler:
            size = self.sizes[index]
            if self.keep_order and size not in waiting:
                yield from waiting.values()
                waiting.clear()
            waiting[size].append(index)
            if len(waiting[size]) == self.batch_size:
                yield waiting.pop(size)
        yield from waiting.values()

    def __len__(self) -> int:
        if self.keep_order:
            return sum(1 for _ in self)
        return sum(-(-self.sizes.count(size) // self.batch_size) for size in set(self.sizes))


def sizes_of(dataset: Any) -> list[Size] | None:
    """The spatial size of each item of a data set that reports them, through the data sets around it; None without."""
    outer = dataset
    while dataset is not None and len(dataset) == len(outer):
        sizes = getattr(dataset, "sizes", None)
        if sizes is not None:
            return [tuple(size) for size in sizes]
        dataset = getattr(dataset, "dataset", getattr(dataset, "data", None))
        if not hasattr(dataset, "__getitem__"):
            return None
    return None
