"""NeMAR."""

from medtrace.methods.nemar.method import NeMARMethod as METHOD

__all__ = ["METHOD"]
