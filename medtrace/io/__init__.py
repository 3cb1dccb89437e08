"""Writing and reading traces and transforms."""

from medtrace.io.nifti import read_image, write_image
from medtrace.io.trace_folder import load_trace, save_trace
from medtrace.io.transforms import DisplacementFile, read_transform, write_transform

__all__ = [
    "DisplacementFile",
    "load_trace",
    "read_image",
    "read_transform",
    "save_trace",
    "write_image",
    "write_transform",
]
