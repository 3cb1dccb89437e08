"""Certify traces that are on disk."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.bias import in_corrected_intensities
from medtrace.data.fingerprint import fingerprint
from medtrace.data.masks import check_same_grid
from medtrace.data.reading import read_image
from medtrace.engines.runs import load_method
from medtrace.evaluation.certificate.checks import trace_checks
from medtrace.evaluation.certificate.probes import RUN_CHECKS, identical_pair_check, translator_checks, without_run
from medtrace.evaluation.certificate.provenance import provenance, provenance_check, without_names
from medtrace.evaluation.certificate.radius import radius_check
from medtrace.evaluation.certificate.record import Certificate, Check, Status, skipped
from medtrace.evaluation.certificate.thresholds import Thresholds
from medtrace.io import load_trace, write_image
from medtrace.report.certificate import certificate_beside, certificate_html
from medtrace.storage.files import atomic_write, scratch_directory
from medtrace.storage.places import folder_place
from medtrace.storage.reservations import reserve_files, reserving
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import ON_GRID
from medtrace.workflows.register import register
from medtrace.workflows.translate import FINGERPRINT, run_preparation, translate
from medtrace.workflows.unseen.images import MASK_MISSING, TrainingMemory, refusal, seen_image, source_cautions

_PAGE = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<title>Certificates</title><style>:root {{ color-scheme: light dark; }} body {{ max-width: 75em; margin: auto;"
    " padding: 1em; background: Canvas; }}</style></head><body>{}</body></html>\n"
)

TRAINING = "training"
"""The check of whether a source is new to the run and similar to its training data."""


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
    allow_training_subjects: bool = False,
) -> Certificate:
    """Certify a saved trace without ground truth.

    Args:
        folder: written by `translate`, `register` or `save_trace`.
        run: folder of the training that made it, for reproduction, equivariance, identical pairs and provenance.
        source: the file or DICOM folder that was translated, for provenance.
        target: the scan that a registration aimed at, on the image's grid: what its field is assessed against.
        thresholds: limits and settings, or a YAML file with some of them.
        radius: a file of `calibrate_radius`, which gives the conformal radius.
        contrast: contrast of the image, if the run was trained on several.
        device: such as "cuda:0".
        out: JSON file to write.
        keep_metadata: keep the name of `source` and the trace's metadata, which may identify a patient.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        allow_training_subjects: also certify the translation of an image that `run` was trained on; the certificate
            says so.

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
    training = None if run is None else training_check(run, trace, origin, allow_training_subjects, contrast)
    checks = trace_checks(trace, limits, target=wanted)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a run's network warns about what the checks measure
        checks += without_run() if run is None else run_checks(run, trace, limits, contrast, device)
    checks.append(provenance_check(trace, origin, source, source_series, resample_tilt))
    if training is not None:
        checks.append(training)
    if told is not None:
        checks.append(told)
    origin = origin if keep_metadata else without_names(origin)
    origin["thresholds"] = limits.as_dict()
    certificate = Certificate(folder.resolve().name, tuple(checks), origin)
    if out is not None:
        certificate.write(out)
    return certificate


def training_check(
    run: str | os.PathLike,
    trace: Trace,
    origin: Mapping[str, Any],
    allowed: bool = False,
    contrast: str | None = None,
) -> Check:
    """Whether a trace's source is new to the run that made it and similar to the run's training images.

    Args:
        run: folder of the training.
        trace: that it made.
        origin: origin of the trace (see `medtrace.evaluation.certificate.provenance`).
        allowed: whether its source may be a training image.
        contrast: contrast of the source, if the run was trained on several.

    Raises:
        ValueError: if the source is a training image and that is not allowed.
    """
    memory = TrainingMemory.of(run)
    metadata = origin["trace"]["metadata"] or {}
    seen = seen_image(memory, _source_digests(trace, metadata))
    if seen is not None and not allowed:
        raise ValueError(refusal(f"trace: its source is {seen}", "certify the translation of another subject"))
    if seen is not None:
        return Check(TRAINING, Status.WARN, f"the source is {seen}")
    if not memory.scans:
        return skipped(TRAINING, "the run does not record which scans it was trained on")
    doubts = source_cautions(memory, trace, MASK_MISSING not in metadata.get("notices", ()), contrast)
    if doubts:
        return Check(TRAINING, Status.WARN, "; ".join(doubts))
    return Check(TRAINING, Status.PASS, "the source is new to the run, and like its training images")


def _source_digests(trace: Trace, metadata: Mapping[str, Any]) -> list[str]:
    """For a trace's source as it was read, and as stored in the trace; if there are several, each separately."""
    read = metadata.get(FINGERPRINT)
    images = [trace.source[k : k + 1] for k in range(len(trace.source))] if isinstance(read, Mapping) else []
    result = read.values() if isinstance(read, Mapping) else [read]
    return [*map(fingerprint, (trace.source, *images)), *map(str, result)]


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
    scan = in_corrected_intensities(scan, trace.contrasts[0] if trace.contrasts else None)
    return scan.as_tensor().float().reshape(-1, *shape)


