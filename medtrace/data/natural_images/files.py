"""Natural images (PNG, JPEG, BMP, TIFF) in their full depth, or a line that says why not.

| what the file holds | read by | result |
|---|---|---|
| gray, color or a palette of up to 8 bits | Pillow | 0 to 255 |
| gray of 16 bits; PNG | Pillow | the file's values |
| color of 16 bits; PNG | SimpleITK, because Pillow keeps 8 bits of it | the file's values |
| TIFF of more than 8 bits, signed or real numbers | tifffile, see `natural_images.tiff` | the file's values |

One page of several must be chosen. Transparency must not be used. CMYK and other colors that depend on a profile,
12-bit JPEG, and whole numbers that float32 cannot hold are refused.

MONAI's `PILReader` transposes a natural image, so that its first axis runs along a row to the right and its second
down; medtrace keeps that, because it is also NIfTI's and ITK's order, and adds the affine that ITK gives a natural
image: 1 mm pixels, x to the left and y to the back of the body, which viewers show upright. EXIF rotation is applied.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tifffile
import torch
from monai.data import MetaTensor
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from medtrace.data.natural_images.tiff import (
    TIFF_MARKS,
    Depth,
    NaturalImageError,
    UndecodableError,
    chosen_page,
    tiff_depth,
    tiff_pixels,
    turned,
    without_alpha,
)
from medtrace.guard.declared_size import check_declared
from medtrace.storage.files import atomic_write

NATURAL_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
NATURAL_IMAGE_AFFINE = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
DEPTH = "depth"
"""Key of a natural image's metadata: the code of its `Depth`."""
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_BYTE = Depth("uint", 8)
_WITHOUT_ALPHA = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB", "P": "RGB", "1": "L"}
_READ = ("1", "L", "P", "RGB", "RGBX", *_WITHOUT_ALPHA)


def is_natural_image(path: str | Path) -> bool:
    """Whether a path names a natural image (PNG, JPEG, ...) and not a scan."""
    return str(path).lower().endswith(NATURAL_IMAGES)


def read_natural_image(path: Path, page: int | None = None) -> MetaTensor:
    """Read a natural image in its full depth.

    Args:
        path: the file.
        page: which of several pages, from 1.

    Returns:
        float32 (C, X, Y), C is 1 or 3, in the file's own values, with a 4x4 affine and the code of its `Depth` as
        `meta["depth"]`.

    Raises:
        ValueError: if it cannot be read so; the message names the file and the remedy.
    """
    try:
        depth, pixels = _pixels(path, path.read_bytes(), page)
    except NaturalImageError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # the plugins of three libraries may raise any error on a broken file
        if str(error).startswith(str(path)):
            raise
        raise ValueError(
            f"{path}: cannot be read as a natural image ({_first_line(error)}); export it again"
        ) from error
    image = torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 0, 1), dtype=np.float32))
    image = image[None] if image.ndim == 2 else image.movedim(-1, 0)
    return MetaTensor(image, affine=NATURAL_IMAGE_AFFINE.clone(), meta={DEPTH: depth.code})


def natural_image_depth(path: Path, page: int | None = None) -> Depth:
    """The depth that a natural image's header declares; nothing is decoded.

    Raises:
        ValueError: if it is not a natural image that `read_natural_image` reads.
    """
    try:
        content = path.read_bytes()
        if content.startswith(TIFF_MARKS):
            return tiff_depth(content, page)
        if content.startswith(_PNG) and len(content) > 25:
            return Depth("uint", 16) if content[24] == 16 else _BYTE
        return _BYTE
    except NaturalImageError as error:
        raise ValueError(f"{path}: {error}") from None
    except Exception as error:  # tifffile may raise any error on a broken file
        raise ValueError(
            f"{path}: cannot be read as a natural image ({_first_line(error)}); export it again"
        ) from error


def natural_image_ending(channels: int, depth: Depth) -> str:
    """The ending of the file that `write_natural_image` writes: PNG where that holds the depth, otherwise TIFF."""
    return ".png" if depth.kind == "uint" and (depth.bits <= 8 or (channels == 1 and depth.bits <= 16)) else ".tif"


