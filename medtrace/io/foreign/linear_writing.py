"""Linear transforms as texts of FSL, FreeSurfer, AFNI and as plain matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medtrace.geometry import Grid
from medtrace.io.foreign.linear import check_upright
from medtrace.io.fsl_warp import fsl_matrix
from medtrace.io.nifti import LPS


def matrix_text(matrix: Tensor, source: Grid, target: Grid) -> str:  # noqa: ARG001 - as the others
    """4 x 4 numbers on points in RAS mm, from target to source (greedy, c3d_affine_tool, NiftyReg)."""
    return _rows(matrix.numpy())


def flirt_text(matrix: Tensor, source: Grid, target: Grid) -> str:
    """FLIRT's matrix, from the source (-in) to the target (-ref), both in FSL's millimeters."""
    to_source, to_target = (
        fsl_matrix(grid.affine, grid.shape) @ torch.linalg.inv(grid.affine) for grid in (source, target)
    )
    forward = to_target @ torch.linalg.inv(matrix) @ torch.linalg.inv(to_source)
    return _rows(forward.numpy())


def afni_text(matrix: Tensor, source: Grid, target: Grid) -> str:
    """AFNI's .aff12.1D: 3 x 4 numbers in a row, from the base (target) to the input (source), LPS mm.

    Raises:
        ValueError: if an image is oblique, which AFNI turns upright before it applies a matrix.
    """
    check_upright("source", source)
    check_upright("target", target)
    numbers = np.concatenate([LPS @ matrix[:3, :3].numpy() @ LPS, (LPS @ matrix[:3, 3].numpy())[:, None]], axis=1)
    return "# 3dvolreg matrices (DICOM-to-DICOM, row-by-row):\n" + " ".join(f"{x:.12g}" for x in numbers.ravel()) + "\n"


def lta_text(matrix: Tensor, source: Grid, target: Grid) -> str:
    """FreeSurfer's LTA of type 1: RAS to RAS mm, from src (the source) to dst (the target)."""
    forward = torch.linalg.inv(matrix).numpy()
    head = "type      = 1 # LINEAR_RAS_TO_RAS\nnxforms   = 1\n"
    head += "mean      = 0.0000 0.0000 0.0000\nsigma     = 1.0000\n1 4 4\n"
    return head + _rows(forward) + _lta_volume("src", source) + _lta_volume("dst", target)


def _lta_volume(name: str, grid: Grid) -> str:
    spacing = np.array(grid.spacing)
    axes = grid.affine[:3, :3].numpy() / spacing
    center = grid.affine[:3, 3].numpy() + grid.affine[:3, :3].numpy() @ (np.array(grid.shape) / 2)
    lines = [
        f"{name} volume info",
        "valid = 1  # volume info valid",
        f"filename = {name}.nii.gz",
        "volume = " + " ".join(map(str, grid.shape)),
        "voxelsize = " + _numbers(spacing),
        *(f"{letter}ras   = {_numbers(axis)}" for letter, axis in zip("xyz", axes.T)),
        "cras   = " + _numbers(center),
    ]
    return "\n".join(lines) + "\n"


def _rows(matrix: np.ndarray) -> str:
    return "".join(_numbers(row) + "\n" for row in matrix)


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.15g}" for value in values)