def run_checks(
    run: str | os.PathLike, trace: Trace, thresholds: Thresholds, contrast: str | None = None, device: str | None = None
) -> list[Check]:
    """The checks that a run allows: reproduction and equivariance for a translator, identical pairs for a registration.

    Args:
        run: folder of the training that made the trace.
        trace: trace of a scan in its own units, as `translate` or `register` leaves it.
        thresholds: limits and settings.
        contrast: contrast of the image, if the run was trained on several.
        device: such as "cuda:0".
    """
    method = load_method(run, "cpu")
    flat = trace.spatial_dims == 2
    if trace.source.shape[0] != 1:
        return [skipped(name, "color natural images cannot be handed to the run again") for name in RUN_CHECKS]
    if flat and run_preparation(run, method).natural_image:
        return [skipped(name, "natural images cannot be handed to the run again without loss") for name in RUN_CHECKS]
    with scratch_directory() as folder:
        file = folder / "source.nii.gz"
        if not method.translates:
            write_image(file, trace.source, trace.source_affine)
            result = register(
                file, file, folder / "pair", run=run, contrast=contrast, device=device, progress=False, report=False
            ).trace
            reason = "the run registers pairs; the target is not part of a trace"
            return [*(skipped(name, reason) for name in RUN_CHECKS[:2]), identical_pair_check(result, thresholds)]
        if not trace.same_grid:
            return [skipped(name, "source and image are on different grids") for name in RUN_CHECKS]

        def translator(source: Tensor) -> Trace:
            write_image(file, source, trace.source_affine)
            settings: dict[str, Any] = {"contrast": contrast, "device": device, "progress": False, "report": False}
            settings["allow_training_subjects"] = True  # already decided by `training_check`
            made = translate(run, file, folder / "trace", overwrite=True, **settings)
            return _flat(made) if flat else made

        checks = translator_checks(translator, trace, thresholds)
    return [*checks, skipped("identical pair", "the run translates one image; it registers no pair")]


def _flat(trace: Trace) -> Trace:
    """The 2D trace of a volume of one slice."""
    return Trace.build(
        trace.source[..., 0],
        trace.image[..., 0],
        trace.ddf[:2, ..., 0],
        inverse_ddf=trace.inverse_ddf[:2, ..., 0],
        affine=trace.affine,
        source_affine=trace.source_affine,
        source_contrasts=trace.source_contrasts,
        contrasts=trace.contrasts,
    )


@contextmanager
def _reserve_certificates(
    traces: Sequence[str | os.PathLike], out: str | os.PathLike | None, html: str | os.PathLike | None
) -> Iterator[None]:
    files = _files(traces, out)
    doubled = sorted({str(file) for file in files if files.count(file) > 1})
    if doubled:
        raise ValueError(f"traces: expected folders of different names, received several of {doubled[0]}; rename one")
    if out is not None and len(traces) > 1:
        folder_place(out)
    with reserve_files(*files, html, make_parents=True):
        yield


@reserving(lambda traces, out, html: _reserve_certificates(traces, out, html))
def certify_several(
    traces: Sequence[str | os.PathLike],
    *,
    out: str | os.PathLike | None = None,
    run: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    target: str | os.PathLike | None = None,
    thresholds: str | os.PathLike | None = None,
    radius: str | os.PathLike | None = None,
    contrast: str | None = None,
    html: str | os.PathLike | None = None,
    device: str | None = None,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
    allow_training_subjects: bool = False,
) -> list[Certificate]:
    """Certify saved traces; `out` is a JSON file for one trace, a folder for several (see `certify`).

    Certificates and page leave out file names and the traces' metadata, which may identify patients, unless
    `keep_metadata`.

    Without `out`, each certificate is written next to its trace's folder, as TRACE.certificate.json, where `medtrace
    report` finds it.

    Raises:
        ValueError: if an input or a target is given with several traces.
    """
    for option, given in (("--input", source), ("--target", target)):
        if given is not None and len(traces) > 1:
            raise ValueError(f"{option}: expected with one trace, received {len(traces)}; certify them one by one")
    result = []
    for trace, file in zip(traces, _files(traces, out)):
        result.append(
            certify(
                trace,
                run=run,
                source=source,
                target=target,
                thresholds=thresholds,
                radius=radius,
                contrast=contrast,
                device=device,
                out=file,
                keep_metadata=keep_metadata,
                source_series=source_series,
                target_series=target_series,
                resample_tilt=resample_tilt,
                allow_training_subjects=allow_training_subjects,
            )
        )
    if html is not None:
        pieces = [certificate_html(certificate.as_dict(), style=not index) for index, certificate in enumerate(result)]
        atomic_write(html, _PAGE.format("\n".join(pieces)))
    return result


def _files(traces: Sequence[str | os.PathLike], out: str | os.PathLike | None) -> list[Path]:
    """The file of every trace's certificate."""
    if out is None:
        return [certificate_beside(trace) for trace in traces]
    if len(traces) == 1:
        return [Path(out)]
    return [Path(out) / f"{Path(trace).resolve().name}.json" for trace in traces]
