"""Translate a scan with a trained run: on the scan's own grid, in the target's units, with its trace."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medtrace.checks import check_positive
from medtrace.data.contrasts import body_of, check_modality
from medtrace.data.dicom.reading import MODALITY
from medtrace.data.masks import read_mask
from medtrace.data.pictures.files import is_picture
from medtrace.data.pictures.output import check_picture_beside, matching_depth, picture_beside
from medtrace.data.pictures.tiff import Depth
from medtrace.data.preparation.rules import FILE, Preparation
from medtrace.data.reading import read_image
from medtrace.engines.runs import load_method
from medtrace.fields import warp
from medtrace.guard.notices import collecting
from medtrace.inference.fitting import Division, translate_fitting
from medtrace.inference.scan_translation import translate_array
from medtrace.io import read_source_series, save_dicom, save_trace
from medtrace.io.nifti import check_orthogonal
from medtrace.io.trace_folder import check_trace_room
from medtrace.io.trace_members import check_transform_formats
from medtrace.methods.base import Method
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.trace import Trace
from medtrace.trace.contrast import HU, Contrast
from medtrace.trace.intensity_map import IntensityMap
from medtrace.workflows.report import report_beside, reserve_outputs
from medtrace.workflows.unseen import TrainingMemory, review_image

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
    image: str | os.PathLike,
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
    """Translate one image and save the trace, with a page to look at it beside its folder (OUT.html).

    A picture comes back as one too, beside the folder (OUT.png, or OUT.tif where PNG does not hold its depth), in its
    own depth: whole numbers in 16 bits for a picture of 12 bits, 32-bit float for a float TIFF.

    The scan is reoriented to RAS and normalized as the training images were (`preparation.json` of the run; without
    one, the 0.5 and 99.5 percentiles of its foreground go to -1 and 1). A 2D network translates it slice by slice
    along the preparation's axis, at the training images' pixel size where that is known; a 3D network takes the
    volume as a whole or, above `patched.VOXEL_BUDGET`, in patches, at their voxel size. The image and the field are
    brought back to the scan's grid: a slice-wise field has no component through the slices. Slices without tissue stay
    as they are.

    Intensities come back in the units of what the image shows. Where it is of the scan's own contrast (surgery, a later
    date), that is the inverse of the scan's own intensity map (`IntensityMap.inverse`). Of another contrast it is that
    contrast's map: a CT is in HU, and what has arbitrary units (MR) is on the scale of the mean training scan, which is
    relative. Where the scan has a background (exact zeros, or the air around a CT that becomes something else), the
    image has its contrast's background there, moved by the field.

    Args:
        run: folder left by `medtrace train`.
        image: a file or DICOM folder (see `medtrace.data.reading`).
        out: folder of the trace (see `medtrace.io.save_trace`); it appears complete or not at all.
        mask: foreground (brain) of the image on its grid, for runs that were prepared with masks.
        contrast: of the image, where the run was trained on several.
        device: such as "cuda:0"; by default CUDA where there is one.
        batch_size: slices at once.
        patch_size: edge of the patches of a 3D network in voxels of its grid, or one number per axis; 0 takes the
            volume as a whole. None decides by the volume, see `patched.patches_for`.
        fit: where memory runs out, take the largest batch or patch that fits, instead of telling it.
        progress: show a bar on stderr.
        overwrite: replace an earlier trace in `out`.
        keep_metadata: write the image file's name into the trace, from which it may reach reports; names of files
            often are names of patients, so that by default it stays out. Nothing of the image's header goes into it.
        report: write the page; of a volume of 256×256×128 some 20 seconds and 40 MB.
        dicom: new folder for the trace as DICOM objects of the study that `image`, then a DICOM folder, belongs to
            (see `medtrace.io.save_dicom`).
        series: which volume of a DICOM folder that holds several, see `medtrace.data.reading.read_image`.
        resample_tilt: resample a DICOM series of a tilted gantry onto a grid at right angles.
        page: which page of a picture that has several, from 1.
        precise: keep every bit in the trace (see `medtrace.io.save_trace`).
        transforms: formats in which to write the fields once more: "h5", "nrrd".
        allow_training_subjects: translate also an image that the run was trained on; the trace says so.

    Returns:
        The trace: 3D for a scan, 2D for a picture, on the CPU.

    Raises:
        FileNotFoundError: if the run, one of its files or the image is missing.
        FileExistsError: if `out` or `dicom` is in use.
        ValueError: if the image cannot be read, does not fit the run, or was trained on; the message names the file.
    """
    run, image, out = Path(run), Path(image), Path(out)
    check_positive("batch_size", batch_size)
    check_transform_formats(transforms)
    check_picture_beside(out, image, overwrite)
    if dicom is not None:
        read_source_series(image, series)  # what `save_dicom` would refuse, before minutes of work
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        found = translation(
            run,
            image,
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
    metadata = {**found.metadata, "file": image.name} if keep_metadata else found.metadata
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(found.trace, out, method=found.method, metadata=metadata, **stored)
    picture_beside(found.trace, out, found.depth)
    if report:
        report_beside(found.trace, out, found.method)
    if dicom is not None:
        save_dicom(found.trace, Path(dicom), image, volume=series, method=found.method)
    return found.trace


class Translation(NamedTuple):
    """A translated image, and what is kept with its trace."""

    trace: Trace
    method: str
    metadata: dict[str, Any]
    depth: Depth | None = None
    """Of the file, if it is a picture."""


def translation(
    run: Path,
    image: Path,
    load: Callable[[], Method],
    *,
    mask: str | os.PathLike | None = None,
    contrast: str | None = None,
    batch_size: int = 8,
    patch_size: int | Sequence[int] | None = None,
    series: str | int | None = None,
    resample_tilt: bool = False,
    page: int | None = None,
    fit: bool = False,
    bar: Progress,
    out: Path,
    allow_training_subjects: bool = False,
) -> Translation:
    """What `translate` writes to `out`, without writing it; `load` gives the run's method once the image is read."""
    with collecting() as notices:
        scan = read_image(image, series, page=page, resample_tilt=resample_tilt)
        check_trace_room(out, scan.shape, scan.shape)
        foreground = None if mask is None else read_mask(Path(mask), scan, image)
    method = load()
    preparation = run_preparation(run, method, picture=is_picture(image))
    if preparation.picture != is_picture(image):
        kinds = ("scan", "picture")
        raise ValueError(
            f"{image}: is a {kinds[is_picture(image)]}, but {run} was trained on {kinds[preparation.picture]}s; give an"
            " image of the same kind"
        )
    with collecting() as cautions:
        digest = review_image(
            TrainingMemory.of(run),
            image,
            scan,
            preparation,
            mask=mask is not None,
            contrast=contrast,
            allowed=allow_training_subjects,
        )
    depth = matching_depth(image, scan, preparation, run)
    check_modality(image, scan.meta.get(MODALITY), preparation.contrast(contrast))
    try:
        check_orthogonal("affine", scan.affine.numpy())  # before minutes of work that could not be saved
        normalized, intensity = preparation.normalize(scan, contrast, foreground)
        before, after = preparation.contrast(contrast), preparation.target(contrast)
        back = way_back(scan.as_tensor(), intensity, before, after)
        parts, patches = translate_fitting(
            lambda how, shown: translate_array(method, preparation, normalized, scan.affine, *how, shown),
            *(method, preparation, Division(batch_size, patch_size), fit, bar, image),
        )
        moved = _moved_foreground(back.foreground, parts.ddf)
        translated = back.inverse(parts.image, moved)
    except ValueError as error:
        raise ValueError(f"{image}: {error}") from error
    trace = Trace.build(
        source=scan.as_tensor(),
        image=translated,
        ddf=parts.ddf,
        inverse_ddf=parts.inverse_ddf,
        mask=parts.mask,
        velocity=parts.velocity,
        affine=scan.affine,
        source_affine=scan.affine,
        tissue=moved,
        source_contrasts=None if before is None else (before,) * scan.shape[0],
        contrasts=None if after is None else (after,) * translated.shape[0],
    )
    metadata: dict[str, Any] = {"spatial_dims": preparation.spatial_dims, "intensity": str(preparation.intensity)}
    if after is not None:
        metadata["units"] = units_note(before, after)
    metadata[FINGERPRINT] = digest
    if told := [notice.text for notice in (*notices, *cautions)]:
        metadata["notices"] = told
    if patches is not None:
        metadata["patches"] = {"size": list(patches.size), "overlap": patches.overlap}
    if clipped := preparation.count_outside(scan, foreground):
        metadata["clipped_pixels"] = clipped
        low, high = preparation.value_range or (0.0, 0.0)
        LOGGER.warning(
            "%s: %d of %d pixels lie outside of the run's value range %g to %g and were clipped",
            *(image, clipped, scan[0].numel(), low, high),
        )
    return Translation(trace, type(method).__name__, metadata, depth)


