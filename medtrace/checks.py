"""Checks of what a caller passes: every error names the argument, the expectation, what came, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar, Token
from functools import partial
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor


def check_batched(name: str, value: Any, *, channels: int | None = None) -> int:
    """Check that `value` is a floating tensor (B, C, H, W) or (B, C, H, W, D).

    Args:
        name: the argument's name, for the message.
        value: what the caller passed.
        channels: the channel count to expect, or None for any.

    Returns:
        The number of spatial dimensions, 2 or 3.

    Raises:
        TypeError: if it is not a tensor of floating numbers.
        ValueError: if its rank, its channels or its extent are wrong.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(value).__name__}; convert it first")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected floating-point values, received {value.dtype}; call .float() first")
    if value.ndim not in (4, 5):
        raise ValueError(
            f"{name}: expected (batch, channel, H, W) or (batch, channel, H, W, D), received shape"
            f" {tuple(value.shape)}; add the batch or channel axis"
        )
    if channels is not None and value.shape[1] != channels:
        raise ValueError(
            f"{name}: expected {channels} channel(s), received {value.shape[1]} in shape {tuple(value.shape)};"
            " check the channel axis"
        )
    if value.numel() == 0:
        raise ValueError(f"{name}: expected at least one voxel, received shape {tuple(value.shape)}")
    return value.ndim - 2


def check_network_input(name: str, value: Any, spatial_dims: int, channels: int) -> None:
    """Check that `value` is a floating tensor (B, channels, *spatial) of as many axes as a network was built for."""
    if check_batched(name, value, channels=channels) != spatial_dims:
        raise ValueError(
            f"{name}: expected {spatial_dims} spatial axes, received shape {tuple(value.shape)}; build the network with"
            f" spatial_dims={value.ndim - 2}"
        )


def check_spatial_dims(value: Any) -> None:
    """Check a number of spatial axes."""
    if value not in (2, 3):
        raise ValueError(f"spatial_dims: expected 2 or 3, received {value!r}")


def check_levels(channels: Collection[int], name: str, downsampling: int) -> None:
    """Check the levels of a U-Net, one per entry of `channels`, and how often its result's grid (`name`) is halved."""
    if not channels:
        raise ValueError("channels: expected at least one level, received none")
    if not 0 <= downsampling < len(channels):
        raise ValueError(f"{name}: expected 0 to {len(channels) - 1}, fewer than the levels, received {downsampling!r}")


def check_field(name: str, value: Any) -> int:
    """Check that `value` is a displacement or velocity field (B, 2, H, W) or (B, 3, H, W, D); return 2 or 3."""
    spatial_dims = check_batched(name, value)
    if value.shape[1] != spatial_dims:
        raise ValueError(
            f"{name}: expected {spatial_dims} channels (one per spatial axis, in voxels), received shape"
            f" {tuple(value.shape)}"
        )
    return spatial_dims


