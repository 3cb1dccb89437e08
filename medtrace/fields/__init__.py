"""Pure functions on displacement fields (voxels, array-axis order, pull), 2D and 3D, differentiable."""

from medtrace.fields.affine import affine_displacement, rigid_scale_matrix
from medtrace.fields.flow import compose, exponentiate, inverse_consistency
from medtrace.fields.inversion import InversionResult, invert
from medtrace.fields.regularity import (
    folded_voxels,
    jacobian_determinant,
    non_diffeomorphic_fraction,
    non_diffeomorphic_volume,
)
from medtrace.fields.resample import identity_grid, inside_grid, sample, warp
from medtrace.fields.units import mm_to_voxel, voxel_to_mm

__all__ = [
    "InversionResult",
    "affine_displacement",
    "compose",
    "exponentiate",
    "folded_voxels",
    "identity_grid",
    "inside_grid",
    "inverse_consistency",
    "invert",
    "jacobian_determinant",
    "mm_to_voxel",
    "non_diffeomorphic_fraction",
    "non_diffeomorphic_volume",
    "rigid_scale_matrix",
    "sample",
    "voxel_to_mm",
    "warp",
]
