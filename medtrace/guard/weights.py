"""Read weights without running what a file says."""

from __future__ import annotations

import mmap
import os
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

SAFETENSORS = ".safetensors"
_GLOBAL = re.compile(r"(?:GLOBAL|class)\s+([\w.]+)")


def load_weights(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint: tensors, numbers, strings and their containers, nothing else.

    A `.pt` file is a pickle, which can name any function to call while it is read; `torch.load(weights_only=True)`
    knows a short list of harmless ones and stops at any other, before calling it. `.safetensors` holds tensors only.

    Args:
        path: .safetensors, whose keys "method.NAME" become {"method": {NAME: ...}}, or anything that
            `torch.save` wrote.

    Returns:
        What is in it, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, claims more than it holds, or would run code; the message says which function.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected weights")
    if path.suffix == SAFETENSORS:
        return _safetensors(path)
    _check_archive(path)
    try:
        content = _load(path)
    except pickle.UnpicklingError as error:
        named = _GLOBAL.search(str(error).replace("GLOBAL posix", "GLOBAL os").replace("GLOBAL nt.", "GLOBAL os."))
        if named is None:
            raise ValueError(_damaged(path, error)) from error
        raise ValueError(
            f"{path}: refused, because reading it would call {named[1]}, and weights call nothing; use weights saved"
            " as a state_dict or as .safetensors by someone you trust"
        ) from error
    except Exception as error:  # a damaged pickle fails in any of the operations that it asks for
        raise ValueError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a mapping of weights, received {type(content).__name__}")
    return content


def _load(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        return torch.load(path, map_location="cpu", weights_only=True)
    # Memory-mapped, a length that a pickle claims yields only what is there.
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return torch.load(mapped, map_location="cpu", weights_only=True)  # type: ignore[arg-type]


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(_damaged(path, error)) from error
    content: dict[str, Any] = {}
    for name, tensor in tensors.items():
        group, separator, rest = name.partition(".")
        if not separator:
            raise ValueError(f"{path}: expected names such as method.NAME, received {name!r}")
        content.setdefault(group, {})[rest] = tensor
    return content


def _check_archive(path: Path) -> None:
    """A checkpoint's members are stored as they are; a packed one could unfold to any size."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            total = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RecursionError) as error:
        raise ValueError(_damaged(path, error)) from error
    if packed or total > path.stat().st_size:
        raise ValueError(f"{path}: expected members stored as torch.save does, received packed or overlapping ones")


def _damaged(path: Path, error: Exception) -> str:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    return f"{path}: holds no weights that can be read ({reason}); take an intact copy, or train again"
