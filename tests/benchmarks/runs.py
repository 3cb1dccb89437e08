"""Wall time of whole commands, in this checkout or an older one, for a table of before and after."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from .harness import ROOT, commit, processor


def time_bench(task: str, setting: str, checkout: Path = ROOT, threads: int | None = None) -> dict[str, Any]:
    """Time `medtrace bench TASK --setting SETTING` of a checkout in its own process.

    Args:
        task: of TraceBench.
        setting: "smoke", "demo" or "full".
        checkout: root of a working tree; its library is the one that runs.
        threads: of the computation; by default what torch takes here.

    Returns:
        The entry of the results' list "runs": command, commit, seconds on the wall and on the processor, machine.

    Raises:
        ValueError: if the checkout holds no medtrace.
        subprocess.CalledProcessError: if the command fails.
    """
    if not (checkout / "medtrace").is_dir():
        raise ValueError(f"checkout: expected a working tree with the folder medtrace, received {checkout}")
    threads = threads or torch.get_num_threads()
    command = ["bench", task, "--setting", setting]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": str(threads)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        full = [sys.executable, "-m", "medtrace", *command, "--out", str(Path(folder) / "out")]
        subprocess.run(full, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "command": " ".join(["medtrace", *command]),
        "commit": commit(checkout),
        "wall_s": wall,
        "processor_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "device": processor(),
        "torch": torch.__version__,
    }


def merge_run(runs: list[dict[str, Any]], run: dict[str, Any]) -> list[dict[str, Any]]:
    """The list with a run, in place of an earlier one of the same command, commit, threads and device."""

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(one[name] for name in ("command", "commit", "threads", "device"))

    replaced = [run if key(one) == key(run) else one for one in runs]
    return replaced if run in replaced else [*runs, run]
