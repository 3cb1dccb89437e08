"""The folder in which a trained method is handed on, in the layout of Hugging Face: data only, read like a run."""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.json"
"""The run's record, under the name that Hugging Face looks for."""
MODEL = "model.safetensors"
CARD = "README.md"
RECORD = "run.json"


def record_file(run: Path) -> Path:
    """The file that says what a run is: `run.json`, or `config.json` of a model folder.

    Args:
        run: the folder; if it has neither, the path where `run.json` would be is returned.
    """
    own, handed_on = run / RECORD, run / CONFIG
    return handed_on if handed_on.is_file() and not own.is_file() else own


def own_weights(run: Path, weights: Path) -> Path:
    """The weights of a training's end, or those of a model folder.

    Args:
        run: the folder.
        weights: path where a training writes them.
    """
    handed_on = run / MODEL
    return handed_on if handed_on.is_file() and not weights.is_file() else weights
