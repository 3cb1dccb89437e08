"""The network that finds the noise in a noisy image: MONAI's diffusion U-Net told the noise level and a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock
from torch import Tensor, nn

from medtrace.checks import (
    check_batched,
    check_choice,
    check_network_input,
    check_positive,
    check_same_grid,
    check_spatial_dims,
)
from medtrace.networks.blocks import pad_to_multiple
from medtrace.networks.blocks.haar import on_half_grid
from medtrace.networks.diffusion_schedule import check_levels as check_noise_levels

LEVEL_SCALE = 1000.0
PREDICTIONS = ("noise", "velocity")


class NoiseEstimator(nn.Module):
    """ε̂ = ε_θ(√γ·y + √(1−γ)·ε, γ, condition), the noise in a noisy image (Plasticine, Eq. 1; Fig. 13, left).

    MONAI's `DiffusionModelUNet`: at each level of `channels`, residual blocks of group normalization, SiLU and 3-wide
    convolutions; a strided convolution down, nearest-neighbor interpolation up; skip connections. The condition is a
    further channel of the input. The last convolution starts at zero, so the untrained network estimates no noise (or
    no velocity). Grids that 2^(levels − 1) does not divide are padded with their border values and the result cropped
    back.

    The noise level enters as 1000·√γ: the sinusoids of MONAI's embedding are made for steps 0 to 1000 and hardly tell
    numbers in [0, 1] apart. They accept fractions.

    The paper's size is not stated beyond four levels; it follows Palette (Saharia et al. 2022): the default `channels`
    (64, 128, 256, 512) with 2 residual blocks and attention at low resolution, and dropout 0.2. MONAI's middle block
    always attends, regardless of `attention_levels`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: channels of the image.
        condition_channels: channels of the condition; 0 for an unconditional model, as DDIB's.
        channels: features of each level, finest first; multiples of `norm_groups`.
        residual_blocks: blocks of each level on the way down (one more on the way up).
        attention_levels: whether each level attends to all of its voxels; by default the coarsest alone does.
        head_channels: features of each head of attention; divides the features of every level that attends.
        norm_groups: groups of the normalization.
        prediction: what the U-Net gives: the "noise" itself, as in the paper; or the "velocity" v = √γ·ε − √(1−γ)·y
            (Salimans & Ho 2022), from which the noise is √γ·v + √(1−γ)·noisy. An error of v changes the clean image
            that a sampler aims at by as much; an error of ε by 1/√γ times as much, 150 times at the schedule's end.
        dropout: fraction of the features left out while training, before each residual block's second convolution.
            MONAI's network has none there; it is added.
        wavelet: run the U-Net on Haar bands: half the resolution, 2^spatial_dims times the channels. Each level then
            costs a quarter (2D) or an eighth (3D), so that volumes fit into memory.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> network = NoiseEstimator(2, 1, channels=(8, 8), head_channels=4, norm_groups=4, residual_blocks=1)
        >>> noisy, condition = torch.zeros(2, 2, 1, 16, 16)
        >>> network(noisy, torch.tensor([0.9, 0.1]), condition).shape
        torch.Size([2, 1, 16, 16])
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        condition_channels: int = 1,
        channels: Sequence[int] = (64, 128, 256, 512),
        residual_blocks: int = 2,
        attention_levels: Sequence[bool] | None = None,
        head_channels: int = 32,
        norm_groups: int = 32,
        dropout: float = 0.0,
        prediction: Literal["noise", "velocity"] | str = "noise",
        wavelet: bool = False,
    ) -> None:
        super().__init__()
        check_spatial_dims(spatial_dims)
        check_choice("prediction", prediction, PREDICTIONS)
        if condition_channels < 0:
            raise ValueError(f"condition_channels: expected 0 or more, received {condition_channels!r}")
        for name, value in (
            ("in_channels", in_channels),
            ("residual_blocks", residual_blocks),
            ("head_channels", head_channels),
            ("norm_groups", norm_groups),
        ):
            check_positive(name, value)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a fraction in [0, 1), received {dropout!r}")
        attends = _attending(channels, attention_levels, head_channels, norm_groups)
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.condition_channels = condition_channels
        self.prediction = prediction
        self.wavelet = wavelet
        self.stride = 2 ** (len(channels) - 1 + wavelet)
        bands = 2**spatial_dims if wavelet else 1
        self.unet = DiffusionModelUNet(
            spatial_dims=spatial_dims,
            in_channels=bands * (in_channels + condition_channels),
            out_channels=bands * in_channels,
            num_res_blocks=residual_blocks,
            channels=tuple(channels),
            attention_levels=attends,
            norm_num_groups=norm_groups,
            num_head_channels=head_channels,
            use_flash_attention=True,
        )
        if dropout:
            _add_dropout(self.unet, dropout)

    def forward(self, noisy: Tensor, gamma: Tensor, condition: Tensor | None = None) -> Tensor:
        """Estimate the noise in a batch.

        Args:
            noisy: (B, in_channels, *spatial), √γ·image + √(1−γ)·noise.
            gamma: (B,) in [0, 1], the noise level of each case.
            condition: (B, condition_channels, *spatial), such as a structure map; None if the network takes none.

        Returns:
            The noise, of the shape of `noisy`, float32 (float64 for float64), also inside autocast.

        Raises:
            TypeError: if a tensor is of the wrong type.
            ValueError: if a shape does not fit the network or the batch, or a level leaves [0, 1].
        """
        check_network_input("noisy", noisy, self.spatial_dims, self.in_channels)
        check_noise_levels(gamma, noisy.shape[0])
        padded, crop = pad_to_multiple(self._with_condition(noisy, condition), self.stride)
        level = LEVEL_SCALE * gamma.to(device=noisy.device, dtype=torch.float32).sqrt()
        if self.wavelet:
            result = crop(on_half_grid(lambda bands: self.unet(bands, timesteps=level), padded))
        else:
            result = crop(self.unet(padded, timesteps=level))
        result = result.to(torch.promote_types(result.dtype, torch.float32))
        if self.prediction == "noise":
            return result
        fraction = gamma.to(result).reshape(-1, *[1] * (result.ndim - 1))
        return fraction.sqrt() * result + (1 - fraction).sqrt() * noisy.to(result)

    if TYPE_CHECKING:
        __call__ = forward

    def _with_condition(self, noisy: Tensor, condition: Tensor | None) -> Tensor:
        if self.condition_channels == 0:
            if condition is not None:
                raise ValueError("condition: expected None, since the network has condition_channels=0; leave it out")
            return noisy
        if condition is None:
            raise ValueError(
                f"condition: expected {self.condition_channels} channel(s), received None; pass it or build the network"
                " with condition_channels=0"
            )
        check_batched("condition", condition, channels=self.condition_channels)
        check_same_grid("noisy", noisy, "condition", condition)
        return torch.cat([noisy, condition.to(noisy.dtype)], dim=1)


