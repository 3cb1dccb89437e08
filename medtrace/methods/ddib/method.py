"""DDIB: two unconditional diffusion models, joined at their noise."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, Literal, Self

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_choice, check_positive, check_range
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.diffusion import (
    WEIGHTINGS,
    SampledTranslator,
    estimate_noise,
    estimator_of,
    schedule_of,
)
from medtrace.methods.common.diffusion_settings import DiffusionSettings
from medtrace.networks.diffusion_sampling import Denoised, ddim_invert, denoise
from medtrace.networks.diffusion_schedule import NoiseSchedule
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.patches import in_patches
from medtrace.trace.validation import as_tensor

DOMAINS = ("source", "target")


class DDIBMethod(SampledTranslator):
    """Train one unconditional noise estimator per domain and translate through the noise that both share.

    The one phase, "noise", has the terms `source_noise_l1` and `target_noise_l1`, mean |ε − ε̂| in either domain, of
    weight 1; no parameter is in both, so that their sum trains each as if alone. Pairs are not needed.

    A translation follows the deterministic path (DDIM) of the source's model up to the noise and of the target's model
    back (Su et al. 2023). It has no randomness. Nothing is registered: the trace's field is zero.

    Args:
        source_estimator: unconditional, for images of the source's domain.
        target_estimator: the same for the target's domain.
        schedule: the noise levels of both.
        noise_weighting: "noise", the paper's, or "velocity", see `diffusion_training.estimate_noise`.
        average_decay: decay of the averaged weights, see `WeightAverage`.
        steps: steps of either path; may be replaced after the training.
        start: fraction of the schedule at which the noise is, in (0, 1].
        refinements: of each step up, see `networks.ddim_invert`; 0 is the published method, with 1 few steps suffice.
        progress: whether each batch shows a bar over the steps.

    Raises:
        ValueError: if the models differ in channels, or a number is outside its range.
    """

    name = "ddib"
    title = "DDIB"
    paper = "Su et al., Dual Diffusion Implicit Bridges (2023)"
    settings_type = DiffusionSettings
    abilities = Abilities(paired=False, patches=True, moves=False, one_pass=False)

    @classmethod
    def from_settings(cls, settings: DiffusionSettings) -> Self:
        """Build it from its settings."""
        estimator = estimator_of(settings, settings.in_channels, condition_channels=0)
        sampling = settings.sampling
        return cls(
            estimator,
            copy.deepcopy(estimator),
            schedule_of(settings),
            noise_weighting=settings.noise_weighting,
            average_decay=settings.average_decay,
            steps=sampling.steps,
            start=1.0 if sampling.start is None else sampling.start,
            refinements=sampling.refinements,
            progress=sampling.progress,
        )

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Replace the number of steps, where they start, their refinements, or whether they show a bar."""
        for name, value in values.items():
            check_choice("sampling", name, ("steps", "start", "refinements", "progress"))
            setattr(self, name, value)

    def __init__(
        self,
        source_estimator: NoiseEstimator,
        target_estimator: NoiseEstimator,
        schedule: NoiseSchedule | None = None,
        noise_weighting: Literal["noise", "velocity"] | str = "noise",
        average_decay: float = 0.9999,
        steps: int = 50,
        start: float = 1.0,
        refinements: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__()
        check_choice("noise_weighting", noise_weighting, WEIGHTINGS)
        self.noise_weighting = noise_weighting
        check_positive("steps", steps)
        if not 0 < start <= 1:
            raise ValueError(f"start: expected a fraction of the schedule in (0, 1], received {start!r}")
        if source_estimator.in_channels != target_estimator.in_channels:
            raise ValueError(
                f"target_estimator: expected the {source_estimator.in_channels} channel(s) of source_estimator,"
                f" received {target_estimator.in_channels}; both share their noise"
            )
        self.networks = nn.ModuleDict({"source": source_estimator, "target": target_estimator})
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.averages = nn.ModuleDict(
            {domain: WeightAverage(self.networks[domain], average_decay) for domain in DOMAINS}
        )
        self.steps = steps
        self.start = start
        self.refinements = refinements
        self.progress = progress
        weights = {f"{domain}_noise_l1": 1.0 for domain in DOMAINS}
        self.phases = (Phase("noise", tuple(f"networks.{domain}" for domain in DOMAINS), weights),)

    def noise_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The L1 of the noise in either domain."""
        terms = {}
        for domain in DOMAINS:
            image = as_tensor(batch[domain])
            check_range(domain, image, -1, 1)
            terms[f"{domain}_noise_l1"] = estimate_noise(
                self.networks[domain], self.schedule, image, weighting=self.noise_weighting
            ).loss
        return terms

    def after_step(self) -> None:
        """Move the averaged weights on."""
        for domain in DOMAINS:
            average: Any = self.averages[domain]
            average.update_parameters(self.networks[domain])

    @torch.no_grad()
    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> Denoised:
        """The translation as the sampler gives it, and images on the way down from the noise; see
        `PlasticineMethod.refinement`.
        """
        source = as_tensor(batch["source"])
        check_range("source", source, -1, 1)
        gammas = self.schedule.levels(self.steps, self.start)
        with eval_mode(self):
            label = "encoding" if self.progress else None
            networks: Any = self.networks
            estimators = {
                domain: in_patches(self.averages[domain], self.inferer, networks[domain].stride) for domain in DOMAINS
            }
            noise = ddim_invert(estimators["source"], source, gammas, refinements=self.refinements, progress=label)
            return denoise(
                estimators["target"],
                noise,
                gammas,
                "ddim",
                progress="sampling" if self.progress else None,
                keep=keep,
            )
