"""GcGAN."""

from medtrace.methods.gcgan.method import GcGANMethod as METHOD

__all__ = ["METHOD"]
