"""BBDM."""

from medtrace.methods.bbdm.method import BBDMMethod as METHOD

__all__ = ["METHOD"]
