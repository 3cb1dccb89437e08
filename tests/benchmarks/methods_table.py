"""docs/methods.md: the table of all methods, of declarations and measured seconds, and the advice of their cards.

    python -m tests.benchmarks.methods_table              write it anew, of declarations, cards and stored seconds
    python -m tests.benchmarks.methods_table --measure    measure those without stored seconds before (--all: all)

Seconds are processor seconds of a training step on one thread, which do not depend on what else runs: 64 x 64 pixels, 8
cases, preset `tracebench`. They lie in docs/results/method_steps.csv.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import time
from pathlib import Path
from typing import Any

import torch

from medtrace.engines import Trainer, build_optimizers
from medtrace.evaluation.bench.machine import measured_with
from medtrace.methods import build_method, method_class, method_names, resolve
from medtrace.methods.registry import folder_of
from medtrace.report import markdown_table

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE, SECONDS = DOCS / "methods.md", DOCS / "results" / "method_steps.csv"
BEGIN, END = "<!-- table -->\n", "<!-- end -->"
SHAPE, CASES, WARM, STEPS = (64, 64), 8, 2, 6
HEADS = ("method", "seconds", "steps", "commit", "torch", "device")


def parameters(name: str, *presets: str) -> float:
    """Millions of parameters, without the running averages, at the settings of presets."""
    settings = resolve(method_class(name).settings_type, presets)
    try:
        with torch.device("meta"):  # where they take neither memory nor time
            method = build_method(name, settings)
    except RuntimeError:  # of networks that compute a number while they are built
        method = build_method(name, settings)
    stepped = {id(p): p.numel() for phase in method.phases for p in method.parameters_of(phase.name)}
    return sum(stepped.values()) / 1e6


def line(name: str, seconds: dict[str, float]) -> dict[str, Any]:
    """What is declared of a method, and measured."""
    kind = method_class(name)
    able = kind.abilities
    return {
        "method": f"`{name}`",
        "idea": f"{kind.title}: {kind.paper}",
        "does": ", ".join(able.tasks),
        "dims": "/".join(f"{dims}D" for dims in able.spatial_dims),
        "pairs": "needed" if able.paired else "not needed",
        "moves": "yes" if able.moves else "in pairs" if "register" in able.tasks else "no",
        "channels": able.channels,
        "published": f"{parameters(name):.1f}",
        "small": f"{parameters(name, 'tracebench'):.2f}",
        "seconds": f"{seconds[name]:.2f}" if name in seconds else "–",
    }


COLUMNS = {
    "method": "method",
    "idea": "idea",
    "does": "does",
    "dims": "axes",
    "pairs": "aligned pairs, or pairs of one subject",
    "moves": "moves",
    "channels": "source and target channels",
    "published": "parameters, published (M)",
    "small": "of the preset `tracebench` (M)",
    "seconds": "s a step",
}


def stored() -> dict[str, dict[str, str]]:
    """Method → what was measured of it."""
    if not SECONDS.is_file():
        return {}
    with SECONDS.open(newline="", encoding="utf-8") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


ADVICE = ("**Take it** ", "**Avoid it** ")
"""How the lines of a card begin that the page repeats."""


def made() -> str:
    """What the page has of the methods: the table, then the advice of each card."""
    seconds = {name: float(row["seconds"]) for name, row in stored().items()}
    names = [name for name in method_names() if method_class(name).__module__.startswith("medtrace.")]
    text = markdown_table([line(name, seconds) for name in names], COLUMNS)
    for name in names:
        kind = method_class(name)
        card = (folder_of(kind) / "card.md").read_text(encoding="utf-8")
        advice = [paragraph for paragraph in card.split("\n\n") if paragraph.startswith(ADVICE)]
        said = "\n\n".join(paragraph.strip() for paragraph in advice) or "No advice yet: nothing is measured."
        said = re.sub(r"docs/results/([\w/]+)\.md", r"[\1](results/\1.md)", said)
        text += f"\n## {name}\n\n{kind.title}. {said}\n"
    return text


def step_seconds(name: str) -> float:
    """Processor seconds of a training step, on this thread."""
    kind = method_class(name)
    data = {"data.spatial_shape": SHAPE, "training.batch_size": CASES}
    settings = resolve(kind.settings_type, ("tracebench",), data)
    torch.manual_seed(0)
    method = build_method(name, settings)
    images = {side: torch.rand(CASES, 1, *SHAPE) * 2 - 1 for side in ("source", "target")}
    masks = {side: torch.zeros(CASES, 1, *SHAPE) for side in ("mask", "source_mask")}
    structures = {f"{side}_structure": (image > 0).float() for side, image in images.items()}
    batch = {**images, **masks, **structures, "case": [f"{number}" for number in range(CASES)]}
    spent = 0.0
    for steps in (WARM, STEPS):
        trainer = Trainer("cpu", 1, [batch] * steps, method, build_optimizers(method, settings))
        began = time.process_time()
        trainer.run()
        spent = (time.process_time() - began) / steps
    return spent


def measure(names: list[str]) -> None:
    """Measure methods and store their seconds, one after the other."""
    torch.set_num_threads(1)
    machine = measured_with(torch.device("cpu"))
    rows = stored()
    for name in names:
        seconds = step_seconds(name)
        own = {key: str(machine[key]) for key in ("commit", "torch", "device")}
        rows[name] = {"method": name, "seconds": f"{seconds:.3f}", "steps": f"{STEPS}", **own}
        print(f"{name}: {seconds:.3f} s a step", flush=True)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, HEADS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
        SECONDS.write_text(text.getvalue(), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure methods that have no stored seconds")
    parser.add_argument("--all", action="store_true", help="measure every method")
    given = parser.parse_args()
    if given.measure or given.all:
        measure([name for name in method_names() if given.all or name not in stored()])
    text = PAGE.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    PAGE.write_text(f"{text[:begin]}\n{made()}\n{text[end:]}", encoding="utf-8")
    print(f"written to {PAGE}")


if __name__ == "__main__":
    main()
