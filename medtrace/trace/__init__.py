"""The record every method answers with: where each voxel came from and how its intensity changed."""

from medtrace.trace.contrast import contrast_change
from medtrace.trace.ledger import LedgerSummary, TraceLedger
from medtrace.trace.prediction import Prediction, traces_of, zero_field
from medtrace.trace.record import Trace
from medtrace.trace.tissue import find_tissue

__all__ = [
    "LedgerSummary",
    "Prediction",
    "Trace",
    "TraceLedger",
    "contrast_change",
    "find_tissue",
    "traces_of",
    "zero_field",
]
