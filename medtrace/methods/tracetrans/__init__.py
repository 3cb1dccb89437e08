"""TraceTrans."""

from medtrace.methods.tracetrans.method import TraceTransMethod as METHOD

__all__ = ["METHOD"]
