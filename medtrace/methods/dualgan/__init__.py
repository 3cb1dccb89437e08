"""DualGAN."""

from medtrace.methods.dualgan.method import DualGANMethod as METHOD

__all__ = ["METHOD"]
