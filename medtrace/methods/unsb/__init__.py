"""UNSB."""

from medtrace.methods.unsb.method import UNSBMethod as METHOD

__all__ = ["METHOD"]
