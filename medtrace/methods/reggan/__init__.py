"""RegGAN."""

from medtrace.methods.reggan.method import RegGANMethod as METHOD

__all__ = ["METHOD"]
