"""Writing and reading traces and transforms."""

from medtrace.io.composite import read_motion, write_composite
from medtrace.io.fsl_warp import read_fsl_warp, write_fsl_warp
from medtrace.io.learn2reg import read_learn2reg, write_learn2reg
from medtrace.io.nifti import read_image, write_image
from medtrace.io.nitransforms_field import read_x5, write_x5
from medtrace.io.slicer_nrrd import SlicerField, read_slicer_nrrd, write_slicer_nrrd
from medtrace.io.trace_folder import load_trace, save_trace
from medtrace.io.transforms import DisplacementFile, read_transform, write_transform

__all__ = [
    "DisplacementFile",
    "SlicerField",
    "load_trace",
    "read_fsl_warp",
    "read_image",
    "read_learn2reg",
    "read_motion",
    "read_slicer_nrrd",
    "read_transform",
    "read_x5",
    "save_trace",
    "write_composite",
    "write_fsl_warp",
    "write_image",
    "write_learn2reg",
    "write_slicer_nrrd",
    "write_transform",
    "write_x5",
]
