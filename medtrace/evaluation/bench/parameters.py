"""Size of a method: its trained parameters, and those used by a prediction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from medtrace.methods.base import Method

MILLION = 1e6


@contextmanager
def parameters_run_through(method: Method | None) -> Iterator[dict[str, float]]:
    """Count the parameters that the code inside the block runs through, in millions.

    The direct parameters of every module that is called are counted, each parameter once; what a training needs and
    a prediction does not, such as a discriminator or the reverse generator, is left out, whatever its name.

    Args:
        method: a method; None counts nothing.

    Yields:
        A mapping that holds `parameters_million` and `all_parameters_million` after the block.
    """
    counts: dict[str, float] = {}
    if method is None:
        yield counts
        return
    called: dict[int, int] = {}

    def note(module: nn.Module, *_: Any) -> None:
        called.update({id(parameter): parameter.numel() for parameter in module.parameters(recurse=False)})

    hooks = [module.register_forward_hook(note) for module in method.modules()]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
    counts["parameters_million"] = sum(called.values()) / MILLION
    counts["all_parameters_million"] = sum(parameter.numel() for parameter in method.parameters()) / MILLION
