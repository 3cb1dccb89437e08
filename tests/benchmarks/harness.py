"""Time and memory of one operation in several libraries, measured side by side in one process.

A part (`tests/benchmarks/NAME.py`) is a module with a title and a generator of groups::

    TITLE = "Mutual information"
    TEXT = "What is compared, and how the peers were called."        # optional, Markdown for the page
    ROUNDS = 3                                                       # optional, fewer rounds than usual

    def measurements(settings: Settings) -> Iterator[list[Measurement]]:
        edge = 64 if settings.quick else 128
        image = torch.rand(1, 1, edge, edge, edge, device=settings.device)
        size = f"1×1×{edge}³"
        group = [
            Measurement("NMI, forward + backward", size, "medtrace (compiled)", lambda: ours(image), target=60),
            Measurement("NMI, forward + backward", size, "medtrace (plain torch)", lambda: plain(image), target=30),
            Measurement("NMI, forward + backward", size, "MONAI", lambda: theirs(image), ours=False),
        ]
        if kornia := optional("kornia"):
            group.append(Measurement(..., "kornia", lambda: kornia_loss(image), ours=False))
        yield group

One group is one operation at one size. Its peers run in turn, round after round, so that whatever else the machine does
meets them all alike; a round gives one ratio of times, and the median over rounds is the figure. The first measurement
with `ours=False` is the reference of the ratios: "times as quick" is the reference's time over one's own, and `target`
is the least that is asked of it. Inputs are made before, in `measurements`, and die with the group when the generator
continues.

Memory is the rise of the process's resident set above what was resident before a run (on Linux: `VmHWM` of
/proc/self/status, which writing 5 to /proc/self/clear_refs resets, after malloc has given its free pages back; on a
GPU: torch's peak of allocated bytes). What the run leaves alive, such as a gradient, counts unless `outputs` names its
bytes. It is right to a few hundred kilobytes, and absent on other systems.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

ROOT = Path(__file__).resolve().parents[2]
FILL = 0.1
"""Seconds that a sample of a quick operation fills."""
PACKAGES = (
    "medtrace",
    "torch",
    "numpy",
    "scipy",
    "numba",
    "monai",
    "voxelmorph",
    "kornia",
    "hf-deepali",
    "torchio",
    "SimpleITK",
    "intensity-normalization",
    "pottslab",
)


@dataclass(frozen=True)
class Settings:
    """What a run may take.

    Attributes:
        quick: small sizes and few rounds, to see that all works; its figures mean nothing.
        device: where tensors are made.
        rounds: rounds of a group at least.
        seconds: a group stops taking rounds past this time once it has three.
        clock: "wall", or "processor", the process's own time on all threads, which other programs do not stretch.
    """

    quick: bool = False
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rounds: int = 5
    seconds: float = 10.0
    clock: Literal["wall", "processor"] = "wall"

    def now(self) -> float:
        """Seconds on the clock."""
        return time.perf_counter() if self.clock == "wall" else time.process_time()


@dataclass(frozen=True)
class Measurement:
    """One operation at one size in one library.

    Attributes:
        operation: what is computed, the same words for every peer of a group.
        size: of the inputs, the same for every peer of a group.
        peer: whose code runs, "medtrace (compiled)" or "MONAI".
        run: does it once; what it returns is dropped.
        ours: whether it is medtrace's.
        target: times as quick as the reference that it has to be at least.
        target_bytes: memory that it may take at most.
        target_seconds: time that it may take at most, whatever the machine.
        outputs: bytes that `run` leaves alive on purpose (gradients of the inputs), taken off the memory.
        once: whether to run it but twice, for its memory and for its time; for what takes many seconds.
        prepare: called before every run and not timed.
        note: a word on the page about this row, such as the agreement of results.
        x: where the point stands in a plot of scaling; the operation and the peer name its curve.
        items: how many a run does, such as the images of a training step, for a rate in items per second.
    """

    operation: str
    size: str
    peer: str
    run: Callable[[], Any]
    ours: bool = True
    target: float | None = None
    target_bytes: int | None = None
    target_seconds: float | None = None
    outputs: int = 0
    once: bool = False
    prepare: Callable[[], Any] | None = None
    note: str = ""
    x: float | None = None
    items: int | None = None


def optional(module: str) -> Any:
    """A peer's module, or None where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def measure(group: Sequence[Measurement], settings: Settings) -> list[dict[str, Any]]:
    """Run a group and summarize it, one record for each measurement.

    Every peer is run twice to warm up and once more for its memory. A sample repeats an operation that takes
    less than a tenth of a second until it fills that time, so that what the peer before left behind (cold caches,
    threads that still spin) weighs little.

    Args:
        group: one operation at one size.
        settings: of the run.

    Returns:
        Records as they stand in the JSON file; times in seconds.

    Raises:
        ValueError: if the group is empty, or its measurements differ in operation or size.
    """
    if not group or len({(one.operation, one.size) for one in group}) != 1:
        raise ValueError(f"group: expected measurements of one operation and size, received {list(group)}")
    memory, repeats = [], []
    for one in group:
        first = 1.0
        if not one.once:
            _sample(one, 1, settings)
            first = _sample(one, 1, settings)
        repeats.append(max(1, min(1000, round(FILL / max(first, 1e-9)))))
        memory.append(peak_memory(one, settings.device))
    times: list[list[float]] = [[] for _ in group]
    begun, rounds = time.perf_counter(), 0
    while any(len(taken) == rounds for taken in times):  # until what runs once is all that there is
        for one, repeat, taken in zip(group, repeats, times, strict=True):
            if not (one.once and taken):
                taken.append(_sample(one, repeat, settings))
        rounds += 1
        spent = time.perf_counter() - begun
        if (rounds >= settings.rounds and (spent > settings.seconds / 4 or rounds >= 4 * settings.rounds)) or (
            rounds >= 3 and spent > settings.seconds
        ):
            break
    return summarize(group, times, memory)


