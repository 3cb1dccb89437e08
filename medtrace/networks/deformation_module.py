"""Plasticine's deformation module: a diffeomorphism between two domains that the source alone gives at inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from monai.networks.blocks import Convolution
from torch import Tensor, nn

from medtrace.checks import (
    check_batched,
    check_choice,
    check_levels,
    check_network_input,
    check_positive,
    check_same_grid,
    check_same_shape,
    check_spatial_dims,
)
from medtrace.fields import exponentiate
from medtrace.networks.blocks import Decoder, Encoder, pad_to_multiple
from medtrace.networks.blocks.unet import LEAKY_RELU
from medtrace.networks.patches import PatchInferer

INVERSES = ("negated", "predicted")
GROUP_NORM = ("GROUP", {"num_groups": 4})
ALIGNMENT_LAYERS = 4


class DeformationOutput(NamedTuple):
    """The deformation of a batch of sources on the grid `*spatial`."""

    velocity: Tensor
    """v, (B, spatial_dims, *spatial) in voxels; its exponential is φ = Id + `ddf`."""
    inverse_velocity: Tensor
    """v⁻¹, of the same shape; its exponential is φ⁻¹ = Id + `inverse_ddf`."""
    ddf: Tensor
    """Displacement of φ in voxels, pull: warp(source, ddf) has the target's anatomy."""
    inverse_ddf: Tensor
    """Displacement of φ⁻¹ in voxels, pull: warp(target, inverse_ddf) has the source's anatomy."""
    features: Tensor | None
    """Features of target and noise, (B, channels[0], *spatial); None without a target."""
    surrogate: Tensor | None
    """The alignment block's replacement for them, from the source, of the same shape; None in patches."""