def check_same_grid(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Check that two batched tensors share batch size and spatial shape."""
    if first.shape[0] != second.shape[0] or first.shape[2:] != second.shape[2:]:
        raise ValueError(
            f"{second_name}: expected the batch and grid of {first_name} {tuple(first.shape)}, received"
            f" {tuple(second.shape)}; resample one of them"
        )


def check_same_shape(first_name: str, first: Tensor, second_name: str, second: Tensor) -> None:
    """Check that two tensors have one shape."""
    for name, value in ((first_name, first), (second_name, second)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: expected a tensor, received {type(value).__name__}")
    if first.shape != second.shape:
        raise ValueError(
            f"{second_name}: expected the shape of {first_name} {tuple(first.shape)}, received {tuple(second.shape)}"
        )


def check_finite(name: str, value: Tensor, remedy: str = "look for NaN or infinity in the input") -> None:
    """Check that every number is finite."""
    if not _is_finite(value.detach().as_subclass(Tensor)):
        count = int((~torch.isfinite(value)).sum())
        raise ValueError(f"{name}: expected finite numbers, received {count} that are NaN or infinite; {remedy}")


def _is_finite(value: Tensor) -> bool:
    if value.is_complex() or value.numel() == 0:
        return bool(torch.isfinite(value).all())
    # The extremes say it, in one pass and without a truth value for every number.
    return bool(torch.isfinite(torch.stack(torch.aminmax(value))).all())


class DeferredChecks:
    """Let checks of what is on an accelerator wait, so that no single one makes the host wait for it.

    Within a `with` block of it, `check_range` and `check_extremes` wait where their tensors are on an accelerator. Who
    opens the block calls `look` once all that the device has to do is under way, and before anything that cannot be
    taken back. On the CPU nothing waits.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[Tensor, Callable[[float, float], None]]] = []
        self._tokens: list[Token[DeferredChecks | None]] = []

    def __enter__(self) -> DeferredChecks:
        self._tokens.append(_DEFERRED.set(self))
        return self

    def __exit__(self, *_: object) -> None:
        _DEFERRED.reset(self._tokens.pop())

    def add(self, extremes: Tensor, assess: Callable[[float, float], None]) -> None:
        """Keep the two numbers `extremes`, on their device, until they are assessed."""
        self._waiting.append((extremes, assess))

    def look(self) -> None:
        """Assess what waits, in the order it came, with one look at the device.

        Raises:
            ValueError: of the first check that fails.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            numbers = torch.stack([extremes.double() for extremes, _ in waiting]).tolist()
            for (minimum, maximum), (_, assess) in zip(numbers, waiting):
                assess(minimum, maximum)


_DEFERRED: ContextVar[DeferredChecks | None] = ContextVar("deferred checks", default=None)


def check_extremes(value: Tensor, assess: Callable[[float, float], None]) -> None:
    """Hand the least and greatest number of a tensor to `assess`, which raises: now, or as `DeferredChecks` says."""
    if sizes_are_symbols():  # and so are the numbers
        return
    extremes = torch.stack(value.detach().aminmax())
    deferred = _DEFERRED.get()
    if deferred is not None and _costs_a_wait(extremes):
        deferred.add(extremes, assess)
    else:
        assess(*extremes.tolist())


def _costs_a_wait(value: Tensor) -> bool:
    """Whether reading a number makes the host wait for the device."""
    return value.device.type != "cpu"


def check_range(name: str, value: Tensor, low: float, high: float, tolerance: float = 1e-3) -> None:
    """Check that every number lies in [low, high], within `tolerance` of the range for rounding; NaN fails."""
    check_extremes(value, partial(_assess_range, name, low, high, tolerance * (high - low)))


def _assess_range(name: str, low: float, high: float, slack: float, minimum: float, maximum: float) -> None:
    if not (low - slack <= minimum and maximum <= high + slack):
        raise ValueError(
            f"{name}: expected intensities in [{low:g}, {high:g}], received {minimum:g} to {maximum:g}; rescale the"
            " image (monai.transforms.ScaleIntensityRange), or use `medtrace prepare` and `translate`, which do"
        )


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Check a closed choice."""
    try:
        known = value in choices
    except (TypeError, RuntimeError):  # what cannot be hashed, or compared as a whole
        known = False
    if not known:
        close = difflib.get_close_matches(value, [str(one) for one in choices], 1) if isinstance(value, str) else []
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, received {value!r}{hint}")


def check_number(name: str, value: Any) -> None:
    """Check that a value is a real number or a tensor of one, which may be infinite or NaN."""
    if isinstance(value, Tensor) and value.ndim == 0 and not value.is_complex() and value.dtype != torch.bool:
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, received {value!r}")


def check_positive(name: str, value: float, finite: bool = True) -> None:
    """Check that a number is above zero, and finite unless it may be infinite."""
    check_number(name, value)
    if not value > 0:
        raise ValueError(f"{name}: expected a number above 0, received {value!r}")
    if finite and value == float("inf"):
        raise ValueError(f"{name}: expected a finite number, received {value!r}")


def check_whole(name: str, value: Any, minimum: int) -> None:
    """Check that a value is a whole number, and not less than `minimum`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number, received {value!r}")
    if value < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, received {value!r}")


def check_shape(name: str, value: Any) -> int:
    """Check that `value` is a spatial shape (H, W) or (H, W, D) of whole numbers from 1; return 2 or 3."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise TypeError(f"{name}: expected (H, W) or (H, W, D), received {value!r}")
    if torch.jit.is_tracing() or torch.compiler.is_compiling():
        return len(value)
    if not all(isinstance(size, Integral) and not isinstance(size, bool) for size in value):
        raise TypeError(f"{name}: expected whole numbers of voxels, received {tuple(value)}")
    if len(value) not in (2, 3) or min(value) < 1:
        raise ValueError(f"{name}: expected (H, W) or (H, W, D) of at least 1 voxel, received {tuple(value)}")
    return len(value)


def sizes_are_symbols() -> bool:
    """Whether a program is being made of this one that is to take other sizes, too: no branch may hang on a size."""
    return torch.jit.is_tracing() or torch.compiler.is_exporting()


def check_floating(name: str, value: Any) -> None:
    """Check that `value` is a tensor of floating numbers, of any shape."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{name}: expected a floating-point tensor, received {kind}; call .float() or convert it")


def check_floating_type(name: str, value: Any) -> None:
    """Check that `value` is one of torch's floating types."""
    if not isinstance(value, torch.dtype) or not value.is_floating_point:
        raise TypeError(f"{name}: expected a floating type such as torch.float32, received {value!r}")
