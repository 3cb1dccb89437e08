"""Saving a training and going on with it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.handlers import CheckpointLoader, CheckpointSaver

from medtrace.engines.trainer import Trainer

FINAL = "final.pt"


class RandomStates:
    """The states of Python's, NumPy's and torch's global generators, as one item of a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """Return the states."""
        numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002
        keys = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
        states: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": {**numpy, "state": {**numpy["state"], "key": keys}},
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available():
            states["cuda"] = torch.cuda.get_rng_state_all()
        return states

    def load_state_dict(self, states: dict[str, Any]) -> None:
        """Put the states back."""
        version, internal, gauss = states["python"]
        random.setstate((version, tuple(internal), gauss))
        numpy = states["numpy"]
        keys = numpy["state"]["key"].cpu().numpy().astype(np.uint32)
        np.random.set_state({**numpy, "state": {**numpy["state"], "key": keys}})  # noqa: NPY002
        torch.set_rng_state(states["torch"].cpu())
        if "cuda" in states and torch.cuda.device_count() == len(states["cuda"]):
            torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


class Checkpoint:
    """Save the objective, optimisers, epoch and random states of a `Trainer`, and resume from the newest.

    Args:
        folder: where `checkpoint_epoch=N.pt` (the newest only) and, at the end, `final.pt` are written.
        interval: epochs between checkpoints.
        resume: go on from the newest checkpoint in `folder`, if there is one.
    """

    def __init__(self, folder: str | Path, interval: int = 10, resume: bool = False) -> None:
        if interval < 1:
            raise ValueError(f"interval: expected at least 1 epoch, received {interval!r}")
        self.folder = Path(folder)
        self.interval = interval
        self.resume = resume

    def attach(self, engine: Trainer) -> None:
        """Register on a trainer."""
        items = {**engine.checkpoint_items(), "random_states": RandomStates()}
        if self.resume and (newest := self.newest()) is not None:
            CheckpointLoader(str(newest), items, map_location=engine.state.device).attach(engine)
        CheckpointSaver(
            save_dir=str(self.folder),
            save_dict=items,
            save_final=True,
            final_filename=FINAL,
            save_interval=self.interval,
            n_saved=1,
        ).attach(engine)

    def newest(self) -> Path | None:
        """The checkpoint written last, or None."""
        files = sorted(self.folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
        return files[-1] if files else None
