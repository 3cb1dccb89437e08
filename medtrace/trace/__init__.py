"""The record that every method returns: where each voxel came from and how its intensity changed."""

from medtrace.trace.appearance import contrast_change, expected_image
from medtrace.trace.chain import AffinePart, FieldPart, TransformChain
from medtrace.trace.contrast import Contrast, Intensity
from medtrace.trace.intensity_map import IntensityMap
from medtrace.trace.ledger import LedgerSummary, TraceLedger
from medtrace.trace.prediction import Prediction, traces_of, zero_field
from medtrace.trace.record import Trace
from medtrace.trace.tissue import find_tissue

__all__ = [
    "AffinePart",
    "Contrast",
    "FieldPart",
    "Intensity",
    "IntensityMap",
    "LedgerSummary",
    "Prediction",
    "Trace",
    "TraceLedger",
    "TransformChain",
    "contrast_change",
    "expected_image",
    "find_tissue",
    "traces_of",
    "zero_field",
]
