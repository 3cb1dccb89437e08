"""The memory that there is, and the refusal to take more than that."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MAX_GIB = 16.0
"""Largest image in GiB as stored; the environment variable MEDTRACE_MAX_GIB sets another limit."""
GIBIBYTE = 2**30
_SMALL = 1 << 24
"""Bytes below which the machine is not asked."""
_CGROUPS = Path("/sys/fs/cgroup")
_PROC = Path("/proc")


def memory_limit() -> float:
    """Bytes that an image as stored, or a configuration's networks, may take."""
    given = _given_limit()
    return MAX_GIB * GIBIBYTE if given is None else given


def available_memory(device: torch.device | str = "cpu") -> float:
    """Bytes that this process can still take.

    The least of what the machine has free (page cache included), what the process's control group (of a container or a
    batch job) and its address space (`ulimit -v`) leave, and MEDTRACE_MAX_GIB where that is set; on a CUDA device, what
    is free there. Where a system reports none of these, infinity.

    Args:
        device: on which it would be taken.
    """
    device = torch.device(device)
    given = _given_limit()
    limits = [] if given is None else [given]
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        limits.append(float(torch.cuda.mem_get_info(device)[0] + cached))
    else:
        limits += [*_free_on_machine(), *_free_in_groups(), *_free_addresses()]
    return max(0.0, min(limits, default=float("inf")))


def peak_memory(device: torch.device) -> float:
    """Largest resident memory of the process so far, or on CUDA the largest allocation, in GiB; NaN where unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIBIBYTE
    if resource is None:
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIBIBYTE


def check_memory(what: str, needed: float, remedy: str, device: torch.device | str = "cpu") -> None:
    """Check that something can be made before any of it is.

    Args:
        what: that is to be made, as the message begins.
        needed: bytes at its peak.
        remedy: the way out, as the message ends.
        device: on which it is made.

    Raises:
        ValueError: if more is needed than is available; it states both.

    Example:
        >>> check_memory("a grid of (2, 2)", 16, "ask for a coarser one")
    """
    if needed < _SMALL and _given_limit() is None:
        return
    available = available_memory(device)
    if needed > available:
        raise ValueError(
            f"{what}: needs {needed / GIBIBYTE:.3g} GiB of memory, {available / GIBIBYTE:.3g} GiB available"
            f"{'' if _given_limit() != available else ' (MEDTRACE_MAX_GIB)'}; {remedy}"
        )


def _given_limit() -> float | None:
    given = os.environ.get("MEDTRACE_MAX_GIB", "")
    try:
        return float(given) * GIBIBYTE if given else None
    except ValueError:
        raise ValueError(f"MEDTRACE_MAX_GIB: expected a number of GiB, received {given!r}") from None


def _free_on_machine() -> Iterator[float]:
    text = _text(_PROC / "meminfo")
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            yield float(line.split()[1]) * 1024
            return
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):  # elsewhere, the installed memory is the best estimate
        yield float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")


def _free_in_groups() -> Iterator[float]:
    """The memory that the process's control groups leave, each with all groups above it."""
    for line in _text(_PROC / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root = _CGROUPS / "memory" if controllers else _CGROUPS
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            folder = root.joinpath(*parts[:depth])
            limit, used = (_text(folder / name).strip() for name in names)
            if limit.isdigit() and used.isdigit():
                yield float(limit) - float(used) + _reclaimable(folder)


def _reclaimable(folder: Path) -> float:
    """Bytes of a control group that are cached files, which the system gives up when memory is asked for."""
    counts = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    return float(counts.get("total_inactive_file", counts.get("inactive_file", 0)))


def _free_addresses() -> Iterator[float]:
    if resource is None:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    pages = _text(_PROC / "self" / "statm").split()
    if limit != resource.RLIM_INFINITY and pages:
        yield float(limit) - float(pages[0]) * resource.getpagesize()


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
