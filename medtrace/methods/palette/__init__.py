"""Palette."""

from medtrace.methods.palette.method import PaletteMethod as METHOD

__all__ = ["METHOD"]
