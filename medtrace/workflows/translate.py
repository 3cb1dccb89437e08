"""Translation of a scan with a trained run: on the scan's own grid, in the target's units, with its trace."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress

from medtrace.checks import check_positive
from medtrace.data.masks import read_mask
from medtrace.data.natural_images.files import is_natural_image
from medtrace.data.natural_images.output import check_natural_image_beside, matching_depth, natural_image_beside
from medtrace.data.natural_images.tiff import Depth
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.data.reading import read_image
from medtrace.engines.runs import load_method, read_run
from medtrace.guard.notices import collecting
from medtrace.guard.progress import announce
from medtrace.inference.delivery import deliver
from medtrace.inference.fitting import Division
from medtrace.inference.sources import SourceImages, check_names, one_source, several_sources
from medtrace.io import read_source_series, save_dicom, save_trace
from medtrace.io.nifti import check_orthogonal
from medtrace.io.trace_folder import check_trace_room
from medtrace.io.trace_members import check_transform_formats
from medtrace.methods.base import Method
from medtrace.methods.settings import PreparedData
from medtrace.storage.places import free_disk
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.trace import Trace
from medtrace.trace.contrast import Contrast
from medtrace.transforms.source_dropout import MISSING
from medtrace.workflows.handing_on.hub import local_run
from medtrace.workflows.intensity import interval_of, with_interval
from medtrace.workflows.report import report_beside, reserve_outputs
from medtrace.workflows.unseen.images import TrainingMemory, review_image

FINGERPRINT = "source_fingerprint"
"""Entry of a trace's metadata (see `medtrace.data.fingerprint`): the stored source may be rounded."""
LOGGER = logging.getLogger("medtrace.translate")


@contextmanager
def _reserve(out: str | os.PathLike, report: bool, overwrite: bool, dicom: str | os.PathLike | None) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(reserve_outputs(out, report, overwrite))
        if dicom is not None:
            stack.enter_context(reserve_folder(dicom, make_parents=True))
        yield


@reserving(lambda out, report, overwrite, dicom: _reserve(out, report, overwrite, dicom))
def translate(
    run: str | os.PathLike,
    image: str | os.PathLike | Mapping[str, str | os.PathLike],
    out: str | os.PathLike,
    *,
    mask: str | os.PathLike | None = None,
    contrast: str | None = None,
    device: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    progress: bool = True,
    overwrite: bool = False,
    report: bool = True,
    keep_metadata: bool = False,
    dicom: str | os.PathLike | None = None,
    series: str | int | None = None,
    resample_tilt: bool = False,
    page: int | None = None,
    precise: bool = False,
    transforms: Sequence[str] = (),
    allow_training_subjects: bool = False,
    fit: bool = False,
) -> Trace:
    """Translate one image and save the trace, with a page for viewing it next to its folder (OUT.html).

    The translation of a natural image is also written as one, next to the folder (OUT.png, or OUT.tif if PNG does not
    support its depth), in its own depth: 16-bit integers for a natural image of 12 bits, 32-bit float for a float TIFF.

    If the run has an interval of intensities (`medtrace calibrate intensity`) for the weights in use, the trace
    includes it, in the image's units, and marks unexplained change. An interval for other weights is left out, with a
    caution.

    The scan is reoriented to RAS and normalized as the training images were (`preparation.json` of the run; without
    one, the 0.5 and 99.5 percentiles of its foreground are mapped to -1 and 1). A 2D network translates it slice by
    slice along the preparation's axis, at the training images' pixel size where that is known; a 3D network takes the
    entire volume or, above `patched.VOXEL_BUDGET`, patches, at their voxel size. The image and the field are resampled
    to the scan's grid: a slice-wise field has no component through the slices. Slices without tissue are unchanged.

    Intensities are converted to the units of the image's contrast. If it has the scan's own contrast (surgery, a later
    date), this uses the inverse of the scan's own intensity map (`IntensityMap.inverse`). For another contrast it is
    that contrast's map: a CT is in HU, and a contrast in arbitrary units (MR) is on the scale of the mean training
    scan, which is relative. Where the scan has background (exact zeros, or the air around a CT that is translated to
    another contrast), the image has its contrast's background, moved by the field.

    Args:
        run: folder left by `medtrace train`, one made by `medtrace card`, or `hf://owner/name`.
        image: a file or DICOM folder (see `medtrace.data.reading`); for a run that reads several contrasts, contrast →
            file. One may be missing if the run was trained for that (`data.drop_sources`, or pairs that lacked it): its
            channel is -1, the value of background, and the metadata say so.
        out: folder of the trace (see `medtrace.io.save_trace`); it appears complete or not at all.
        mask: foreground (brain) of the image on its grid, for runs that were prepared with masks.
        contrast: contrast of the image, if the run was trained on several.
        device: such as "cuda:0"; by default CUDA if available.
        batch_size: slices at once.
        patch_size: edge of the patches of a 3D network in voxels of its grid, or one number per axis; 0 takes the
            entire volume. None decides by the volume, see `patched.patches_for`.
        fit: if memory runs out, use the largest batch or patch that fits, instead of reporting it.
        progress: show a bar on stderr.
        overwrite: replace an earlier trace in `out`.
        keep_metadata: write the image file's name into the trace, from which it may reach reports; names of files
            often are names of patients, so it is left out by default. Nothing from the image's header is included.
        report: write the page; of a volume of 256×256×128 some 20 seconds and 40 MB.
        dicom: new folder for the trace as DICOM objects of the study that `image`, then a DICOM folder, belongs to
            (see `medtrace.io.save_dicom`).
        series: which volume of a DICOM folder that holds several, see `medtrace.data.reading.read_image`.
        resample_tilt: resample a DICOM series of a tilted gantry onto a grid at right angles.
        page: which page of a natural image that has several, from 1.
        precise: store the trace losslessly (see `medtrace.io.save_trace`).
        transforms: further formats to write the fields in: "h5", "nrrd".
        allow_training_subjects: also translate an image that the run was trained on; the trace says so.

    Returns:
        The trace: 3D for a scan, 2D for a natural image, on the CPU.

    Raises:
        FileNotFoundError: if the run, one of its files or the image is missing.
        FileExistsError: if `out` or `dicom` is in use.
        ValueError: if the image cannot be read, does not fit the run, or was trained on; the message names the file.
    """
    run, out = local_run(run), Path(out)
    files = {name: Path(path) for name, path in image.items()} if isinstance(image, Mapping) else Path(image)
    if isinstance(files, dict) and dicom is not None:
        raise ValueError("dicom: expected with one source, a DICOM folder, received named sources; leave it out")
    main = next(iter(files.values()), Path()) if isinstance(files, dict) else files
    check_positive("batch_size", batch_size)
    check_transform_formats(transforms)
    check_natural_image_beside(out, main, overwrite)
    if dicom is not None:
        read_source_series(main, series)  # refuse early what `save_dicom` would refuse after minutes of work
    announce(f"translating one image by the run {run.resolve().name}", disk=free_disk(out), out=out.name)
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        result = translation(
            run,
            files,
            lambda: load_method(run, device),
            mask=mask,
            contrast=contrast,
            batch_size=batch_size,
            patch_size=patch_size,
            series=series,
            resample_tilt=resample_tilt,
            page=page,
            fit=fit,
            bar=bar,
            out=out,
            allow_training_subjects=allow_training_subjects,
        )
    metadata = {**result.metadata, "file": _names(files)} if keep_metadata else result.metadata
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(result.trace, out, method=result.method, metadata=metadata, **stored)
    natural_image_beside(result.trace, out, result.depth)
    if report:
        report_beside(result.trace, out, result.method)
    if dicom is not None:
        save_dicom(result.trace, Path(dicom), main, volume=series, method=result.method)
    return result.trace


