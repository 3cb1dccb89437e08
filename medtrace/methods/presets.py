"""Parts of presets that methods share: cases of TraceBench, and what makes a training tiny."""

from __future__ import annotations

from medtrace.methods.settings import Preset

POSTOP: Preset = {"data.kind": "tracebench", "data.task": "postop", "data.spatial_shape": (96, 96)}
"""Simulated surgery."""

DOMAIN: Preset = {
    "data.kind": "tracebench",
    "data.task": "domain",
    "data.spatial_shape": (64, 64),
    "data.pairing": "random",
    "data.flip": True,
    "data.train_cases": 512,
    "data.validation_cases": 16,
    "data.test_cases": 64,
}
"""Two domains that differ in contrast and in anatomy; the target of validation and test is the true translation."""

MISALIGNED: Preset = {"data.kind": "tracebench", "data.task": "misaligned", "data.spatial_shape": (64, 64)}
"""Pairs whose true misalignment is known."""

METAMORPHIC: Preset = {
    "data.kind": "tracebench",
    "data.task": "metamorphic",
    "data.spatial_shape": (64, 64),
    "data.train_cases": 256,
    "data.validation_cases": 16,
    # A case's mirror image is a second subject. One pair in four has nothing to register, so that the network learns to
    # leave such pairs alone.
    "data.flip": True,
    "data.identical": 0.25,
}
"""A healthy subject and one with a lesion."""

TINY: Preset = {
    "data.spatial_shape": (32, 32),
    "data.train_cases": 4,
    "data.validation_cases": 2,
    "data.test_cases": 2,
    "training.max_epochs": 2,
    "training.batch_size": 2,
    "training.val_interval": 1,
    "training.schedule": "constant",
}
"""Seconds on a CPU, to see that everything runs."""
