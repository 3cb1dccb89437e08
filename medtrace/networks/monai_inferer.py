"""MONAI's `DiffusionInferer` over the diffusion parts: the noise estimator as its model, the schedule as scheduler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler, Scheduler
from torch import Tensor, nn

from medtrace.checks import check_choice, check_whole
from medtrace.networks.diffusion_schedule import NoiseSchedule
from medtrace.networks.noise_estimator import NoiseEstimator

SAMPLERS = ("ddim", "ancestral")


class InfererModel(nn.Module):
    """A noise estimator called as MONAI's inferer calls its model: with steps of the schedule, not with noise levels.

    MONAI's step t of 0 to K − 1 is the level γ_{t+1}. A condition is passed as further channels (`mode="concat"`).

    Args:
        estimator: takes the noisy image, γ (B,) and the condition.
        schedule: the schedule whose steps the inferer counts.

    Example:
        >>> from monai.inferers import DiffusionInferer
        >>> estimator = NoiseEstimator(2, 1, channels=(8, 8), head_channels=4, norm_groups=4, residual_blocks=1)
        >>> schedule = NoiseSchedule(steps=20)
        >>> inferer = DiffusionInferer(inferer_scheduler(schedule, "ddim", steps=5))
        >>> noise, source = torch.zeros(2, 1, 1, 16, 16)
        >>> model = InfererModel(estimator, schedule)
        >>> inferer.sample(noise, model, conditioning=source, mode="concat", verbose=False).shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(self, estimator: NoiseEstimator, schedule: NoiseSchedule) -> None:
        super().__init__()
        self.estimator = estimator
        self.schedule = schedule

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor | None = None) -> Tensor:
        """Estimate the noise in a batch.

        Args:
            x: (B, channels, *spatial), the noisy image followed by the condition.
            timesteps: (B,) or (1,), steps of the schedule, 0 to K − 1.
            context: None.

        Returns:
            (B, in_channels, *spatial), the noise.

        Raises:
            ValueError: if a context is given, a step is outside the schedule, or a shape does not fit.
        """
        if context is not None:
            raise ValueError(
                "context: expected None, received a tensor; a condition is further channels of the input here, so pass"
                ' mode="concat" to the inferer'
            )
        steps = timesteps.detach().cpu().long()
        if steps.numel() and not (steps.min() >= 0 and steps.max() < self.schedule.steps):
            raise ValueError(
                f"timesteps: expected steps from 0 to {self.schedule.steps - 1}, received {int(steps.min())} to"
                f" {int(steps.max())}; the inferer's scheduler has another schedule, see inferer_scheduler"
            )
        gamma = self.schedule.gammas[steps + 1].to(x.device, torch.float32).expand(len(x))
        noisy, condition = x[:, : self.estimator.in_channels], x[:, self.estimator.in_channels :]
        noise: Tensor = self.estimator(noisy, gamma, condition if condition.shape[1] else None)
        return noise

    if TYPE_CHECKING:
        __call__ = forward


def inferer_scheduler(
    schedule: NoiseSchedule, sampler: Literal["ddim", "ancestral"] | str = "ddim", steps: int | None = None
) -> Scheduler:
    """A noise schedule as MONAI's scheduler, with which `DiffusionInferer` takes the steps that `denoise` takes.

    The numbers are the schedule's own, in float64; nothing is clipped.

    Args:
        schedule: the noise levels.
        sampler: "ddim" is MONAI's `DDIMScheduler`; "ancestral" its `DDPMScheduler` with the larger variance.
        steps: steps of the sampler. With "ddim" a divisor of the schedule's, since MONAI strides evenly; with
            "ancestral" the schedule's own, since MONAI's goes from each step to the one before it, even if steps are
            left out. None is the schedule's own.

    Returns:
        The scheduler, with its `timesteps` set.

    Raises:
        ValueError: if the sampler is unknown, or does not support that number of steps.

    Example:
        >>> inferer_scheduler(NoiseSchedule(20), "ddim", steps=4).timesteps
        tensor([19, 14,  9,  4])
    """
    check_choice("sampler", sampler, SAMPLERS)
    count = schedule.steps
    steps = count if steps is None else steps
    check_whole("steps", steps, 1)
    if count % steps or (sampler == "ancestral" and steps != count):
        expected = f"a divisor of {count}" if sampler == "ddim" else f"{count}, the schedule's own,"
        raise ValueError(
            f"steps: expected {expected} for MONAI's {sampler} scheduler, received {steps}; medtrace.networks.denoise"
            " takes any number"
        )
    result: Scheduler
    if sampler == "ddim":
        result = DDIMScheduler(count, clip_sample=False)
        result.final_alpha_cumprod = schedule.gammas[0]
    else:
        result = DDPMScheduler(count, clip_sample=False, variance_type="fixed_large")
    result.alphas_cumprod = schedule.gammas[1:].clone()
    result.alphas = schedule.gammas[1:] / schedule.gammas[:-1]
    result.betas = 1 - result.alphas
    result.one = schedule.gammas[0]
    result.num_inference_steps = steps
    result.timesteps = torch.arange(count - 1, -1, -(count // steps))
    return result
