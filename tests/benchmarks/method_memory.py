"""Memory of a training step and of a translation, by method and size: `python -m tests.benchmarks.method_memory`.

Each figure is the largest resident memory of its own process less what it had when the method was built, on the
CPU at batch 1 with the method's default settings; a CUDA device needs about as much and its libraries' working memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

SHAPES = ((128, 128), (256, 256), (64, 64, 64), (96, 96, 96))


def measure(name: str, shape: tuple[int, ...]) -> dict[str, float]:
    """GiB of a step's forward and backward pass with the optimizers' states, and of a trace, in this process."""
    import torch

    from medtrace.engines import Trainer, build_optimizers
    from medtrace.guard.memory import peak_memory
    from medtrace.methods import method_class, resolve

    torch.set_num_threads(1)
    kind = method_class(name)
    settings = resolve(kind.settings_type, (), {"spatial_dims": len(shape)})
    method = kind.build(settings)
    cpu = torch.device("cpu")
    before = peak_memory(cpu)
    image = torch.rand(1, 1, *shape) * 2 - 1
    with torch.no_grad():
        method.trace({"source": image, "target": image.flip(2)})
    traced = peak_memory(cpu) - before
    transform = kind.case_transform(settings)
    case = {"source": image[0], "target": image[0].flip(1)}
    case = case if transform is None else transform(case)
    batch = {key: value[None] for key, value in case.items() if isinstance(value, torch.Tensor)}
    Trainer(cpu, 1, [batch], method, build_optimizers(method, settings), seed=0).run()
    return {"step": peak_memory(cpu) - before, "trace": traced}


def main() -> None:
    """Measure every method at every size in processes of their own, and print a table in Markdown."""
    from medtrace.methods import method_class, method_names

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one figure")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], tuple(map(int, chosen.one[1:])))))
        return
    sizes = [" × ".join(map(str, shape)) for shape in SHAPES]
    print("| method | " + " | ".join(sizes) + " |\n|---|" + "---|" * len(SHAPES), flush=True)
    for name in method_names():
        able = method_class(name).abilities.spatial_dims
        cells = [_cell(name, shape, chosen.timeout) if len(shape) in able else "–" for shape in SHAPES]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _cell(name: str, shape: tuple[int, ...], timeout: float) -> str:
    line = [sys.executable, "-m", "tests.benchmarks.method_memory", "--one", name, *map(str, shape)]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return "not measured"
    if done.returncode:
        return "not measured"
    result = json.loads(done.stdout.splitlines()[-1])
    return f"{result['step']:.2f} / {result['trace']:.2f}"


if __name__ == "__main__":
    main()
