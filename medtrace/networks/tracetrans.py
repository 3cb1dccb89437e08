"""TraceTrans: one encoder, an image decoder and a velocity decoder, and two patch discriminators."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from medtrace.checks import check_levels, check_network_input, check_positive, check_spatial_dims
from medtrace.fields import exponentiate, warp
from medtrace.networks.blocks import INSTANCE_NORM, ConditionalPatchDiscriminator, Decoder, Encoder, pad_to_multiple
from medtrace.networks.blocks.intensity_table import IntensityTable
from medtrace.networks.patches import PatchInferer


class TraceTransOutput(NamedTuple):
    """The generator's output for a batch of sources on a grid `*spatial`."""

    image: Tensor
    """Translated image (B, out_channels, *spatial) in [-1, 1]."""
    warped: Tensor
    """Source pulled by `ddf`, (B, in_channels, *spatial)."""
    ddf: Tensor
    """Displacement (B, spatial_dims, *spatial) in voxels, pull convention."""
    velocity: Tensor
    """Stationary velocity (B, spatial_dims, *spatial) in voxels, whose exponential is Id + `ddf`."""


class TraceTrans(nn.Module):
    """Predict the image after an intervention and the deformation that leads to it, from the source alone.

    y_trans = tanh(g(e(x))), v = f(e(x)), φ = exp(v), y_warp = x∘φ (TraceTrans, Eq. 1-6). The velocity decoder
    starts at zero, so the untrained network deforms nothing. Grids that 2^levels does not divide are padded by
    their border values and the results cropped back.

    The paper names the encoder's five widths and no more; here a level is a strided convolution as in Pix2Pix,
    the decoders upsample linearly (no checkerboard in the field), and the normalization is per instance.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the translated image.
        channels: the encoder's output channels, one entry per downsampling.
        integration_steps: squarings of the exponential.
        norm: MONAI's name of the normalization, such as "batch"; by default per instance, with scale and shift.
        shared_encoder: whether both decoders read one encoder; False gives two separate networks (the
            paper's ablation, Table 3).
        velocity_downsampling: how often the velocity's grid is halved relative to the image's; it is interpolated
            linearly. 0 is the paper's; a coarser velocity is smoother and cheaper.
        curve: y_trans = tanh(g(e(x)) + c(y_warp)) with an `IntensityTable` c, so that g learns what the intensity curve
            of the warped source does not explain. The field learns nothing from it. The paper has none.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> output = TraceTrans(3, 1, 1, channels=(4, 8))(torch.zeros(1, 1, 8, 8, 12))
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
        shared_encoder: bool = True,
        velocity_downsampling: int = 0,
        curve: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive("in_channels", in_channels)
        check_positive("out_channels", out_channels)
        check_levels(channels, "velocity_downsampling", velocity_downsampling)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.integration_steps = integration_steps
        self.stride = 2 ** len(channels)
        self.encoder = Encoder(spatial_dims, in_channels, channels, norm)
        self.velocity_encoder = None if shared_encoder else Encoder(spatial_dims, in_channels, channels, norm)
        self.image_decoder = Decoder(spatial_dims, in_channels, out_channels, channels, norm)
        self.velocity_decoder = Decoder(
            spatial_dims, in_channels, spatial_dims, channels, norm, downsampling=velocity_downsampling, zero_init=True
        )
        self.curve = IntensityTable(spatial_dims, in_channels, out_channels) if curve else None

    def forward(self, source: Tensor, deform: bool = True, inferer: PatchInferer | None = None) -> TraceTransOutput:
        """Translate a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            deform: whether to run the velocity stream; without it `ddf` and `velocity` are zero and `warped` is
                the source.
            inferer: passes the volume through the networks in patches; the blended velocity is exponentiated once.

        Returns:
            The translated image, the warped source, its displacement and velocity.

        Raises:
            TypeError: if `source` is not a floating tensor.
            ValueError: if its rank or channels do not fit the network.
        """
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        # Instance normalization needs two voxels at the bottleneck.
        padded, crop = pad_to_multiple(source, self.stride, minimum=2 * self.stride)
        streams = partial(self._streams, deform=deform)
        outputs = streams(padded) if inferer is None else inferer(padded, streams, self.stride)
        logits = crop(outputs[0])
        if not deform:
            still = source.new_zeros(source.shape[0], self.spatial_dims, *source.shape[2:])
            return TraceTransOutput(self._image(logits, source), source, still, still)
        velocity = crop(outputs[1])
        ddf = exponentiate(velocity, self.integration_steps)
        warped = warp(source, ddf)
        return TraceTransOutput(self._image(logits, warped), warped, ddf, velocity)

    if TYPE_CHECKING:
        __call__ = forward

    def _image(self, decoded: Tensor, warped: Tensor) -> Tensor:
        if self.curve is None:
            return decoded
        return torch.tanh(decoded + self.curve(warped.detach().float()))

    def _streams(self, padded: Tensor, deform: bool) -> tuple[Tensor, ...]:
        """The image (before it is bounded where a curve is added) and, if asked for, the velocity of a grid that the
        strides divide."""
        features = self.encoder(padded)
        image = self.image_decoder(features).float()
        if self.curve is None:
            image = torch.tanh(image)
        if not deform:
            return (image,)
        if self.velocity_encoder is not None:
            features = self.velocity_encoder(padded)
        return image, self.velocity_decoder(features).float()


class DualDecoderGAN(nn.Module):
    """The TraceTrans generator with its two conditional patch discriminators, D_trans and D_warp.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        channels: the encoder's output channels, one entry per downsampling.
        integration_steps: squarings of the exponential.
        norm: MONAI's name of the normalization.
        shared_encoder: whether both decoders read one encoder.
        velocity_downsampling: how often the velocity's grid is halved relative to the image's.
        discriminator_channels: filters of each discriminator's first convolution.
        discriminator_layers: convolutions of each discriminator after the first.
        curve: add a learned intensity curve of the warped source; see `TraceTrans`.

    Example:
        >>> network = DualDecoderGAN(2, 1, 1, channels=(4, 8), discriminator_channels=4, discriminator_layers=1)
        >>> output = network(torch.zeros(1, 1, 16, 20))
        >>> output.image.shape, output.ddf.shape
        (torch.Size([1, 1, 16, 20]), torch.Size([1, 2, 16, 20]))
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        integration_steps: int = 7,
        norm: str | tuple[Any, ...] = INSTANCE_NORM,
        shared_encoder: bool = True,
        velocity_downsampling: int = 0,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        curve: bool = False,
    ) -> None:
        super().__init__()
        self.generator = TraceTrans(
            spatial_dims,
            in_channels,
            out_channels,
            channels,
            integration_steps,
            norm,
            shared_encoder,
            velocity_downsampling,
            curve,
        )
        self.translation_discriminator = ConditionalPatchDiscriminator(
            spatial_dims, in_channels, out_channels, discriminator_channels, discriminator_layers, norm
        )
        self.warp_discriminator = ConditionalPatchDiscriminator(
            spatial_dims, in_channels, out_channels, discriminator_channels, discriminator_layers, norm
        )

    def forward(self, source: Tensor, deform: bool = True, inferer: PatchInferer | None = None) -> TraceTransOutput:
        """Run the generator; see `TraceTrans.forward`."""
        return self.generator(source, deform, inferer)

    if TYPE_CHECKING:
        __call__ = forward