def way_back(scan: Tensor, own: IntensityMap, before: Contrast | None, after: Contrast | None) -> IntensityMap:
    """The map from a network's image to units: the scan's own, or of another contrast that contrast's.

    Args:
        scan: (C, *spatial), in its units.
        own: its map to [-1, 1].
        before: contrast of the scan, None if unknown.
        after: contrast of the image.

    Returns:
        The map; its foreground is the scan's, outside of which the image has its contrast's background.
    """
    if before is None or after is None or before.name == after.name:
        return own
    foreground = own.foreground
    if foreground is None and before.unit == HU and after.background is not None:
        foreground = body_of(scan)
    return after.intensity_map(scan.shape[0], None if after.background is None else foreground)


def units_note(before: Contrast | None, after: Contrast) -> str:
    """In which units a translated image is, in a sentence."""
    if before is None or before.name == after.name:
        return f"the image is in the units of the scan, {after}"
    relative = ", relative: the scale is that of the mean training scan" if after.relative else ""
    return f"the image is in {after.unit} of {after.name}{relative}"


def run_preparation(run: str | os.PathLike, method: Method, picture: bool = False) -> Preparation:
    """The preparation of a run, or the percentile rule where it has none.

    Args:
        run: the run folder.
        method: of the run; its network tells 2D from 3D where no preparation does.
        picture: whether the image at hand is a picture; matters without a preparation only.
    """
    path = Path(run) / FILE
    if path.is_file():
        return Preparation.load(path)
    known: list[Any] = [module.spatial_dims for module in method.modules() if hasattr(module, "spatial_dims")]
    if not known:
        raise FileNotFoundError(f"{path}: no such file, and the network does not tell 2D from 3D; add the file")
    return Preparation(spatial_dims=int(known[0]), picture=picture)


def _moved_foreground(foreground: Tensor | None, ddf: Tensor) -> Tensor | None:
    if foreground is None:
        return None
    return warp(foreground.float()[None], ddf[None])[0] > 0.5
