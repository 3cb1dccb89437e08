"""Traceable medical image-to-image translation on MONAI."""

__version__ = "0.1.0"
