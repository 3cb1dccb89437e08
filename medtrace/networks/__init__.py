"""The published networks, one file each."""

from medtrace.networks.cyclegan import CycleGAN, ResnetGenerator
from medtrace.networks.host import Code, TranslationHost
from medtrace.networks.hosts import translation_host
from medtrace.networks.metamorphic import MetamorphicOutput, MetamorphicRegNet, MetamorphicTrajectory, MetaRegNet
from medtrace.networks.munit import MUNIT
from medtrace.networks.nice_gan import NICEGAN
from medtrace.networks.registration_unet import RegistrationUNet
from medtrace.networks.tracetrans import DualDecoderGAN, TraceTrans, TraceTransOutput
from medtrace.networks.unit import UNIT
from medtrace.networks.voxelmorph import DiffeomorphicVoxelMorph, VoxelMorphOutput

__all__ = [
    "MUNIT",
    "NICEGAN",
    "UNIT",
    "Code",
    "CycleGAN",
    "DiffeomorphicVoxelMorph",
    "DualDecoderGAN",
    "MetaRegNet",
    "MetamorphicOutput",
    "MetamorphicRegNet",
    "MetamorphicTrajectory",
    "RegistrationUNet",
    "ResnetGenerator",
    "TraceTrans",
    "TraceTransOutput",
    "TranslationHost",
    "VoxelMorphOutput",
    "translation_host",
]
