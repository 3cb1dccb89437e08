"""Writing and reading traces and transforms."""

from medtrace.io.bids import BidsName, describe_derivatives, write_bids_derivatives
from medtrace.io.composite import read_motion, write_composite
from medtrace.io.dicom import SourceSeries, read_source_series
from medtrace.io.dicom_export import save_dicom
from medtrace.io.dicom_registration import read_dicom_registration, write_dicom_registration
from medtrace.io.dicom_series import write_dicom_series
from medtrace.io.export import EXPORT_FORMATS, export_trace
from medtrace.io.fsl_warp import read_fsl_warp, write_fsl_warp
from medtrace.io.learn2reg import read_learn2reg, write_learn2reg
from medtrace.io.napari import napari_layers, napari_reader
from medtrace.io.nifti import read_nifti_image, write_image
from medtrace.io.nitransforms_field import read_x5, write_x5
from medtrace.io.original_scan import to_original
from medtrace.io.slicer_nrrd import SlicerField, read_slicer_nrrd, write_slicer_nrrd
from medtrace.io.slicer_scene import write_slicer_scene
from medtrace.io.trace_folder import load_trace, save_trace
from medtrace.io.transforms import DisplacementFile, read_transform, write_transform

__all__ = [
    "EXPORT_FORMATS",
    "BidsName",
    "DisplacementFile",
    "SlicerField",
    "SourceSeries",
    "describe_derivatives",
    "export_trace",
    "load_trace",
    "napari_layers",
    "napari_reader",
    "read_dicom_registration",
    "read_fsl_warp",
    "read_learn2reg",
    "read_motion",
    "read_nifti_image",
    "read_slicer_nrrd",
    "read_source_series",
    "read_transform",
    "read_x5",
    "save_dicom",
    "save_trace",
    "to_original",
    "write_bids_derivatives",
    "write_composite",
    "write_dicom_registration",
    "write_dicom_series",
    "write_fsl_warp",
    "write_image",
    "write_learn2reg",
    "write_slicer_nrrd",
    "write_slicer_scene",
    "write_transform",
    "write_x5",
]
