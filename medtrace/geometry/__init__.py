"""Grids of images: shape, affine, units, and the geometry of resampling."""

from medtrace.geometry.grid import Grid, check_invertible, is_singular

__all__ = ["Grid", "check_invertible", "is_singular"]
