"""Channels of a source beside those of a target, where their numbers differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_registered(channels: Sequence[int] | None, in_channels: int) -> None:
    """Check the source channels that a registration compares with the target.

    Raises:
        ValueError: if there is none, one twice, or one that the source lacks.
    """
    if channels is None:
        return
    if not channels or len(set(channels)) < len(channels) or not all(0 <= c < in_channels for c in channels):
        raise ValueError(
            f"registered_channels: expected different numbers from 0 to {in_channels - 1}, channels of the source,"
            f" received {list(channels)}; leave it out for all"
        )


def without_neighbors(settings: Any, wide: Any) -> Any:
    """Settings widened by neighboring slices, none of which a registration compares with the target.

    Args:
        settings: as they were given, with `registered_channels`.
        wide: widened (see `Method.widened`).
    """
    if not settings.neighbors or settings.registered_channels is not None:
        return wide
    return wide.model_copy(update={"registered_channels": tuple(range(settings.in_channels))})


def compared(source: Tensor, target: Tensor, channels: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    """A source and a target as pairs of as many channels, so that a similarity can compare them.

    Args:
        source: (B, C, *spatial).
        target: (B, C', *spatial).
        channels: channels of the source, each to be compared with every channel of the target; None compares channel by
            channel where C = C', and otherwise uses all.

    Returns:
        (B·V, C', *spatial) each: the V chosen channels one after another.

    Example:
        >>> moving, fixed = compared(torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8))
        >>> moving.shape, fixed.shape
        (torch.Size([6, 1, 8, 8]), torch.Size([6, 1, 8, 8]))
    """
    if channels is None and source.shape[1] == target.shape[1]:
        return source, target
    chosen = range(source.shape[1]) if channels is None else channels
    views = [source[:, c : c + 1].expand(-1, target.shape[1], *source.shape[2:]) for c in chosen]
    return torch.cat(views), torch.cat([target] * len(views))
