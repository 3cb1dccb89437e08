"""Metrics, one number per case: a function first, a MONAI `CumulativeIterationMetric` second.

Ranges are always given as `data_range=(low, high)`, never guessed; regions as `mask=`.
"""

from medtrace.metrics.case_metric import CaseMetric
from medtrace.metrics.deformation import (
    EndPointError,
    InverseConsistency,
    LandmarkError,
    NonDiffeomorphicFraction,
    NonDiffeomorphicVolume,
    SDLogJacobian,
    deformed_region,
    end_point_error,
    landmark_error,
    mean_inverse_consistency,
    non_diffeomorphic_volume,
    sd_log_jacobian,
)
from medtrace.metrics.edges import (
    EdgeDice,
    EdgeNMI,
    EdgePSNR,
    EdgeSSIM,
    edge_dice,
    edge_map,
    edge_nmi,
    edge_psnr,
    edge_ssim,
    otsu_threshold,
    sobel_magnitude,
)
from medtrace.metrics.image import (
    MAE,
    NMI,
    PSNR,
    NMIConvention,
    mean_absolute_error,
    normalized_mutual_information_score,
    peak_signal_to_noise_ratio,
)
from medtrace.metrics.ssim import SSIM, structural_similarity
from medtrace.metrics.table import CaseTable, Summary, summarise

__all__ = [
    "MAE",
    "NMI",
    "PSNR",
    "SSIM",
    "CaseMetric",
    "CaseTable",
    "EdgeDice",
    "EdgeNMI",
    "EdgePSNR",
    "EdgeSSIM",
    "EndPointError",
    "InverseConsistency",
    "LandmarkError",
    "NMIConvention",
    "NonDiffeomorphicFraction",
    "NonDiffeomorphicVolume",
    "SDLogJacobian",
    "Summary",
    "deformed_region",
    "edge_dice",
    "edge_map",
    "edge_nmi",
    "edge_psnr",
    "edge_ssim",
    "end_point_error",
    "landmark_error",
    "mean_absolute_error",
    "mean_inverse_consistency",
    "non_diffeomorphic_volume",
    "normalized_mutual_information_score",
    "otsu_threshold",
    "peak_signal_to_noise_ratio",
    "sd_log_jacobian",
    "sobel_magnitude",
    "structural_similarity",
    "summarise",
]
