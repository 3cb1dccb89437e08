"""Noise levels of a diffusion's steps, and addition of noise at these levels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medtrace.checks import check_batched, check_extremes, check_positive, check_same_shape


class NoiseSchedule(nn.Module):
    """Noise levels γ_k = ∏_{i≤k} (1 − β_i) with β rising linearly (Plasticine, Eq. A.1-A.3, and Section III-C).

    At level γ an image is √γ·image + √(1−γ)·noise: γ_0 = 1 is the image itself and, by default, √γ_2000 = 0.0066, so
    hardly anything of the image is left.

    The levels are float64 and stay on the CPU: they are not buffers, so neither `.half()` nor `.to(bfloat16)` of a
    module around them rounds them off, and a checkpoint holds none. They are a function of the three arguments.

    Args:
        steps: K, the number of steps.
        first_beta: β_1, the variance that the first step adds.
        last_beta: β_K, the variance that the last step adds.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> schedule = NoiseSchedule(steps=2000)
        >>> [round(float(gamma), 4) for gamma in schedule.levels(4)]
        [0.0, 0.0036, 0.0818, 0.5353, 1.0]
    """

    gammas: Tensor
    """(K + 1,) float64, falling from γ_0 = 1 to γ_K."""

    def __init__(self, steps: int = 2000, first_beta: float = 1e-6, last_beta: float = 1e-2) -> None:
        super().__init__()
        check_positive("steps", steps)
        if not 0 < first_beta <= last_beta < 1:
            raise ValueError(
                f"first_beta, last_beta: expected 0 < first_beta <= last_beta < 1, received {first_beta!r} and"
                f" {last_beta!r}"
            )
        self.steps = steps
        betas = torch.linspace(first_beta, last_beta, steps, dtype=torch.float64)
        self.gammas = torch.cat([torch.ones(1, dtype=torch.float64), torch.cumprod(1 - betas, dim=0)])

    def draw(
        self, count: int, device: torch.device | str | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw continuous noise levels for training.

        k is uniform in 1..K and γ uniform between γ_k and γ_{k−1}, as in WaveGrad (Chen et al. 2020) and SR3 (Saharia
        et al. 2022): the network meets every level, not only K of them, and a sampler may choose any.

        Args:
            count: how many.
            device: where the result goes. Sampling itself is on the CPU, so it is the same on every device.
            generator: a generator of the CPU; torch's global one by default.

        Returns:
            (count,) float32 in [γ_K, 1].
        """
        index = torch.randint(1, self.steps + 1, (count,), generator=generator)
        fraction = torch.rand(count, generator=generator, dtype=torch.float64)
        low, high = self.gammas[index], self.gammas[index - 1]
        return (low + fraction * (high - low)).to(device=device, dtype=torch.float32)

    def levels(self, steps: int, start: float = 1.0, spacing: float = 1.0) -> Tensor:
        """Levels of a sampler that takes `steps` steps, from the noisiest to γ_0 = 1.

        They are γ at the indices max(round(round(start·K)·s^spacing), remaining steps) for evenly spaced s from 1 to 0:
        with `spacing` 1 evenly spaced over the schedule, or over the part of it below the starting level. `steps` = K
        and `start` = 1 give all levels of the schedule.

        Args:
            steps: how many steps, at most round(start·K).
            start: fraction of the schedule to start from, in (0, 1]; 1 starts at γ_K.
            spacing: exponent, at least 1. Above 1, levels are denser where there is little noise, so the last step,
                whose noise remains in the image, is smaller.

        Returns:
            (steps + 1,) float64, rising from γ_{round(start·K)} to 1, on the CPU.

        Raises:
            ValueError: if an argument is outside its range.
        """
        if not 0 < start <= 1:
            raise ValueError(f"start: expected a fraction of the schedule in (0, 1], received {start!r}")
        first = round(start * self.steps)
        if not 1 <= steps <= first:
            raise ValueError(
                f"steps: expected 1 to {first}, the schedule's steps from start {start!r} on, received {steps!r};"
                " take fewer steps or a longer schedule"
            )
        if not spacing >= 1:
            raise ValueError(f"spacing: expected an exponent of at least 1, received {spacing!r}")
        remaining = torch.arange(steps, -1, -1, dtype=torch.float64)
        indices = (first * (remaining / steps) ** spacing).round().maximum(remaining)
        return self.gammas[indices.long()]

    def extra_repr(self) -> str:
        """The arguments shown when the module is printed."""
        return f"steps={self.steps}, last gamma={float(self.gammas[-1]):.3g}"


def add_noise(image: Tensor, noise: Tensor, gamma: Tensor) -> Tensor:
    """√γ·image + √(1−γ)·noise (Plasticine, Eq. A.5).

    Args:
        image: (B, C, *spatial), in [-1, 1].
        noise: noise of the same shape, standard normal.
        gamma: (B,) in [0, 1], the level of each case.

    Returns:
        (B, C, *spatial), float32 (float64 for a float64 image), also inside autocast.

    Raises:
        TypeError: if a tensor is of the wrong type.
        ValueError: if the shapes do not fit each other or a level leaves [0, 1].

    Example:
        >>> image, noise = torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), 0.5)
        >>> add_noise(image, noise, torch.tensor([1.0, 0.64]))[:, 0, 0, 0]
        tensor([1.0000, 1.1000])
    """
    check_batched("image", image)
    check_batched("noise", noise)
    check_same_shape("image", image, "noise", noise)
    check_levels(gamma, image.shape[0])
    dtype = torch.promote_types(image.dtype, torch.float32)
    level = gamma.to(device=image.device, dtype=torch.promote_types(gamma.dtype, dtype))
    level = level.reshape(-1, *[1] * (image.ndim - 1))
    return level.sqrt().to(dtype) * image.to(dtype) + (1 - level).sqrt().to(dtype) * noise.to(dtype)


def check_levels(gamma: Tensor, count: int) -> None:
    """Check that `gamma` is one noise level in [0, 1] for each of `count` cases."""
    if not isinstance(gamma, Tensor) or not gamma.is_floating_point():
        kind = gamma.dtype if isinstance(gamma, Tensor) else type(gamma).__name__
        raise TypeError(f"gamma: expected a floating-point tensor of noise levels, received {kind}")
    if gamma.shape != (count,):
        raise ValueError(
            f"gamma: expected shape ({count},), one noise level per case, received {tuple(gamma.shape)};"
            " expand a common level"
        )
    check_extremes(gamma, _assess_levels)


def _assess_levels(low: float, high: float) -> None:
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"gamma: expected noise levels in [0, 1], received {low:g} to {high:g}; pass NoiseSchedule's gammas, not"
            " indices of steps"
        )
