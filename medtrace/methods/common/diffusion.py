"""Components of the diffusion methods: the training term of a noise estimator, and the sampling of images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from medtrace.checks import check_batched, check_choice, check_positive
from medtrace.methods.base import Batch, Method
from medtrace.methods.common.diffusion_settings import DiffusionSettings, SamplingSettings, TimedUNetSettings
from medtrace.networks.diffusion_sampling import SAMPLERS, Denoised
from medtrace.networks.diffusion_schedule import NoiseSchedule, add_noise
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.trace.prediction import Prediction, zero_field

WEIGHTINGS = ("noise", "velocity")

Drawn = TypeVar("Drawn", bound=Any)  # a NamedTuple with `image`
Draw = Callable[[list[torch.Generator], "str | None", Collection[int]], Drawn]
"""Draws a batch: from one generator per case, the label of a progress bar (or None) and the steps to keep."""


class NoiseEstimate(NamedTuple):
    """The term of a batch and what made it."""

    loss: Tensor
    """Mean |ε − ε̂|, a scalar, weighted as asked for."""
    noise: Tensor
    """ε̂, (B, C, *spatial)."""


def estimate_noise(
    estimator: nn.Module,
    schedule: NoiseSchedule,
    image: Tensor,
    condition: Tensor | None = None,
    weighting: Literal["noise", "velocity"] | str = "noise",
) -> NoiseEstimate:
    """L1 between drawn and estimated noise (Plasticine, Eq. 1 and Algorithm 2).

    Each image's level γ is sampled continuously (`NoiseSchedule.draw`); level and noise come from torch's global
    generators.

    Args:
        estimator: takes the noisy image, γ (B,) and the condition.
        schedule: the noise levels.
        image: (B, C, *spatial) in [-1, 1].
        condition: (B, condition channels, *spatial), or None for an unconditional estimator.
        weighting: "noise", the paper's |ε − ε̂|; or "velocity", |ε − ε̂| / √γ, which is the L1 of the velocity v = √γ·ε −
            √(1−γ)·y (Salimans & Ho 2022) and weighs high noise more. It needs an estimator that predicts v.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    gamma = schedule.draw(len(image), image.device)
    noise = torch.randn_like(image)
    estimated = estimator(add_noise(image, noise, gamma), gamma, condition)
    missed = (estimated.float() - noise.float()).abs()
    if weighting == "velocity":
        missed = missed / gamma.sqrt().reshape(-1, *[1] * (image.ndim - 1))
    return NoiseEstimate(missed.mean(), estimated)


@dataclass(frozen=True)
class Sampling:
    """How images are drawn at inference.

    The paper sets "the sample size for each input" to 50, "to get stable synthetic images". It also calls its 2000
    steps K_train, as if inference had another number. Both readings run: 50 steps of one draw (the default; the mean
    of draws loses the texture that the images in the paper have), or `steps` of 2000 and the mean of 50 `samples`.

    Attributes:
        sampler: "ancestral" (Algorithm 1), "ddim" or "dpm_solver"; see `networks.denoise`.
        steps: refinement steps, whose levels are spread over the schedule.
        start: where sampling starts, as a fraction of the schedule, in (0, 1]; 1 is the paper's x_K.
        spacing: spacing of the levels; above 1 they are denser where there is little noise, see `NoiseSchedule.levels`.
            A few steps of "ddim" or "dpm_solver" are better spent this way.
        samples: number of draws; the image is their mean.
        clip: range to which the sampler clips the clean image it aims at; None, the paper's, does not.
        seed: seed of the noise. A case's noise depends on the seed, the number of the draw and the source's bytes
            alone, so that neither batch size nor order of the cases matters.
        progress: whether each batch shows a bar over the steps.

    Raises:
        ValueError: if a number is outside its range or the sampler unknown.
    """

    sampler: str = "ancestral"
    steps: int = 50
    start: float = 1.0
    spacing: float = 1.0
    samples: int = 1
    clip: tuple[float, float] | None = None
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, SAMPLERS)
        check_positive("steps", self.steps)
        check_positive("samples", self.samples)
        if not 0 < self.start <= 1:
            raise ValueError(f"start: expected a fraction of the schedule in (0, 1], received {self.start!r}")
        if not self.spacing >= 1:
            raise ValueError(f"spacing: expected an exponent of at least 1, received {self.spacing!r}")

    @classmethod
    def from_settings(cls, settings: SamplingSettings, start: float = 1.0) -> Sampling:
        """Sampling as settings say; `start` where they leave it open."""
        return cls(
            sampler=settings.sampler,
            steps=settings.steps,
            start=start if settings.start is None else settings.start,
            spacing=settings.spacing,
            samples=settings.samples,
            clip=settings.clip,
            seed=settings.seed,
            progress=settings.progress,
        )

    def replaced(self, values: Mapping[str, Any]) -> Sampling:
        """The same with other values of some attributes."""
        for name in values:
            check_choice("sampling", name, [field.name for field in fields(self)])
        return replace(self, **values)

    def mean(self, source: Tensor, draw: Draw[Drawn], keep: Collection[int] = ()) -> Drawn:
        """Draw `samples` times; the first draw with the mean image of all.

        Args:
            source: (B, C, *spatial), whose bytes seed the noise.
            draw: one draw.
            keep: steps to keep of the first draw.
        """
        draws = [
            draw(case_generators(source, self.seed, number), self._label(number), keep if number == 0 else ())
            for number in range(self.samples)
        ]
        if self.samples == 1:
            return draws[0]
        result: Drawn = draws[0]._replace(image=torch.stack([drawn.image for drawn in draws]).mean(0))
        return result

    def _label(self, number: int) -> str | None:
        if not self.progress:
            return None
        return "sampling" if self.samples == 1 else f"sampling {number + 1} of {self.samples}"


