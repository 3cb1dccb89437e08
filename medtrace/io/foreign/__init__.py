"""Transforms that other programs wrote, read as maps from points of the target to points of the source."""

from medtrace.io.foreign.point_map import Images, Note, PointMap
from medtrace.io.foreign.reading import IMPORT_FORMATS, read_point_map

__all__ = ["IMPORT_FORMATS", "Images", "Note", "PointMap", "read_point_map"]
