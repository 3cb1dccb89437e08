"""NAGAN."""

from medtrace.methods.nagan.method import NAGANMethod as METHOD

__all__ = ["METHOD"]