def case_generators(images: Tensor, seed: int, draw: int = 0) -> list[torch.Generator]:
    """One generator of the CPU per case, seeded by the seed, the number of the draw and the image's bytes.

    Args:
        images: (B, C, *spatial).
        seed: any whole number.
        draw: number of the draw.
    """
    check_batched("images", images)
    generators = []
    for image in images.detach().float().cpu().contiguous():
        digest = hashlib.blake2b(f"{seed} {draw} {tuple(image.shape)}".encode(), digest_size=7)
        digest.update(image.numpy().tobytes())
        generators.append(torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little")))
    return generators


def in_range(image: Tensor) -> Tensor:
    """Cut a drawn image to [-1, 1], the range of the data, to which Algorithm 1 does not bound it."""
    return image.clamp(-1, 1)


def estimator_of(settings: DiffusionSettings, channels: int, condition_channels: int) -> NoiseEstimator:
    """The noise estimator that settings describe, of images of so many channels."""
    own = settings.estimator
    return timed_unet_of(settings.spatial_dims, own, channels, condition_channels, prediction=own.prediction)


def timed_unet_of(
    spatial_dims: int, settings: TimedUNetSettings, channels: int, condition_channels: int, **more: Any
) -> NoiseEstimator:
    """The U-Net told a level or a time that settings describe."""
    return NoiseEstimator(
        spatial_dims,
        channels,
        condition_channels=condition_channels,
        channels=settings.channels,
        residual_blocks=settings.residual_blocks,
        attention_levels=settings.attention_levels,
        head_channels=settings.head_channels,
        norm_groups=settings.norm_groups,
        dropout=settings.dropout,
        wavelet=settings.wavelet,
        **more,
    )


def schedule_of(settings: DiffusionSettings) -> NoiseSchedule:
    """The noise schedule that settings describe."""
    schedule = settings.schedule
    return NoiseSchedule(steps=schedule.steps, first_beta=schedule.first_beta, last_beta=schedule.last_beta)


class TranslatedImage(nn.Module):
    """A method that samples, as a network of one tensor in and one out."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, source: Tensor) -> Tensor:
        """Translate sources (B, C, *spatial) in [-1, 1]."""
        return self.method.predict({"source": source}).image


class SampledTranslator(Method):
    """A method that samples an image of each source and moves nothing. A subclass implements `refinement`."""

    def io_network(self) -> nn.Module:
        """The image as sampled."""
        return TranslatedImage(self)

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source. Nothing is deformed, so the field is zero by design."""
        image = in_range(self.refinement(batch).image)
        return Prediction(image, zero_field(image), zero_field(image))

    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> Denoised:
        """The image as the sampler gives it, and images on the way; see `PlasticineMethod.refinement`."""
        raise NotImplementedError
