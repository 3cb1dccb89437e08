"""Report of an installation: devices, versions, threads, implementations of the hot operations, optional extras."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from medtrace import __version__
from medtrace.kernels import choice

PACKAGES = ("torch", "monai", "numpy", "scipy", "numba", "nibabel", "SimpleITK", "itk-io", "scikit-image", "nilearn")
HIDDEN = ("test", "benchmark")  # extras for developers of medtrace itself


@dataclass(frozen=True)
class Finding:
    """One line of the report: its topic, the finding, and whether something is missing."""

    name: str
    value: str
    missing: bool = False


def doctor() -> dict[str, list[Finding]]:
    """Inspect the installation and the machine. Writes nothing and computes almost nothing.

    Returns:
        Findings by the section's title, in the order of the report.
    """
    return {
        "medtrace": [
            Finding("medtrace", _version()),
            Finding("Python", f"{platform.python_version()}, {sys.executable}"),
            Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        ],
        "devices": _devices(),
        "threads": _threads(),
        "hot operations": _operations(),
        "packages": [_package(name) for name in PACKAGES],
        "optional extras": _extras(),
    }


def report(sections: dict[str, list[Finding]]) -> str:
    """The findings as text, section by section."""
    width = max(len(finding.name) for findings in sections.values() for finding in findings)
    blocks = []
    for title, findings in sections.items():
        lines = [f"  {'-' if one.missing else ' '} {one.name:<{width}}  {one.value}" for one in findings]
        blocks.append("\n".join([title, *lines]))
    if any(finding.missing for findings in sections.values() for finding in findings):
        blocks.append("- marks what this machine or installation does not have")
    return "\n\n".join(blocks)


def _version() -> str:
    """The release, and the exact state if it is between two releases (`setup.py`)."""
    try:
        installed = version("medtrace")
    except PackageNotFoundError:
        return __version__
    return __version__ if installed == __version__ else f"{__version__}, installed as {installed}"


def _devices() -> list[Finding]:
    result = [Finding("cpu", f"{_processor()}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}")]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            device: Any = torch.cuda.get_device_properties(number)
            memory = device.total_memory / 2**30
            result.append(Finding(f"cuda:{number}", f"{device.name}, {memory:.0f} GiB, CUDA {torch.version.cuda}"))
    else:
        why = "this torch was built without CUDA" if torch.version.cuda is None else "torch finds no usable GPU"
        result.append(Finding("cuda", f"none: {why}", missing=True))
    if torch.backends.mps.is_available():
        result.append(
            Finding(
                "mps",
                "Apple GPU, used with --device mps; volumes are sampled on the CPU; medtrace is not tested on it",
            )
        )
    return result


def _threads() -> list[Finding]:
    """The limits on threads, and the variables that set them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    result = [
        Finding("torch", f"{torch.get_num_threads()} within an operation; this process may use {allowed} cores"),
    ]
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    result += [Finding(name, os.environ[name]) for name in names if name in os.environ]
    return result


def _operations() -> list[Finding]:
    """Which implementation of each hot operation runs, and why."""
    for room in ("fields", "losses"):  # an operation is registered once its subpackage is imported
        importlib.import_module(f"medtrace.{room}")
    paths = choice.paths()
    return [Finding("choice", _reason(choice.current())), *(Finding(name, path) for name, path in paths.items())]


def _reason(current: str) -> str:
    source = f"by {choice.VARIABLE}" if os.environ.get(choice.VARIABLE) == current else "the default"
    if importlib.util.find_spec("numba") is None:
        return f"{current} ({source}); numba is not installed, so plain torch runs"
    meaning = {
        "auto": "compiled by numba on the CPU, plain torch elsewhere",
        "compiled": "compiled by numba on the CPU, plain torch elsewhere",
        "torch": "plain torch everywhere",
    }
    return f"{current} ({source}): {meaning[current]}"


def _package(name: str) -> Finding:
    try:
        return Finding(name, version(name))
    except PackageNotFoundError:
        return Finding(name, "not installed", missing=True)


def _extras() -> list[Finding]:
    """The optional parts of the installation, as the package's own metadata list them."""
    needed: dict[str, list[str]] = {}
    try:
        lines = requires("medtrace") or []
    except PackageNotFoundError:
        return [Finding("unknown", "medtrace runs from its source without being installed", missing=True)]
    for line in lines:
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if extra and name and name.group() != "medtrace" and extra.group(1) not in HIDDEN:
            needed.setdefault(extra.group(1), []).append(name.group())
    return [_extra(extra, packages) for extra, packages in needed.items()]


def _extra(extra: str, packages: list[str]) -> Finding:
    absent = [name for name in packages if _package(name).missing]
    if not absent:
        return Finding(extra, "present: " + ", ".join(f"{name} {version(name)}" for name in packages))
    remedy = f"pip install 'medtrace[{extra}]'"
    return Finding(extra, f"absent: {', '.join(absent)} ({remedy})", missing=True)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    result = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return result.group(1).strip() if result else platform.processor() or platform.machine()
