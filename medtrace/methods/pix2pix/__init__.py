"""Pix2Pix."""

from medtrace.methods.pix2pix.method import Pix2PixMethod as METHOD

__all__ = ["METHOD"]
