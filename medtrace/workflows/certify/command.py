"""Certify a trace that lies on disk."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.masks import check_same_grid
from medtrace.data.reading import read_image
from medtrace.io import load_trace
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import ON_GRID
from medtrace.workflows.certify.checks import trace_checks
from medtrace.workflows.certify.probes import Translator, run_checks, translator_checks, without_run
from medtrace.workflows.certify.provenance import provenance, provenance_check, without_names
from medtrace.workflows.certify.record import Certificate, Check, Status
from medtrace.workflows.certify.thresholds import Thresholds

RADIUS_FORMAT = "medtrace conformal radius"


def certify_trace(
    trace: Trace,
    *,
    case: str = "trace",
    thresholds: Thresholds | None = None,
    translator: Translator | None = None,
    referee: Tensor | None = None,
    target: Tensor | None = None,
) -> Certificate:
    """Certify a trace in memory, without provenance.

    Args:
        trace: any.
        case: its name.
        thresholds: limits and settings; None is the defaults.
        translator: the method, for reproduction and equivariance.
        referee: the independent displacement, if known (`checks.independent_field`).
        target: (C, *spatial), of a registration, on the image's grid.
    """
    trace, limits = trace.to("cpu"), thresholds or Thresholds()
    checks = trace_checks(trace, limits, referee, target)
    checks += without_run() if translator is None else translator_checks(translator, trace, limits)
    return Certificate(case, tuple(checks))


def certify(
    folder: str | os.PathLike,
    *,
    run: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    thresholds: Thresholds | str | os.PathLike | None = None,
    radius: str | os.PathLike | None = None,
    contrast: str | None = None,
    device: str | None = None,
    out: str | os.PathLike | None = None,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
) -> Certificate:
    """Certify a saved trace without ground truth.

    Args:
        folder: written by `translate`, `register` or `save_trace`.
        run: folder of the training that made it, for reproduction, equivariance, identical pairs and provenance.
        source: the file or DICOM folder that was translated, for provenance.
        target: the scan that a registration was to reach, on the image's grid: what its field is judged against.
        thresholds: limits and settings, or a YAML file with some of them.
        radius: a file of `calibrate_radius`, to tell the conformal radius.
        contrast: of the image, where the run was trained on several.
        device: such as "cuda:0".
        out: JSON file to write.
        keep_metadata: keep the name of `source` and the trace's metadata, which may name a patient.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.

    Returns:
        The certificate.

    Raises:
        FileNotFoundError: if a file or folder is missing.
        ValueError: if one cannot be read or does not fit; the message names it.
    """
    folder = Path(folder)
    limits = thresholds if isinstance(thresholds, Thresholds) else Thresholds()
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        limits = Thresholds.load(thresholds)
    trace = load_trace(folder)
    told = None if radius is None else radius_check(radius)
    origin = provenance(folder, run, source)
    wanted = None if target is None else _read_target(target, trace, folder, target_series, resample_tilt)
    checks = trace_checks(trace, limits, target=wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's network warns of what the checks measure
        checks += without_run() if run is None else run_checks(run, trace, limits, contrast, device)
    checks.append(provenance_check(trace, origin, source, source_series, resample_tilt))
    if told is not None:
        checks.append(told)
    origin = origin if keep_metadata else without_names(origin)
    origin["thresholds"] = limits.as_dict()
    certificate = Certificate(folder.resolve().name, tuple(checks), origin)
    if out is not None:
        certificate.write(out)
    return certificate


def _read_target(
    path: str | os.PathLike,
    trace: Trace,
    folder: Path,
    series: str | int | None = None,
    resample_tilt: bool = False,
) -> Tensor:
    path = Path(path)
    scan = read_image(path, series, resample_tilt=resample_tilt)
    shape = trace.image.shape[1:]
    own = trace.image.reshape(-1, *shape, *(1,) * (scan.ndim - trace.image.ndim))
    check_same_grid(scan, path, MetaTensor(own, affine=trace.affine), f"{folder}'s image", ON_GRID)
    return scan.as_tensor().float().reshape(-1, *shape)


def radius_check(path: str | os.PathLike) -> Check:
    """Tell a conformal radius; it is no test of this trace, so it always passes."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected one of `medtrace calibrate radius`")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != RADIUS_FORMAT:
            raise ValueError("another format")
        figures = {"radius_mm": float(values["radius_mm"]), "coverage": float(values["coverage"])}
        reason = str(values["statement"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: holds no conformal radius ({error}); run `medtrace calibrate radius`") from error
    return Check("conformal radius", Status.PASS, reason, figures)
