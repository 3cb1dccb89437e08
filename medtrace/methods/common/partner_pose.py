"""Random partners in the pose of their sources: a pair then differs only by what its domains differ in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtrace.fields import identity_grid

AIR = -0.8
"""Intensity, of images in [-1, 1], above which a voxel belongs to the body."""

LARGEST_TURN = 0.8
"""Radians beyond which two poses are taken for ambiguous, and only shift and size are adapted."""

MEMORY = 0.99
"""Share of the average size ratio that a batch leaves as it is."""


class PartnerPose(nn.Module):
    """Bring images of other subjects into the pose and, up to the domains' mean ratio, the size of their sources.

    Of each image the body's center c, principal axes and size (geometric mean of its standard deviations along them)
    are measured. The field leads a voxel p of the source's grid to

        c' + s R (p - c),  s = size' / (size ρ),

    where ' marks the partner, R turns the source's axes into the partner's and ρ is the average of size' / size over
    the batches so far, in their logarithms: the pairs' own differences in place, orientation and size are undone, and
    the domains' is kept. A turn of more than `LARGEST_TURN` is left out, since axes of a round body are ambiguous.
    """

    log_ratio: Tensor
    batches: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log_ratio", torch.zeros((), dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def forward(self, source: Tensor, partner: Tensor) -> Tensor:
        """The field (B, D, *spatial) in voxels with which `warp(partner, field)` has its source's pose.

        In training, it also updates the average ratio of sizes.

        Args:
            source: (B, C, *spatial) in [-1, 1].
            partner: (B, C', *spatial), on the same grid.
        """
        grid = identity_grid(source.shape[2:], dtype=torch.float64, device=source.device)
        center, axes, size = _moments(source, grid)
        other_center, other_axes, other_size = _moments(partner, grid)
        ratios = (other_size / size).log()
        if self.training:
            self.batches += 1
            share = max(1 - MEMORY, 1 / float(self.batches))  # the plain mean at first
            self.log_ratio += share * (ratios.mean() - self.log_ratio)
        matrix = (ratios - self.log_ratio).exp()[:, None, None] * _turn(axes, other_axes)
        dims = len(grid)
        away = grid.flatten(1)[None] - center[..., None]
        there = other_center[..., None] + matrix @ away
        return (there - grid.flatten(1)[None]).reshape(-1, dims, *grid.shape[1:]).to(source.dtype)


def _moments(image: Tensor, grid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Center (B, D), principal axes (B, D, D) as columns from short to long, and size (B,) of every body, in voxels."""
    body = (image.mean(1) > AIR).flatten(1).to(grid)
    body = torch.where(body.sum(1, keepdim=True) > 0, body, torch.ones_like(body))
    share = body / body.sum(1, keepdim=True)
    points = grid.flatten(1)
    center = share @ points.T
    away = points[None] - center[..., None]
    spread = (away * share[:, None]) @ away.transpose(1, 2)
    values, axes = torch.linalg.eigh(spread)
    return center, axes, values.clamp_min(1e-6).log().mean(1).mul(0.5).exp()


def _turn(axes: Tensor, others: Tensor) -> Tensor:
    """The rotations (B, D, D) that turn axes into others, each axis the way that turns less; small ones only."""
    signs = (axes * others).sum(1, keepdim=True)
    turn = others * torch.where(signs < 0, -1.0, 1.0) @ axes.transpose(1, 2)
    dims = axes.shape[-1]
    trace = turn.diagonal(dim1=1, dim2=2).sum(1)
    cosine = (trace - (dims - 2)) / 2
    proper = (torch.linalg.det(turn) > 0) & (cosine > torch.cos(torch.tensor(LARGEST_TURN)))
    return torch.where(proper[:, None, None], turn, torch.eye(dims).to(turn))
