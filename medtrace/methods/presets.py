"""Parts of presets that methods share: a user's own data, cases of TraceBench, and tiny trainings.

A method's preset `default` is the one that `medtrace train` applies first when it trains on a prepared folder, unless
`paper` is requested; `small` and `gpu` are applied on top of it. `MethodSettings.budgets` reports the number of steps
of each.
"""

from __future__ import annotations

from collections.abc import Mapping

from medtrace.methods.settings import Preset

DEFAULT, LITTLE, GPU, PAPER = "default", "small", "gpu", "paper"

OWN_TRAINING: Preset = {"augmentation.on": True, "training.batch_size": 2, "training.schedule": "cosine"}
"""A user's own data, for any method."""
OWN: Preset = {
    **OWN_TRAINING,
    "optimizer.learning_rate": 1e-3,
    # L1 alone leads to the median of all possible targets, which has no texture.
    "structure_weight": 0.3,
}
"""A user's own data. Measured on heads of persons that were not trained on (docs/results/real_translation.md)."""

TRAINING_ON_GPU: Preset = {
    "training.batch_size": 8,
    "training.amp": True,
    "training.amp_dtype": "bfloat16",
    "training.num_workers": 4,
}
"""Published widths on a GPU of 12 GiB or more. Not measured: the machines that these presets were made on have no
GPU."""
OWN_ON_GPU: Preset = {**TRAINING_ON_GPU, "optimizer.learning_rate": 2e-4}
"""Likewise, for methods with one rate."""

BUDGETS: Mapping[str, int] = {DEFAULT: 4000, LITTLE: 800, GPU: 40_000}
"""Steps of a training on a user's own data, by preset."""

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
    # leave such pairs unchanged.
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
"""Seconds on a CPU, to check that everything runs."""
