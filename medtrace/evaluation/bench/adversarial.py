"""Adversarial translators that learn without pairs, on every task where there is something to translate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from medtrace.evaluation.bench.study import Training

ADVERSARIAL: Mapping[str, str] = {
    "CUT": "cut",
    "CycleGAN": "cyclegan",
    "DualGAN": "dualgan",
    "FastCUT": "fastcut",
    "GcGAN": "gcgan",
    "MUNIT": "munit",
    "NICE-GAN": "nice_gan",
    "StarGAN v2": "stargan_v2",
    "UNIT": "unit",
    "UNSB": "unsb",
}
"""Row → method."""


def adversarial_rows(training: Callable[[str], Training]) -> dict[str, Training]:
    """The rows of a task's study `adversarial`.

    Args:
        training: a method's name → its training on the task.
    """
    return {row: training(method) for row, method in ADVERSARIAL.items()}
