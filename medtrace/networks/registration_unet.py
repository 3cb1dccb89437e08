"""The registration network of RegGAN: a residual U-Net from a pair of images to a displacement."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from monai.networks.layers.utils import get_norm_layer
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_levels, check_network_input, check_same_grid, check_spatial_dims
from medtrace.networks.blocks import pad_to_multiple

GROUP_NORM = ("GROUP", {"num_groups": 4})
_SLOPE = 0.2


class RegistrationUNet(nn.Module):
    """Displacement that pulls `moving` onto `fixed`: R of RegGAN, Eq. 7.

    One level per entry of `channels`; between two levels the grid is halved by averaging. A level is a convolution
    and a residual block of two, both normalized by groups of channels, which works down to a grid of one voxel and
    lets R find large shifts several times sooner than no normalization. On the way up the features are interpolated
    linearly and joined with the encoder's. The last convolution starts at zero, so the untrained network deforms
    nothing. Grids that the downsampling does not divide are padded with their border values and the result cropped
    back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of each image.
        channels: features of each level, finest first; multiples of 4 with the default `norm`.
        downsampling: end on a grid halved this many times and interpolate the displacement linearly to the images',
            which makes it smooth and cheap; less than the number of levels.
        norm: MONAI's name of the normalization; None for none.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = RegistrationUNet(2, 1, channels=(4, 8))
        >>> moving, fixed = torch.rand(2, 1, 1, 16, 20)
        >>> ddf = network(moving, fixed)  # zero before the training
        >>> ddf.shape, bool(ddf.any())
        (torch.Size([1, 2, 16, 20]), False)
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (32, 64, 64, 64, 64, 64, 64),
        downsampling: int = 0,
        norm: str | tuple[Any, ...] | None = GROUP_NORM,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_levels(channels, "downsampling", downsampling)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.downsampling = downsampling
        self.mode = "trilinear" if spatial_dims == 3 else "bilinear"
        inputs = (2 * in_channels, *channels[:-1])
        self.down = nn.ModuleList(_Level(spatial_dims, before, after, norm) for before, after in zip(inputs, channels))
        kept = channels[downsampling:]
        self.up = nn.ModuleList(_Level(spatial_dims, below + skip, skip, norm) for skip, below in pairwise(kept))
        self.head = _convolution(spatial_dims, kept[0], spatial_dims)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        """Register a batch of pairs.

        Args:
            moving: (B, in_channels, *spatial), in [-1, 1].
            fixed: (B, in_channels, *spatial), in [-1, 1], of the same contrast.

        Returns:
            (B, spatial_dims, *spatial) float32 displacement in voxels, pull: warp(moving, ddf) is on `fixed`.

        Raises:
            TypeError, ValueError: if the images do not fit each other or the network.
        """
        for name, image in (("moving", moving), ("fixed", fixed)):
            check_network_input(name, image, self.spatial_dims, self.in_channels)
        check_same_grid("moving", moving, "fixed", fixed)
        features, crop = pad_to_multiple(torch.cat([moving, fixed], dim=1), 2 ** (len(self.down) - 1))
        skips = []
        for depth, level in enumerate(self.down):
            if depth:
                features = F.interpolate(features, scale_factor=0.5, mode="area")
            features = level(features)
            skips.append(features)
        for level, skip in zip(reversed(self.up), reversed(skips[self.downsampling : -1])):
            features = F.interpolate(features, scale_factor=2, mode=self.mode, align_corners=False)
            features = level(torch.cat([features, skip], dim=1))
        ddf = self.head(features).float()
        if self.downsampling:
            ddf = F.interpolate(ddf, scale_factor=2**self.downsampling, mode=self.mode, align_corners=False)
        return crop(ddf)

    if TYPE_CHECKING:
        __call__ = forward


class _Level(nn.Module):
    def __init__(
        self, spatial_dims: int, in_channels: int, out_channels: int, norm: str | tuple[Any, ...] | None
    ) -> None:
        super().__init__()
        self.entry = _convolution(spatial_dims, in_channels, out_channels)
        self.first = _convolution(spatial_dims, out_channels, out_channels)
        self.second = _convolution(spatial_dims, out_channels, out_channels)
        self.entry_norm, self.residual_norm = (
            nn.Identity() if norm is None else get_norm_layer(norm, spatial_dims, out_channels) for _ in range(2)
        )

    def forward(self, features: Tensor) -> Tensor:
        features = self.entry_norm(F.leaky_relu(self.entry(features), _SLOPE))
        residual = self.second(F.leaky_relu(self.first(features), _SLOPE))
        result: Tensor = self.residual_norm(F.leaky_relu(features + residual, _SLOPE))
        return result


def _convolution(spatial_dims: int, in_channels: int, out_channels: int) -> nn.Conv2d | nn.Conv3d:
    kind = nn.Conv3d if spatial_dims == 3 else nn.Conv2d
    return kind(in_channels, out_channels, kernel_size=3, padding=1)
