"""NICE-GAN: no independent component for encoding, because the discriminators' first layers encode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from monai.networks.layers.factories import Conv
from monai.networks.utils import pixelshuffle
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from medtrace.checks import check_choice, check_network_input, check_positive, check_spatial_dims
from medtrace.networks.backbone import Code, Domain, TranslationBackbone
from medtrace.networks.blocks.class_activation import ClassActivationAttention
from medtrace.networks.blocks.padding import pad_to_multiple

SLOPE = 0.2


class AdaptiveLayerInstanceNorm(nn.Module):
    """Normalize per channel and per image, blend the two, and give the result a scale and a shift.

    scale · (ρ · IN(z) + (1 − ρ) · LN(z)) + shift (U-GAT-IT, Eq. 1): IN takes the mean and variance of each channel
    over the grid, LN those over channels and grid together. Both are affine per channel, so the blend is applied
    at once. ρ in [0, 1] is trained per channel.

    Deviations: ρ is the sigmoid of one trained number where the authors' code has a softmax of two, which reaches
    the same values (U-GAT-IT clips instead); the variances are the biased ones.

    Args:
        channels: channels of the features.
        rho: where ρ starts, between 0 and 1.
        eps: keeps constant features finite.
    """

    def __init__(self, channels: int, rho: float = 0.9, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.rho_logit = nn.Parameter(torch.logit(torch.full((channels,), rho)))

    def forward(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return features of the shape of `features`.

        Args:
            features: (B, C, *spatial).
            scale: (B, C) or (C,).
            shift: (B, C) or (C,).
        """
        rho = torch.sigmoid(self.rho_logit)
        variance, mean = torch.var_mean(features.to(rho.dtype).flatten(2), 2, correction=0)
        # Variance over all = mean of the variances + variance of the means.
        image_mean = mean.mean(1, keepdim=True)
        image_variance = variance.mean(1, keepdim=True) + mean.var(1, correction=0, keepdim=True)
        by_channel = rho * torch.rsqrt(variance + self.eps)
        by_image = (1 - rho) * torch.rsqrt(image_variance + self.eps)
        factor = scale * (by_channel + by_image)
        offset = shift - scale * (by_channel * mean + by_image * image_mean)
        each = (*factor.shape, *[1] * (features.ndim - 2))
        return features * factor.view(each) + offset.view(each)

    if TYPE_CHECKING:
        __call__ = forward


class LayerInstanceNorm(nn.Module):
    """The same blend with its own scale and shift, starting near layer normalization.

    Args:
        channels: channels of the features.
        rho: where ρ starts, between 0 and 1.
    """

    def __init__(self, channels: int, rho: float = 0.1) -> None:
        super().__init__()
        self.blend = AdaptiveLayerInstanceNorm(channels, rho)
        self.scale = nn.Parameter(torch.ones(channels))
        self.shift = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the shape of `features`, (B, C, *spatial)."""
        return self.blend(features, self.scale, self.shift)

    if TYPE_CHECKING:
        __call__ = forward


class NICEGenerator(nn.Module):
    """Make an image from the latent of a discriminator's encoder (NICE-GAN, Section 3.2 and its light version).

    A 3-wide convolution; residual blocks whose two normalizations take one scale and one shift from two linear
    layers on the pooled features; sub-pixel upsampling of the grid; a 7-wide convolution and tanh.

    The authors' full version reads scale and shift from all pixels, which ties the network to one grid and adds a
    layer of 268 million weights at 256 x 256; this is their light version, which reads the mean.

    Args:
        latent_channels: channels of the latent.
        out_channels: channels of the image.
        channels: features on the image's grid.
        num_blocks: residual blocks.
        doublings: how often the latent's grid is doubled.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        latent_channels: int,
        out_channels: int,
        channels: int,
        num_blocks: int,
        doublings: int,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__()
        wide = channels * 2**doublings
        self.entry = nn.Sequential(
            _reflecting(latent_channels, wide, 3, bias=True, spatial_dims=spatial_dims),
            LayerInstanceNorm(wide),
            nn.ReLU(),
        )
        self.reading = nn.Sequential(
            nn.Linear(wide, wide, bias=False), nn.ReLU(), nn.Linear(wide, wide, bias=False), nn.ReLU()
        )
        self.scale = nn.Linear(wide, wide, bias=False)
        self.shift = nn.Linear(wide, wide, bias=False)
        self.blocks = nn.ModuleList(_AdaptiveBlock(wide, spatial_dims) for _ in range(num_blocks))
        self.doublings = nn.Sequential(
            *(_doubling(channels * 2**level, spatial_dims) for level in range(doublings, 0, -1))
        )
        self.head = _reflecting(channels, out_channels, 7, spatial_dims=spatial_dims)

    def forward(self, latent: Tensor) -> Tensor:
        """Return images (B, out_channels, *grid) float32 in [-1, 1] of latents (B, latent_channels, *coarse)."""
        features = self.entry(latent)
        read = self.reading(features.flatten(2).mean(2))
        scale, shift = self.scale(read), self.shift(read)
        for block in self.blocks:
            features = block(features, scale, shift)
        return torch.tanh(self.head(self.doublings(features)).float())

    if TYPE_CHECKING:
        __call__ = forward


