"""Transforms that MONAI lacks: each topic's array form X and dictionary form Xd together."""

from .histogram_landmarks import HistogramLandmarks
from .histogram_standardization import (
    HistogramStandardization,
    HistogramStandardizationD,
    HistogramStandardizationd,
    HistogramStandardizationDict,
    above_mean,
)

__all__ = [
    "HistogramLandmarks",
    "HistogramStandardization",
    "HistogramStandardizationD",
    "HistogramStandardizationDict",
    "HistogramStandardizationd",
    "above_mean",
]
