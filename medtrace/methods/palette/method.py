"""Palette: diffusion conditioned on the source image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_choice, check_range, check_same_grid
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.diffusion import (
    WEIGHTINGS,
    SampledTranslator,
    Sampling,
    estimate_noise,
    estimator_of,
    schedule_of,
)
from medtrace.methods.common.diffusion_settings import DiffusionSettings
from medtrace.networks.diffusion_sampling import Denoised, denoise, draw_noise
from medtrace.networks.diffusion_schedule import NoiseSchedule
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.patches import in_patches
from medtrace.trace.validation import as_tensor


class PaletteMethod(SampledTranslator):
    """Train a noise estimator on targets, conditioned on their sources, and draw a target for a source.

    The one phase, "noise", has the term `noise_l1`, mean |ε − ε̂|, of weight 1 (Saharia et al. 2022, whose sharper loss
    is L2; L1 here, as in the compared methods). The source is concatenated to the noisy target. Sampling starts from
    pure noise.

    It learns p(target | source), so it needs aligned pairs. From random pairs it learns targets that have little to do
    with the source. Nothing is registered: the trace's field is zero.

    Args:
        noise_estimator: its condition has the source's channels.
        schedule: the noise levels.
        noise_weighting: "noise", the paper's, or "velocity", see `diffusion_training.estimate_noise`.
        average_decay: decay of the averaged weights, see `WeightAverage`.
        sampling: how images are sampled; may be replaced after the training.

    Raises:
        ValueError: if `sampling.start` is not 1.
    """

    name = "palette"
    title = "Palette"
    paper = "Saharia et al., Palette: Image-to-Image Diffusion Models (2022)"
    settings_type = DiffusionSettings
    abilities = Abilities(patches=True, channels="any", moves=False, one_pass=False)
    sampling: Sampling

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Build it from its settings."""
        return cls(
            estimator_of(settings, settings.out_channels, condition_channels=settings.in_channels),
            schedule_of(settings),
            noise_weighting=settings.noise_weighting,
            average_decay=settings.average_decay,
            sampling=Sampling.from_settings(settings.sampling),
        )

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Replace how images are sampled."""
        self.sampling = self.sampling.replaced(values)

    def __init__(
        self,
        noise_estimator: NoiseEstimator,
        schedule: NoiseSchedule | None = None,
        noise_weighting: Literal["noise", "velocity"] | str = "noise",
        average_decay: float = 0.9999,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        check_choice("noise_weighting", noise_weighting, WEIGHTINGS)
        self.noise_weighting = noise_weighting
        self.sampling = Sampling() if sampling is None else sampling
        if self.sampling.start != 1:
            raise ValueError(
                f"sampling.start: expected 1, since Palette starts from pure noise, received {self.sampling.start!r}"
            )
        self.networks = nn.ModuleDict({"noise_estimator": noise_estimator})
        self.out_channels = noise_estimator.in_channels
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.average = WeightAverage(noise_estimator, average_decay)
        self.phases = (Phase("noise", ("networks.noise_estimator",), {"noise_l1": 1.0}),)

    def noise_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The L1 of the noise, conditioned on the source."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        check_same_grid("source", source, "target", target)
        estimator = self.networks["noise_estimator"]
        return {"noise_l1": estimate_noise(estimator, self.schedule, target, source, self.noise_weighting).loss}

    def after_step(self) -> None:
        """Move the averaged weights on."""
        self.average.update_parameters(self.networks["noise_estimator"])

    @torch.no_grad()
    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> Denoised:
        """The drawn image as the sampler gives it, and images on the way; see `PlasticineMethod.refinement`."""
        source, how = as_tensor(batch["source"]), self.sampling
        check_range("source", source, -1, 1)
        gammas = self.schedule.levels(how.steps, spacing=how.spacing)
        estimator: Any = self.networks["noise_estimator"]
        estimate = in_patches(self.average, self.inferer, estimator.stride)
        blank = source.new_zeros(len(source), self.out_channels, *source.shape[2:])

        def draw(generators: list[torch.Generator], label: str | None, kept: Collection[int]) -> Denoised:
            return denoise(
                lambda noisy, gamma: estimate(noisy, gamma, source),
                draw_noise(blank, generators),
                gammas,
                how.sampler,
                generators,
                clip=how.clip,
                keep=kept,
                progress=label,
            )

        with eval_mode(self):
            return how.mean(source, draw, keep)
