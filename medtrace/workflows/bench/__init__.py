"""Comparisons on TraceBench: what `medtrace bench` runs."""

from medtrace.workflows.bench.registry import STUDIES
from medtrace.workflows.bench.running import SETTINGS, bench, run_study
from medtrace.workflows.bench.study import Outcome, Row, Study, Training

__all__ = ["SETTINGS", "STUDIES", "Outcome", "Row", "Study", "Training", "bench", "run_study"]
