"""VoxelMorph, diffeomorphic: MONAI's U-Net for the velocity, and the exponential of `medtrace.fields`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_batched, check_network_input, check_positive, check_same_shape
from medtrace.fields import exponentiate, warp
from medtrace.networks.blocks import pad_to_multiple


class VoxelMorphOutput(NamedTuple):
    """What registering a batch of pairs gives, on the grid `*spatial`."""

    warped: Tensor
    """Source pulled by `ddf`, (B, C, *spatial)."""
    ddf: Tensor
    """Displacement (B, spatial_dims, *spatial) in voxels, pull convention."""
    velocity: Tensor
    """Stationary velocity (B, spatial_dims, *spatial) in voxels, whose exponential is Id + `ddf`."""


class DiffeomorphicVoxelMorph(nn.Module):
    """Register a source to a target by a stationary velocity (Dalca et al. 2018; Balakrishnan et al. 2019).

    The velocity is deterministic: without the variational head of the former, as MetaRegNet's own U-Net. It comes from
    MONAI's `VoxelMorphUNet`; the exponential does not come from MONAI's `DVF2DDF`, which continues fields by zeros
    beyond the grid, so that a constant velocity shrinks at the border. The last convolution starts at zero: the
    untrained network deforms nothing. Grids that the poolings do not divide are padded by their border values.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source and of the target.
        channels: filters in pairs, one pair (down, up) per pooling; MONAI's default.
        final_channels: filters of the convolutions after the U-Net.
        integration_steps: squarings of the exponential.
        velocity_halvings: how often the velocity's grid is halved by averaging; it is interpolated linearly again. The
            authors integrate on half the resolution.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (16, 32, 32, 32, 32, 32),
        final_channels: Sequence[int] = (16, 16),
        integration_steps: int = 7,
        velocity_halvings: int = 1,
    ) -> None:
        super().__init__()
        check_positive("in_channels", in_channels)
        if velocity_halvings < 0:
            raise ValueError(f"velocity_halvings: expected 0 or more, received {velocity_halvings!r}")
        self.unet = VoxelMorphUNet(
            spatial_dims=spatial_dims,
            in_channels=2 * in_channels,
            unet_out_channels=32,
            channels=tuple(channels),
            final_conv_channels=tuple(final_channels),
        )
        last = [module for module in self.unet.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d))][-1]
        for parameter in last.parameters():
            nn.init.zeros_(parameter)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.integration_steps = integration_steps
        self.coarsening = 2**velocity_halvings
        self.stride = max(2 ** (len(channels) // 2), self.coarsening)

    def forward(self, source: Tensor, target: Tensor) -> VoxelMorphOutput:
        """Register a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            target: of the same shape.

        Returns:
            The warped source, its displacement and velocity.

        Raises:
            TypeError: if an image is no floating tensor.
            ValueError: if a shape does not fit the network or the pair.
        """
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        check_batched("target", target)
        check_same_shape("source", source, "target", target)
        padded, crop = pad_to_multiple(torch.cat([source, target], dim=1), self.stride)
        velocity = crop(self._coarse(self.unet(padded).float()))
        ddf = exponentiate(velocity, self.integration_steps)
        return VoxelMorphOutput(warp(source, ddf), ddf, velocity)

    def _coarse(self, velocity: Tensor) -> Tensor:
        if self.coarsening == 1:
            return velocity
        pool, mode = (F.avg_pool2d, "bilinear") if self.spatial_dims == 2 else (F.avg_pool3d, "trilinear")
        return F.interpolate(
            pool(velocity, self.coarsening), scale_factor=self.coarsening, mode=mode, align_corners=False
        )
