"""The published networks, one file each."""

from medtrace.networks.backbone import Code, TranslationBackbone
from medtrace.networks.backbones import translation_backbone
from medtrace.networks.cyclegan import CycleGAN, ResnetGenerator
from medtrace.networks.deformation_module import DeformationModule, DeformationOutput
from medtrace.networks.diffusion_sampling import Denoised, Intermediate, ddim_invert, denoise, draw_noise, noisy_start
from medtrace.networks.diffusion_schedule import NoiseSchedule, add_noise
from medtrace.networks.diffusion_translator import DiffusionTranslation, DiffusionTranslator, Plasticine
from medtrace.networks.metamorphic import MetamorphicOutput, MetamorphicRegNet, MetamorphicTrajectory, MetaRegNet
from medtrace.networks.monai_inferer import InfererModel, inferer_scheduler
from medtrace.networks.munit import MUNIT
from medtrace.networks.nice_gan import NICEGAN
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.output_field import OutputField
from medtrace.networks.patches import PatchInferer
from medtrace.networks.registration_unet import RegistrationUNet
from medtrace.networks.regression_unet import RegressionUNet
from medtrace.networks.stacked_pair import StackedPair
from medtrace.networks.tracetrans import DualDecoderGAN, TraceTrans, TraceTransOutput
from medtrace.networks.tracetrans_composed import ComposedOutput, ComposedTraceTrans
from medtrace.networks.unit import UNIT
from medtrace.networks.voxelmorph import DiffeomorphicVoxelMorph, VoxelMorphOutput

__all__ = [
    "MUNIT",
    "NICEGAN",
    "UNIT",
    "Code",
    "ComposedOutput",
    "ComposedTraceTrans",
    "CycleGAN",
    "DeformationModule",
    "DeformationOutput",
    "Denoised",
    "DiffeomorphicVoxelMorph",
    "DiffusionTranslation",
    "DiffusionTranslator",
    "DualDecoderGAN",
    "InfererModel",
    "Intermediate",
    "MetaRegNet",
    "MetamorphicOutput",
    "MetamorphicRegNet",
    "MetamorphicTrajectory",
    "NoiseEstimator",
    "NoiseSchedule",
    "OutputField",
    "PatchInferer",
    "Plasticine",
    "RegistrationUNet",
    "RegressionUNet",
    "ResnetGenerator",
    "StackedPair",
    "TraceTrans",
    "TraceTransOutput",
    "TranslationBackbone",
    "VoxelMorphOutput",
    "add_noise",
    "ddim_invert",
    "denoise",
    "draw_noise",
    "inferer_scheduler",
    "noisy_start",
    "translation_backbone",
]