def write_natural_image(stem: Path, image: Tensor, depth: Depth) -> Path:
    """Write a natural image in a depth that another one had.

    Args:
        stem: stem of the file; the ending is `natural_image_ending`'s.
        image: (C, X, Y), C is 1 or 3. For a depth of whole numbers it is rounded and clipped to the depth's range.
        depth: of the file. Real numbers are written in 32 bits.

    Returns:
        The file; it appears complete or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    path = stem.with_name(stem.name + natural_image_ending(len(image), depth))
    values = image.detach().cpu().numpy().transpose(2, 1, 0).astype(np.float64)
    pixels = depth.stored(values[..., 0] if values.shape[-1] == 1 else values)
    buffer = io.BytesIO()
    if path.suffix == ".png":
        Image.fromarray(pixels).save(buffer, format="PNG")
    else:
        tifffile.imwrite(buffer, pixels, photometric="rgb" if pixels.ndim == 3 else "minisblack", metadata=None)
    atomic_write(path, buffer.getvalue())
    return path


def _pixels(path: Path, content: bytes, page: int | None) -> tuple[Depth, np.ndarray]:
    """(rows, columns) or (rows, columns, 3) in the file's values, and their depth."""
    if content.startswith(TIFF_MARKS):
        depth = tiff_depth(content, page)
        if depth != _BYTE:
            try:
                return depth, tiff_pixels(path, content, page)
            except UndecodableError as error:
                return depth, _by_pillow(path, content, page, compressed=error)
    elif content.startswith(_JPEG) and (bits := _jpeg_bits(content)) not in (None, 8):
        raise NaturalImageError(
            f"stores {bits} bits per sample, more than JPEG readers support; save it as PNG or TIFF"
        )
    elif content.startswith(_PNG) and content[24:25] == b"\x10" and content[25] != 0:
        return Depth("uint", 16), _deep_png(path, content, page)
    deep = content.startswith(_PNG) and content[24:25] == b"\x10"
    return Depth("uint", 16) if deep else _BYTE, _by_pillow(path, content, page)


def _by_pillow(path: Path, content: bytes, page: int | None, compressed: Exception | None = None) -> np.ndarray:
    # From memory, where a chunk that claims gigabytes yields only what is there.
    with Image.open(io.BytesIO(content), formats=_FORMATS) as opened:
        opened.seek(chosen_page(getattr(opened, "n_frames", 1), page))
        mode = opened.mode
        if compressed is not None and not mode.startswith(("I", "F")):
            raise NaturalImageError(f"{compressed}; save it without compression, or install imagecodecs")
        check_declared(path, (*opened.size, len(opened.getbands())), _bytes_of(mode), len(content), packed=True)
        opened.load()
        return np.asarray(_plain_mode(ImageOps.exif_transpose(opened)))


def _bytes_of(mode: str) -> int:
    return 4 if mode in ("I", "F") else 2 if mode.startswith("I;") else 1


def _plain_mode(natural_image: Image.Image) -> Image.Image:
    """Gray or RGB, or the file's own numbers; transparency has no meaning here unless it is nowhere used."""
    if natural_image.mode.startswith(("I", "F")):
        _check_key(np.asarray(natural_image)[..., None], natural_image.info.get("transparency"))
        return natural_image
    if natural_image.mode not in _READ:
        raise NaturalImageError(
            f"stores {natural_image.mode} colors, which are undefined without a profile; convert it to RGB, or save"
            f" it as gray"
        )
    if natural_image.has_transparency_data:
        gray = natural_image.mode in ("1", "L", "LA", "La")
        natural_image = natural_image.convert("LA" if gray else "RGBA")
        if natural_image.getchannel("A").getextrema() != (255, 255):
            raise NaturalImageError("has transparent pixels; flatten the natural image onto a background first")
    return (
        natural_image
        if natural_image.mode in ("L", "RGB")
        else natural_image.convert(_WITHOUT_ALPHA.get(natural_image.mode, "RGB"))
    )


def _check_key(pixels: np.ndarray, key: Any) -> None:
    """Refuse pixels of the color that stands for transparent ones."""
    if key is not None and bool((pixels == np.asarray(key)).all(-1).any()):
        raise NaturalImageError("has transparent pixels; flatten the natural image onto a background first")


def _deep_png(path: Path, content: bytes, page: int | None) -> np.ndarray:
    """Color of 16 bits, of which Pillow keeps 8."""
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        opened.verify()  # its checksums: the reader below would fill the gaps of a damaged file
    with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
        count, size, channels = getattr(opened, "n_frames", 1), opened.size, {2: 3, 4: 2, 6: 4}[content[25]]
        chosen_page(count, page)
        if count > 1:
            raise NaturalImageError(f"has {count} pages of 16-bit color; save only the one you need")
        check_declared(path, (*size, channels), 2, len(content), packed=True)
        key, orientation = opened.info.get("transparency"), opened.getexif().get(ExifTags.Base.Orientation, 1)
    if channels == 2:
        raise NaturalImageError(
            "stores 16-bit gray with transparency; flatten the natural image onto a background first"
        )
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="PNGImageIO"))
    if pixels.dtype != np.uint16 or pixels.shape != (size[1], size[0], channels):
        raise NaturalImageError(f"stores 16-bit color, but was decoded as {pixels.dtype}; save it as TIFF")
    pixels = without_alpha(pixels, 65535) if channels == 4 else pixels
    _check_key(pixels, key)
    return turned(pixels, orientation)


def _jpeg_bits(content: bytes) -> int | None:
    """Bits per sample, None where the file does not say."""
    place = 2
    while place + 5 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):
            return content[place + 4]
        if marker == 0xFF:
            place += 1
        elif marker in range(0xD0, 0xD9) or marker == 0x01:
            place += 2
        else:
            place += 2 + int.from_bytes(content[place + 2 : place + 4])
    return None


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:160]
