"""Flow matching from the source."""

from medtrace.methods.flow_matching.method import FlowMatchingMethod as METHOD

__all__ = ["METHOD"]
