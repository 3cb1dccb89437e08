"""From noise to an image and back, by a network that estimates noise: one stochastic and two deterministic samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from medtrace.checks import check_batched, check_choice, check_same_shape
from medtrace.networks.diffusion_schedule import add_noise

SAMPLERS = ("ancestral", "ddim", "dpm_solver")

Predict = Callable[[Tensor, Tensor], Tensor]
"""predict(noisy, gamma) -> noise: (B, C, *spatial) and (B,) float32 to (B, C, *spatial)."""


class Intermediate(NamedTuple):
    """An intermediate state of a sampler."""

    step: int
    """Steps taken so far: 0 is the start."""
    gamma: float
    """The noise level, γ."""
    image: Tensor
    """(B, C, *spatial), as noisy as γ says."""


class Denoised(NamedTuple):
    """The end of a sampler, and the kept intermediate states."""

    image: Tensor
    """(B, C, *spatial) at the last noise level."""
    intermediates: list[Intermediate]
    """One for each kept step, in order."""


@torch.no_grad()
def denoise(
    predict: Predict,
    noisy: Tensor,
    gammas: Tensor,
    sampler: Literal["ancestral", "ddim", "dpm_solver"] | str = "ancestral",
    generators: Sequence[torch.Generator] | None = None,
    *,
    clip: tuple[float, float] | None = None,
    keep: Collection[int] = (),
    progress: str | None = None,
) -> Denoised:
    """Move a batch from a noisy level to a cleaner one, without gradient.

    With α = γ/γ' for a step from level γ to the cleaner γ', and ŷ = (y − √(1−γ)·ε̂)/√γ the clean image it suggests:

    - "ancestral": y' = (y − (1−α)/√(1−γ)·ε̂)/√α + √(1−α)·z, z standard normal and 0 in the last step (Plasticine,
      Algorithm 1; DDPM with the larger of its two variances). Made for many steps.
    - "ddim": y' = √γ'·ŷ + √(1−γ')·ε̂ (Song et al. 2021, η = 0): Euler's method, of first order in the number of steps.
    - "dpm_solver": DPM-Solver++(2M) (Lu et al. 2022): y' = (σ'/σ)·y − √γ'·(e^{−h} − 1)·D with σ² = 1 − γ,
      λ = log(√γ/σ), h = λ' − λ, and D extrapolated from the last two ŷ; of second order. The first step and a last
      one to γ' = 1, where λ is infinite, take D = ŷ.

    The samplers of MONAI and diffusers look levels up in a table of integer steps; these take any γ, as the networks
    here do. Coefficients are float64. Noise is sampled case by case on the CPU, so a case's result does not depend on
    its batch, as far as `predict` does not.

    Args:
        predict: (noisy, gamma) -> noise, the noise in a batch at levels (B,).
        noisy: (B, C, *spatial), at level gammas[0].
        gammas: (steps + 1,) rising noise levels in (0, 1], such as `NoiseSchedule.levels`.
        sampler: "ancestral", "ddim" or "dpm_solver".
        generators: one CPU generator per case; only the ancestral sampler needs them.
        clip: range to which ŷ is clipped before each step, ε̂ changed to fit; the paper has none.
        keep: steps whose images to keep, from 0, the start, to `steps`, the result.
        progress: label of a progress bar; None for no bar.

    Returns:
        The image at level gammas[-1], float32 (float64 for float64), and the kept intermediate images.

    Raises:
        TypeError: if a tensor is of the wrong type.
        ValueError: if an argument is outside its range or generators are missing.

    Example:
        >>> from medtrace.networks import NoiseSchedule
        >>> schedule = NoiseSchedule(steps=20)
        >>> clean = torch.full((1, 1, 4, 4), 0.5)
        >>> def oracle(noisy, gamma):
        ...     return (noisy - gamma.sqrt() * clean) / (1 - gamma).sqrt()
        ...
        >>> result = denoise(oracle, torch.randn(1, 1, 4, 4), schedule.levels(4), sampler="ddim")
        >>> bool(torch.allclose(result.image, clean, atol=1e-4))
        True
    """
    check_batched("noisy", noisy)
    check_choice("sampler", sampler, SAMPLERS)
    levels = _check_gammas(gammas)
    steps = len(levels) - 1
    if sampler == "ancestral":
        generators = _check_generators(generators, noisy.shape[0])
    if clip is not None and not clip[0] < clip[1]:
        raise ValueError(f"clip: expected (low, high) with low < high, received {clip!r}")
    if any(not 0 <= step <= steps for step in keep):
        raise ValueError(f"keep: expected steps from 0 to {steps}, received {sorted(keep)}")
    image = noisy.to(torch.promote_types(noisy.dtype, torch.float32))
    intermediates = [Intermediate(0, levels[0], image)] if 0 in keep else []
    previous: Tensor | None = None
    for step in tqdm(range(1, steps + 1), desc=progress, disable=None if progress else True, leave=False):
        level, cleaner = levels[step - 1], levels[step]
        noise, clean = _estimate(predict, image, level, clip)
        if cleaner == 1:
            # Where every sampler ends, without rounding: a clipped image stays in its range.
            image = clean
        elif sampler == "ancestral":
            image = _ancestral_step(image, noise, level, cleaner)
            if step < steps:
                image = image + math.sqrt(1 - level / cleaner) * draw_noise(image, generators)
        elif sampler == "ddim":
            image = math.sqrt(cleaner) * clean + math.sqrt(1 - cleaner) * noise
        else:
            image = _solver_step(image, clean, previous, levels, step)
            previous = clean
        if step in keep:
            intermediates.append(Intermediate(step, cleaner, image))
    return Denoised(image, intermediates)


@torch.no_grad()
def ddim_invert(
    predict: Predict, image: Tensor, gammas: Tensor, *, refinements: int = 0, progress: str | None = None
) -> Tensor:
    """The noisy image from which DDIM leads to `image`, without gradient: DDIM run backwards (as DDIB encodes).

    Each step takes the noise estimated at its cleaner end, where it starts; on the way back DDIM takes that of the
    noisier end. Their difference vanishes in proportion to the step, so `denoise(..., "ddim")` returns the image up to
    an error that falls with the number of steps. With few steps it is large. A refinement estimates the noise again at
    the noisier end that a step has reached and repeats the step with it, a fixed-point iteration whose solution DDIM
    takes back exactly.

    Args:
        predict: (noisy, gamma) -> noise, the noise in a batch at levels (B,).
        image: (B, C, *spatial), at level gammas[-1], usually 1.
        gammas: (steps + 1,) rising noise levels in (0, 1], the same as on the way back.
        refinements: number per step; each costs as much as the step. DDIB has none.
        progress: label of a progress bar; None for no bar.

    Returns:
        The image at level gammas[0], float32 (float64 for float64).

    Raises:
        TypeError: if a tensor is of the wrong type.
        ValueError: if an argument is outside its range.

    Example:
        >>> from medtrace.networks import NoiseSchedule
        >>> gammas = NoiseSchedule(20).levels(4)
        >>> noisy = ddim_invert(lambda image, gamma: torch.zeros_like(image), torch.ones(1, 1, 2, 2), gammas)
        >>> bool(torch.allclose(noisy, gammas[0].sqrt().float().expand(1, 1, 2, 2)))  # without noise, scaled alone
        True
    """
    check_batched("image", image)
    levels = _check_gammas(gammas)
    if refinements < 0:
        raise ValueError(f"refinements: expected 0 or more, received {refinements!r}")
    image = image.to(torch.promote_types(image.dtype, torch.float32))
    for step in tqdm(range(len(levels) - 1, 0, -1), desc=progress, disable=None if progress else True, leave=False):
        level, noisier = levels[step], levels[step - 1]
        shrink = math.sqrt(noisier / level)
        growth = math.sqrt(1 - noisier) - shrink * math.sqrt(1 - level)
        reached = shrink * image + growth * _noise(predict, image, level)
        for _ in range(refinements):
            reached = shrink * image + growth * _noise(predict, reached, noisier)
        image = reached
    return image


def noisy_start(image: Tensor, gammas: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """The image noised to the level from which a sampler starts, gammas[0] (Plasticine, Eq. 2).

    Args:
        image: (B, C, *spatial), in [-1, 1].
        gammas: (steps + 1,) rising noise levels.
        generators: one CPU generator per case.

    Returns:
        √γ·image + √(1−γ)·noise, float32 (float64 for float64).

    Raises:
        TypeError: if a tensor is of the wrong type.
        ValueError: if an argument is outside its range or generators are missing.

    Example:
        >>> gammas = torch.tensor([0.25, 1.0], dtype=torch.float64)
        >>> noisy_start(torch.zeros(1, 1, 4, 4), gammas, [torch.Generator().manual_seed(0)]).shape
        torch.Size([1, 1, 4, 4])
    """
    check_batched("image", image)
    level = _check_gammas(gammas)[0]
    noise = draw_noise(image, _check_generators(generators, image.shape[0]))
    return add_noise(image, noise, torch.full((image.shape[0],), level, dtype=torch.float64))


def draw_noise(image: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """Standard normal noise of the shape of `image`, each case from its own CPU generator; on the image's device.

    Example:
        >>> generators = [torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)]
        >>> noise = draw_noise(torch.zeros(2, 1, 4, 4), generators)
        >>> noise.shape, bool((noise[0] == noise[1]).all())  # an item's noise depends on its generator alone
        (torch.Size([2, 1, 4, 4]), True)
    """
    generators = _check_generators(generators, image.shape[0])
    cases = [torch.randn(image.shape[1:], generator=generator) for generator in generators]
    return torch.stack(cases).to(image)


def _estimate(predict: Predict, image: Tensor, level: float, clip: tuple[float, float] | None) -> tuple[Tensor, Tensor]:
    """The noise in an image, and the clean image that this leaves."""
    noise = _noise(predict, image, level)
    clean = (image - math.sqrt(1 - level) * noise) / math.sqrt(level)
    if clip is not None and level < 1:
        clean = clean.clamp(*clip)
        noise = (image - math.sqrt(level) * clean) / math.sqrt(1 - level)
    return noise, clean


def _noise(predict: Predict, image: Tensor, level: float) -> Tensor:
    noise = predict(image, torch.full((image.shape[0],), level, dtype=torch.float32, device=image.device))
    check_same_shape("noisy", image, "predict(noisy, gamma)", noise)
    return noise.to(image)


def _ancestral_step(image: Tensor, noise: Tensor, level: float, cleaner: float) -> Tensor:
    alpha = level / cleaner
    return (image - (1 - alpha) / math.sqrt(1 - level) * noise) / math.sqrt(alpha)


def _solver_step(image: Tensor, clean: Tensor, previous: Tensor | None, levels: list[float], step: int) -> Tensor:
    level, cleaner = levels[step - 1], levels[step]
    stride = _log_ratio(cleaner) - _log_ratio(level)
    direction = clean
    if previous is not None:
        before = _log_ratio(level) - _log_ratio(levels[step - 2])
        direction = clean + stride / (2 * before) * (clean - previous)
    shrink = math.sqrt((1 - cleaner) / (1 - level))
    return shrink * image - math.sqrt(cleaner) * math.expm1(-stride) * direction


def _log_ratio(level: float) -> float:
    """λ = log(√γ / √(1−γ)), half the logarithm of the ratio of signal to noise."""
    return 0.5 * (math.log(level) - math.log1p(-level))


def _check_gammas(gammas: Tensor) -> list[float]:
    if not isinstance(gammas, Tensor) or not gammas.is_floating_point():
        kind = gammas.dtype if isinstance(gammas, Tensor) else type(gammas).__name__
        raise TypeError(f"gammas: expected a floating-point tensor of noise levels, received {kind}")
    if gammas.ndim != 1 or len(gammas) < 2:
        raise ValueError(
            f"gammas: expected shape (steps + 1,) with at least one step, received {tuple(gammas.shape)};"
            " see NoiseSchedule.levels"
        )
    levels = gammas.tolist()
    if not (levels[0] > 0 and levels[-1] <= 1 and all(low < high for low, high in pairwise(levels))):
        raise ValueError(
            f"gammas: expected noise levels rising within (0, 1], received {levels[0]:g} to {levels[-1]:g}; start from"
            " the noisiest, see NoiseSchedule.levels"
        )
    return levels


def _check_generators(generators: Sequence[torch.Generator] | None, count: int) -> Sequence[torch.Generator]:
    if generators is None or len(generators) != count:
        received = "None" if generators is None else f"{len(generators)}"
        raise ValueError(
            f"generators: expected {count}, one torch.Generator per case, received {received}; seed one for each"
        )
    if any(generator.device.type != "cpu" for generator in generators):
        raise ValueError("generators: expected generators of the CPU, received one of another device; draw on the CPU")
    return generators
