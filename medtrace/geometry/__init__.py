"""Grids of images: shape, affine, units, and the geometry of resampling."""

from medtrace.geometry.grid import Grid, check_invertible, is_singular
from medtrace.geometry.header_affine import HeaderAffine, header_affine
from medtrace.geometry.resampling import (
    Reorientation,
    center_window,
    resize,
    resize_labels,
    resized_affine,
    shape_at_spacing,
    shifted_affine,
    spacing_of,
)
from medtrace.geometry.volume import Volume, VolumeGrid, channels_first, read_volume, read_volume_grid

__all__ = [
    "Grid",
    "HeaderAffine",
    "Reorientation",
    "Volume",
    "VolumeGrid",
    "center_window",
    "channels_first",
    "check_invertible",
    "header_affine",
    "is_singular",
    "read_volume",
    "read_volume_grid",
    "resize",
    "resize_labels",
    "resized_affine",
    "shape_at_spacing",
    "shifted_affine",
    "spacing_of",
]