def summarize(
    group: Sequence[Measurement], times: Sequence[Sequence[float]], memory: Sequence[int | None]
) -> list[dict[str, Any]]:
    """Medians, quartiles and ratios of a group.

    Args:
        group: the measurements.
        times: seconds of each measurement, round after round.
        memory: bytes of each, or None.

    Returns:
        One record per measurement; `ratio` is the median over rounds of the reference's time over its own.
    """
    reference = next((number for number, one in enumerate(group) if not one.ours), None)
    records = []
    for one, taken, peak in zip(group, times, memory, strict=True):
        record: dict[str, Any] = {
            "operation": one.operation,
            "size": one.size,
            "peer": one.peer,
            "ours": one.ours,
            "median_s": statistics.median(taken),
            "quartiles_s": quartiles(taken),
            "least_s": min(taken),
            "rounds": len(taken),
            "peak_bytes": None if peak is None else max(0, peak - one.outputs),
        }
        if reference is not None:
            ratios = round_ratios(times[reference], taken)
            record["ratio"] = statistics.median(ratios)
            record["ratio_quartiles"] = quartiles(ratios)
        for name in ("target", "target_bytes", "target_seconds", "x", "items"):
            if getattr(one, name) is not None:
                record[name] = getattr(one, name)
        if one.note:
            record["note"] = one.note
        records.append(record)
    return records


def round_ratios(reference: Sequence[float], taken: Sequence[float]) -> list[float]:
    """The reference's time over another's, round by round; one that ran once is compared with all rounds."""
    if len(reference) == len(taken):
        return [a / b for a, b in zip(reference, taken, strict=True)]
    return [a / b for a in reference for b in taken]


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """First and third quartile; of a single value, itself."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def _sample(one: Measurement, repeat: int, settings: Settings) -> float:
    """Seconds of one run, averaged over `repeat`; `prepare` is left out where there is one."""
    total = 0.0
    inner = repeat if one.prepare is None else 1
    for _ in range(repeat if one.prepare is not None else 1):
        if one.prepare is not None:
            one.prepare()
        _synchronise(settings.device)
        begun = settings.now()
        for _ in range(inner):
            one.run()
        _synchronise(settings.device)
        total += settings.now() - begun
    return total / repeat


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(one: Measurement, device: torch.device | None = None) -> int | None:
    """Bytes that a run takes above what was there before it, its results included; None where unknown."""
    if one.prepare is not None:
        one.prepare()
    gc.collect()
    if device is not None and device.type == "cuda":
        _synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        one.run()
        _synchronise(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    if not forget_peak():
        return None
    before = status("VmRSS")
    one.run()
    return max(0, status("VmHWM") - before)


def forget_peak() -> bool:
    """Give free memory back and let the kernel measure the peak afresh; False where that is not possible."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return False
    return True


def status(entry: str) -> int:
    """Bytes of an entry of /proc/self/status."""
    result = re.search(rf"^{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if result is None:
        raise RuntimeError(f"/proc/self/status: expected the entry {entry}, which is absent")
    return 1024 * int(result.group(1))


def conditions(settings: Settings) -> dict[str, Any]:
    """What a figure depends on besides the code: device, versions, threads, commit."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    versions["medtrace"] = importlib.import_module("medtrace").__version__
    cuda = settings.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(settings.device) if cuda else processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": versions,
        "commit": commit(),
        "clock": settings.clock,
        "quick": settings.quick,
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        result = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        result = None
    return result.group(1).strip() if result else platform.processor() or platform.machine()


def commit(checkout: Path = ROOT) -> str:
    """Commit of a checkout, with a + where its library has changes on top; "" outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "medtrace") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def run_part(module: Any, settings: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """All groups of a part; each is reported as it is measured.

    Returns:
        The part's entry of the JSON file: its title, text, conditions and records.
    """
    settings = replace(settings, rounds=min(settings.rounds, getattr(module, "ROUNDS", settings.rounds)))
    records: list[dict[str, Any]] = []
    groups: Iterator[list[Measurement]] = iter(module.measurements(settings))
    while (group := next(groups, None)) is not None:
        result = measure(group, settings)
        del group
        records += result
        for record in result:
            say(line(record))
    return {
        "title": module.TITLE,
        "text": getattr(module, "TEXT", ""),
        "conditions": conditions(settings),
        "records": records,
    }


def line(record: dict[str, Any]) -> str:
    """A record as a line of text."""
    ratio = f"  {record['ratio']:8.2f}×" if "ratio" in record else ""
    memory = "" if record["peak_bytes"] is None else f"  {record['peak_bytes'] / 2**20:8.1f} MiB"
    rate = f"  {record['items'] / record['median_s']:.3g} per second" if "items" in record else ""
    name = f"{record['operation']}, {record['size']}: {record['peer']}"
    return f"{name:<90} {1e3 * record['median_s']:10.2f} ms{ratio}{memory}{rate}"


def read_results(path: Path) -> dict[str, Any]:
    """Results of earlier runs: {device type: {part: entry}} and {"runs": [...]}; empty where there is no file."""
    if not path.exists():
        return {}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the JSON file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
