"""The contract of every method, tested by `check_method`."""

from __future__ import annotations

from typing import Literal

from medtrace.methods import Method, MethodSettings
from medtrace.testing.traces import (
    check_identity,
    check_io_network,
    check_masks,
    check_patches,
    check_traces,
    check_weights,
)
from medtrace.testing.training import (
    check_autocast,
    check_channels,
    check_dimensions,
    check_pairing,
    check_resume,
    check_settings,
    check_step,
)
from medtrace.testing.trial import SHAPES, SMOKE, ContractError, promise, smallest

__all__ = ["ContractError", "check_method"]


def check_method(kind: type[Method], level: Literal["quick", "full"] = "quick") -> None:
    """Try what every method promises.

    Quick, in seconds, in the first of the declared dimensions:

    - the class names itself, and undeclared dimensions are refused;
    - settings survive JSON and build the same weights from the same seed;
    - a training step reaches every phase with finite, declared terms and changes no input, also under autocast;
    - traces have the right shapes on the source's grid, do not depend on the batch, and are consistent: `warped` is the
      source at the field, the field is the exponential of its velocity, the inverse undoes it;
    - declared abilities are true: the identity at the start, what moves and what does not, masks, patches, pairs;
    - weights survive safetensors bit for bit, and the bundle's network takes one tensor and gives one.

    Full, in addition: all of it in every declared dimension, images of an odd size, several channels, unequal channels
    (trained where declared, refused where not), and a training that is stopped and resumed ends in the same bits.

    Args:
        kind: a subclass of `Method`, whose settings have a preset "smoke".
        level: "quick" or "full".

    Raises:
        ContractError: at the first promise that is broken.
        ValueError: if `level` is another.

    Example:
        >>> from medtrace.methods import method_class
        >>> check_method(method_class("unet"))
    """
    if level not in ("quick", "full"):
        raise ValueError(f"level: expected quick or full, received {level!r}")
    _check_names(kind)
    check_dimensions(kind)
    for dims in kind.abilities.spatial_dims if level == "full" else kind.abilities.spatial_dims[:1]:
        settings, shape = smallest(kind, spatial_dims=dims), SHAPES[dims]
        check_settings(kind, settings)
        for check in (check_step, check_traces, check_identity, check_masks, check_patches, check_weights):
            check(kind, settings, shape)
        for check in (check_autocast, check_pairing, check_io_network):
            check(kind, settings, shape)
        if level == "full":
            odd = tuple(size - 3 for size in shape)
            check_traces(kind, settings, odd)
            several = smallest(kind, spatial_dims=dims, in_channels=2, out_channels=2)
            check_step(kind, several, shape)
            check_traces(kind, several, shape)
            check_channels(kind, dims, shape)
            check_resume(kind, settings, shape)


def _check_names(kind: type[Method]) -> None:
    for attribute in ("name", "title", "paper"):
        value = getattr(kind, attribute)
        promise(isinstance(value, str) and bool(value), f"{kind.__name__}.{attribute}", "text", repr(value))
    promise(issubclass(kind.settings_type, MethodSettings), "settings_type", "a MethodSettings", kind.settings_type)
    presets = kind.settings_type.presets
    promise(SMOKE in presets, "presets", f"one called {SMOKE!r}", sorted(presets))
    tasks, dims = set(kind.abilities.tasks), set(kind.abilities.spatial_dims)
    promise(bool(tasks) and tasks <= {"translate", "register"}, "abilities.tasks", "translate, register", tasks)
    promise(bool(dims) and dims <= {2, 3}, "abilities.spatial_dims", "2, 3", kind.abilities.spatial_dims)
