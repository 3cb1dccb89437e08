"""The run folder that a training leaves, read back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from medtrace.objectives import Objective

CONFIG = "config.yaml"
WEIGHTS = Path("checkpoints") / "final.pt"


def load_objective(
    run: str | os.PathLike,
    device: str | torch.device | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Objective:
    """Build the objective of a run and load its trained weights.

    Args:
        run: a folder left by `medtrace train`.
        device: where to put it; by default CUDA where there is one.
        overrides: entries of the run's configuration to change for this use, such as {"steps": 10} of a diffusion
            model; the networks have to stay as they were trained.

    Returns:
        The objective in evaluation mode.

    Raises:
        FileNotFoundError: if the folder, its configuration or its weights are missing.
        ValueError: if the weights do not fit the configuration or are no weights, or an override is no entry of it.
    """
    from monai.bundle import ConfigParser

    run = Path(run)
    for path in (run, run / CONFIG, run / WEIGHTS):
        if not path.exists():
            raise FileNotFoundError(f"run: {path} is missing; give the folder that `medtrace train --out` wrote")
    parser = ConfigParser()
    parser.read_config(str(run / CONFIG))
    for name, value in (overrides or {}).items():
        if name.split("#")[0] not in parser.get():
            raise ValueError(f"overrides: expected entries of {run / CONFIG}, received {name!r}")
        parser[name] = value
    objective: Objective = parser.get_parsed_content("objective")
    try:
        states: Mapping[str, Any] = torch.load(run / WEIGHTS, map_location="cpu", weights_only=True)
        objective.load_state_dict(states["objective"])
    except (RuntimeError, KeyError, OSError, EOFError, ValueError, torch.serialization.pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"run: {run / WEIGHTS} holds no weights of this configuration ({reason}); train again"
        ) from error
    return objective.to(default_device(device)).eval()


def default_device(device: str | torch.device | None = None) -> torch.device:
    """The device named, or CUDA where there is one, or the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
