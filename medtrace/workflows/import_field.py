"""A transform that another program estimated, as a trace of the two scans that it belongs to."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import SimpleITK as sitk
from monai.data import MetaTensor
from torch import Tensor

from medtrace.data.reading import is_natural_image, read_image
from medtrace.geometry import Grid
from medtrace.io import save_trace
from medtrace.io.foreign import Images, Note, read_point_map
from medtrace.io.foreign.ants import parse_member
from medtrace.io.foreign.plausibility import check_plausible
from medtrace.io.nifti import check_orthogonal
from medtrace.io.trace_folder import reserve_trace
from medtrace.io.trace_members import check_transform_formats
from medtrace.storage.reservations import reserving
from medtrace.trace import Trace
from medtrace.trace.validation import as_tensor

File = str | os.PathLike


@reserving(lambda out, overwrite: reserve_trace(out, overwrite))
def import_field(
    field: File | Sequence[File],
    format: str | None,
    source: File,
    target: File,
    out: File,
    *,
    overwrite: bool = False,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
    say: Callable[[str], object] | None = None,
    precise: bool = False,
    transforms: Sequence[str] = (),
) -> Trace:
    """Make a trace of two scans and a transform in the resampling direction: from the target to the source.

    | format | transform |
    |---|---|
    | itk, ants | any ITK transform (.h5, .tfm, .txt, .mat: also composite, rigid, B-spline) or a warp (.nii.gz), in \
2D or 3D; several files as antsApplyTransforms takes them |
    | nrrd | a displacement field of 3D Slicer or ITK, of the type resampling |
    | elastix | TransformParameters.*.txt, with those that it names as coming before |
    | spm | `y_*.nii` or `iy_*.nii`, the source's coordinates |
    | lta | FreeSurfer's LTA of type 0 or 1, in either direction |
    | flirt | FLIRT's matrix from source to target |
    | fsl | the same, or a warp field; coefficients must be converted to a field first |
    | matrix | 4 x 4 numbers from target to source in RAS mm (greedy, c3d_affine_tool) |
    | niftyreg | a matrix likewise, a deformation or displacement field |
    | afni | `*.aff12.1D` of images that are not oblique |
    | nitransforms | .x5 with one dense field |
    | learn2reg, voxelmorph | `disp_*.nii.gz` or `.npz`, in voxels |

    A field on a grid other than the target's is interpolated linearly at the target's voxels; as in ITK, it is 0
    outside of its grid. Warps of Learn2Reg, VoxelMorph and FSL are on the target's grid.

    Args:
        field: the file, or several of ITK and ANTs, the first of which is applied first to a point of the target;
            `[FILE,1]` inverts a linear one. A single ANTs warp is completed by the affine next to it.
        format: format of the table; None finds it from the content.
        source: the scan that the transform resamples (moving).
        target: the scan whose grid it is resampled onto (fixed); the trace's image.
        out: folder of the trace.
        overwrite: replace an earlier trace there.
        keep_metadata: write the names of the files into the trace; file names often identify patients.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        say: receives a line for each assumption about the files; the trace's metadata keeps these lines without names.
        precise: store the trace losslessly (see `medtrace.io.save_trace`).
        transforms: further formats to write the fields in: "h5", "nrrd".

    Returns:
        The trace: 3D, a single slice as a volume of one slice. Its inverse is computed.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if the format is unknown, or a file cannot be used or does not fit; the message names it.

    Warns:
        UserWarning: if the field folds, so that its inverse is inexact.
    """
    check_transform_formats(transforms)
    files = [field] if isinstance(field, (str, os.PathLike)) else list(field)
    moving = read_image(Path(source), source_series, resample_tilt=resample_tilt)
    fixed = read_image(Path(target), target_series, resample_tilt=resample_tilt)
    images = Images(
        _grid(Path(source), moving), _grid(Path(target), fixed), pixel_of(Path(source)), pixel_of(Path(target))
    )
    point_map = read_point_map(files, images, format)
    first = parse_member(os.fspath(files[0])).path
    ddf = point_map.displacement().float()
    notes = [*point_map.notes, *check_plausible(first, point_map, ddf)]
    scans = [as_tensor(image if image.ndim == 4 else image[..., None]) for image in (moving, fixed)]
    trace, folds = _build(scans, ddf, images)
    notes += [Note(first.name, text) for text in folds]
    if say is not None:
        for note in notes:
            say(str(note))
    names = {"field": [Path(file).name for file in files], "source": Path(source).name, "target": Path(target).name}
    metadata: dict[str, Any] = names if keep_metadata else {}
    metadata |= {"format": point_map.format, "assumed": [note.text for note in notes]}
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(trace, Path(out), method=f"imported ({point_map.format})", metadata=metadata, **stored)
    return trace


def pixel_of(path: Path) -> tuple[float, float]:
    """Edges in mm that ITK gives the pixels of a natural image, by its resolution; 1 mm where it has none."""
    if not is_natural_image(path):
        return (1.0, 1.0)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return (1.0, 1.0)
    width, height = reader.GetSpacing()[:2]
    return (width, height)


def _grid(path: Path, image: MetaTensor) -> Grid:
    try:
        check_orthogonal("affine", image.affine.numpy())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return Grid((*image.shape[1:], 1)[:3], image.affine)


def _build(scans: Sequence[Tensor], ddf: Tensor, images: Images) -> tuple[Trace, list[str]]:
    """The trace, and the warnings raised while its inverse was computed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        trace = Trace.build(scans[0], scans[1], ddf, affine=images.target.affine, source_affine=images.source.affine)
    texts = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    for text in texts:
        warnings.warn(text, UserWarning, stacklevel=3)
    return trace, [" ".join(text.split()) for text in texts]
