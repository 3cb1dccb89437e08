"""Read an image of any supported kind into one convention, or say why not in one line.

| file | reader | array axes | affine |
|---|---|---|---|
| `.nii`, `.hdr` with `.img` (each also in gzip), `.mgz`, `.mgh` | nibabel | (i, j, k) of the file | its own, voxel \
to RAS mm (see `medtrace.geometry.header_affine`) |
| `.nrrd`, `.nhdr`, `.mha`, `.mhd` | ITK | (i, j, k), the first axis fastest | LPS converted to RAS |
| a DICOM file or folder | ITK, each slice by itself (`data.dicom`) | (column, row, slice) | of the slices' positions |
| `.png`, `.jpg`, `.jpeg`, `.bmp`, `.tif`, `.tiff` | see `natural_images` | (x, y): *columns first* | diag(-1, -1, 1,
1) |
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import itk
import numpy as np
import torch
from monai.data import ITKReader, MetaTensor
from torch import Tensor

from medtrace.data.dicom import read_dicom_image
from medtrace.data.natural_images.files import NATURAL_IMAGES, read_natural_image
from medtrace.data.natural_images.files import is_natural_image as is_natural_image
from medtrace.data.nifti import read_nifti
from medtrace.geometry.grid import is_singular
from medtrace.guard.declared_size import check_metaimage, check_nrrd
from medtrace.guard.dicom_headers import is_dicom
from medtrace.guard.volume_files import VOLUMES

ITK_FORMATS = (".nrrd", ".nhdr", ".mha", ".mhd", ".dcm")
_ITK_KINDS = {
    ".nrrd": ("NrrdImageIO", check_nrrd),
    ".nhdr": ("NrrdImageIO", check_nrrd),
    ".mha": ("MetaImageIO", check_metaimage),
    ".mhd": ("MetaImageIO", check_metaimage),
}
_NAMED = (*VOLUMES, *ITK_FORMATS, *NATURAL_IMAGES)


def read_image(
    path: str | Path, series: str | int | None = None, *, page: int | None = None, resample_tilt: bool = False
) -> MetaTensor:
    """Read a scan or a natural image and check that it can be worked with.

    Args:
        path: a file of a type in the module's table, or a folder of DICOM files.
        series: which volume of a DICOM folder that holds several: its number in `data.dicom.list_volumes`, its
            SeriesInstanceUID, SeriesNumber or SeriesDescription. Of a NIfTI or FreeSurfer file of four axes, the number
            of the volume, from 1.
        page: page of a natural image that has several, from 1.
        resample_tilt: resample a DICOM series of a tilted gantry onto a grid at right angles.

    Returns:
        float32 (C, X, Y, Z) for a scan (a 2D one has Z = 1) or (C, X, Y) for a natural image (C is 1 or 3), in the
        file's own units, with its 4x4 affine in float64.

    Raises:
        FileNotFoundError: if there is nothing at the path.
        ValueError: if it cannot be read, holds NaN or infinity, or is constant; the message names the file.
    """
    image = read_values(path, series, page=page, resample_tilt=resample_tilt)
    _check_values(path, image)
    return image


def read_values(
    path: str | Path, series: str | int | None = None, *, page: int | None = None, resample_tilt: bool = False
) -> MetaTensor:
    """Read a file as `read_image` does, whatever its values: a mask may hold NaN, and be constant."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    name = path.name.lower()
    if path.is_dir() or name.endswith(".dcm") or (not name.endswith(_NAMED) and is_dicom(path)):
        return read_dicom_image(path, series, resample_tilt)
    if name.endswith(VOLUMES):
        return read_nifti(path, series)
    if series is not None:
        raise ValueError(f"{path}: series: expected none, received {series!r}; only a DICOM folder holds several")
    if name.endswith(ITK_FORMATS):
        reader, check = _ITK_KINDS[path.suffix.lower()]
        check(path)
        # The reader is chosen by the ending: by content, ITK would pass the file to any of thirty readers.
        return _scan(path, ITKReader(imageio=getattr(itk, reader).New()), f"{path.suffix[1:].upper()} file")
    if name.endswith(NATURAL_IMAGES):
        return read_natural_image(path, page)
    raise ValueError(
        f"{path}: unknown file type; expected {', '.join((*VOLUMES, *ITK_FORMATS, *NATURAL_IMAGES))} or a DICOM folder"
    )


def _scan(path: Path, reader: Any, kind: str) -> MetaTensor:
    try:
        data, meta = reader.get_data(reader.read(str(path)))
    except Exception as error:  # readers of three libraries may raise any error on a broken file
        raise ValueError(f"{path}: cannot be read as {kind} ({_first_line(error)}); copy or export it again") from error
    if np.iscomplexobj(data) or data.dtype.fields is not None:
        raise ValueError(f"{path}: expected plain numbers, received {data.dtype}; convert it to scalars first")
    image = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
    channel = meta.get("original_channel_dim")
    no_channel = isinstance(channel, str) or channel is None or (isinstance(channel, float) and np.isnan(channel))
    image = image[None] if no_channel else image.movedim(int(channel), 0)
    if image.ndim == 3:
        image = image[..., None]
    if image.ndim != 4 or image.numel() == 0:
        raise ValueError(f"{path}: expected a 2D or 3D image, received shape {tuple(image.shape[1:])}; give one volume")
    return MetaTensor(image, affine=_affine(path, meta["affine"]))


def _affine(path: Path, affine: Any) -> Tensor:
    given = torch.as_tensor(np.asarray(affine), dtype=torch.float64)
    full = torch.eye(4, dtype=torch.float64)
    if given.shape == (3, 3):
        full[:2, :2], full[:2, 3] = given[:2, :2], given[:2, 2]
    else:
        full = given.clone()
    if not bool(torch.isfinite(full).all()) or is_singular(full):
        raise ValueError(f"{path}: its header gives no usable geometry (singular affine); set voxel sizes and axes")
    return full


def _check_values(path: str | Path, image: Tensor) -> None:
    values = image.as_tensor() if isinstance(image, MetaTensor) else image
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        raise ValueError(
            f"{path}: holds {int((~finite).sum())} voxel(s) that are NaN or infinite; replace them (by 0 where there is"
            " no tissue) and save it again"
        )
    if bool(values.amin() == values.amax()):
        raise ValueError(f"{path}: is constant ({float(values.amin()):g} everywhere); there is nothing to translate")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line and not re.fullmatch(r".*:\d+:", line)]  # ITK's own source lines
    return (lines[0] if lines else type(error).__name__)[:160]
