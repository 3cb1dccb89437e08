"""The base class of methods that go from the source to the target in few steps, instead of from noise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from monai.networks.utils import eval_mode
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_choice, check_range, check_same_grid
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.bridge_settings import BridgeSettings
from medtrace.methods.common.diffusion import SampledTranslator, Sampling, timed_unet_of
from medtrace.networks.diffusion_sampling import Denoised
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.patches import in_patches
from medtrace.trace.validation import as_tensor

DISTANCES = {"l2": F.mse_loss, "l1": F.l1_loss}
SAMPLED = ("steps", "samples", "seed", "progress")


class BridgeTask(NamedTuple):
    """What the network is trained on in a step."""

    state: Tensor
    """(B, C, *spatial) on the way from target to source."""
    time: Tensor
    """(B,) in [0, 1]: 1 at the source."""
    wanted: Tensor
    """What it shall answer."""


class BridgeMethod(SampledTranslator):
    """Train a network that is told a state between source and target, the time and the source, and walk along it.

    The one phase, "bridge", has one term, of weight 1, called `term`: the distance of the network's output from what
    `task` requests. A subclass implements `task` and `walk`. Times are uniform in [0, 1], from torch's global
    generator. The network runs with its averaged weights at inference. Pairs must be aligned; nothing is registered, so
    the trace's field is zero. A source with another number of channels than the target starts from the mean of its
    channels.

    Args:
        networks: takes a state, a time and the source; see `timed`.
        distance: "l2", a mean square, or "l1".
        average_decay: decay of the averaged weights, see `WeightAverage`.
        sampling: steps, samples, seed and progress count; may be replaced after training; None has 5 steps.
    """

    settings_type = BridgeSettings
    abilities = Abilities(patches=True, channels="any", moves=False, one_pass=False)
    term: str
    networks: NoiseEstimator

    @classmethod
    def from_settings(cls, settings: BridgeSettings) -> Self:
        """Build it from its settings."""
        return cls(**cls.arguments_of(settings))

    @classmethod
    def arguments_of(cls, settings: Any) -> dict[str, Any]:
        """Arguments of the constructor that settings ask for, by name."""
        how = settings.sampling
        return {
            "networks": timed_unet_of(
                settings.spatial_dims, settings.estimator, settings.out_channels, settings.in_channels
            ),
            "distance": settings.distance,
            "average_decay": settings.average_decay,
            "sampling": Sampling(steps=how.steps, samples=how.samples, seed=how.seed, progress=how.progress),
        }

    def __init__(
        self,
        networks: NoiseEstimator,
        distance: Literal["l2", "l1"] | str = "l2",
        average_decay: float = 0.9999,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        check_choice("distance", distance, DISTANCES)
        self.distance = distance
        self.networks = networks
        self.average = WeightAverage(networks, average_decay)
        self.sampling = Sampling(steps=5) if sampling is None else sampling
        self.phases = (Phase("bridge", ("networks",), {self.term: 1.0}),)

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Replace the number of steps, of samples, the seed, or whether a bar is shown."""
        for name in values:
            check_choice("sampling", name, SAMPLED)
        self.sampling = self.sampling.replaced(values)

    def task(self, start: Tensor, target: Tensor, time: Tensor) -> BridgeTask:
        """States at times, and what the network shall answer there."""
        raise NotImplementedError

    def walk(
        self, estimate: Any, start: Tensor, generators: list[torch.Generator], keep: Collection[int], label: str | None
    ) -> Denoised:
        """From the start to an image, by what the network answers."""
        raise NotImplementedError

    def bridge_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The distance of the network's answer, one time per case."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        check_same_grid("source", source, "target", target)
        time = torch.rand(len(source)).to(source.device)
        task = self.task(started(source, target.shape[1]), target, time)
        answer = self.networks(task.state, task.time.square(), source)
        return {self.term: DISTANCES[self.distance](answer, task.wanted)}

    def after_step(self) -> None:
        """Move the averaged weights on."""
        self.average.update_parameters(self.networks)

    @torch.no_grad()
    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> Denoised:
        """The image as the walk ends, and states on the way."""
        source, how = as_tensor(batch["source"]), self.sampling
        check_range("source", source, -1, 1)
        start = started(source, self.networks.in_channels)
        network = in_patches(self.average, self.inferer, self.networks.stride)

        def draw(generators: list[torch.Generator], label: str | None, kept: Collection[int]) -> Denoised:
            # The network reads 1000·√γ: the square of a time enters as 1000 times the time.
            return self.walk(lambda state, time: network(state, time.square(), source), start, generators, kept, label)

        with eval_mode(self):
            return how.mean(source, draw, keep)


def started(source: Tensor, channels: int) -> Tensor:
    """The source where a walk starts: as it is, or the mean of its channels in each of the target's."""
    if source.shape[1] == channels:
        return source
    return source.mean(1, keepdim=True).expand(-1, channels, *source.shape[2:])
