"""Provenance of a trace: hashes of its files, its input, the run's weights and configuration, and versions."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from medtrace import __version__
from medtrace.data.bias import in_corrected_intensities
from medtrace.data.reading import read_image
from medtrace.engines.checkpoint_choice import weights_file
from medtrace.engines.model_folder import record_file
from medtrace.evaluation.certificate.record import Check, Status
from medtrace.geometry.grid import Grid
from medtrace.io.digest import file_hashes, sha256
from medtrace.io.trace_folder import INDEX
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import ON_GRID

PACKAGES = ("torch", "monai", "numpy", "SimpleITK", "nibabel")
VALUE_TOLERANCE = 1e-4


def provenance(
    folder: str | os.PathLike, run: str | os.PathLike | None = None, source: str | os.PathLike | None = None
) -> dict[str, Any]:
    """Everything that is known of a trace's origin.

    Args:
        folder: the trace's folder.
        run: folder of the training that made it.
        source: the file or DICOM folder that was translated.
    """
    folder = Path(folder)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    result: dict[str, Any] = {
        "medtrace": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "trace": {"method": index.get("method"), "medtrace": index.get("medtrace"), "metadata": index.get("metadata")},
        "trace_sha256": file_hashes(folder),
    }
    if run is not None:
        run = Path(run)
        weights = weights_file(run)
        for path in (run, record_file(run), weights):
            if not path.exists():
                raise FileNotFoundError(f"run: {path} is missing; give the folder that `medtrace train --out` wrote")
        result["run"] = {
            "weights_sha256": sha256(weights),
            "run_sha256": sha256(record_file(run)),
            "name": run.resolve().name,
        }
    if source is not None:
        result["input"] = {"name": Path(source).name, "sha256": sha256(source)}
    return result


def without_names(result: dict[str, Any]) -> dict[str, Any]:
    """Provenance that reports hashes and versions, but no file names and no metadata, which may identify a patient."""
    kept = dict(result)
    if "input" in kept:
        kept["input"] = {"sha256": kept["input"]["sha256"]}
    if "trace" in kept:
        kept["trace"] = {key: value for key, value in kept["trace"].items() if key != "metadata"}
    return kept


def provenance_check(
    trace: Trace,
    result: dict[str, Any],
    source: str | os.PathLike | None,
    series: str | int | None = None,
    resample_tilt: bool = False,
) -> Check:
    """Whether the origin is complete, and the input (read with the same options) is the trace's source."""
    missing = [f"{name} (pass --{name})" for name in ("run", "input") if name not in result]
    missing += [] if result["trace"]["method"] else ["the method's name in trace.json"]
    if source is not None and (reason := _differs(trace, source, series, resample_tilt)):
        return Check("provenance", Status.FAIL, reason)
    if missing:
        return Check("provenance", Status.SKIPPED, f"not known: {', '.join(missing)}")
    return Check("provenance", Status.PASS, "input, weights, configuration and versions are on record")


def _differs(trace: Trace, source: str | os.PathLike, series: str | int | None, resample_tilt: bool) -> str | None:
    scan = read_image(Path(source), series, resample_tilt=resample_tilt)
    scan = in_corrected_intensities(scan, trace.source_contrasts[0] if trace.source_contrasts else None)
    grid = Grid.of(scan)
    image = scan.as_tensor().float()
    image = image[..., 0] if trace.spatial_dims == 2 and image.ndim == 4 and image.shape[-1] == 1 else image
    if image.shape != trace.source.shape:
        return f"the input's grid {tuple(image.shape)} is not that of the trace's source, {tuple(trace.source.shape)}"
    own = Grid((*image.shape[1:], 1)[: len(grid.shape)], trace.source_affine)
    if not grid.coincides(own, ON_GRID):
        return f"the input lies up to {grid.distance(own):.3g} mm off the trace's source"
    apart = float((image - trace.source).abs().max())
    span = float(image.max() - image.min())
    if apart > VALUE_TOLERANCE * span:
        return f"the input differs from the trace's source by up to {apart:.4g} (its range is {span:.4g})"
    return None


def _version(name: str) -> str | None:
    if name == "torch":
        return str(torch.__version__)
    try:
        return version(name)
    except PackageNotFoundError:
        return None