class NICEDiscriminator(nn.Module):
    """Encode an image and assess it at several scales; the encoder is what a generator decodes from.

    Strided 4-wide convolutions that double the features and residual class-activation attention are the encoder.
    From its latent a trunk of further strided convolutions leads to one classifier after the other: a 4-wide
    convolution and another to one logit per patch. With the defaults the attention's classifier sees patches of
    10 x 10 pixels before it pools them, the others 70 x 70 and 286 x 286: the paper's three scales (NICE-GAN,
    Section 3.2). Every weight but the attention's mixing has a spectral norm.

    Args:
        in_channels: channels of the image.
        channels: features of the first convolution.
        downsamplings: strided convolutions of the encoder.
        layers: strided convolutions of the trunk before each classifier, after the preceding classifier.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, in_channels: int, channels: int, downsamplings: int, layers: Sequence[int], spatial_dims: int = 2
    ) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.stride = 2**downsamplings
        wide = channels * 2 ** (downsamplings - 1)
        widths = (in_channels, *(channels * 2**level for level in range(downsamplings)))
        self.encoder = nn.Sequential(
            *(_assessing(before, after, 2, spatial_dims) for before, after in pairwise(widths))
        )
        self.attention = ClassActivationAttention(wide, SLOPE, spatial_dims)
        self.latent_channels = wide
        self.trunk = nn.ModuleList()
        self.classifiers = nn.ModuleList()
        for downsampling in layers:
            steps = [wide * 2**level for level in range(downsampling + 1)]
            self.trunk.append(
                nn.Sequential(*(_assessing(before, after, 2, spatial_dims) for before, after in pairwise(steps)))
            )
            wide = steps[-1]
            last = Conv[Conv.CONV, spatial_dims](2 * wide, 1, 4, padding=1, padding_mode="reflect", bias=False)
            self.classifiers.append(nn.Sequential(_assessing(wide, 2 * wide, 1, spatial_dims), spectral_norm(last)))
        self.downsampling = tuple(layers)

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent (B, latent_channels, *coarse) of an image (B, in_channels, *spatial).

        Grids that the strides do not divide, and those that leave fewer than two pixels, are padded with their
        border values.
        """
        return self._attended(image)[0]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Assess an image (B, in_channels, *spatial).

        Returns:
            Raw logits (B, 1, *patches) of the classifiers, the finest first, and last those of the attention's
            classifier (B, 1, 1, 1).
        """
        features, activation_logits = self._attended(image)
        logits = []
        for downsampling, trunk, classifier in zip(self.downsampling, self.trunk, self.classifiers):
            # A reflection needs two pixels, and the classifier's first convolution takes one away.
            features = trunk(pad_to_multiple(features, 1, minimum=3 * 2**downsampling)[0])
            logits.append(classifier(features))
        return [*logits, activation_logits]

    if TYPE_CHECKING:
        __call__ = forward

    def _attended(self, image: Tensor) -> tuple[Tensor, Tensor]:
        check_network_input("image", image, self.spatial_dims, self.in_channels)
        padded, _ = pad_to_multiple(image, self.stride, minimum=_least(self.stride))
        return self.attention(self.encoder(padded))


class NICEGAN(TranslationBackbone):
    """Two generators that decode from the encoders of two discriminators (Chen et al., CVPR 2020).

    Without `bidirectional` there is one of each. `encode` runs the first layers of the domain's discriminator, so
    `encoders` is empty. Training is decoupled as in the paper's Section 3.3: while the generators learn, the
    discriminators' parameters do not (the trainer holds them fixed in every turn that is not theirs), yet
    gradients pass through an encoder to the image it was shown; only the discriminators' turn trains it. The term
    "reconstruction" is the paper's: the L1 of an image coded and decoded within its domain, with the cycle's weight.

    `discriminate` returns the logits of the classifiers, and last those of the class-activation classifier. The
    paper adds the adversarial terms of all three; their mean is a third of it.

    Without `bidirectional` there is no discriminator of the source domain, and that of the target domain encodes the
    sources; RegGAN, which uses NICE-GAN this way, does not say how. Source and target then need the same number of
    channels. With `bidirectional`, both discriminators must be trained, even when only one direction is requested.

    Published in 2D. In 3D the 4-wide kernels of a discriminator (47 million weights in 2D) have four times as many.

    Args:
        spatial_dims: 2, as published, or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target is translated to the source too.
        channels: a generator's features on the image's grid.
        num_blocks: residual blocks of a generator.
        downsamplings: strided convolutions of an encoder, at least 1.
        discriminator_channels: features of a discriminator's first convolution.
        discriminator_layers: strided convolutions before each classifier, after the preceding classifier; one entry per
            scale. (1, 2) are the 70- and the 286-pixel patches.

    Raises:
        TypeError: if `discriminator_layers` is not a sequence.
        ValueError: if an argument is outside its range.

    Example:
        >>> network = NICEGAN(2, 1, 1, channels=4, num_blocks=1, discriminator_channels=4)
        >>> network(torch.zeros(1, 1, 32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """

    internal_weights: ClassVar[Mapping[str, float]] = {"reconstruction": 10.0}

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        bidirectional: bool = True,
        channels: int = 64,
        num_blocks: int = 6,
        downsamplings: int = 2,
        discriminator_channels: int = 64,
        discriminator_layers: Sequence[int] = (1, 2),
    ) -> None:
        super().__init__(spatial_dims, in_channels, out_channels, bidirectional)
        check_spatial_dims(spatial_dims)
        if not bidirectional and in_channels != out_channels:
            raise ValueError(
                "in_channels, out_channels: expected equal numbers without bidirectional, because the target's"
                f" discriminator encodes the source, received {in_channels} and {out_channels}; set bidirectional=True"
            )
        _check_sizes(
            {
                "in_channels": in_channels,
                "out_channels": out_channels,
                "channels": channels,
                "downsamplings": downsamplings,
                "discriminator_channels": discriminator_channels,
            },
            num_blocks,
            discriminator_layers,
        )
        for domain in self.decoded_domains:
            assess = NICEDiscriminator(
                self.channels_of(domain), discriminator_channels, downsamplings, discriminator_layers, spatial_dims
            )
            self.discriminators[domain] = assess
            self.decoders[domain] = NICEGenerator(
                assess.latent_channels, self.channels_of(domain), channels, num_blocks, downsamplings, spatial_dims
            )

    def encode(self, image: Tensor, domain: Domain) -> Code:
        """Code an image (B, C, *spatial) of `domain`, in [-1, 1], by the first layers of a discriminator.

        Raises:
            TypeError, ValueError: if the image does not fit the network, or `domain` is unknown.
        """
        check_choice("domain", domain, ("source", "target"))
        assess = self.discriminators[domain if domain in self.discriminators else "target"]
        return Code(cast(NICEDiscriminator, assess).encode(image), shape=tuple(image.shape[2:]))

    def decode(self, code: Code, domain: Domain) -> Tensor:
        """Make an image (B, C, *spatial) of `domain`, float32 in [-1, 1], on the grid of the image that was coded.

        Raises:
            ValueError: if there is no decoder of `domain`.
        """
        if domain not in self.decoders:
            raise ValueError(
                f"domain: expected one of {', '.join(map(repr, self.decoders))}, received {domain!r}; build the"
                " network with bidirectional=True"
            )
        return code.cropped(self.decoders[domain](code.content))


class _AdaptiveBlock(nn.Module):
    """A residual block whose normalizations take one scale and one shift from outside."""

    def __init__(self, channels: int, spatial_dims: int) -> None:
        super().__init__()
        self.first = _reflecting(channels, channels, 3, spatial_dims=spatial_dims)
        self.first_norm = AdaptiveLayerInstanceNorm(channels)
        self.second = _reflecting(channels, channels, 3, spatial_dims=spatial_dims)
        self.second_norm = AdaptiveLayerInstanceNorm(channels)

    def forward(self, features: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        changed = torch.relu(self.first_norm(self.first(features), scale, shift))
        return features + self.second_norm(self.second(changed), scale, shift)


class _Shuffle(nn.Module):
    """Channels to places: 2^dims of them become a block of voxels."""

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = pixelshuffle(features, features.ndim - 2, 2)
        return result


def _doubling(channels: int, spatial_dims: int) -> nn.Sequential:
    """Halve the features and double the grid, by sub-pixel convolution."""
    half = channels // 2
    return nn.Sequential(
        _reflecting(channels, half, 3, spatial_dims=spatial_dims),
        LayerInstanceNorm(half),
        nn.ReLU(),
        Conv[Conv.CONV, spatial_dims](half, 2**spatial_dims * half, kernel_size=1),
        _Shuffle(),
        LayerInstanceNorm(half),
        nn.ReLU(),
    )


def _reflecting(before: int, after: int, kernel_size: int, bias: bool = False, spatial_dims: int = 2) -> nn.Module:
    result: nn.Module = Conv[Conv.CONV, spatial_dims](
        before, after, kernel_size, padding=kernel_size // 2, padding_mode="reflect", bias=bias
    )
    return result


def _assessing(before: int, after: int, stride: int, spatial_dims: int) -> nn.Sequential:
    """A 4-wide convolution of a discriminator: halves an even grid, or takes one pixel away at stride 1."""
    convolution = Conv[Conv.CONV, spatial_dims](
        before, after, kernel_size=4, stride=stride, padding=1, padding_mode="reflect"
    )
    return nn.Sequential(spectral_norm(convolution), nn.LeakyReLU(SLOPE))


def _least(stride: int) -> int:
    """The least grid: two latent pixels to normalize over, and the three that a 7-wide kernel reflects."""
    return max(4, 2 * stride)


def _check_sizes(positive: Mapping[str, int], num_blocks: int, layers: Sequence[int]) -> None:
    for name, value in positive.items():
        check_positive(name, value)
    if num_blocks < 0:
        raise ValueError(f"num_blocks: expected 0 or more, received {num_blocks!r}")
    if not isinstance(layers, Sequence):
        raise TypeError(
            "discriminator_layers: expected a sequence, the strided convolutions before each classifier, received"
            f" {layers!r}; the published one is (1, 2)"
        )
    if not layers or min(layers) < 0:
        raise ValueError(f"discriminator_layers: expected one or more numbers of at least 0, received {layers!r}")
