"""Measure medtrace beside its peers and write the results and their page.

    python -m tests.benchmarks                      every part, about twelve minutes on two cores
    python -m tests.benchmarks parzen fields        some parts; the others keep their results
    python -m tests.benchmarks --quick              small sizes, to see that all works; writes nothing
    python -m tests.benchmarks page                 only the page, from the results there are
    python -m tests.benchmarks demo --checkout DIR  wall time of a TraceBench run, here or in an older checkout

Peers are those of the extra `benchmark`; one that is not installed has no row.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .harness import ROOT, Settings, optional, read_results, run_part, write_results
from .page import update_page
from .runs import merge_run, time_bench

PARTS = ("parzen", "fields", "transforms", "training", "sampling", "scaling")
RESULTS = ROOT / "docs" / "results" / "performance.json"
PAGE = ROOT / "docs" / "performance.md"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    same_threads_for_peers(options.threads)
    writes = not options.quick or options.out != RESULTS
    results = read_results(options.out) if writes else {}
    results = measured(options, results, writes)
    if writes:
        order = [*PARTS, *sorted(set(results.get("cpu", {})) - set(PARTS))]
        for device in set(results) - {"runs"}:
            results[device] = {part: results[device][part] for part in order if part in results[device]}
        write_results(options.out, results)
    if options.out == RESULTS and not options.quick:
        update_page(PAGE, results)
        print(f"written: {RESULTS.relative_to(ROOT)}, {PAGE.relative_to(ROOT)}")


def measured(options: argparse.Namespace, results: dict[str, Any], writes: bool) -> dict[str, Any]:
    """The results with the wanted parts measured anew."""
    settings = Settings(
        quick=options.quick,
        device=torch.device(options.device),
        rounds=2 if options.quick else 5,
        seconds=1.0 if options.quick else 8.0,
        clock=options.clock,
    )
    for part in options.parts:
        if part == "page":
            continue
        if part == "demo":
            run = time_bench(options.task, options.setting, options.checkout, options.threads)
            print(
                f"{run['command']} at {run['commit']}: {run['wall_s']:.1f} s, {run['processor_s']:.1f} s of processor"
            )
            results["runs"] = merge_run(results.get("runs", []), run)
            continue
        print(f"-- {part}", flush=True)
        entry = run_part(importlib.import_module(f"tests.benchmarks.{part}"), settings, tell)
        results.setdefault(settings.device.type, {})[part] = entry
        if writes:
            write_results(options.out, results)
    return results


def tell(text: str) -> None:
    print(text, flush=True)


def same_threads_for_peers(threads: int) -> None:
    """Let SimpleITK and numba take as many threads as torch does."""
    if sitk := optional("SimpleITK"):
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    if numba := optional("numba"):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    there = [part for part in PARTS if importlib.util.find_spec(f"tests.benchmarks.{part}") is not None]
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"{', '.join(there)}; page; demo (default: all parts)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; figures mean nothing")
    parser.add_argument("--device", default="cpu", help="torch device")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch and of its peers")
    parser.add_argument(
        "--clock",
        choices=("wall", "processor"),
        default="wall",
        help="processor: time of the process alone, for a machine that has other work",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file of results")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="of demo: the working tree that runs")
    parser.add_argument("--task", default="postop", help="of demo: the TraceBench task")
    parser.add_argument("--setting", default="smoke", help="of demo: smoke, demo or full")
    options = parser.parse_args(arguments)
    options.parts = options.parts or there
    if unknown := [part for part in options.parts if part not in (*there, "page", "demo")]:
        parser.error(f"parts: expected some of {', '.join(there)}, page, demo, received {', '.join(unknown)}")
    if options.threads < 1:
        parser.error(f"--threads: expected a number above 0, received {options.threads}")
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    return options


if __name__ == "__main__":
    main()
