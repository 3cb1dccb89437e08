"""A translated natural image, written beside the folder of its trace."""

from __future__ import annotations

from pathlib import Path

from monai.data import MetaTensor

from medtrace.data.natural_images.files import DEPTH, is_natural_image, write_natural_image
from medtrace.data.natural_images.tiff import Depth
from medtrace.data.preparation.rules import Preparation
from medtrace.trace import Trace

ENDINGS = (".png", ".tif")


def matching_depth(path: Path, image: MetaTensor, preparation: Preparation, run: Path) -> Depth | None:
    """The depth of a natural image, which must be that of the training natural images; None of a scan.

    Raises:
        ValueError: if it differs: the run's range of values would mean something else.
    """
    code = image.meta.get(DEPTH)
    if code is None:
        return None
    depth = Depth.of(str(code))
    if preparation.depth is not None and preparation.depth != depth.code:
        raise ValueError(
            f"{path}: its natural image is {depth}, but {run} was trained on {Depth.of(preparation.depth)} ones;"
            f" convert it to"
            " their depth and range of values"
        )
    return depth


def check_natural_image_beside(folder: Path, image: Path, overwrite: bool) -> None:
    """Refuse, before any work, to write a natural image over another file.

    Raises:
        FileExistsError: if `image` is a natural image, and a file exists where its translation goes.
    """
    there = [stem for stem in (folder.with_name(folder.name + ending) for ending in ENDINGS) if stem.exists()]
    if is_natural_image(image) and there and not overwrite:
        raise FileExistsError(f"{there[0]}: is in use; choose another folder, or pass overwrite=True")


def natural_image_beside(trace: Trace, folder: Path, depth: Depth | None) -> Path | None:
    """Write a trace's image as FOLDER.png, or FOLDER.tif where PNG does not hold the depth; nothing without a depth."""
    return None if depth is None else write_natural_image(folder, trace.image, depth)
