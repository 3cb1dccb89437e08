"""VoxelMorph's U-Net, which starts from nothing, and the coarser grid of its flow."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import VoxelMorphUNet
from torch import Tensor, nn
from torch.nn import functional as F


def voxelmorph_unet(
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    levels: Sequence[tuple[int, int]],
    features: int = 32,
    final: Sequence[int] = (16, 16),
) -> VoxelMorphUNet:
    """Build MONAI's `VoxelMorphUNet` with any number of outputs, the last convolution at zero.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of both images together.
        out_channels: channels of the result, which MONAI fixes to `spatial_dims`.
        levels: features on the way down and on the way up, one pair per pooling, finest first.
        features: features of the U-Net's end.
        final: filters of the convolutions after it.
    """
    unet = VoxelMorphUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        unet_out_channels=features,
        channels=tuple(width for level in levels for width in level),
        final_conv_channels=tuple(final),
    )
    last = unet.net[-1].final_conv_out
    head = type(last.conv)(final[-1], out_channels, kernel_size=3, padding=1)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    last.conv = head
    return unet


def halved(flow: Tensor, downsampling: int) -> Tensor:
    """Average a flow (B, D, *spatial) over blocks of 2^downsampling voxels and interpolate it linearly again."""
    if downsampling == 0:
        return flow
    size = 2**downsampling
    pool, mode = (F.avg_pool2d, "bilinear") if flow.ndim == 4 else (F.avg_pool3d, "trilinear")
    return F.interpolate(pool(flow, size), scale_factor=size, mode=mode, align_corners=False)
