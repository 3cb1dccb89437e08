"""Measures registration on a quiet machine and writes the tables into docs/results/registration.md.

    python -m tests.benchmarks.registration_page                   all parts, about 12 minutes of wall time
    python -m tests.benchmarks.registration_page --parts turns     one of them
    python -m tests.benchmarks.registration_page --seconds 600     ends by then: what is left keeps its former table

A part is a command of its own. What it prints replaces what stands on the page between `<!-- measured NAME -->` and
`<!-- end -->`; the page says which command it was. A part that fails, or runs out of time, leaves the page as it is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "registration.md"

SPEED = "tests.benchmarks.registration_speed"
PARTS: dict[str, tuple[str, ...]] = {
    "speed-3": (SPEED, "--spacing", "3", "--rounds", "2"),
    "speed-3-two-threads": (SPEED, "--spacing", "3", "--rounds", "2", "--entire", "--threads", "2"),
    "slices": (SPEED, "--slices", "3", "--rounds", "2"),
    "slices-two-threads": (SPEED, "--slices", "3", "--rounds", "2", "--entire", "--threads", "2"),
    "speed-2": (SPEED, "--spacing", "2", "--rounds", "1"),
    "speed-2-two-threads": (SPEED, "--spacing", "2", "--rounds", "1", "--entire", "--threads", "2"),
    "busy": ("tests.benchmarks.busy", "--edge", "48"),
    "busy-commands": ("tests.benchmarks.busy", "--edge", "48"),
    "speed-1": (SPEED, "--spacing", "1", "--rounds", "1", "--entire"),
    "speed-1-two-threads": (
        SPEED, "--spacing", "1", "--rounds", "1", "--entire", "--threads", "2", "--directions", "1",
    ),
    "speed-3-ants": (SPEED, "--spacing", "3", "--rounds", "1", "--entire", "--ants", "--directions", "1"),
}  # fmt: skip
"""Module and arguments, in the order in which they run."""

HEADS = ("tests.benchmarks.registration", "heads", "--leave", "ANTs SyN, CC", "greedy, finer")
LONGER: dict[str, tuple[str, ...]] = {
    "turns": ("tests.benchmarks.registration_turns",),
    "turns-none": ("tests.benchmarks.registration_turns", "--alignment", "none"),
    "birl": ("tests.benchmarks.registration_birl",),
    "heads": HEADS,
    "heads-template": (*HEADS, "--template"),
    "heads-t2": (*HEADS, "--contrast", "T2"),
    "heads-flair": (*HEADS, "--contrast", "FLAIR"),
    "abdomen": ("tests.benchmarks.registration_abdomen",),
    "tracebench": ("tests.benchmarks.registration", "tracebench"),
    "tracebench-5": ("tests.benchmarks.registration", "tracebench", "--seed", "5"),
    "verdict": (
        "tests.benchmarks.registration_verdict", "--slices", "8", "--seed", "19", "--heads", "patient07", "patient19",
    ),
}  # fmt: skip
"""Likewise of what needs no quiet machine; runs when it is named."""


CHATTER = ("Initial optimizer parameters", "IFLAG=", "vnl_lbfgs")
"""How lines begin that greedy prints about its optimizer, whatever it is told."""


def fill(page: str, name: str, text: str) -> str:
    """A page with a part's text between its marks.

    Raises:
        ValueError: if the page has no marks of that name.
    """
    begin, end = f"<!-- measured {name} -->\n", "<!-- end -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE.name}: expected the marks {begin.strip()} and {end}, found none")
    return f"{before}{begin}{text.strip()}\n\n{end}{after}"


def run(name: str, arguments: Sequence[str], seconds: float) -> str | None:
    """What a part prints, under its command; None where it failed or took too long."""
    kept = {**os.environ, "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "2" if "two-threads" in name else "1"}
    spinning = {"GOMP_SPINCOUNT": "2000"} if name == "busy-commands" else {}  # as commands have it
    started = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            capture_output=True,
            text=True,
            timeout=seconds,
            env={**kept, **spinning},
            check=True,
        )
    except subprocess.SubprocessError as error:
        print(f"{name}: {error}\n{(getattr(error, 'stderr', '') or '')[-2000:]}", flush=True)
        return None
    print(f"{name}: {time.perf_counter() - started:.0f} s\n{done.stdout}", flush=True)
    told = "\n".join(line for line in done.stdout.splitlines() if not line.lstrip().startswith(CHATTER))
    words = [*(f"{key}={value}" for key, value in spinning.items()), "python", "-m", *arguments]
    return f"`{shlex.join(words)}`\n\n{told}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_page", description=(__doc__ or "").split("\n")[0]
    )
    every = {**PARTS, **LONGER}
    parser.add_argument("--parts", nargs="+", choices=list(every), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=720, help="of wall time, for all parts together")
    options = parser.parse_args(arguments)
    last = time.perf_counter() + options.seconds
    for name in options.parts:
        left = last - time.perf_counter()
        if left <= 0:
            print(f"{name}: no time left")
            continue
        text = run(name, every[name], left)
        if text is not None:
            PAGE.write_text(fill(PAGE.read_text(), name, text))


if __name__ == "__main__":
    main()
