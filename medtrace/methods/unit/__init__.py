"""UNIT."""

from medtrace.methods.unit.method import UNITMethod as METHOD

__all__ = ["METHOD"]
