"""MetaRegNet: registration of a pair that also explains a change of intensity where correspondence is missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor, nn

from medtrace.checks import (
    check_batched,
    check_choice,
    check_levels,
    check_network_input,
    check_positive,
    check_range,
    check_same_grid,
    check_same_shape,
    check_spatial_dims,
)
from medtrace.fields import compose, warp
from medtrace.networks.blocks import pad_to_multiple
from medtrace.networks.blocks.lipschitz import LipschitzResidual
from medtrace.networks.blocks.voxelmorph_unet import halved, voxelmorph_unet

INTEGRATIONS = ("euler", "residual")


class MetamorphicOutput(NamedTuple):
    """The registration of a batch of pairs, on the grid `*spatial`."""

    image: Tensor
    """warped + intensity, (B, C, *spatial)."""
    warped: Tensor
    """Source pulled by `ddf`, (B, C, *spatial)."""
    ddf: Tensor
    """Displacement (B, spatial_dims, *spatial) in voxels, pull convention."""
    intensity: Tensor
    """q·M, the change of intensity within the mask, (B, C, *spatial); exactly 0 outside it."""


class MetamorphicTrajectory(NamedTuple):
    """The way from source to target in `num_blocks` + 1 stations, the first at time 0."""

    image: list[Tensor]
    warped: list[Tensor]
    ddf: list[Tensor]
    intensity: list[Tensor]


class MetamorphicRegNet(nn.Module):
    """Register a source to a target; within a mask, intensity may change too (MetaRegNet, Section 3).

    A U-Net on (source, target) gives the initial flows of space, v₀, and intensity, q₀. Each runs through its own chain
    of Lipschitz residual blocks, f_k = f_{k−1} + r_k(f_{k−1}), and

    - "euler" integrates Eq. 3: the chain of space holds the velocity at N moments, φ_k = φ_{k−1} + v_k∘φ_{k−1} / N from
      φ_0 = id; the chain of intensity holds its rate of change, q_k = q_{k−1} + rate_k / N from 0. A step is injective
      as long as the slope of v_k is below N.
    - "residual" takes the chains' arrays themselves as displacement and intensity, as the authors' code does: φ_k =
      id + v_k, q_k = the chain's k-th array. Invertible blocks on arrays do not make φ injective.

    Either way image = source∘φ_N + q_N·M. The flows start at zero and the blocks at r = 0: the untrained network
    deforms and adds nothing. Grids that 2^levels does not divide are padded with their border values for the U-Net.

    The U-Net is VoxelMorph's (Balakrishnan et al. 2019) without its variational head, as in the paper: MONAI's
    `VoxelMorphUNet` with both flows as output channels. It reads the images at full resolution, on which the field's
    precision depends: with strides from the first convolution on, it is worse than VoxelMorph.

    Deviations: Eq. 3 prints dq/dt = v·q with q(0) = 0, which stays 0; here the rate, or in the residual reading q
    itself, starts from the U-Net. The paper gives no unit for flows; a block changes them by up to half a `flow_scale`,
    and the U-Net's own contribution is not limited.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source and of the target.
        channels: the U-Net's features per level, finest first; each level halves the grid.
        num_blocks: N, residual blocks of each chain. The paper's text has 7, the authors' settings 4.
        share_blocks: whether the blocks of a chain share their weights (a stationary law of change).
        block_channels: hidden channels of a block.
        integration: "euler" or "residual".
        flow_downsampling: how often the grid of v₀ is halved by averaging; it is interpolated linearly again. 0 is the
            paper's; a coarser flow is smoother.
        flow_scale: voxels that the blocks of space treat as one unit.
        intensity_scale: intensity that the blocks of intensity treat as one unit.
        coefficient: upper bound of the operator norm of each convolution in a block, in (0, 1).

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = MetamorphicRegNet(2, 1, channels=(4, 8), num_blocks=2)
        >>> source, target = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
        >>> mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        >>> output = network(source, target, mask)
        >>> output.ddf.shape, bool(output.intensity.any())  # an empty mask: plain registration
        (torch.Size([1, 2, 16, 16]), False)
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (16, 32, 64, 128),
        num_blocks: int = 7,
        share_blocks: bool = False,
        block_channels: int = 16,
        integration: Literal["euler", "residual"] | str = "euler",
        flow_downsampling: int = 0,
        flow_scale: float = 8.0,
        intensity_scale: float = 1.0,
        coefficient: float = 0.97,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_levels(channels, "flow_downsampling", flow_downsampling)
        check_positive("in_channels", in_channels)
        check_positive("num_blocks", num_blocks)
        check_choice("integration", integration, INTEGRATIONS)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.integration = integration
        self.num_blocks = num_blocks
        self.stride = 2 ** len(channels)
        self.flow_downsampling = flow_downsampling
        self.unet = voxelmorph_unet(
            spatial_dims,
            2 * in_channels,
            spatial_dims + in_channels,
            levels=[(width, width) for width in channels],
            features=2 * channels[0],
            final=(channels[0], channels[0]),
        )

        def chain(width: int, scale: float) -> nn.ModuleList:
            count = 1 if share_blocks else num_blocks
            return nn.ModuleList(
                LipschitzResidual(spatial_dims, width, block_channels, scale, coefficient) for _ in range(count)
            )

        self.flow_blocks = chain(spatial_dims, flow_scale)
        self.intensity_blocks = chain(in_channels, intensity_scale)

    def forward(
        self, source: Tensor, target: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> MetamorphicOutput:
        """Register a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            target: target of the same shape.
            mask: (B, 1, *spatial) on the target's grid, boolean or in [0, 1]: where intensity may change.
            source_mask: likewise on the source's grid; it is warped by the field and joined with `mask`.

        Returns:
            Image, warped source, displacement and q·M. Without a mask, or with an empty one, `intensity` is exactly 0
            and `image` is `warped`.

        Raises:
            TypeError: if a tensor is of the wrong type.
            ValueError: if a shape does not fit the network or the pair, or a mask leaves [0, 1].
        """
        velocities, rates = self._chains(source, target)
        ddf = self._displacements(velocities)[-1]
        return self._output(source, ddf, self._intensities(rates)[-1], mask, source_mask)

    if TYPE_CHECKING:
        __call__ = forward

    def trajectory(
        self, source: Tensor, target: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> MetamorphicTrajectory:
        """Every intermediate field and image, N + 1 of each; the last are those of `forward`, whose arguments it takes.

        With "euler" the first image is the source itself. With "residual" the first field and intensity are what the
        U-Net gives.
        """
        velocities, rates = self._chains(source, target)
        stations = [
            self._output(source, ddf, intensity, mask, source_mask)
            for ddf, intensity in zip(self._displacements(velocities), self._intensities(rates))
        ]
        return MetamorphicTrajectory(*(list(members) for members in zip(*stations)))

    def _chains(self, source: Tensor, target: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The arrays [f_0, ..., f_N] of space and intensity."""
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        check_batched("target", target)
        check_same_shape("source", source, "target", target)
        padded, crop = pad_to_multiple(torch.cat([source, target], dim=1), self.stride)
        flow, rate = self.unet(padded).float().split((self.spatial_dims, self.in_channels), dim=1)
        flow, rate = crop(halved(flow, self.flow_downsampling)), crop(rate)
        with torch.autocast(source.device.type, enabled=False):
            return self._evolve(flow, self.flow_blocks), self._evolve(rate, self.intensity_blocks)

    def _evolve(self, flow: Tensor, blocks: nn.ModuleList) -> list[Tensor]:
        flows = [flow]
        for index in range(self.num_blocks):
            flows.append(flows[-1] + blocks[index % len(blocks)](flows[-1]))
        return flows

    def _displacements(self, velocities: list[Tensor]) -> list[Tensor]:
        if self.integration == "residual":
            return velocities
        ddfs = [torch.zeros_like(velocities[0])]
        for velocity in velocities[1:]:
            ddfs.append(compose(velocity / self.num_blocks, ddfs[-1]))
        return ddfs

    def _intensities(self, rates: list[Tensor]) -> list[Tensor]:
        if self.integration == "residual":
            return rates
        totals = [torch.zeros_like(rates[0])]
        for rate in rates[1:]:
            totals.append(totals[-1] + rate / self.num_blocks)
        return totals

    def _output(
        self, source: Tensor, ddf: Tensor, intensity: Tensor, mask: Tensor | None, source_mask: Tensor | None
    ) -> MetamorphicOutput:
        warped = warp(source, ddf)
        change = intensity * joint_mask(ddf, mask, source_mask)
        return MetamorphicOutput(warped + change, warped, ddf, change)


MetaRegNet = MetamorphicRegNet


def joint_mask(ddf: Tensor, mask: Tensor | None, source_mask: Tensor | None) -> Tensor:
    """Where intensity may change: the target's mask joined with the source's, pulled by the field.

    Args:
        ddf: (B, spatial_dims, *spatial) in voxels.
        mask: (B, 1, *spatial) on the target's grid, boolean or in [0, 1], or None for an empty one.
        source_mask: likewise on the source's grid.

    Returns:
        (B, 1, *spatial) in [0, 1], in the field's type, without gradient, so that the field is not drawn to where
        intensity may change.

    Raises:
        TypeError: if a mask is not a tensor of numbers.
        ValueError: if its shape does not fit or it leaves [0, 1].
    """
    joint = ddf.new_zeros(ddf.shape[0], 1, *ddf.shape[2:])
    if mask is not None:
        joint = _weights("mask", mask, ddf)
    if source_mask is not None:
        joint = torch.maximum(joint, warp(_weights("source_mask", source_mask, ddf), ddf.detach()))
    return joint


def _weights(name: str, mask: Tensor, ddf: Tensor) -> Tensor:
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name}: expected a torch tensor, received {type(mask).__name__}; convert it first")
    weights = mask.detach().as_subclass(Tensor).to(ddf)
    check_batched(name, weights, channels=1)
    check_same_grid("ddf", ddf, name, weights)
    check_range(name, weights, 0, 1)
    return weights
