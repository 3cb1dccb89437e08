"""Differentiable terms: a function first, a thin module second."""

from medtrace.losses.adversarial import (
    LeastSquaresAdversarialLoss,
    least_squares_adversarial,
    least_squares_discriminator,
)
from medtrace.losses.masking import mask_weights
from medtrace.losses.mutual_information import ParzenDNMILoss, normalized_mutual_information, parzen_nmi
from medtrace.losses.parzen import ParzenKernel, ParzenWindow, joint_histogram
from medtrace.losses.smoothness import VelocitySmoothnessLoss, velocity_smoothness

__all__ = [
    "LeastSquaresAdversarialLoss",
    "ParzenDNMILoss",
    "ParzenKernel",
    "ParzenWindow",
    "VelocitySmoothnessLoss",
    "joint_histogram",
    "least_squares_adversarial",
    "least_squares_discriminator",
    "mask_weights",
    "normalized_mutual_information",
    "parzen_nmi",
    "velocity_smoothness",
]
