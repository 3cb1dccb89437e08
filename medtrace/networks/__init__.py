"""The published networks, one file each."""

from medtrace.networks.tracetrans import DualDecoderGAN, TraceTrans, TraceTransOutput

__all__ = ["DualDecoderGAN", "TraceTrans", "TraceTransOutput"]
