"""CUT."""

from medtrace.methods.cut.method import CUTMethod as METHOD

__all__ = ["METHOD"]
