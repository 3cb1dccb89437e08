"""UNIT: one latent space that both domains share, with gaussian noise on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from medtrace.checks import check_positive
from medtrace.networks.backbone import Code, Domain
from medtrace.networks.blocks import DownsamplingEncoder, UpsamplingDecoder
from medtrace.networks.blocks.residual import kaiming_start, residual_blocks
from medtrace.networks.coded_backbone import CodedBackbone, check_count


class UNIT(CodedBackbone):
    """Translate through a latent space of both domains, each with a variational autoencoder (Liu et al. 2017).

    An encoder is a 7-wide convolution, strided 4-wide ones and residual blocks, all normalized per instance; a decoder
    has residual blocks, nearest-neighbor upsampling with 5-wide convolutions and layer normalization, and a 7-wide
    convolution with tanh. The last `shared_blocks` residual blocks of the two encoders are one and the same module, and
    so are the first ones of the two decoders.

    A code is a Gaussian of unit variance. `Code.content` is its mean, which the prior needs; `decode` adds the noise,
    N(0, 1) from torch's global generator, in training mode only, so that each decoding of a code samples its own noise
    and evaluation is deterministic.

    Liu et al. use leaky ReLUs and no normalization; the widths, the normalization and the weights here are those of the
    same authors' later settings, which RegGAN uses, with the sharing of the paper. Those settings also have a
    perceptual term from a network trained on photographs; RegGAN leaves it out, and so does this.

    Args:
        spatial_dims: 2, as published, or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target can be translated to the source too.
        channels: channels at the image's own grid; they double with each downsampling.
        downsamplings: downsampling steps from the image to its code.
        num_blocks: residual blocks of each encoder and of each decoder, the shared ones included.
        shared_blocks: how many of them both domains share, 0 to `num_blocks`.
        same_start: start both encoders with the same weights, and both decoders, where the domains have the same number
            of channels: before training, a translation is then the reconstruction. Neither the paper nor the cycle
            determines whether a translation keeps or inverts the contrast; without this cue a short training may end
            with the inverted image, which cycle and reconstruction then preserve.
        discriminator_channels: filters of each discriminator's first convolution.
        discriminator_layers: strided convolutions of each discriminator after the first.
        discriminator_scales: scales that each discriminator assesses.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = UNIT(2, 1, 1, channels=4, num_blocks=1, discriminator_channels=4, discriminator_scales=1)
        >>> image = torch.zeros(1, 1, 32, 32)
        >>> network.encode(image, "source").content.shape, network(image).shape
        (torch.Size([1, 16, 8, 8]), torch.Size([1, 1, 32, 32]))
    """

    internal_weights: ClassVar[Mapping[str, float]] = {"reconstruction": 10.0, "prior": 0.01, "latent_cycle": 0.01}

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        bidirectional: bool = True,
        channels: int = 64,
        downsamplings: int = 2,
        num_blocks: int = 4,
        shared_blocks: int = 1,
        same_start: bool = True,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        discriminator_scales: int = 3,
    ) -> None:
        check_positive("channels", channels)
        check_count("downsamplings", downsamplings)
        check_positive("num_blocks", num_blocks)
        if not 0 <= shared_blocks <= num_blocks:
            raise ValueError(f"shared_blocks: expected 0 to num_blocks={num_blocks!r}, received {shared_blocks!r}")
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            bidirectional,
            downsamplings,
            # Mirrored borders need two voxels per axis at every level and four at the image's.
            max(2 * 2**downsamplings, 4),
            discriminator_channels,
            discriminator_layers,
            discriminator_scales,
        )
        wide, own = channels * 2**downsamplings, num_blocks - shared_blocks
        domains: tuple[Domain, ...] = ("source", "target")
        shared = residual_blocks(wide, shared_blocks, spatial_dims)
        for domain in domains:
            self.encoders[domain] = MeanEncoder(
                DownsamplingEncoder(self.channels_of(domain), channels, downsamplings, spatial_dims),
                residual_blocks(wide, own, spatial_dims),
                shared,
            )
        shared = residual_blocks(wide, shared_blocks, spatial_dims)
        for domain in self.decoded_domains:
            self.decoders[domain] = nn.Sequential(
                shared,
                residual_blocks(wide, own, spatial_dims),
                UpsamplingDecoder(channels, self.channels_of(domain), downsamplings, spatial_dims),
            )
        kaiming_start(self.encoders)
        kaiming_start(self.decoders)
        if same_start and in_channels == out_channels:
            for networks in (self.encoders, self.decoders):
                for network in networks.values():
                    network.load_state_dict(networks["target"].state_dict())

    def decoded(self, code: Code, domain: Domain) -> Tensor:
        """The decoder's linear output (B, C, *padded) of a code; in training mode with N(0, 1) added to its mean."""
        latent = code.content
        if self.training:
            latent = latent + torch.randn_like(latent)
        result: Tensor = self.decoders[domain](latent)
        return result

    def prior(self, code: Code) -> Tensor:
        """The mean of the squared latent means.

        KL(N(μ, I) ‖ N(0, I)) is ½ Σ μ²; this is twice that, over the number of latent values.
        """
        return code.content.float().square().mean()

    def latent_cycle(self, code: Code, again: Code) -> Tensor:
        """The prior's distance of the code of a decoded image, `again`; `code` takes no part (UNIT's cycle KL)."""
        return self.prior(again)


class MeanEncoder(nn.Sequential):
    """Layers one after the other that give the mean of a code, and no style."""

    def forward(self, image: Tensor) -> tuple[Tensor, None]:
        """Return the mean (B, C, *coarse) of the code of an image (B, C, *spatial), and None for a style."""
        for layer in self:
            image = layer(image)
        return image, None

    if TYPE_CHECKING:
        __call__ = forward
