"""The Brownian bridge between a source and a target (BBDM), and flow matching, which is one without noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from medtrace.checks import check_batched, check_same_shape, check_whole
from medtrace.networks.diffusion_sampling import Denoised, Intermediate, draw_noise

Estimate = Callable[[Tensor, Tensor], Tensor]
"""estimate(state, time) -> (B, C, *spatial) of states at times (B,), 1 at the source and 0 at the target."""


def variance(time: Tensor | float, scale: float) -> Any:
    """δ = 2·scale·(m − m²) of the bridge at time m (BBDM, Eq. 5): 0 at both ends, scale/2 in the middle."""
    return 2 * scale * (time - time * time)


def bridge_state(
    source: Tensor, target: Tensor, time: Tensor, noise: Tensor | None = None, scale: float = 1.0
) -> Tensor:
    """(1 − m)·target + m·source + √δ_m·noise (BBDM, Eq. 3); without noise the straight line of flow matching.

    Args:
        source: (B, C, *spatial).
        target: target of the same shape.
        time: (B,) in [0, 1].
        noise: noise of the same shape, standard normal, or None.
        scale: scale of the variance.

    Raises:
        ValueError: if shapes differ.

    Example:
        >>> source, target = torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)
        >>> float(bridge_state(source, target, torch.tensor([0.25])).mean())
        -0.5
    """
    check_same_shape("source", source, "target", target)
    m = time.to(source).reshape(-1, *[1] * (source.ndim - 1))
    line = (1 - m) * target + m * source
    return line if noise is None else line + variance(m, scale).sqrt() * noise


@torch.no_grad()
def euler(
    velocity: Estimate, source: Tensor, steps: int, *, keep: Collection[int] = (), progress: str | None = None
) -> Denoised:
    """Follow dx/dt = velocity from the source (time 1) to the target (time 0) in equal steps of Euler's method.

    Args:
        velocity: takes the source to the target in unit time; target − source on a straight line.
        source: (B, C, *spatial).
        steps: 1 or more.
        keep: steps whose states to keep, from 0, the source.
        progress: label of a progress bar; None for none.

    Returns:
        The image at time 0, and kept states with their times as `gamma`.

    Raises:
        ValueError: if `steps` is less than 1.

    Example:
        >>> ahead = lambda state, time: torch.ones_like(state)
        >>> float(euler(ahead, torch.zeros(1, 1, 2, 2), 3).image.mean())
        1.0
    """
    return _walk(source, steps, lambda state, now, after: state + (now - after) * velocity(state, _at(state, now)),
                 keep, progress)  # fmt: skip


@torch.no_grad()
def bridge(
    residual: Estimate,
    source: Tensor,
    steps: int,
    generators: Sequence[torch.Generator] | None = None,
    *,
    scale: float = 1.0,
    keep: Collection[int] = (),
    progress: str | None = None,
) -> Denoised:
    """Walk the bridge from the source to a target that fits it (BBDM, Algorithm 2, with steps left out).

    From time m to the earlier m', with ŷ = x_m − residual(x_m, m) the target that the state suggests, the state is
    sampled from the bridge given x_m and ŷ: (1−m')·ŷ + m'·source + √(δ' − σ²)·r + σ·z, where r = (x_m − (1−m)·ŷ −
    m·source)/√δ is the noise in x_m and σ² = δ'·(δ − δ'·(1−m)²/(1−m')²)/δ. At the source, where δ is 0, all noise is
    new.

    Args:
        residual: the difference between a state and its target, x_m − target.
        source: (B, C, *spatial).
        steps: 1 or more.
        generators: one CPU generator per case; None samples no noise (σ = 0 and r = 0 from the source on).
        scale: scale of the variance, s.
        keep, progress: as for `euler`.

    Raises:
        ValueError: if `steps` is less than 1.

    Example:
        >>> exact = lambda state, time: state - 0.5
        >>> float(bridge(exact, torch.zeros(1, 1, 2, 2), 4).image.mean())
        0.5
    """

    def step(state: Tensor, now: float, after: float) -> Tensor:
        clean = state - residual(state, _at(state, now))
        if after == 0:
            return clean
        line = (1 - after) * clean + after * source
        if generators is None:
            return line
        noise = draw_noise(state, generators)
        before, later = variance(now, scale), variance(after, scale)
        if before == 0:
            return line + math.sqrt(later) * noise
        fresh = later * (before - later * ((1 - now) / (1 - after)) ** 2) / before
        old = (state - (1 - now) * clean - now * source) / math.sqrt(before)
        return line + math.sqrt(max(later - fresh, 0.0)) * old + math.sqrt(max(fresh, 0.0)) * noise

    return _walk(source, steps, step, keep, progress)


def _at(state: Tensor, time: float) -> Tensor:
    return torch.full((len(state),), time, dtype=torch.float32, device=state.device)


def _walk(
    source: Tensor,
    steps: int,
    step: Callable[[Tensor, float, float], Tensor],
    keep: Collection[int],
    progress: str | None,
) -> Denoised:
    check_batched("source", source)
    check_whole("steps", steps, 1)
    if any(not 0 <= one <= steps for one in keep):
        raise ValueError(f"keep: expected steps from 0 to {steps}, received {sorted(keep)}")
    state = source.to(torch.promote_types(source.dtype, torch.float32))
    kept = [Intermediate(0, 1.0, state)] if 0 in keep else []
    for number in tqdm(range(1, steps + 1), desc=progress, disable=None if progress else True, leave=False):
        now, after = 1 - (number - 1) / steps, 1 - number / steps
        state = step(state, now, after if number < steps else 0.0)
        if number in keep:
            kept.append(Intermediate(number, after, state))
    return Denoised(state, kept)
