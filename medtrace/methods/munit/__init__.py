"""MUNIT."""

from medtrace.methods.munit.method import MUNITMethod as METHOD

__all__ = ["METHOD"]
