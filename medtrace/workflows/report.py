"""Traces on disk to one page for readers."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.masks import check_same_grid, read_labels
from medtrace.data.reading import is_picture, read_image
from medtrace.io import load_trace
from medtrace.io.trace_folder import INDEX
from medtrace.report.certificate import certificate_of
from medtrace.report.viewer import ReportCase, write_report
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import ON_GRID

REPORT = "report.html"


def report(
    folders: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    targets: Sequence[str | os.PathLike[str]] = (),
    labels: Sequence[str | os.PathLike[str]] = (),
    keep_metadata: bool = False,
    target_series: Sequence[str | int | None] = (),
    resample_tilt: bool = False,
) -> Path:
    """Write saved traces as one HTML file that opens offline, with their certificates where there are any.

    A certificate is found where `medtrace certify` leaves it (see `certificate_of`). The page names each trace after
    its folder, with as many parent folders as make the names differ; nothing else of the paths or of the files' headers
    goes into it.

    Args:
        folders: of traces, as `save_trace` wrote them.
        out: the file, ending in .html.
        targets: true images on the target grids, one per folder, for a layer of the error; or none.
        labels: label maps on the source grids, one per folder; or none.
        keep_metadata: show the metadata of each `trace.json` (such as the name of the file that was translated) with
            its trace; by default it stays out, since it may name a patient.
        target_series: which volumes of the targets' DICOM folders, one per target, see
            `medtrace.data.reading.read_image`; or none.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.

    Returns:
        The file.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if there is no folder, or targets or labels do not go with them.
    """
    if not folders:
        raise ValueError("folders: expected at least one trace, received none")
    for name, files in (("targets", targets), ("labels", labels)):
        if files and len(files) != len(folders):
            raise ValueError(f"{name}: expected one for each of {len(folders)} traces, received {len(files)}")
    if target_series and len(target_series) != len(targets):
        raise ValueError(
            f"target_series: expected one for each of {len(targets)} targets, received {len(target_series)}"
        )
    chosen = target_series or [None] * len(folders)
    names = distinct_names([Path(folder) for folder in folders])
    cases = []
    for number, (name, folder) in enumerate(zip(names, folders)):
        trace = load_trace(Path(folder))
        index = json.loads((Path(folder) / INDEX).read_text())
        metadata = index.get("metadata") if keep_metadata else None
        cases.append(
            ReportCase(
                name,
                trace,
                target=_target(Path(targets[number]), trace, Path(folder), chosen[number], resample_tilt)
                if targets
                else None,
                labels=_labels(Path(labels[number]), trace, Path(folder)) if labels else None,
                method=index.get("method"),
                notes=(f"metadata: {json.dumps(metadata)}",) if metadata else (),
                certificate=certificate_of(folder),
            )
        )
    return write_report(cases, out)


def report_beside(
    trace: Trace, folder: Path, method: str | None = None, target: Tensor | None = None, notes: tuple[str, ...] = ()
) -> Path:
    """Write the page of one trace next to its folder: FOLDER.html."""
    return write_report(ReportCase(folder.name, trace, target, method=method, notes=notes), page_of(folder))


def check_page(folder: Path, wanted: bool, overwrite: bool) -> None:
    """Refuse, before any work, to write a page over another one.

    Raises:
        FileExistsError: if the page of this folder is wanted, exists and may not be overwritten.
    """
    if wanted and not overwrite and page_of(folder).exists():
        raise FileExistsError(f"{page_of(folder)}: is in use; choose another folder, overwrite it, or write no report")


def page_of(folder: Path) -> Path:
    """Where the page of a trace's folder lies: beside it, since the folder holds nothing but the trace."""
    return folder.with_name(f"{folder.name}.html")


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise ValueError(f"folders: expected each once, received {', '.join(map(str, folders))}")


def _target(
    path: Path, trace: Trace, folder: Path, series: str | int | None = None, resample_tilt: bool = False
) -> Tensor:
    like = _as_read(path, trace.image, trace.affine)
    image = read_image(path, series, resample_tilt=resample_tilt)
    check_same_grid(image, path, like, folder, ON_GRID)
    return image.as_tensor().reshape(-1, *trace.image.shape[1:])


def _labels(path: Path, trace: Trace, folder: Path) -> Tensor:
    labels = read_labels(path, _as_read(path, trace.source, trace.source_affine), folder)
    return labels.reshape(-1, *trace.source.shape[1:])


def _as_read(path: Path, image: Tensor, affine: Tensor) -> MetaTensor:
    """A trace's image as its file would have been read: a slice of a scan has three axes."""
    flat = image.ndim == 3 and not is_picture(path)
    return MetaTensor(image[..., None] if flat else image, affine=affine)
