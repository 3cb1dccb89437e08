"""Saved traces as one HTML page."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.bias import in_corrected_intensities
from medtrace.data.masks import check_same_grid, read_labels
from medtrace.data.reading import is_natural_image, read_image
from medtrace.io import load_trace
from medtrace.io.trace_folder import INDEX, reserve_trace
from medtrace.methods import method_class, method_names
from medtrace.report.certificate import certificate_of
from medtrace.report.viewer import ReportCase, write_report
from medtrace.report.viewer.page import REPORT, check_suffix
from medtrace.storage.places import stands_alone
from medtrace.storage.reservations import reserve_file, reserve_files, reserving
from medtrace.trace import Trace
from medtrace.transforms.mask_rule import ON_GRID


@contextmanager
def reserve_page(out: str | os.PathLike) -> Iterator[None]:
    """Reserve the path of a page, whose file ending is checked."""
    check_suffix(Path(out))
    with reserve_file(out, make_parents=True):
        yield


@reserving(lambda out: reserve_page(out))
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
    """Write saved traces as one HTML file that opens offline, with their certificates if there are any.

    A certificate is found where `medtrace certify` leaves it (see `certificate_of`). The page names each trace after
    its folder, with as many parent folders as needed to make the names unique; nothing else from the paths or file
    headers is included.

    Args:
        folders: folders of traces, as `save_trace` wrote them.
        out: the file, ending in .html.
        targets: true images on the target grids, one per folder, for a layer of the error; or none.
        labels: label maps on the source grids, one per folder; or none.
        keep_metadata: show the metadata of each `trace.json` (such as the name of the file that was translated) with
            its trace; left out by default, since it may identify a patient.
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
                method=method_title(index.get("method")),
                notes=(f"metadata: {json.dumps(metadata)}",) if metadata else (),
                certificate=certificate_of(folder) or _own_verdict(index),
                registration=_own_verdict(index) is not None,
            )
        )
    return write_report(cases, out)


def _own_verdict(index: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The verdict that a registration left with its trace."""
    verdict = (index.get("metadata") or {}).get("verdict")
    return verdict if isinstance(verdict, dict) and "checks" in verdict else None


def report_beside(
    trace: Trace,
    folder: Path,
    method: str | None = None,
    target: Tensor | None = None,
    notes: tuple[str, ...] = (),
    certificate: Mapping[str, Any] | None = None,
    registration: bool = False,
) -> Path:
    """Write the page of one trace where `page_of` says; a registration's verdict may take the certificate's place."""
    case = ReportCase(
        folder.name,
        trace,
        target,
        method=method_title(method),
        notes=notes,
        certificate=certificate,
        registration=registration,
    )
    return write_report(case, page_of(folder))


def method_title(name: str | None) -> str | None:
    """A method's title for readers, from the name or the class that a trace was saved with.

    Example:
        >>> method_title("TraceTransMethod"), method_title("tracetrans"), method_title("imported (itk)")
        ('TraceTrans', 'TraceTrans', 'imported (itk)')
        >>> method_title("ComposedTraceTransMethod")
        'TraceTrans composed'
    """
    for known in method_names() if name else ():
        # The words of a class may be in another order than those of its folder; no other class is loaded.
        same_letters = sorted(str(name).lower()) == sorted(f"{known.replace('_', '')}method")
        if name == known or (same_letters and method_class(known).__name__ == name):
            return method_class(known).title or name
    return name


def check_page(folder: Path, wanted: bool, overwrite: bool) -> None:
    """Refuse, before any work, to overwrite another page.

    Raises:
        FileExistsError: if the page of this folder is requested, exists and may not be overwritten.
    """
    if wanted and not overwrite and page_of(folder).exists():
        raise FileExistsError(
            f"{page_of(folder)}: is in use; choose another folder, pass overwrite=True, or write no report"
        )


def page_of(folder: str | os.PathLike) -> Path:
    """The page of a trace's folder: next to it, FOLDER.html, or inside it if it is a mount point or its parent is not
    writable."""
    folder = Path(folder)
    if stands_alone(folder):
        return folder / REPORT
    if folder.name in ("", ".."):
        folder = Path(os.path.realpath(folder))
    return folder.with_name(f"{folder.name}.html")


@contextmanager
def reserve_outputs(
    out: str | os.PathLike, report: bool, overwrite: bool, *files: str | os.PathLike | None
) -> Iterator[None]:
    """Reserve the paths of a trace, its page and further files, from before the work until they are written.

    Raises:
        FileExistsError: if a trace or page is there and may not be overwritten, or something else is.
        FileNotFoundError, OSError: see `medtrace.storage.reservations`.
    """
    with ExitStack() as stack:
        stack.enter_context(reserve_trace(out, overwrite, make_parents=True))
        check_page(Path(out), report, overwrite)
        if report and not stands_alone(out):
            stack.enter_context(reserve_file(page_of(out)))
        stack.enter_context(reserve_files(*files, make_parents=True))
        yield


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as needed to distinguish them."""
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
    image = in_corrected_intensities(image, trace.contrasts[0] if trace.contrasts else None)
    return image.as_tensor().reshape(-1, *trace.image.shape[1:])


def _labels(path: Path, trace: Trace, folder: Path) -> Tensor:
    labels = read_labels(path, _as_read(path, trace.source, trace.source_affine), folder)
    return labels.reshape(-1, *trace.source.shape[1:])


def _as_read(path: Path, image: Tensor, affine: Tensor) -> MetaTensor:
    """A trace's image as it would be read from its file: a slice of a scan has three axes."""
    flat = image.ndim == 3 and not is_natural_image(path)
    return MetaTensor(image[..., None] if flat else image, affine=affine)
