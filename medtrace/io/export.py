"""One name per format: the files that each writes of a trace."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from medtrace.checks import check_choice
from medtrace.io.composite import write_composite
from medtrace.io.fsl_warp import write_fsl_warp
from medtrace.io.learn2reg import write_learn2reg
from medtrace.io.nitransforms_field import write_x5
from medtrace.io.slicer_nrrd import write_slicer_nrrd
from medtrace.io.slicer_scene import write_slicer_scene
from medtrace.io.transforms import is_axial, is_level, write_planar, write_transform
from medtrace.storage.directories import atomic_directory
from medtrace.storage.places import check_room
from medtrace.trace import Trace


def export_trace(
    trace: Trace,
    folder: Path | str,
    format: str,
    *,
    source_transform: Tensor | None = None,
    target_transform: Tensor | None = None,
) -> list[Path]:
    """Write the fields of a trace for another program.

    | format | files | for |
    |---|---|---|
    | itk | `ddf.h5`, `inverse_ddf.h5` | ITK, SimpleITK, 3D Slicer |
    | composite | `resample_source.h5`, `resample_image.h5` | the same, with the motions to the original scans |
    | tfm | `resample_source.tfm`, `resample_image.tfm` | the same as text, which is large: 60 bytes per voxel |
    | ants | `ddf.nii.gz`, `inverse_ddf.nii.gz` | ANTs, ANTsPy, nitransforms |
    | | `..._2d.nii.gz` of axial slices off 0 mm | ANTs with 2D images, where `ddf.nii.gz` makes it crash |
    | nrrd | `ddf.nrrd`, `inverse_ddf.nrrd` | 3D Slicer |
    | slicer | images, both `.nrrd`, `trace.mrml`, `load_trace.py` | 3D Slicer, as a scene |
    | nitransforms | `ddf.x5`, `inverse_ddf.x5` | nitransforms |
    | learn2reg | `disp.nii.gz` | the challenge's evaluation |
    | fsl | `ddf.nii.gz`, `inverse_ddf.nii.gz` | applywarp, convertwarp |

    Args:
        trace: what to write.
        folder: a new or empty folder; it appears complete or not at all.
        format: one of the above.
        source_transform: of composites, see `write_composite`; the other formats hold a field alone, which
            `to_original` brings to the scans first.
        target_transform: likewise.

    Returns:
        The files, sorted.

    Raises:
        ImportError: for nitransforms without that package.
        FileExistsError: if the folder is in use.
        FileNotFoundError: if its parent does not exist.
        ValueError: if the format is unknown or cannot hold this trace.
    """
    check_choice("format", format, EXPORT_FORMATS)
    folder = Path(folder)
    voxels = trace.ddf[0].numel() + trace.inverse_ddf[0].numel()
    check_room(folder, _BYTES.get(format, 0) * voxels, f"the format {format} of a trace of this size")
    moved = source_transform is not None or target_transform is not None
    if moved and format not in COMPOSITES:
        raise ValueError(
            f"format: expected one of {', '.join(COMPOSITES)} with a motion, received {format!r}; bring the trace to"
            " the original scans with to_original first"
        )
    if format in COMPOSITES:
        with atomic_directory(folder) as temporary:
            for moves in ("source", "image"):
                path = temporary / f"resample_{moves}{COMPOSITES[format]}"
                write_composite(
                    path, trace, moves, source_transform=source_transform, target_transform=target_transform
                )
    elif format == "slicer":
        write_slicer_scene(trace, folder)
    else:
        with atomic_directory(folder) as temporary:
            _WRITERS[format](trace, temporary)
    return sorted(folder.iterdir())


def _itk(trace: Trace, folder: Path) -> None:
    write_transform(folder / "ddf.h5", trace.ddf, trace.affine)
    write_transform(folder / "inverse_ddf.h5", trace.inverse_ddf, trace.source_affine)


def _ants(trace: Trace, folder: Path) -> None:
    fields = {"ddf": (trace.ddf, trace.affine), "inverse_ddf": (trace.inverse_ddf, trace.source_affine)}
    affines = [affine for _, affine in fields.values()]
    flat = trace.spatial_dims == 2 and all(map(is_axial, affines))
    level = flat and all(map(is_level, affines))
    for name, (ddf, affine) in fields.items():
        (write_planar if level else write_transform)(folder / f"{name}.nii.gz", ddf, affine)
        if flat and not level:
            write_planar(folder / f"{name}_2d.nii.gz", ddf, affine)


def _nrrd(trace: Trace, folder: Path) -> None:
    write_slicer_nrrd(folder / "ddf.nrrd", trace.ddf, trace.affine, "resampling")
    write_slicer_nrrd(folder / "inverse_ddf.nrrd", trace.inverse_ddf, trace.source_affine, "modeling")


def _nitransforms(trace: Trace, folder: Path) -> None:
    write_x5(folder / "ddf.x5", trace.ddf, trace.affine)
    write_x5(folder / "inverse_ddf.x5", trace.inverse_ddf, trace.source_affine)


def _learn2reg(trace: Trace, folder: Path) -> None:
    write_learn2reg(folder / "disp.nii.gz", trace)


def _fsl(trace: Trace, folder: Path) -> None:
    source, image = trace.source.shape[1:], trace.image.shape[1:]
    write_fsl_warp(folder / "ddf.nii.gz", trace.ddf, trace.affine, trace.source_affine, source)
    write_fsl_warp(folder / "inverse_ddf.nii.gz", trace.inverse_ddf, trace.source_affine, trace.affine, image)


_BYTES = {"itk": 24, "composite": 24, "tfm": 60}
"""Bytes for a voxel of the formats that are not compressed."""
COMPOSITES = {"composite": ".h5", "tfm": ".tfm"}
_WRITERS: dict[str, Callable[[Trace, Path], None]] = {
    "itk": _itk,
    "ants": _ants,
    "nrrd": _nrrd,
    "nitransforms": _nitransforms,
    "learn2reg": _learn2reg,
    "fsl": _fsl,
}
EXPORT_FORMATS = ("itk", *COMPOSITES, "ants", "nrrd", "slicer", "nitransforms", "learn2reg", "fsl")
"""The names that `export_trace` takes."""
