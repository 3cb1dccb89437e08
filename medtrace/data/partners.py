"""Random partners across domains: how a method that wants pairs is trained where there are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from monai.transforms import ResizeWithPadOrCrop
from torch.utils.data import Dataset

from medtrace.data.case_loader import sizes_of

_TRIES = 1000


class RandomPartner(Dataset):
    """Give each source the target of another subject, drawn anew every time that the item is asked for.

    The draw comes from torch's global generator, which `DeterministicDataset` around this dataset seeds for each
    item, so that every epoch has different pairs and the same seed gives the same ones.

    Args:
        dataset: items with "source" and "target", such as `load_dataset` and `TraceBench` give; with "subject" no item
            gets a target of its own subject. A target of another size is taken only where no other subject has one of
            the item's size; it is cropped or padded with its background, about the center, to that size. Whether an
            item's own source and target show one subject does not matter: the sources of some subjects and the targets
            of others may be paired in any order.
        transform: applied to every item on its way out.

    Items have the "source...", "case" and "subject" entries of their own, the "target..." entries of the partner, and
    its subject as "partner". Everything else (true fields, masks) describes the original pair, and is left out.

    Raises:
        ValueError: if there are fewer than two items, or (on access) no other subject is found.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[dict[str, Any]], Any] | None = None) -> None:
        self.dataset = cast(Any, dataset)  # torch's Dataset declares no length
        self.transform = transform
        self._sizes = sizes_of(dataset)
        self._subjects = _subjects_of(dataset)
        if len(self.dataset) < 2:
            raise ValueError(
                f"dataset: expected two items or more, received {len(self.dataset)}; a single one has no partner"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        own = self.dataset[index]
        other = self._partner(
            index % len(self), own.get("subject"), None if self._sizes is None else self._sizes[index]
        )
        item = {key: value for key, value in own.items() if key.startswith("source") or key in ("case", "subject")}
        size = None if self._sizes is None else self._sizes[index]
        item |= {key: _of_size(value, size) for key, value in other.items() if key.startswith("target")}
        if "subject" in other:
            item["partner"] = other["subject"]
        return item if self.transform is None else self.transform(item)

    def _partner(self, index: int, subject: Any, size: tuple[int, ...] | None) -> dict[str, Any]:
        if self._sizes is not None and not self._has_partner(index, size):
            size = None
        for _ in range(_TRIES):
            # One of the others: those after the item move down by one.
            drawn = int(torch.randint(len(self) - 1, ()))
            drawn += drawn >= index
            if size is not None and self._sizes is not None and self._sizes[drawn] != size:
                continue
            other: dict[str, Any] = self.dataset[drawn]
            if subject is None or other.get("subject") != subject:
                return other
        raise ValueError(
            f"dataset: expected items of several subjects, found no target of a subject other than {subject!r} in"
            f" {_TRIES} draws; add subjects, or train on the pairs as they are"
        )

    def _has_partner(self, index: int, size: tuple[int, ...] | None) -> bool:
        """Whether another subject has a target of a size."""
        alike = [other for other, one in enumerate(self._sizes or ()) if one == size]
        if self._subjects is None:
            return len(alike) > 1
        return any(self._subjects[other] != self._subjects[index] for other in alike)


class UnpairedDomains(Dataset):
    """Give each source a random target, sampled anew every time that the item is asked for.

    The draw comes from torch's global generator, as that of `RandomPartner` does.

    Args:
        sources: items with "source", such as `load_domain` gives.
        targets: items with "target"; where both report their sizes, a source gets a target of its own size.
        transform: applied to every item on its way out.

    Items have the entries of their source and the "target..." entries of the target, and its subject as "partner".

    Raises:
        ValueError: if a source has a size that no target has.
    """

    def __init__(
        self, sources: Dataset, targets: Dataset, transform: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        self.dataset, self.targets = cast(Any, sources), cast(Any, targets)
        self.transform = transform
        own, others = sizes_of(sources), sizes_of(targets)
        every = range(len(self.targets))
        if own is None or others is None:
            self._choices = [list(every)] * len(self.dataset)
        else:
            of_size = {size: [k for k in every if others[k] == size] for size in set(own)}
            self._choices = [of_size[size] for size in own]
            for size, choices in of_size.items():
                if not choices:
                    raise ValueError(
                        f"targets: expected one of the size {' x '.join(map(str, size))}, which a source has, received"
                        " none; prepare all at one size (crop with --pad, --resize or --spacing)"
                    )

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        choices = self._choices[index]
        other = self.targets[choices[int(torch.randint(len(choices), ()))]]
        kept = ("case", "subject")
        item = {key: value for key, value in self.dataset[index].items() if key.startswith("source") or key in kept}
        item |= {key: value for key, value in other.items() if key.startswith("target")}
        if "subject" in other:
            item["partner"] = other["subject"]
        return item if self.transform is None else self.transform(item)


def _of_size(value: Any, size: tuple[int, ...] | None) -> Any:
    """An image or mask of a size, cut or padded with its lowest value about the center."""
    if size is None or not isinstance(value, torch.Tensor) or value.ndim != len(size) + 1 or value.shape[1:] == size:
        return value
    fill = float(value.min()) if value.is_floating_point() else 0
    return ResizeWithPadOrCrop(size, constant_values=fill)(value)


def _subjects_of(dataset: Any) -> list[Any] | None:
    """The subjects of a cached list of cases, read without their images."""
    items = getattr(dataset, "data", None)
    if not isinstance(items, list) or len(items) != len(dataset):
        return None
    subjects = [item.get("subject") if isinstance(item, Mapping) else None for item in items]
    return None if None in subjects else subjects
