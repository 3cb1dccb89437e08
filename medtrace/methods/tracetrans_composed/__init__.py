"""TraceTrans composed."""

from medtrace.methods.tracetrans_composed.method import ComposedTraceTransMethod as METHOD

__all__ = ["METHOD"]