def _names(files: Path | Mapping[str, Path]) -> str | dict[str, str]:
    return {name: path.name for name, path in files.items()} if isinstance(files, Mapping) else files.name


class Translation(NamedTuple):
    """A translated image, and what is stored with its trace."""

    trace: Trace
    method: str
    metadata: dict[str, Any]
    depth: Depth | None = None
    """Of the file, if it is a natural image."""


def translation(
    run: Path,
    image: Path | Mapping[str, Path],
    load: Callable[[], Method],
    *,
    mask: str | os.PathLike | None = None,
    contrast: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    series: str | int | Mapping[str, str | None] | None = None,
    resample_tilt: bool = False,
    page: int | None = None,
    fit: bool = False,
    bar: Progress,
    out: Path,
    allow_training_subjects: bool = False,
) -> Translation:
    """The result that `translate` writes to `out`, without writing it; `load` gives the run's method once the image is
    read.

    `series` may be given for each of several named sources.
    """
    files: dict[str, Path] = dict(image) if isinstance(image, Mapping) else {"": Path(image)}
    if not files:
        raise ValueError("image: expected at least one source, received none; name one")
    if series is not None and "" not in files and not isinstance(series, Mapping):
        raise ValueError(
            "series: expected none with named sources, received one; give folders of one series, or a list"
        )
    of = series if isinstance(series, Mapping) else {"": series}
    with collecting() as notices:
        scans = {
            name: read_image(path, of.get(name), page=page, resample_tilt=resample_tilt) for name, path in files.items()
        }
    method = load()
    with collecting() as doubts:
        interval = interval_of(run)
    notices += doubts
    preparation = run_preparation(run, method, natural_image=is_natural_image(next(iter(files.values()))))
    if preparation.sources and "" in files:
        if contrast is None:
            raise ValueError(
                f"source: the run reads {', '.join(preparation.sources)}; say which one {image} is: --source NAME=FILE"
            )
        files, scans = {contrast: files[""]}, {contrast: scans[""]}
    elif "" not in files:
        check_names(preparation, files)
    first = next((name for name in preparation.sources if name in files), next(iter(files)))
    path, scan = files[first], scans[first]
    with collecting() as more:
        check_trace_room(out, scan.shape, scan.shape)
        foreground = None if mask is None else read_mask(Path(mask), scan, path)
    notices += more
    for file in files.values():
        if preparation.natural_image != is_natural_image(file):
            kinds = ("scan", "natural image")
            raise ValueError(
                f"{file}: is a {kinds[is_natural_image(file)]}, but {run} was trained on"
                f" {kinds[preparation.natural_image]}s; give"
                " an image of the same kind"
            )
    memory = TrainingMemory.of(run)
    with collecting() as cautions:
        digests = {
            name: review_image(
                memory,
                file,
                scans[name],
                preparation,
                mask=mask is not None,
                contrast=name or contrast,
                allowed=allow_training_subjects,
            )
            for name, file in files.items()
        }
    depth = matching_depth(path, scan, preparation, run)
    with collecting() as doubts:
        if preparation.sources:
            dropped = isinstance(data := read_run(run).settings.data, PreparedData) and data.drop_sources > 0
            sources = several_sources(preparation, files, scans, foreground, dropped)
        else:
            sources = _named(path, one_source, preparation, path, scan, contrast, foreground)
    cautions += doubts
    try:
        check_orthogonal("affine", scan.affine.numpy())  # checked before minutes of work that could not be saved
        division = Division(batch_size, patch_size)
        delivered = deliver(method, preparation, sources, contrast, division, fit=fit, bar=bar, name=path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    before, after, parts, patches = sources.contrasts, delivered.contrasts, delivered.parts, delivered.patches
    trace = Trace.build(
        source=sources.scan,
        image=delivered.image,
        ddf=parts.ddf,
        inverse_ddf=parts.inverse_ddf,
        mask=parts.mask,
        velocity=parts.velocity,
        affine=scan.affine,
        source_affine=scan.affine,
        tissue=delivered.foreground,
        source_contrasts=before,
        contrasts=after,
    )
    metadata: dict[str, Any] = {"spatial_dims": preparation.spatial_dims, "intensity": str(preparation.intensity)}
    if interval is not None:
        trace, metadata["interval"] = with_interval(trace, delivered, sources.normalized, preparation, interval)
    if after is not None:
        metadata["units"] = units_note(before, after)
    if preparation.sources:
        metadata["sources"] = {
            name: f"missing, {MISSING:g} in its channel" if name in sources.missing else "given"
            for name in preparation.sources
        }
    metadata[FINGERPRINT] = digests if preparation.sources else next(iter(digests.values()))
    if told := [notice.text for notice in (*notices, *cautions)]:
        metadata["notices"] = told
    if method.neighbors:
        metadata["neighbors"] = f"{method.neighbors} slice(s) on either side, the last repeated at the ends"
    if patches is not None:
        metadata["patches"] = {"size": list(patches.size), "overlap": patches.overlap}
    if clipped := preparation.count_outside(scan, foreground):
        metadata["clipped_pixels"] = clipped
        low, high = preparation.value_range or (0.0, 0.0)
        LOGGER.warning(
            "%s: %d of %d pixels lie outside the run's value range %g to %g and were clipped",
            *(path, clipped, scan[0].numel(), low, high),
        )
    return Translation(trace, type(method).__name__, metadata, depth)


def units_note(before: Sequence[Contrast] | None, after: Sequence[Contrast]) -> str:
    """The units of a translated image, in a sentence for each of its contrasts."""
    names = {contrast.name for contrast in before or after}
    notes = []
    for contrast in dict.fromkeys(after):
        relative = ", relative: the scale is that of the mean training scan" if contrast.relative else ""
        notes.append(
            f"the image is in the units of the scan, {contrast}"
            if contrast.name in names
            else f"the image is in {contrast.unit} of {contrast.name}{relative}"
        )
    return "; ".join(notes)


def _named(path: Path, function: Callable[..., SourceImages], *arguments: Any) -> SourceImages:
    """Call a function, with the file in the message of a refusal that does not name it."""
    try:
        return function(*arguments)
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from error


def run_preparation(run: str | os.PathLike, method: Method, natural_image: bool = False) -> Preparation:
    """The preparation of a run, or the percentile rule if it has none.

    Args:
        run: the run folder.
        method: method of the run; its network distinguishes 2D from 3D if there is no preparation.
        natural_image: whether the image is a natural image; only used without a preparation.
    """
    path = Path(run) / FILE
    if path.is_file():
        return Preparation.load(path)
    known: list[Any] = [module.spatial_dims for module in method.modules() if hasattr(module, "spatial_dims")]
    if not known:
        raise FileNotFoundError(f"{path}: no such file, and the network does not tell 2D from 3D; add the file")
    return Preparation(spatial_dims=int(known[0]), natural_image=natural_image)
