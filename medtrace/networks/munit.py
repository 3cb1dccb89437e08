"""MUNIT: a content that both domains share and a domain-specific style."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.networks.backbone import Code, Domain, other
from medtrace.networks.blocks import AdaptiveResidualBlock, DownsamplingEncoder, UpsamplingDecoder
from medtrace.networks.blocks.residual import convolution, kaiming_start, residual_blocks
from medtrace.networks.coded_backbone import CodedBackbone, check_count


class MUNIT(CodedBackbone):
    """Translate by keeping an image's content and giving it a style of the other domain (Huang et al. 2018).

    The content encoder is a 7-wide convolution, strided 4-wide ones and residual blocks, all normalized per
    instance; the style encoder a 7-wide convolution, strided 4-wide ones without normalization, the mean over the
    grid and a linear layer. In the decoder the style reaches the residual blocks as scale and shift of adaptive
    instance normalizations, through a network of three linear layers; then come nearest-neighbor upsampling with 5-wide
    convolutions and layer normalization, and a 7-wide convolution with tanh.

    Training decodes with styles sampled from N(0, 1) (`drawn`); `translate` decodes with their mean, 0, so that one
    image has one translation. The paper samples there too.

    Without `bidirectional` the source has no style encoder: no term would read its style.

    Args:
        spatial_dims: 2, as published, or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target can be translated to the source too.
        channels: channels at the image's own grid; they double with each downsampling.
        downsamplings: downsampling steps from the image to its content.
        num_blocks: residual blocks of each content encoder and of each decoder.
        style_channels: length of the style.
        style_downsamplings: downsampling steps of the style encoder; the channels double in the first two.
        mlp_channels: width of the network from the style to the scales and shifts.
        discriminator_channels: filters of each discriminator's first convolution.
        discriminator_layers: strided convolutions of each discriminator after the first.
        discriminator_scales: scales that each discriminator assesses.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> options = {"channels": 4, "num_blocks": 1, "mlp_channels": 8, "discriminator_channels": 4}
        >>> network = MUNIT(2, 1, 1, discriminator_scales=1, **options)
        >>> code = network.encode(torch.zeros(1, 1, 32, 32), "source")
        >>> code.content.shape, code.style.shape, network.decode(code, "target").shape
        (torch.Size([1, 16, 8, 8]), torch.Size([1, 8]), torch.Size([1, 1, 32, 32]))
    """

    internal_weights: ClassVar[Mapping[str, float]] = {"reconstruction": 10.0, "latent_cycle": 1.0}

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        bidirectional: bool = True,
        channels: int = 64,
        downsamplings: int = 2,
        num_blocks: int = 4,
        style_channels: int = 8,
        style_downsamplings: int = 4,
        mlp_channels: int = 256,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
        discriminator_scales: int = 3,
    ) -> None:
        for name, size in (("channels", channels), ("style_channels", style_channels), ("mlp_channels", mlp_channels)):
            check_positive(name, size)
        for name, count in (("downsamplings", downsamplings), ("style_downsamplings", style_downsamplings)):
            check_count(name, count)
        check_positive("num_blocks", num_blocks)
        super().__init__(
            spatial_dims,
            in_channels,
            out_channels,
            bidirectional,
            downsamplings,
            # Mirrored borders need two voxels per axis at every level and four at the image's.
            max(2 * 2**downsamplings, 2**style_downsamplings, 4),
            discriminator_channels,
            discriminator_layers,
            discriminator_scales,
        )
        self.style_channels = style_channels
        domains: tuple[Domain, ...] = ("source", "target")
        for domain in domains:
            seen = self.channels_of(domain)
            content = nn.Sequential(
                DownsamplingEncoder(seen, channels, downsamplings, spatial_dims),
                residual_blocks(channels * 2**downsamplings, num_blocks, spatial_dims),
            )
            style = StyleEncoder(seen, channels, style_channels, style_downsamplings, spatial_dims)
            self.encoders[domain] = ContentAndStyle(content, style if domain in self.decoded_domains else None)
        for domain in self.decoded_domains:
            self.decoders[domain] = StyledDecoder(
                self.channels_of(domain),
                channels,
                downsamplings,
                num_blocks,
                style_channels,
                mlp_channels,
                spatial_dims,
            )
        kaiming_start(self.encoders)
        kaiming_start(self.decoders)

    def translate(self, image: Tensor, domain: Domain = "source") -> Tensor:
        """The other domain's image of a content, with the style 0; the image's own style is not looked for."""
        padded = self.padded(image, domain)
        content = cast(ContentAndStyle, self.encoders[domain]).content(padded)
        return self.decode(Code(content, shape=tuple(image.shape[2:])), other(domain))

    def decoded(self, code: Code, domain: Domain) -> Tensor:
        """The decoder's linear output (B, C, *padded) of a code; without a style, of the style 0."""
        style = self._blank(code).zero_() if code.style is None else code.style
        result: Tensor = self.decoders[domain](code.content, style)
        return result

    def drawn(self, code: Code) -> Code:
        """The code with a style drawn from N(0, 1), by torch's global generator."""
        return code._replace(style=self._blank(code).normal_())

    def latent_cycle(self, code: Code, again: Code) -> Tensor:
        """L1 between two contents plus L1 between two styles, each a mean (the latent reconstruction of MUNIT).

        Args:
            code: the code that was decoded, with the sampled style.
            again: the code of the decoded image.

        Raises:
            ValueError: if either has no style.
        """
        if code.style is None or again.style is None:
            raise ValueError(
                "code: expected codes with a style, received None; pass the code that `drawn` gave, and build the"
                " backbone"
                " with bidirectional=True"
            )
        return F.l1_loss(again.content, code.content) + F.l1_loss(again.style, code.style)

    def _blank(self, code: Code) -> Tensor:
        """A style (B, S) to fill, in the precision of the weights that read it, not in autocast's."""
        dtype = next(self.decoders.parameters()).dtype
        return torch.empty(code.content.shape[0], self.style_channels, dtype=dtype, device=code.content.device)


