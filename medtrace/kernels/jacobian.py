"""Determinant of a displacement's Jacobian in 3D, compiled for the CPU; without a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from medtrace.kernels import choice, threads
from medtrace.kernels.layout import plain

choice.OPERATIONS["jacobian_determinant"] = "CPU, 3D, without gradient"


@torch.library.custom_op("medtrace::jacobian_determinant", mutates_args=(), device_types="cpu")
def determinant(ddf: Tensor) -> Tensor:
    """Determinants (B, 1, H, W, D) of p -> p + ddf(p), of ddf (B, 3, H, W, D), by central differences."""
    from medtrace.kernels.jacobian_loops import determinant_rows  # numba takes half a second to import

    field = plain(ddf)
    out = field.new_empty(field.shape[0], 1, *field.shape[2:])
    arrays = field.numpy(), out.numpy()
    rows = field.shape[0] * field.shape[2] * field.shape[3]
    threads.run(lambda begin, end: determinant_rows(*arrays, begin, end), threads.pieces(rows, out.numel()))
    return out


@determinant.register_fake
def _(ddf: Tensor) -> Tensor:
    return ddf.new_empty(ddf.shape[0], 1, *ddf.shape[2:])
