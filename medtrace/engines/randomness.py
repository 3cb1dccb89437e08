"""All randomness of an epoch from (seed, epoch, process): a training that is resumed needs no state of a generator."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

STEPS, ITEMS, ORDER = 0, 1, 2
"""The streams of a training: what its steps draw, what its data draw, and the order of its data."""


def derived_seed(seed: int, stream: int, *place: int) -> int:
    """A seed of 64 bits for a place in a training, unlike that of any other place.

    Args:
        seed: seed of the training, 0 or more.
        stream: `STEPS`, `ITEMS` or `ORDER`.
        place: such as epoch and index.
    """
    return int(np.random.SeedSequence(seed, spawn_key=(stream, *place)).generate_state(1, np.uint64)[0])


def seed_generators(seed: int) -> None:
    """Seed the global generators of torch (all devices), NumPy and Python."""
    torch.manual_seed(seed)
    seed_host_generators(seed)


def seed_host_generators(seed: int) -> None:
    """Seed the global generators of torch on the CPU, of NumPy and of Python."""
    torch.random.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party transforms draw from it
    random.seed(seed)


def generator_states() -> tuple[Any, ...]:
    """The states of the global generators on the CPU, for `restore_generators`."""
    return torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002


def restore_generators(states: tuple[Any, ...]) -> None:
    """Put back what `generator_states` gave."""
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    random.setstate(states[2])


def generators_to(device: torch.device) -> dict[str, Any]:
    """The states of all global generators, also that of a CUDA device, as a checkpoint can hold them."""
    of_torch, of_numpy, of_python = generator_states()
    states = {
        "torch": of_torch,
        "numpy": [torch.from_numpy(of_numpy[1].astype(np.int64)), *map(float, of_numpy[2:])],
        "python": [of_python[0], torch.tensor(of_python[1], dtype=torch.int64), of_python[2]],
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def generators_from(states: dict[str, Any], device: torch.device) -> None:
    """Put back what `generators_to` gave."""
    key, position, has_gauss, gauss = states["numpy"]
    version, words, next_gauss = states["python"]
    of_numpy = ("MT19937", key.numpy().astype(np.uint32), int(position), int(has_gauss), gauss)
    restore_generators((states["torch"], of_numpy, (version, tuple(words.tolist()), next_gauss)))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
