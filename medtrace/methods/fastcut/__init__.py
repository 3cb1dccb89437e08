"""FastCUT."""

from medtrace.methods.fastcut.method import FastCUTMethod as METHOD

__all__ = ["METHOD"]
