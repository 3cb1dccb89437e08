"""Compilation of loops by numba, kept on disk where that can be."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
"""Loops release Python's lock, so that threads share them; sums keep their order, so that bytes repeat."""
_DIGEST = 16


def compiled(function: Callable[..., Any]) -> Any:
    """A loop over C-contiguous arrays, compiled at its first call for the types it meets.

    The compiled code is kept beside the source or in the user's cache folder; where neither can be written, every
    process compiles for itself. A damaged file there is reported and compiled again.
    """
    dispatcher = njit(**OPTIONS)(function)
    with suppress(RuntimeError):  # numba found no folder to write
        dispatcher._cache = _CheckedCache(function)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """A part of compiled loops, pasted into them: what it writes is then seen to overlap nothing it reads."""
    return njit(forceinline=True, **OPTIONS)(function)


class _CheckedFiles(IndexDataCacheFile):
    """Numba's cache files with a digest at their end: they hold machine code, and a damaged one would run."""

    def _dump(self, obj: Any) -> bytes:
        content: bytes = super()._dump(obj)
        return content + hashlib.blake2b(content, digest_size=_DIGEST).digest()

    def _load_index(self) -> dict[Any, str]:
        try:
            with open(self._index_path, "rb") as file:
                if pickle.load(file) != self._version:
                    return {}
                stamp, overloads = pickle.loads(_checked(file.read()))
        except FileNotFoundError:
            return {}
        except Exception as error:  # a damaged pickle raises what it likes
            _tell(self._index_path, f"damaged ({error}); compiled anew")
            return {}
        return overloads if stamp == self._source_stamp else {}

    def _load_data(self, name: str) -> Any:
        path = self._data_path(name)
        try:
            return pickle.loads(_checked(Path(path).read_bytes()))
        except FileNotFoundError:
            raise
        except Exception as error:
            _tell(path, f"damaged ({error}); compiled anew")
            raise OSError from error  # which numba treats as a missing file


class _CheckedCache(FunctionCache):
    """Numba's cache of a function, without which the function works too."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        # Not the name of files without a digest.
        self._cache_file = _CheckedFiles(
            self._cache_path, f"{self._impl.filename_base}.checked", self._impl.locator.get_source_stamp()
        )

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            self.disable()
            _tell(self._cache_path, f"numba's cache cannot be written ({error.strerror}); compiled for this run only")


def _checked(content: bytes) -> bytes:
    content, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.blake2b(content, digest_size=_DIGEST).digest() != digest:
        raise ValueError("its digest differs")
    return content


_told: set[str] = set()


def _tell(path: str, what: str) -> None:
    """One line for a file or folder, once."""
    if path not in _told:
        _told.add(path)
        print(f"medtrace: {path}: {what}", file=sys.stderr)
