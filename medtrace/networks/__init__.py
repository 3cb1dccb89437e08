"""The published networks, one file each."""

from medtrace.networks.cyclegan import CycleGAN, ResnetGenerator
from medtrace.networks.host import Code, TranslationHost
from medtrace.networks.registration_unet import RegistrationUNet
from medtrace.networks.tracetrans import DualDecoderGAN, TraceTrans, TraceTransOutput

__all__ = [
    "Code",
    "CycleGAN",
    "DualDecoderGAN",
    "RegistrationUNet",
    "ResnetGenerator",
    "TraceTrans",
    "TraceTransOutput",
    "TranslationHost",
]
