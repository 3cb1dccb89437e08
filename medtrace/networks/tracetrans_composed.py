"""TraceTrans composed: the image is made of its own warped source, so that image and trace cannot disagree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from medtrace.checks import check_levels, check_network_input, check_positive, check_spatial_dims, check_whole
from medtrace.fields import exponentiate, warp
from medtrace.networks.blocks import INSTANCE_NORM, Decoder, Encoder, pad_to_multiple
from medtrace.networks.blocks.dead_zone import check_dead_zone, dead_zone
from medtrace.networks.blocks.isotropic_curve import IsotropicCurve
from medtrace.networks.patches import PatchInferer

CHANGE_RANGE = 2.0
"""Width of the range of intensities, [-1, 1]: the largest change that there can be."""


class ComposedOutput(NamedTuple):
    """The generator's output for a batch of sources on a grid `*spatial`."""

    image: Tensor
    """`explained` + `change`, bounded to [-1, 1]: (B, out_channels, *spatial)."""
    warped: Tensor
    """Source pulled by `ddf`, (B, in_channels, *spatial)."""
    ddf: Tensor
    """Displacement (B, spatial_dims, *spatial) in voxels, pull convention."""
    velocity: Tensor
    """Stationary velocity (B, spatial_dims, *spatial) in voxels, whose exponential is Id + `ddf`."""
    explained: Tensor
    """The intensity curve of `warped`, (B, out_channels, *spatial): what field and contrast explain."""
    change: Tensor
    """The added change, (B, out_channels, *spatial), in [-2, 2]: what they do not explain."""


class ComposedTraceTrans(nn.Module):
    """Predict the deformation that an intervention leads to, and the image as the curve of the warped source, and more.

    v = S(f(e(x))), φ = exp(v), y_trans = c(x∘φ) + δ with δ = 2·tanh(g(e(x))). Encoder e and decoders f, g are
    TraceTrans's, and so is the field (Eq. 1-6); its image y_trans = tanh(g(e(x))) may copy the edges of x where the
    field says that they have moved. Here an edge reaches the image by way of the warped source: the curve c
    (`IsotropicCurve`) sees isotropic features of x∘φ alone, which cannot displace it, and δ, which a loss keeps sparse,
    is all that is added. S is a dead zone (`dead_zone`): short vectors count as no motion.

    Velocity and δ start at zero, so that the untrained image is the source, smoothed by half a voxel. Grids that
    2^levels does not divide are padded with their border values and the results cropped back.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source, which one field warps.
        out_channels: channels of the translated image.
        channels: the encoder's output channels, one entry per downsampling.
        integration_steps: squarings of the exponential.
        norm: MONAI's name of the normalization.
        velocity_downsampling: how often the velocity's grid is halved relative to the image's.
        dead_zone: ends of the velocity's dead zone in voxels, while it is trained; (0, 0) is none.
        inference_dead_zone: likewise in evaluation mode; None means as in training.
        inference_reach: voxels within which the longest velocity counts for that, see `dead_zone`.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> output = ComposedTraceTrans(3, 1, 1, channels=(4, 8))(torch.zeros(1, 1, 8, 8, 12))
        >>> output.image.shape, output.ddf.shape
        (torch.Size([1, 1, 8, 8, 12]), torch.Size([1, 3, 8, 8, 12]))
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        integration_steps: int = 7,
        norm: str | tuple[Any, ...] = INSTANCE_NORM,
        velocity_downsampling: int = 0,
        dead_zone: tuple[float, float] = (0.0, 0.0),
        inference_dead_zone: tuple[float, float] | None = None,
        inference_reach: int = 0,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        check_levels(channels, "velocity_downsampling", velocity_downsampling)
        check_whole("inference_reach", inference_reach, minimum=0)
        self.zones = {True: dead_zone, False: dead_zone if inference_dead_zone is None else inference_dead_zone}
        for zone in self.zones.values():
            check_dead_zone(zone)
        self.reach = {True: 0, False: inference_reach}
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.integration_steps = integration_steps
        self.stride = 2 ** len(channels)
        self.encoder = Encoder(spatial_dims, in_channels, channels, norm)
        self.change_decoder = Decoder(spatial_dims, in_channels, out_channels, channels, norm, zero_init=True)
        self.velocity_decoder = Decoder(
            spatial_dims, in_channels, spatial_dims, channels, norm, downsampling=velocity_downsampling, zero_init=True
        )
        self.curve = IsotropicCurve(spatial_dims, in_channels, out_channels)

    def forward(self, source: Tensor, inferer: PatchInferer | None = None) -> ComposedOutput:
        """Translate a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            inferer: passes the volume through the networks in patches; the blended velocity is exponentiated once.

        Returns:
            The image with its parts; the field learns nothing from any of them but `warped`, `ddf` and `velocity`.

        Raises:
            TypeError: if `source` is not a floating tensor.
            ValueError: if its rank or channels do not fit the network.
        """
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        # Instance normalization needs two voxels at the bottleneck.
        padded, crop = pad_to_multiple(source, self.stride, minimum=2 * self.stride)
        decoded, velocity = self._streams(padded) if inferer is None else inferer(padded, self._streams, self.stride)
        velocity = dead_zone(crop(velocity), *self.zones[self.training], self.reach[self.training])
        change = CHANGE_RANGE * torch.tanh(crop(decoded))
        ddf = exponentiate(velocity, self.integration_steps)
        warped = warp(source, ddf)
        explained = self.curve(warped.detach())
        return ComposedOutput((explained + change).clamp(-1, 1), warped, ddf, velocity, explained, change)

    if TYPE_CHECKING:
        __call__ = forward

    def _streams(self, padded: Tensor) -> tuple[Tensor, Tensor]:
        """Change, before it is bounded, and velocity of a grid that the strides divide."""
        features = self.encoder(padded)
        return self.change_decoder(features).float(), self.velocity_decoder(features).float()