class ContentAndStyle(nn.Module):
    """The two encoders of a domain, side by side.

    Args:
        content: gives (B, C, *coarse) of an image.
        style: gives (B, S) of an image, or None for a domain whose style is never read.
    """

    def __init__(self, content: nn.Module, style: nn.Module | None) -> None:
        super().__init__()
        self.content = content
        self.style = style

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return content and style of an image (B, C, *spatial)."""
        return self.content(image), None if self.style is None else self.style(image)

    if TYPE_CHECKING:
        __call__ = forward


class StyleEncoder(nn.Module):
    """Convolutions without normalization, which would remove the style; the mean over the grid; a linear layer.

    Args:
        in_channels: channels of the image.
        channels: channels at the image's own grid; they double in the first two downsampling steps.
        style_channels: length of the style.
        downsamplings: number of downsampling steps.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, in_channels: int, channels: int, style_channels: int, downsamplings: int, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        layers = [convolution(in_channels, channels, 7, activation=nn.ReLU(), spatial_dims=spatial_dims)]
        wide = channels
        for level in range(downsamplings):
            wider = 2 * wide if level < 2 else wide
            layers.append(convolution(wide, wider, 4, stride=2, activation=nn.ReLU(), spatial_dims=spatial_dims))
            wide = wider
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(wide, style_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Return the style (B, style_channels) of an image (B, in_channels, *spatial)."""
        result: Tensor = self.head(self.features(image).flatten(2).mean(2))
        return result

    if TYPE_CHECKING:
        __call__ = forward


class StyledDecoder(nn.Module):
    """Residual blocks that a style normalizes, then the way up to the image's grid.

    Args:
        out_channels: channels of the image.
        channels: channels at the image's own grid.
        upsamplings: upsampling steps from the content to the image.
        num_blocks: residual blocks.
        style_channels: length of the style.
        mlp_channels: width of the two hidden layers from the style to the scales and shifts.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        out_channels: int,
        channels: int,
        upsamplings: int,
        num_blocks: int,
        style_channels: int,
        mlp_channels: int,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        wide = channels * 2**upsamplings
        self.affine_shape = (num_blocks, AdaptiveResidualBlock.SCALES_AND_SHIFTS, wide)
        self.affine = nn.Sequential(
            nn.Linear(style_channels, mlp_channels),
            nn.ReLU(),
            nn.Linear(mlp_channels, mlp_channels),
            nn.ReLU(),
            nn.Linear(mlp_channels, num_blocks * AdaptiveResidualBlock.SCALES_AND_SHIFTS * wide),
        )
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(wide, spatial_dims) for _ in range(num_blocks))
        self.up = UpsamplingDecoder(channels, out_channels, upsamplings, spatial_dims)

    def forward(self, content: Tensor, style: Tensor) -> Tensor:
        """Return a linear image (B, out_channels, *spatial) of a content (B, C, *coarse) and a style (B, S)."""
        affine = self.affine(style).unflatten(1, self.affine_shape)
        for index, block in enumerate(self.blocks):
            content = block(content, affine[:, index])
        result: Tensor = self.up(content)
        return result

    if TYPE_CHECKING:
        __call__ = forward