def _attending(
    channels: Sequence[int], attention_levels: Sequence[bool] | None, head_channels: int, norm_groups: int
) -> tuple[bool, ...]:
    if not channels:
        raise ValueError("channels: expected at least one level, received none")
    if any(width <= 0 or width % norm_groups for width in channels):
        raise ValueError(
            f"channels: expected multiples of norm_groups={norm_groups}, received {tuple(channels)}; change either"
        )
    coarsest = tuple(level == len(channels) - 1 for level in range(len(channels)))
    attends = coarsest if attention_levels is None else tuple(attention_levels)
    if len(attends) != len(channels):
        raise ValueError(
            f"attention_levels: expected {len(channels)} entries, one per level, received {tuple(attends)}"
        )
    # The middle block attends on the coarsest level whatever the levels do.
    for width, attending in zip(channels, (*attends[:-1], True)):
        if attending and width % head_channels:
            raise ValueError(
                f"head_channels: expected a divisor of each attending level's features, received {head_channels} for"
                f" {width} features"
            )
    return attends


def _add_dropout(unet: nn.Module, fraction: float) -> None:
    for block in list(unet.modules()):
        if isinstance(block, DiffusionUNetResnetBlock):
            block.conv2 = nn.Sequential(nn.Dropout(fraction), block.conv2)
