"""DICOM images: finding, grouping, sorting, checking and reading their slices."""

from medtrace.data.dicom.geometry import Stack
from medtrace.data.dicom.reading import find_stack, read_dicom_image
from medtrace.data.dicom.volumes import DicomVolume, list_volumes

__all__ = ["DicomVolume", "Stack", "find_stack", "list_volumes", "read_dicom_image"]
