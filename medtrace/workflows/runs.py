"""The run folder that a training leaves, read back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch

from medtrace.guard.configurations import check_code, parsable_paths, read_config
from medtrace.guard.declared_networks import check_networks, check_shapes
from medtrace.guard.weights import load_weights
from medtrace.methods.base import Method

CONFIG = "config.yaml"
WEIGHTS = Path("checkpoints") / "final.pt"
SAFE_WEIGHTS = WEIGHTS.with_suffix(".safetensors")


def load_method(
    run: str | os.PathLike,
    device: str | torch.device | None = None,
    overrides: Mapping[str, Any] | None = None,
    allow_foreign_code: bool | None = None,
) -> Method:
    """Build the method of a run and load its trained weights.

    A run folder may come from elsewhere. Its weights are read without running anything (see
    `medtrace.guard.weights`), and its configuration is built only if medtrace ships all code in it (see
    `medtrace.guard.configurations`).

    Args:
        run: a folder left by `medtrace train`; the weights may also lie in `checkpoints/final.safetensors`.
        device: where to put it; by default CUDA where there is one.
        overrides: entries of the run's configuration to change for this use, such as {"steps": 10} of a diffusion
            model; the networks have to stay as they were trained. They are the caller's own and may run code.
        allow_foreign_code: also build what medtrace does not ship, after printing it; None asks the environment
            variable MEDTRACE_ALLOW_FOREIGN_CODE.

    Returns:
        The method in evaluation mode.

    Raises:
        FileNotFoundError: if the folder, its configuration or its weights are missing.
        ValueError: if the weights do not fit the configuration or are no weights, the configuration's networks are too
            large or cannot be made, an override is no entry of it, or either would run code that medtrace does not
            ship.
    """
    from monai.bundle import ConfigParser

    run = Path(run)
    weights = run / (WEIGHTS if (run / WEIGHTS).exists() or not (run / SAFE_WEIGHTS).exists() else SAFE_WEIGHTS)
    for path in (run, run / CONFIG, weights):
        if not path.exists():
            raise FileNotFoundError(f"run: {path} is missing; give the folder that `medtrace train --out` wrote")
    config = read_config(run / CONFIG)
    foreign = check_code(config, run / CONFIG, allow_foreign_code)
    parser = ConfigParser()
    parser.read_config(parsable_paths(config))
    for name, value in (overrides or {}).items():
        if name.split("#")[0] not in parser.get():
            raise ValueError(f"overrides: expected entries of {run / CONFIG}, received {name!r}")
        parser[name] = value
    states = load_weights(weights)
    if not foreign:  # what the user allowed may do anything
        check_shapes(check_networks(deepcopy(parser.get()), run / CONFIG), states.get("method"), weights)
    method: Method = parser.get_parsed_content("method")
    try:
        method.load_state_dict(states["method"])
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"run: {weights} holds no weights of this configuration ({reason}); train again") from error
    return method.to(default_device(device)).eval()


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, or CUDA where there is one, or the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
