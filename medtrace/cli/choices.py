"""Closed choices of options, for help and for the completion of shells; no torch is imported for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

AXES = ("axial", "coronal", "sagittal")
SPLITS = ("training", "validation", "test")
ALIGNMENTS = ("auto", "none", "rigid", "affine")
SIMILARITIES = ("auto", "mse", "lncc", "nmi", "mi", "mind")
MASK_ROLES = ("exclude", "appearance", "both")
REGISTRATION_PRESETS = ("standard", "thorough", "weak-likeness")
ENGINES = ("greedy", "instance")
KINDS = ("image", "labels", "points")
SETTINGS = ("demo", "full", "smoke")
TASKS = ("postop", "misaligned", "metamorphic", "domain", "real")
PAPERS = ("tracetrans", "plasticine", "metaregnet", "reggan")
CALIBRATIONS = ("certificate", "radius", "trace", "intensity", "hallucinations")
UNITS = ("subject", "case")
DEVICES = ("cpu", "cuda", "cuda:0")


def of(*values: str) -> str:
    """Values as shown in help."""
    return "|".join(values)


def completing(*values: str) -> Callable[[str], list[str]]:
    """A completion with the values that begin with what has been typed."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def methods(incomplete: str) -> list[str]:
    """Names of shipped methods that begin with what has been typed, from the folders of `medtrace.methods`."""
    folder = Path(__file__).resolve().parents[1] / "methods"
    return sorted(one.parent.name for one in folder.glob(f"{incomplete}*/method.py"))
