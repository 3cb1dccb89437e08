"""What the tests of outputs share."""

import multiprocessing
import os
import subprocess
import time

import torch

from medtrace.trace import Trace

PROCESSES = multiprocessing.get_context("fork")


def can_mount():
    """Whether this process may mount; containers mostly may not."""
    if os.geteuid() != 0:
        return False
    probe = subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    return probe.returncode == 0


def hidden(folder):
    return sorted(str(path) for path in folder.rglob(".*"))


def small_trace(size=48):
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(1, size, size, size // 4, generator=generator)
    return Trace.build(source, source, torch.rand(3, *source.shape[1:], generator=generator) * 0.1)


def hold(folder, told, kind):
    with kind(folder):
        told.send("ready")
        time.sleep(60)
