"""The machine and versions of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import medtrace


def measured_with(device: torch.device) -> dict[str, Any]:
    """Versions, commit, device and threads."""
    return {
        "medtrace": medtrace.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "device": "cuda: " + torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
    }


def commit() -> str | None:
    """Short hash of the checkout that the package lies in, with + if it was changed; None for an installed package."""
    git = ["git", "-C", str(Path(medtrace.__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return f"cpu: {model}, {os.cpu_count()} cores"
