"""Plasticine."""

from medtrace.methods.plasticine.method import PlasticineMethod as METHOD

__all__ = ["METHOD"]
