"""Choice of a hot operation's implementation: compiled or plain torch."""

from __future__ import annotations

import importlib.util
import os
from types import TracebackType

import torch
from torch import Tensor

from medtrace.checks import check_choice

CHOICES = ("auto", "compiled", "torch")
VARIABLE = "MEDTRACE_KERNELS"
"""Environment variable that makes the first choice; "auto" without it."""

OPERATIONS: dict[str, str] = {}
"""Names of the operations that have a compiled version, and what it takes."""


class use:
    """Choose the version of the hot operations, from now on or inside a `with` block.

    Args:
        choice: "auto" (compiled on the CPU, torch elsewhere), "torch" (always plain torch) or "compiled" (as "auto",
            but an error where the compiler is missing).

    Raises:
        ValueError: if the choice is unknown.
        RuntimeError: if "compiled" is requested and numba cannot be found.

    The choice holds for the process, not for a thread.
    """

    def __init__(self, choice: str) -> None:
        check_choice("choice", choice, CHOICES)
        if choice == "compiled" and not _has_compiler():
            raise RuntimeError("choice: expected numba for 'compiled', found none; install numba or use 'auto'")
        self._before = current()
        _set(choice)

    def __enter__(self) -> use:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _set(self._before)


def current() -> str:
    """The choice in force."""
    return _choice


def paths() -> dict[str, str]:
    """Per hot operation, which versions run now: for a report to a person."""
    on = _choice != "torch" and _has_compiler()
    return {name: f"compiled ({takes}), else torch" if on else "torch" for name, takes in sorted(OPERATIONS.items())}


def takes_compiled(*tensors: Tensor) -> bool:
    """Whether the compiled version is to take these tensors: on the CPU, float32 or float64, outside torch.func."""
    if _choice == "torch" or not _compiler:
        return False
    if any(tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64) for tensor in tensors):
        return False
    if any(tensor.numel() >= 1 << 31 for tensor in tensors):  # the loops count voxels in 32 bits
        return False
    # The operators have no rules for vmap and forward differentiation; torch's own do.
    return torch.compiler.is_compiling() or not _inside_transform()


def _inside_transform() -> bool:
    forward = torch.autograd.forward_ad._current_level >= 0
    return forward or torch._C._functorch.peek_interpreter_stack() is not None


def _has_compiler() -> bool:
    """Whether numba is there and compiles: its own switch NUMBA_DISABLE_JIT would run the loops in Python."""
    return importlib.util.find_spec("numba") is not None and os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")


def _set(choice: str) -> None:
    global _choice
    _choice = choice


def _first_choice() -> str:
    choice = os.environ.get(VARIABLE, "auto")
    check_choice(VARIABLE, choice, CHOICES)
    return choice


_choice = _first_choice()
_compiler = _has_compiler()
