"""Comparisons on TraceBench: what `medtrace bench` runs."""

from medtrace.workflows.bench.registry import STUDIES
from medtrace.workflows.bench.running import SETTINGS, bench, run_study
from medtrace.workflows.bench.study import Method, Outcome, Row, Study

__all__ = ["SETTINGS", "STUDIES", "Method", "Outcome", "Row", "Study", "bench", "run_study"]
