"""Register first, then Pix2Pix."""

from medtrace.methods.registered_pix2pix.method import RegisteredPix2PixMethod as METHOD

__all__ = ["METHOD"]
