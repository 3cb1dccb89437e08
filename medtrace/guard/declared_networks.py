"""What the networks of a configuration would take, found without making them.

A run's configuration may come from elsewhere, and its plain values are anyone's: `channels: [1000000000]` would ask for
more memory than there is. Networks are therefore first built on torch's device "meta", which keeps shapes and no
numbers, and compared with the weights that are to go into them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from medtrace.guard.configuration_language import entries
from medtrace.guard.memory import memory_limit

MAX_MODULES = 20_000
"""Modules that an method may have; the largest that medtrace ships has 898."""

MAX_NUMBER = 100_000
"""Largest whole number, of channels, layers or steps, that an method is built from; loops may run as often."""
_REFERENCE = re.compile(r"@([\w#:]+)")


def check_networks(config: Mapping[str, Any], path: Path) -> nn.Module:
    """Check that a configuration's method is of a size that can be.

    Args:
        config: with the entry "method", all of whose code medtrace ships.
        path: of the configuration, for messages.

    Returns:
        The method without numbers.

    Raises:
        ValueError: if it is larger than `MEDTRACE_MAX_GIB`, or cannot be built.
    """
    from monai.bundle import ConfigParser

    for place, value in _settings(config):
        if isinstance(value, int) and abs(value) > MAX_NUMBER and not place.endswith("seed"):
            raise ValueError(f"{path}: {place}: expected a whole number up to {MAX_NUMBER}, received {value}")
    parser = ConfigParser()
    parser.read_config(dict(config))
    try:
        with torch.device("meta"), _few_modules():
            method: nn.Module = parser.get_parsed_content("method")
            members = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: its networks cannot be made ({_reason(error)}); take an intact copy") from error
    size, limit = sum(member.numel() * member.element_size() for member in members.values()), memory_limit()
    if size > limit:
        raise ValueError(
            f"{path}: its networks would take {size / 2**30:.3g} GiB; expected at most {limit / 2**30:g} GiB. If that"
            " is right, set MEDTRACE_MAX_GIB"
        )
    return method


def check_shapes(method: nn.Module, states: Any, path: Path) -> None:
    """Check names and shapes of the weights in a file against those of an method.

    Raises:
        ValueError: at the first that differs.
    """
    wanted = {name: tuple(value.shape) for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    given = states if isinstance(states, Mapping) else {}
    held = {name: tuple(value.shape) for name, value in given.items() if isinstance(value, Tensor)}
    for name in [*wanted, *held]:
        if wanted.get(name) != held.get(name):
            raise ValueError(
                f"run: {path} holds no weights of this configuration ({name}: expected shape"
                f" {wanted.get(name, 'none')}, received {held.get(name, 'none')}); train again"
            )


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Place and value of the entries that the method is built from: its own, and those that they refer to."""
    everything = list(entries(config))
    wanted, seen = ["method"], set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        for place, value in everything:
            if place == name or place.startswith(f"{name}#"):
                yield place, value
                wanted += [found.replace("::", "#") for found in _REFERENCE.findall(str(value))]


@contextmanager
def _few_modules() -> Iterator[None]:
    """Stop building where modules become too many."""
    count = 0

    def one_more(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MAX_MODULES:
            raise ValueError(f"more than {MAX_MODULES} modules")

    handle = register_module_module_registration_hook(one_more)
    try:
        yield
    finally:
        handle.remove()


def _reason(error: BaseException) -> str:
    """The first line of what began it, which MONAI wraps."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
