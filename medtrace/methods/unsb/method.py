"""UNSB: an unpaired Schrödinger bridge, in a few steps from source to target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from medtrace.checks import check_positive
from medtrace.losses import adversarial, adversarial_discriminator
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.contrastive import nce_of_places
from medtrace.methods.common.diffusion import TranslatedImage, case_generators
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.unsb.settings import UNSBSettings
from medtrace.networks.unsb import UNSB


class UNSBMethod(ImageTranslator):
    """Train a generator that leads along a Schrödinger bridge (Kim et al. 2024).

    A step samples a time t_i, walks there from the source without gradients, and predicts the end x₁. The terms:

    | term | weight | value |
    |---|---|---|
    | `target_adversarial` | 1 | least squares, of x₁ at t_i |
    | `transport` | τ | mean (x(t_i) − x₁)² |
    | `entropy` | τ | −(1 − t_i) Ĥ(x(t_i), x₁), by the energy E |
    | `nce` | 1 | PatchNCE of x₁ against the source, features of both at t = 0, see `losses.patch_nce` |
    | `target_discriminator` | 1 | of y and x₁ at t_i |
    | `energy` | 1 | −Ĥ, whose maximum over E is the entropy |
    | `energy_level` | 1 | (log mean exp E(X, X̃))², which the bound leaves free |

    Ĥ = mean E(X, X) − log mean exp E(X, X̃) with X = (x(t_i), x₁) and X̃ another walk's, of the next case: the bound
    of Donsker and Varadhan on the mutual information of X with itself.

    Args:
        networks: generator, heads, discriminator and energy, with the bridge's steps and τ.
        bridge_weight: λ_SB, times τ of `transport` and `entropy`.
        nce_weight: λ_Reg.
        adversarial_weight: weight of the adversarial terms.
        temperature: temperature of the PatchNCE.
        patches: number of positions that are compared.
        seed: seed of the noise of translations, beside each image's own bytes: one image has one translation.

    Raises:
        ValueError: if a weight is below 0.
    """

    name = "unsb"
    title = "UNSB"
    paper = "Kim et al., Unpaired Image-to-Image Translation via Neural Schrödinger Bridge (2024)"
    settings_type = UNSBSettings
    abilities = Abilities(paired=False, moves=False, one_pass=False)
    networks: UNSB

    @classmethod
    def from_settings(cls, settings: UNSBSettings) -> Self:
        """Build it from its settings."""
        options = {"steps": settings.steps, "tau": settings.tau, **settings.networks}
        return cls(
            UNSB(settings.spatial_dims, settings.in_channels, settings.out_channels, **options),
            bridge_weight=settings.bridge_weight,
            nce_weight=settings.nce_weight,
            adversarial_weight=settings.adversarial_weight,
            temperature=settings.temperature,
            patches=settings.patches,
            seed=settings.seed,
        )

    def __init__(
        self,
        networks: UNSB,
        *,
        bridge_weight: float = 1.0,
        nce_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        temperature: float = 0.07,
        patches: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("patches", patches)
        weights = {
            "target_adversarial": adversarial_weight,
            "transport": networks.tau * bridge_weight,
            "entropy": networks.tau * bridge_weight,
            "nce": nce_weight,
        }
        check_weights(weights)
        self.networks = networks
        self.temperature = temperature
        self.patches = patches
        self.seed = seed
        learned = 1.0 if bridge_weight else 0.0
        self.phases = (
            Phase("generator", ("networks.generator", "networks.heads"), weights),
            Phase("discriminator", ("networks.discriminator",), {"target_discriminator": adversarial_weight}),
            Phase("energy", ("networks.energy",), {"energy": learned, "energy_level": learned}),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Leaves the time, the guessed end and two pairs (x(t), x₁) for the other phases."""
        images, bridge = self._images(batch), self.networks
        source = images["source"]
        step = int(torch.randint(bridge.steps, ()))
        with torch.no_grad():
            image, _ = bridge.walk(source, step)
            other, _ = bridge.walk(source, step)
            beside = torch.cat([other, bridge.guess(other, step)], dim=1).roll(1, 0)
        end = bridge.guess(image, step)
        pair = torch.cat([image, end], dim=1)
        context.update(step=step, fake=end.detach(), pair=pair.detach(), beside=beside)
        terms = {}
        if phase.active("target_adversarial"):
            terms["target_adversarial"] = adversarial([bridge.discriminator(end, bridge.time(step, end))])
        if phase.active("transport"):
            terms["transport"] = (image - end).square().mean()
        if phase.active("entropy"):
            own, apart = self._energies(pair, beside, step)
            terms["entropy"] = -(1 - step / bridge.steps) * (own - apart)
        if phase.active("nce"):
            terms["nce"] = self._nce(end, source)
        return terms

    def _nce(self, end: Tensor, source: Tensor) -> Tensor:
        """Of features at t = 0, where the generator knows the source."""
        generator, time = self.networks.generator, self.networks.time(0, source)
        noise = torch.randn(len(source), generator.noise_channels, device=source.device)
        with torch.no_grad():
            keys = generator.features(source, time, noise)
        maps = generator.features(end, time, noise)
        return nce_of_places(self.networks.heads, maps, keys, self.patches, self.temperature)

    def _energies(self, pair: Tensor, beside: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """mean E(X, X), and log mean exp E(X, X̃)."""
        energy, time = self.networks.energy, self.networks.time(step, pair)
        own = energy(torch.cat([pair, pair], dim=1), time).float().flatten(1).mean(1)
        apart = energy(torch.cat([pair, beside], dim=1), time).float().flatten(1).mean(1)
        return own.mean(), torch.logsumexp(apart, 0) - torch.tensor(float(len(apart))).log()

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The discriminator's halves at the step's time."""
        if not phase.active("target_discriminator"):
            return {}
        network, target = self.networks.discriminator, self._images(batch)["target"]
        time, fake = self.networks.time(context["step"], target), context["fake"]
        return {"target_discriminator": adversarial_discriminator([network(target, time)], [network(fake, time)])}

    def energy_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """What makes the bound on the entropy tight."""
        if not phase.active("energy"):
            return {}
        own, apart = self._energies(context["pair"], context["beside"], context["step"])
        return {"energy": apart - own, "energy_level": apart.square()}

    def io_network(self) -> nn.Module:
        """The image as sampled: the generator alone would take three arguments."""
        return TranslatedImage(self)

    def _translated(self, source: Tensor) -> Tensor:
        generators = case_generators(source, self.seed)

        def draw(shape: Sequence[int]) -> Tensor:
            return torch.stack([torch.randn(shape[1:], generator=one) for one in generators]).to(source.device)

        return self.networks.walk(source, self.networks.steps, draw)[1]
