"""Two threads beside one on a machine whose cores are all busy on purpose.

    python -m tests.benchmarks.busy                  every compiled operation, a registration, a training step
    python -m tests.benchmarks.busy --spinners 0     the same on a machine as it is

One busy process per core runs all the while. An operation runs with one and with two threads in turns; the ratio of
their medians is printed, in wall seconds: what a user of a shared workstation feels. At most 1.3 is asked. Commands set
GOMP_SPINCOUNT=2000, by which torch's threads soon sleep while they wait; set it to measure what they do.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from medtrace.fields import exponentiate, folded_voxels, invert, jacobian_determinant, warp
from medtrace.losses import LNCCLoss, ParzenDNMILoss
from medtrace.registration import align, deform, register_images

MOST = 1.3
"""Ratio that is asked for at most."""


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that do nothing but take time; they end with this one, too."""
    script = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    for _ in range(10**6): pass"
    spinners = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(count)]
    try:
        yield
    finally:
        for one in spinners:
            one.kill()
            one.wait()


def operations(edge: int) -> dict[str, Callable[[], object]]:
    """Names and calls; images are edge³."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, 1, edge, edge, edge)
    x, y = (torch.rand(shape, generator=generator) for _ in range(2))
    axis = torch.linspace(-1, 1, edge)
    ball = (axis[:, None, None] ** 2 + axis[:, None] ** 2 * 1.5 + axis**2 * 2 < 0.5).float()[None, None]
    head = ball + 0.3 * torch.nn.functional.avg_pool3d(x, 5, 1, 2) * ball
    moved = head.roll(2, 2)
    ddf = torch.nn.functional.avg_pool3d(torch.randn((1, 3, edge, edge, edge), generator=generator), 9, 1, 4) * 5
    eye = torch.eye(4, dtype=torch.float64)
    pair = moved[0], head[0], eye, eye
    return {
        "warp": lambda: warp(x, ddf),
        "warp, backward": lambda: backward(lambda field: warp(x, field).sum(), ddf),
        "exponential": lambda: exponentiate(ddf),
        "inverse": lambda: invert(ddf),
        "Jacobian": lambda: jacobian_determinant(ddf),
        "folds": lambda: folded_voxels(ddf),
        "NMI, backward": lambda: backward(lambda image: ParzenDNMILoss()(image, y), x),
        "LNCC, backward": lambda: backward(lambda image: LNCCLoss()(image, y), x),
        "align": lambda: align(*pair),
        "deform": lambda: deform(moved[0], head[0]),
        "register": lambda: register_images(*pair),
        "training step": training_step(),
    }


def backward(call: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    leaf = value.clone().requires_grad_()
    call(leaf).backward()
    assert leaf.grad is not None
    return leaf.grad


def training_step() -> Callable[[], object]:
    """A step of a small convolutional network with medtrace's losses."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.LeakyReLU(), torch.nn.Conv2d(16, 16, 3, padding=1),
        torch.nn.LeakyReLU(), torch.nn.Conv2d(16, 2, 3, padding=1),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters())
    images = torch.rand(4, 1, 96, 96)

    def step() -> None:
        optimizer.zero_grad()
        loss = LNCCLoss()(warp(images, exponentiate(network(images))), images.flip(0))
        loss.backward()
        optimizer.step()

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.busy", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--spinners", type=int, default=os.cpu_count() or 1, help="busy processes")
    parser.add_argument("--edge", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    print("| operation | one thread (ms) | two threads (ms) | ratio | |\n|---|---|---|---|---|")
    with busy(options.spinners):
        for name, call in operations(options.edge).items():
            taken: dict[int, list[float]] = {1: [], 2: []}
            for number in range(options.rounds + 1):
                for threads, times in taken.items():
                    torch.set_num_threads(threads)
                    started = time.perf_counter()
                    call()
                    if number:  # the first compiles
                        times.append(1e3 * (time.perf_counter() - started))
            one, two = (statistics.median(times) for times in taken.values())
            mark = "" if two <= MOST * one else "above what is asked"
            print(f"| {name} | {one:.0f} | {two:.0f} | {two / one:.2f} | {mark} |", flush=True)


if __name__ == "__main__":
    main()
