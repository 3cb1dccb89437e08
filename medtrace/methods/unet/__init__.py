"""U-Net regression."""

from medtrace.methods.unet.method import UNetMethod as METHOD

__all__ = ["METHOD"]
