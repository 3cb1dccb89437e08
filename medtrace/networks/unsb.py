"""UNSB's networks: a generator, a discriminator and an energy that know how far along the bridge an image is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from medtrace.checks import check_network_input, check_positive, check_spatial_dims
from medtrace.networks.blocks import AdaptiveResidualBlock, UpsamplingDecoder, pad_to_multiple
from medtrace.networks.blocks.residual import DownsamplingEncoder
from medtrace.networks.cut import PatchHeads

TIME_FEATURES = 16


def time_features(time: Tensor, count: int = TIME_FEATURES) -> Tensor:
    """Cosines and sines of a time at frequencies from 1 to 1000.

    Args:
        time: (B,), in [0, 1].
        count: even.

    Returns:
        (B, count).

    Example:
        >>> time_features(torch.zeros(2), 4)
        tensor([[1., 1., 0., 0.],
                [1., 1., 0., 0.]])
    """
    rates = torch.exp(torch.linspace(0.0, math.log(1000.0), count // 2, device=time.device))
    angles = time[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class BridgeGenerator(nn.Module):
    """Guess the end of the bridge from an image on it, the time and noise.

    A 7-wide convolution, strided ones, residual blocks whose normalizations take scale and shift from time and noise,
    upsampling steps with 5-wide convolutions, and a 7-wide convolution with tanh.

    Args:
        spatial_dims: 2 or 3.
        channels_of_image: channels of source and target.
        channels: features on the image's own grid; they double with each downsampling.
        num_blocks: residual blocks, at least 1.
        downsamplings: strided convolutions.
        noise_channels: length of the noise.
        mlp_channels: width of the hidden layer from time and noise to scales and shifts.
    """

    def __init__(
        self,
        spatial_dims: int,
        channels_of_image: int,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        noise_channels: int = 64,
        mlp_channels: int = 256,
    ) -> None:
        super().__init__()
        check_positive("num_blocks", num_blocks)
        self.spatial_dims = spatial_dims
        self.channels_of_image = channels_of_image
        self.noise_channels = noise_channels
        self.stride = 2**downsamplings
        self.minimum = max(2 * self.stride, 4)  # mirrored borders
        wide = channels * self.stride
        self.down = DownsamplingEncoder(channels_of_image, channels, downsamplings, spatial_dims)
        self.affine_shape = (num_blocks, AdaptiveResidualBlock.SCALES_AND_SHIFTS, wide)
        self.affine = nn.Sequential(
            nn.Linear(TIME_FEATURES + noise_channels, mlp_channels),
            nn.ReLU(),
            nn.Linear(mlp_channels, math.prod(self.affine_shape)),
        )
        self.blocks = nn.ModuleList(AdaptiveResidualBlock(wide, spatial_dims) for _ in range(num_blocks))
        self.up = UpsamplingDecoder(channels, channels_of_image, downsamplings, spatial_dims)

    def features(self, image: Tensor, time: Tensor, noise: Tensor) -> list[Tensor]:
        """The image, what each convolution of the way down gives, and what the middle and the last block give."""
        check_network_input("image", image, self.spatial_dims, self.channels_of_image)
        maps = [pad_to_multiple(image, self.stride, minimum=self.minimum)[0]]
        inner = maps[0]
        for layer in self.down:
            inner = layer(inner)
            maps.append(inner)
        affine = self.affine(torch.cat([time_features(time), noise], dim=1)).unflatten(1, self.affine_shape)
        # Around 1 and 0, as normalization without a condition has them.
        affine = affine + affine.new_tensor([1.0, 0.0, 1.0, 0.0])[:, None]
        for number, block in enumerate(self.blocks):
            inner = block(inner, affine[:, number])
            if number in (len(self.blocks) // 2, len(self.blocks) - 1):
                maps.append(inner)
        return maps

    def forward(self, image: Tensor, time: Tensor, noise: Tensor) -> Tensor:
        """Return the guessed end (B, C, *spatial), float32 in [-1, 1].

        Args:
            image: (B, C, *spatial), on the bridge.
            time: (B,), position on the bridge, in [0, 1).
            noise: (B, noise_channels).
        """
        _, crop = pad_to_multiple(image, self.stride, minimum=self.minimum)
        return torch.tanh(crop(self.up(self.features(image, time, noise)[-1])).float())

    if TYPE_CHECKING:
        __call__ = forward


class TimedPatches(nn.Module):
    """Assess patches of an image at a time: strided 4-wide convolutions, each followed by a shift from the time.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        channels: features of the first convolution.
        num_layers: convolutions after the first.

    Example:
        >>> TimedPatches(2, 1, channels=4, num_layers=1)(torch.zeros(2, 1, 16, 16), torch.zeros(2)).shape
        torch.Size([2, 1, 4, 4])
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        kind = Conv[Conv.CONV, spatial_dims]
        widths = [in_channels, *(channels * 2**level for level in range(num_layers + 1))]
        self.minimum = 2 ** (num_layers + 1)
        self.convolutions = nn.ModuleList(kind(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.times = nn.ModuleList(nn.Linear(TIME_FEATURES, width) for width in widths[1:])
        self.head = kind(widths[-1], 1, 1)

    def forward(self, image: Tensor, time: Tensor) -> Tensor:
        """Return raw logits (B, 1, *patches) of (B, in_channels, *spatial) at the times (B,)."""
        features, _ = pad_to_multiple(image, 1, minimum=self.minimum)
        known = time_features(time)
        for convolution, shift in zip(self.convolutions, self.times, strict=True):
            moved = shift(known)
            features = convolution(features) + moved.view(*moved.shape, *[1] * (features.ndim - 2))
            features = nn.functional.leaky_relu(features, 0.2)
        result: Tensor = self.head(features)
        return result

    if TYPE_CHECKING:
        __call__ = forward


class UNSB(nn.Module):
    """A Schrödinger bridge from source to target in a few steps (Kim et al. 2024).

    From x at time t_i the generator guesses the end x₁; the next image lies between the two,

        x(t_{i+1}) = s x₁ + (1 − s) x(t_i) + √(s (1 − s) τ (1 − t_i)) ε,  s = (t_{i+1} − t_i) / (1 − t_i),

    the bridge of a Brownian motion of variance τ pinned at x₁. Times are even, t_i = i / steps.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: the same number: images of both domains are on one bridge.
        steps: steps of the bridge.
        tau: τ.
        channels: features of the generator on the image's own grid.
        num_blocks: residual blocks of the generator.
        downsamplings: strided convolutions of the generator.
        noise_channels: length of the generator's noise.
        mlp_channels: width of the hidden layer from time and noise to scales and shifts.
        head_features: width of the heads that compare positions.
        discriminator_channels: features of the first convolution of discriminator and energy.
        discriminator_layers: convolutions of both after the first.

    Raises:
        ValueError: if source and target have unequal channels, or an argument is outside its range.

    Example:
        >>> sizes = {"channels": 4, "num_blocks": 1, "noise_channels": 4, "head_features": 8}
        >>> network = UNSB(2, 1, 1, steps=2, discriminator_channels=4, **sizes)
        >>> network(torch.zeros(1, 1, 16, 16)).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        steps: int = 5,
        tau: float = 0.01,
        channels: int = 64,
        num_blocks: int = 9,
        downsamplings: int = 2,
        noise_channels: int = 64,
        mlp_channels: int = 256,
        head_features: int = 256,
        discriminator_channels: int = 64,
        discriminator_layers: int = 3,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_positive("steps", steps)
        check_positive("tau", tau)
        if in_channels != out_channels:
            raise ValueError(
                f"out_channels: expected in_channels={in_channels}, as a bridge leads from image to image, received"
                f" {out_channels}; use a method for unequal channels, such as gcgan or cyclegan"
            )
        self.steps = steps
        self.tau = tau
        self.generator = BridgeGenerator(
            spatial_dims, in_channels, channels, num_blocks, downsamplings, noise_channels, mlp_channels
        )
        self.stride = self.generator.stride
        bottom = channels * 2**downsamplings
        blocks = len({num_blocks // 2, num_blocks - 1})
        widths = (in_channels, *(channels * 2**level for level in range(downsamplings + 1)), *[bottom] * blocks)
        self.heads = PatchHeads(widths, head_features)
        self.discriminator = TimedPatches(spatial_dims, out_channels, discriminator_channels, discriminator_layers)
        # It reads two pairs (x(t), x₁), concatenated.
        self.energy = TimedPatches(spatial_dims, 4 * in_channels, discriminator_channels, discriminator_layers)

    def time(self, step: int, like: Tensor) -> Tensor:
        """t_i for each item of a batch, (B,)."""
        return torch.full((len(like),), step / self.steps, device=like.device)

    def guess(self, image: Tensor, step: int, noise: Tensor | None = None) -> Tensor:
        """x₁ from x(t_i); without a noise (B, noise_channels), one by torch's global generator."""
        if noise is None:
            noise = torch.randn(len(image), self.generator.noise_channels, device=image.device)
        return self.generator(image, self.time(step, image), noise)

    def onward(self, image: Tensor, end: Tensor, step: int, noise: Tensor) -> Tensor:
        """x(t_{i+1}) from x(t_i), the guessed end and unit noise of their shape."""
        fraction = 1 / (self.steps - step)
        spread = math.sqrt(fraction * (1 - fraction) * self.tau * (1 - step / self.steps))
        return fraction * end + (1 - fraction) * image + spread * noise

    def walk(
        self, source: Tensor, steps: int, draw: Callable[[Sequence[int]], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """x(t_steps) and the last guess of the end, from x(0) = source.

        Args:
            source: (B, C, *spatial) in [-1, 1].
            steps: how many, 0 to the bridge's steps; 0 gives the source twice.
            draw: a shape (B, ...) → unit noise of it; by default torch's global generator.
        """
        draw = draw or (lambda shape: torch.randn(*shape, device=source.device))
        image = end = source
        for step in range(steps):
            noise = draw((len(source), self.generator.noise_channels))
            end = self.guess(image, step, noise)
            image = self.onward(image, end, step, draw(tuple(source.shape)))
        return image, end

    def forward(self, source: Tensor) -> Tensor:
        """Translate (B, C, *spatial) in [-1, 1] by all steps, with noise of torch's global generator."""
        return self.walk(source, self.steps)[1]

    if TYPE_CHECKING:
        __call__ = forward
