"""Plasticine's samplers on the slices of a volume: few steps, and slices together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from medtrace.networks import DeformationModule, DiffusionTranslator, NoiseEstimator, NoiseSchedule

from .harness import Measurement, Settings

TITLE = "Sampling"
TEXT = """
Plasticine at the size of its preset `tracebench`, without training, which time does not depend on: the deformation
once, and the noise estimator at each step. The first row that is not bold is how the paper samples, 50 ancestral steps,
one slice after the other. What fewer steps cost in quality is said in [Plasticine](plasticine.md).
"""
ROUNDS = 3
CHANNELS = (16, 32, 64, 64)


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """One volume, its slices together or one by one."""
    edge, slices = (16, 2) if settings.quick else (64, 16)
    fraction = 5 if settings.quick else 1
    translator = preset().to(settings.device).eval()
    generator = torch.Generator().manual_seed(0)
    volume = (2 * torch.rand((slices, 1, edge, edge), generator=generator) - 1).to(settings.device)
    structure = (volume > 0).float()
    size = f"{slices} slices of {edge}²"
    ways: list[tuple[str, str, int, int, bool]] = [
        ("DPM-Solver++, 10 steps, slices together", "dpm_solver", 10, slices, True),
        ("DDIM, 10 steps, slices together", "ddim", 10, slices, True),
        ("DDIM, 25 steps, slices together", "ddim", 25, slices, True),
        ("DDIM, 25 steps, slice by slice", "ddim", 25, 1, True),
        ("ancestral, 50 steps, slice by slice", "ancestral", 50, 1, False),
    ]
    yield [
        Measurement(
            "Translation of a volume",
            size,
            words,
            partial(translate, translator, volume, structure, sampler, steps // fraction, together),
            ours=ours,
            once=not ours,
        )
        for words, sampler, steps, together, ours in ways
    ]


def translate(
    translator: Callable[..., object], volume: Tensor, structure: Tensor, sampler: str, steps: int, together: int
) -> None:
    for first in range(0, len(volume), together):
        part = slice(first, first + together)
        generators = [torch.Generator().manual_seed(number) for number in range(first, first + len(volume[part]))]
        translator(volume[part], structure[part], generators, sampler=sampler, steps=steps)


def preset() -> DiffusionTranslator:
    """Networks of the preset `tracebench`, with their first weights."""
    torch.manual_seed(0)
    noise = NoiseEstimator(
        spatial_dims=2,
        in_channels=1,
        condition_channels=1,
        channels=CHANNELS,
        residual_blocks=1,
        norm_groups=8,
        dropout=0.0,
        prediction="velocity",
    )
    deformation = DeformationModule(spatial_dims=2, in_channels=1, channels=CHANNELS, velocity_downsampling=2)
    return DiffusionTranslator(noise, deformation, NoiseSchedule())
