"""NICE-GAN."""

from medtrace.methods.nice_gan.method import NICEGANMethod as METHOD

__all__ = ["METHOD"]