class DeformationModule(nn.Module):
    """Velocities of the deformation from source x to target y and back: f(ε̂, x, y) = (v, v⁻¹) (Plasticine, III-B).

    The first convolution, on the channels x, y and ε̂, is kept in two parts, one of x and one of (y, ε̂), whose sum
    enters the U-Net. Neither y nor ε̂ exists at inference: there `surrogate`, made from x's part by the alignment block
    of four 3-wide convolutions, takes the place of the part of (y, ε̂). Two 1-wide convolutions at the end of the U-Net
    give v and v⁻¹; scaling and squaring makes φ = exp(v). They start at zero: the untrained module deforms nothing.
    Grids that 2^levels does not divide are padded with their border values and the results cropped back.

    φ⁻¹ is, for `inverse`,

    - "negated": exp(−v), the inverse of φ up to interpolation. There is no second head: `inverse_velocity` is −v, and
      a loss on the inverse trains v.
    - "predicted": exp(v⁻¹) of its own head, which is an inverse only as far as training makes it one.

    The paper has both (Section III-B and Appendix E).

    A method trains the alignment block by a distance between `surrogate` and `features.detach()`. With a target, the
    block reads x's part without gradient, so that this loss changes the block alone; without one, gradient passes.

    The paper specifies four blocks in each direction and 64 channels at the start. The doubling of the channels with
    each downsampling, the strided convolutions and linear upsampling (as in `TraceTrans`), and the normalization are
    chosen here.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        target_channels: channels of target and noise, each; None is `in_channels`.
        channels: features of each level of the U-Net, finest first, one entry per downsampling; multiples of 8 with the
            default `norm`. The first is also the width of the input's features and of the alignment block.
        inverse: "negated" or "predicted".
        use_noise: whether ε̂ is an input; False is the ablation of Table V.
        integration_steps: T, of the exponential.
        velocity_downsampling: how often the velocities' grid is halved relative to the image's; they are interpolated
            linearly. 0 is the paper's; coarser velocities are smoother and cheaper.
        norm: MONAI's name of the normalization. In this library's registration networks, group normalization learns
            large shifts sooner than instance normalization.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = DeformationModule(2, 1, channels=(4, 8))
        >>> output = network(torch.zeros(1, 1, 16, 20))
        >>> output.ddf.shape, bool(output.ddf.any())  # zero before the training
        (torch.Size([1, 2, 16, 20]), False)
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (64, 128, 256, 512),
        inverse: Literal["negated", "predicted"] | str = "negated",
        use_noise: bool = True,
        integration_steps: int = 7,
        velocity_downsampling: int = 0,
        norm: str | tuple[Any, ...] = GROUP_NORM,
        target_channels: int | None = None,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_levels(channels, "velocity_downsampling", velocity_downsampling)
        if integration_steps < 0:
            raise ValueError(f"integration_steps: expected 0 or more, received {integration_steps!r}")
        check_positive("in_channels", in_channels)
        check_choice("inverse", inverse, INVERSES)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.target_channels = in_channels if target_channels is None else target_channels
        check_positive("target_channels", self.target_channels)
        self.inverse = inverse
        self.use_noise = use_noise
        self.integration_steps = integration_steps
        self.stride = 2 ** len(channels)
        width = channels[0]
        self.source_stem = Convolution(spatial_dims, in_channels, width, kernel_size=3, conv_only=True)
        self.target_stem = Convolution(
            spatial_dims, (1 + use_noise) * self.target_channels, width, kernel_size=3, conv_only=True
        )
        self.alignment = nn.Sequential(
            *(
                Convolution(
                    spatial_dims,
                    width,
                    width,
                    kernel_size=3,
                    act=LEAKY_RELU,
                    norm=None,
                    conv_only=layer == ALIGNMENT_LAYERS - 1,
                )
                for layer in range(ALIGNMENT_LAYERS)
            )
        )
        self.activation = nn.LeakyReLU(LEAKY_RELU[1]["negative_slope"])
        self.encoder = Encoder(spatial_dims, width, channels, norm)
        self.decoder = Decoder(spatial_dims, width, width, channels, norm, downsampling=velocity_downsampling)
        self.head = _velocity_head(spatial_dims, width)
        self.inverse_head = _velocity_head(spatial_dims, width) if inverse == "predicted" else None

    def forward(
        self,
        source: Tensor,
        target: Tensor | None = None,
        noise: Tensor | None = None,
        inferer: PatchInferer | None = None,
    ) -> DeformationOutput:
        """Deform a batch.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            target: (B, target_channels, *spatial), in the other domain; None at inference.
            noise: noise of the target's shape, ε̂ estimated in the noised target; with a target and `use_noise` only.
            inferer: without a target, passes the volume through the network in patches; the blended velocities are
                exponentiated once.

        Returns:
            Velocities, displacements and features, float32 also inside autocast.

        Raises:
            TypeError: if an image is not a floating tensor.
            ValueError: if a shape does not fit the module or the source, or target and noise are not given together.
        """
        guide = self._guide(source, target, noise)
        if inferer is not None:
            return self._in_patches(source, guide, inferer)
        # Instance normalization needs two voxels at the bottleneck.
        padded, crop = pad_to_multiple(source, self.stride, minimum=2 * self.stride)
        source_features = self.source_stem(padded)
        if guide is None:
            features, surrogate = None, self.alignment(source_features)
            joined = source_features + surrogate
        else:
            features = self.target_stem(pad_to_multiple(guide, self.stride, minimum=2 * self.stride)[0])
            surrogate = self.alignment(source_features.detach())
            joined = source_features + features
        velocities = [crop(velocity) for velocity in self._velocities(joined)]
        return self._output(velocities, None if features is None else crop(features).float(), crop(surrogate).float())

    if TYPE_CHECKING:
        __call__ = forward

    def _in_patches(self, source: Tensor, guide: Tensor | None, inferer: PatchInferer) -> DeformationOutput:
        if guide is not None:
            raise ValueError("inferer: expected None with a target, received one; a pair is registered as a whole")

        def alone(patch: Tensor) -> tuple[Tensor, ...]:
            features = self.source_stem(patch)
            return self._velocities(features + self.alignment(features))

        padded, crop = pad_to_multiple(source, self.stride, minimum=2 * self.stride)
        return self._output([crop(velocity) for velocity in inferer(padded, alone, self.stride)], None, None)

    def _velocities(self, joined: Tensor) -> tuple[Tensor, ...]:
        """v and, where it has its own head, v⁻¹ of the joined features of a grid that the strides divide."""
        decoded = self.decoder(self.encoder(self.activation(joined)))
        heads = (self.head,) if self.inverse_head is None else (self.head, self.inverse_head)
        return tuple(head(decoded).float() for head in heads)

    def _output(
        self, velocities: Sequence[Tensor], features: Tensor | None, surrogate: Tensor | None
    ) -> DeformationOutput:
        velocity = velocities[0]
        inverse_velocity = -velocity if self.inverse_head is None else velocities[1]
        return DeformationOutput(
            velocity,
            inverse_velocity,
            exponentiate(velocity, self.integration_steps),
            exponentiate(inverse_velocity, self.integration_steps),
            features,
            surrogate,
        )

    def _guide(self, source: Tensor, target: Tensor | None, noise: Tensor | None) -> Tensor | None:
        """Target and noise as one input, checked; None without a target."""
        check_network_input("source", source, self.spatial_dims, self.in_channels)
        if noise is not None and (target is None or not self.use_noise):
            reason = "without a target" if target is None else "since the module has use_noise=False"
            raise ValueError(f"noise: expected None {reason}, received a tensor; leave it out")
        if target is None:
            return None
        check_network_input("target", target, self.spatial_dims, self.target_channels)
        check_same_grid("source", source, "target", target)
        if not self.use_noise:
            return target
        if noise is None:
            raise ValueError(
                "noise: expected the noise estimated in the noised target, received None; pass it, or build the module"
                " with use_noise=False"
            )
        check_batched("noise", noise)
        check_same_shape("target", target, "noise", noise)
        return torch.cat([target, noise], dim=1)


def _velocity_head(spatial_dims: int, width: int) -> Convolution:
    head = Convolution(spatial_dims, width, spatial_dims, kernel_size=1, conv_only=True)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head
