"""The memory that a method's networks would take, computed without building them.

The settings of a run may come from elsewhere: `channels: [100000, 100000]` would ask for more memory than there is. A
method is therefore first built on torch's device "meta", which keeps shapes and no numbers, and its weights are
compared with the file that is to fill them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from medtrace.guard.declared_size import memory_limit

MAX_MODULES = 20_000
"""Modules that a method may have; the largest that medtrace ships has 898."""
EXTRA = "_extra_state"
"""Ending of the entries of a state dict that are not tensors, such as kept images of a pool; weights lack them."""


def check_size(build: Callable[[], nn.Module], path: Path) -> nn.Module:
    """Check that a method is of a size that can be.

    Args:
        build: makes the method.
        path: path of its settings, for messages.

    Returns:
        The method without numbers.

    Raises:
        ValueError: if it is larger than `MEDTRACE_MAX_GIB`, or cannot be built.
    """
    try:
        with torch.device("meta"), _few_modules():
            method = build()
            members = {**dict(method.named_parameters()), **dict(method.named_buffers())}
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: its networks cannot be built ({_reason(error)}); take an intact copy") from error
    size, limit = sum(member.numel() * member.element_size() for member in members.values()), memory_limit()
    if size > limit:
        raise ValueError(
            f"{path}: its networks would take {size / 2**30:.3g} GiB; expected at most {limit / 2**30:g} GiB. If that"
            " is right, set MEDTRACE_MAX_GIB"
        )
    return method


def check_shapes(method: nn.Module, states: Mapping[str, Any], path: Path) -> None:
    """Check names and shapes of the weights in a file against those of a method.

    Raises:
        ValueError: at the first that differs.
    """
    wanted = {name: tuple(value.shape) for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    held = {name: tuple(value.shape) for name, value in states.items() if isinstance(value, Tensor)}
    for name in [*wanted, *held]:
        if wanted.get(name) != held.get(name):
            raise ValueError(
                f"run: {path} holds no weights of these settings ({name}: expected shape"
                f" {wanted.get(name, 'none')}, received {held.get(name, 'none')}); train again"
            )


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
    """The first line of what began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
