"""Comparisons on TraceBench: the studies that `medtrace bench` runs, and how their rows are compared."""

from medtrace.evaluation.bench.registry import STUDIES
from medtrace.evaluation.bench.running import compare_rows
from medtrace.evaluation.bench.study import SETTINGS, Outcome, Row, Study, Training

__all__ = ["SETTINGS", "STUDIES", "Outcome", "Row", "Study", "Training", "compare_rows"]
