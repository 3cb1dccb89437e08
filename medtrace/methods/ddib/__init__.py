"""DDIB."""

from medtrace.methods.ddib.method import DDIBMethod as METHOD

__all__ = ["METHOD"]
