"""Run the tests that need an NVIDIA GPU and write their page; `make test-gpu`.

    python -m tests.gpu_page [--out docs/results/gpu.md]

Without a GPU nothing is run, and the page is left as it is; where there is none yet, one that says so is written.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

from medtrace.evaluation.bench.machine import measured_with
from medtrace.guard.memory import GIBIBYTE

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "test_gpu.py"
PAGE = ROOT / "docs" / "results" / "gpu.md"
HEAD = """# On a GPU

Nothing depends on this page: every other figure of the documentation is a CPU's unless it says otherwise. The tests
of `tests/test_gpu.py` compare fields, losses, a registration and a method with the CPU's answers, train in half
precision and measure memory. They are skipped, with a line, where there is no NVIDIA GPU. Made by

```sh
make test-gpu  # python -m tests.gpu_page
```
"""


class Outcomes:
    """Pytest's plugin: each test's name, outcome and figures, in order."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep what a test came to."""
        if report.when == "call" or (report.when == "setup" and not report.passed):
            figures = "; ".join(f"{name} {value}" for name, value in report.user_properties)
            self.rows.append((report.nodeid.partition("::")[2], report.outcome, figures))


def page(rows: list[tuple[str, str, str]], facts: dict[str, str]) -> str:
    """The page of what was run, or that nothing was."""
    if not rows:
        return f"{HEAD}\n**Not run yet**: no machine with an NVIDIA GPU was available.\n"
    lines = [f"| {name} | {value} |" for name, value in facts.items()]
    body = [f"| `{name}` | {outcome} | {figures} |" for name, outcome, figures in rows]
    machine = "\n".join(["| | |", "|---|---|", *lines])
    return f"{HEAD}\n{machine}\n\n" + "\n".join(["| test | outcome | figures |", "|---|---|---|", *body]) + "\n"


def machine(device: torch.device) -> dict[str, str]:
    """What the page says of where it was made."""
    properties: Any = torch.cuda.get_device_properties(device)
    made = measured_with(device)
    return {
        "hardware": f"{properties.name}, {properties.total_memory / GIBIBYTE:.0f} GiB",
        "torch": f"{made['torch']}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}",
        "medtrace": f"{made['medtrace']}, commit {made['commit']}",
        "date": date.today().isoformat(),
    }


def main() -> int:
    """Run and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PAGE)
    out = parser.parse_args().out
    if not torch.cuda.is_available():
        print("no NVIDIA GPU on this machine: nothing was run")
        if not out.exists():
            out.write_text(page([], {}), encoding="utf-8")
        return 0
    outcomes = Outcomes()
    code = pytest.main(["-m", "gpu", "-rs", str(TESTS)], plugins=[outcomes])
    out.write_text(page(outcomes.rows, machine(torch.device("cuda"))), encoding="utf-8")
    print(out)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
