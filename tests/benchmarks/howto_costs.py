"""Processor seconds and memory of the commands that the how-tos show, on one small head each.

    python -m tests.benchmarks.howto_costs

Prints a Markdown table. Every command runs once, in a process of its own, with one thread; its time includes the start
of Python and the loading of torch, which the first row has alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np

from medtrace.data import TraceBench

SIZE = 64
COMMANDS = (
    ("start alone", "methods"),
    ("register, with its page", "register before.nii.gz after.nii.gz --out trace"),
    ("apply to an image", "apply trace before.nii.gz --as image --out moved.nii.gz"),
    ("convert for ANTs", "convert trace --to ants --out for_ants"),
    ("export for 3D Slicer", "export trace --format slicer --out for_slicer"),
    ("certify", "certify trace --target after.nii.gz"),
    ("report of a trace", "report trace --out page.html"),
    ("trace a translated image", "trace before.nii.gz after.nii.gz --out traced"),
    ("prepare four pairs", "prepare pairs.csv --split 0.5 0.25 0.25 --out dataset"),
    ("train, 6 epochs of small", "train tracetrans dataset --preset small --set training.max_epochs=6 --out run"),
    ("translate, with its page", "translate run before.nii.gz --allow-training-subjects --out translated"),
    ("evaluate on one subject", "evaluate run dataset"),
    ("report of a run", "report run"),
    ("export-model", "export-model run --format torchscript --out model.ts"),
)


def write_scans(folder: Path) -> None:
    """Four pairs of heads before and after simulated surgery, and their list."""
    lines = ["subject,source,target"]
    for number, case in enumerate(TraceBench("postop", (SIZE,) * 3, cases=4, split="test")):
        for role, name in (("source", "before"), ("target", "after")):
            values = ((case[role].as_tensor()[0].numpy() + 1) * 500).astype(np.float32)
            path = folder / (f"{name}.nii.gz" if number == 0 else f"{name}{number}.nii.gz")
            nibabel.save(nibabel.Nifti1Image(values, np.asarray(case[role].affine)), path)
        suffix = str(number) if number else ""
        lines.append(f"s{number},before{suffix}.nii.gz,after{suffix}.nii.gz")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")


def measured(command: str, folder: Path) -> tuple[float, float, int]:
    """Processor seconds, GiB of memory at most, and exit code."""
    watch = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss, code)"
    )
    words = [sys.executable, "-c", watch, sys.executable, "-m", "medtrace", *command.split()]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    seconds, memory, code = done.stdout.split()
    scale = 2**20 if sys.platform != "darwin" else 2**30  # of what getrusage counts memory in
    return float(seconds), int(memory) / scale, int(code)


def main() -> None:
    """Measure and print."""
    print("| command | processor s | GiB |\n|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        write_scans(Path(folder))
        for name, command in COMMANDS:
            seconds, memory, code = measured(command, Path(folder))
            told = "" if code in (0, 3) else f" (exit code {code})"
            print(f"| {name}: `{command.split()[0]}`{told} | {seconds:.0f} | {memory:.1f} |", flush=True)
    print(f"\nHeads of {SIZE} × {SIZE} × {SIZE} voxels, one run each, one thread.")


if __name__ == "__main__":
    main()
