"""StarGAN v2."""

from medtrace.methods.stargan_v2.method import StarGANv2Method as METHOD

__all__ = ["METHOD"]
