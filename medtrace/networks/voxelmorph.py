"""VoxelMorph, diffeomorphic: MONAI's U-Net for the velocity, and the exponential of `medtrace.fields`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from medtrace.checks import check_batched, check_network_input, check_positive, check_same_shape
from medtrace.fields import exponentiate, warp
from medtrace.networks.blocks import pad_to_multiple
from medtrace.networks.blocks.voxelmorph_unet import halved, voxelmorph_unet


class VoxelMorphOutput(NamedTuple):
    """The registration of a batch of pairs, on the grid `*spatial`."""

    warped: Tensor
    """Source pulled by `ddf`, (B, C, *spatial)."""
    ddf: Tensor
    """Displacement (B, spatial_dims, *spatial) in voxels, pull convention."""
    velocity: Tensor
    """Stationary velocity (B, spatial_dims, *spatial) in voxels, whose exponential is Id + `ddf`."""


class DiffeomorphicVoxelMorph(nn.Module):
    """Register a source to a target by a stationary velocity (Dalca et al. 2018; Balakrishnan et al. 2019).

    The velocity is deterministic: without the variational head of the former, as MetaRegNet's own U-Net. It comes from
    MONAI's `VoxelMorphUNet`; the exponential does not come from MONAI's `DVF2DDF`, which continues fields with zeros
    beyond the grid, so that a constant velocity shrinks at the border. The last convolution starts at zero: the
    untrained network deforms nothing. Grids that the poolings do not divide are padded with their border values.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source and of the target.
        channels: filters in pairs, one pair (down, up) per pooling; MONAI's default.
        final_channels: filters of the convolutions after the U-Net.
        integration_steps: squarings of the exponential.
        velocity_downsampling: how often the velocity's grid is halved by averaging; it is interpolated linearly again.
            The authors integrate at half the resolution.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = DiffeomorphicVoxelMorph(3, 1, channels=(4, 8), final_channels=(4,))
        >>> moving, fixed = torch.zeros(2, 1, 1, 16, 16, 16)
        >>> network(moving, fixed).ddf.shape
        torch.Size([1, 3, 16, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (16, 32, 32, 32, 32, 32),
        final_channels: Sequence[int] = (16, 16),
        integration_steps: int = 7,
        velocity_downsampling: int = 1,
    ) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        if velocity_downsampling < 0:
            raise ValueError(f"velocity_downsampling: expected 0 or more, received {velocity_downsampling!r}")
        self.unet = voxelmorph_unet(
            spatial_dims, 2 * in_channels, spatial_dims, list(zip(channels[::2], channels[1::2])), final=final_channels
        )
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.integration_steps = integration_steps
        self.velocity_downsampling = velocity_downsampling
        self.stride = 2 ** max(len(channels) // 2, velocity_downsampling)

    def forward(self, source: Tensor, target: Tensor) -> VoxelMorphOutput:
        """Register a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            target: target of the same shape.

        Returns:
            The warped source, its displacement and velocity.

        Raises:
            TypeError: if an image is not a floating tensor.
            ValueError: if a shape does not fit the network or the pair.
        """
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        check_batched("target", target)
        check_same_shape("source", source, "target", target)
        padded, crop = pad_to_multiple(torch.cat([source, target], dim=1), self.stride)
        velocity = crop(halved(self.unet(padded).float(), self.velocity_downsampling))
        ddf = exponentiate(velocity, self.integration_steps)
        return VoxelMorphOutput(warp(source, ddf), ddf, velocity)

    if TYPE_CHECKING:
        __call__ = forward
