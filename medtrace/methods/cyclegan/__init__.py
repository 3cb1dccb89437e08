"""CycleGAN."""

from medtrace.methods.cyclegan.method import CycleGANMethod as METHOD

__all__ = ["METHOD"]
