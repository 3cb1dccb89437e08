"""Differentiable terms: a function first, a thin module second."""

from medtrace.losses.adversarial import (
    LeastSquaresAdversarialLoss,
    adversarial,
    adversarial_discriminator,
    least_squares_adversarial,
    least_squares_discriminator,
    log_adversarial,
)
from medtrace.losses.contrastive import patch_nce
from medtrace.losses.diffusion import IntensityDiffusionLoss, intensity_diffusion
from medtrace.losses.folding import JacobianFoldingLoss, jacobian_folding
from medtrace.losses.jitter import sub_voxel_pair
from medtrace.losses.lncc import LNCCLoss, lncc
from medtrace.losses.masking import mask_weights
from medtrace.losses.mind import MINDLoss, mind_ssc
from medtrace.losses.motion import MotionMagnitudeLoss, motion_magnitude
from medtrace.losses.mutual_information import ParzenDNMILoss, normalized_mutual_information, parzen_nmi
from medtrace.losses.parzen import ParzenKernel, ParzenWindow, joint_histogram
from medtrace.losses.smoothness import VelocitySmoothnessLoss, velocity_smoothness
from medtrace.losses.structure import StructuralDissimilarityLoss, structural_dissimilarity

__all__ = [
    "IntensityDiffusionLoss",
    "JacobianFoldingLoss",
    "LNCCLoss",
    "LeastSquaresAdversarialLoss",
    "MINDLoss",
    "MotionMagnitudeLoss",
    "ParzenDNMILoss",
    "ParzenKernel",
    "ParzenWindow",
    "StructuralDissimilarityLoss",
    "VelocitySmoothnessLoss",
    "adversarial",
    "adversarial_discriminator",
    "intensity_diffusion",
    "jacobian_folding",
    "joint_histogram",
    "least_squares_adversarial",
    "least_squares_discriminator",
    "lncc",
    "log_adversarial",
    "mask_weights",
    "mind_ssc",
    "motion_magnitude",
    "normalized_mutual_information",
    "parzen_nmi",
    "patch_nce",
    "structural_dissimilarity",
    "sub_voxel_pair",
    "velocity_smoothness",
]
