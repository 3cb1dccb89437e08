"""StarGAN v2: one generator of all domains, steered by styles, without pairs."""

from __future__ import annotations

from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.losses import log_adversarial
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.stargan_v2.settings import StarGANv2Settings
from medtrace.networks.backbone import Domain, other
from medtrace.networks.stargan_v2 import StarGANv2

MAPPING_RATE = 0.01
"""Fraction of the rate that the mapping network learns at: the paper's 1e-6 of 1e-4."""
NUMBERS: dict[Domain, int] = {"source": 0, "target": 1}


class StarGANv2Method(ImageTranslator):
    """Train one generator to give an image of either domain a style of the other (Choi et al. 2020).

    With a style s of the other domain, from noise by the mapping network or, in every second step, from another image
    of it by the style encoder, both directions are summed in the terms below. A step by reference trains the generator
    alone, as in the paper.

    | term | weight | value |
    |---|---|---|
    | `adversarial` | 1 | −log σ(D(G(x, s))) |
    | `style` | 1 | mean |s − E(G(x, s))| |
    | `diversity` | 1 | −mean |G(x, s) − G(x, s')|, times what is left of `diversity_steps` |
    | `cycle` | 1 | mean |x − G(G(x, s), E(x))| |
    | `discriminator` | 1 | −log σ(D(y)) − log(1 − σ(D(G(x, s)))) |
    | `penalty` | 1 | R1: half the squared length of D's gradient at y |

    Args:
        networks: generator, mapping network, style encoder and discriminator of two domains or more; domain 0 is the
            source, 1 the target.
        style_weight: λ_sty.
        diversity_weight: λ_ds at the start.
        diversity_steps: number of steps over which it falls to 0.
        cycle_weight: λ_cyc.
        penalty_weight: λ_reg.
        adversarial_weight: weight of the adversarial terms.

    Raises:
        ValueError: if a weight is below 0, or there are no steps.
    """

    name = "stargan_v2"
    title = "StarGAN v2"
    paper = "Choi et al., StarGAN v2: Diverse Image Synthesis for Multiple Domains (2020)"
    settings_type = StarGANv2Settings
    abilities = Abilities(paired=False, patches=True, moves=False)
    networks: StarGANv2
    steps_taken: Tensor

    @classmethod
    def from_settings(cls, settings: StarGANv2Settings) -> Self:
        """Build it from its settings."""
        return cls(
            StarGANv2(settings.spatial_dims, settings.in_channels, settings.out_channels, **settings.networks),
            style_weight=settings.style_weight,
            diversity_weight=settings.diversity_weight,
            diversity_steps=settings.diversity_steps,
            cycle_weight=settings.cycle_weight,
            penalty_weight=settings.penalty_weight,
            adversarial_weight=settings.adversarial_weight,
        )

    def __init__(
        self,
        networks: StarGANv2,
        *,
        style_weight: float = 1.0,
        diversity_weight: float = 1.0,
        diversity_steps: int = 100_000,
        cycle_weight: float = 1.0,
        penalty_weight: float = 1.0,
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_positive("diversity_steps", diversity_steps)
        weights = {"adversarial": adversarial_weight, "style": style_weight}
        weights |= {"diversity": diversity_weight, "cycle": cycle_weight}
        check_weights({**weights, "penalty_weight": penalty_weight})
        self.networks = networks
        self.diversity_steps = diversity_steps
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))
        learning = tuple(f"networks.{name}" for name in ("generator", "mapping", "style_encoder"))
        assessed = {"discriminator": adversarial_weight, "penalty": penalty_weight}
        self.phases = (
            Phase("generator", learning, weights, rates={"networks.mapping": MAPPING_RATE}),
            Phase("discriminator", ("networks.discriminator",), assessed),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Both directions, each term summed; leaves the generated images for the discriminator."""
        images = self._images(batch)
        # Not random: processes that train together must run through the same networks.
        by_reference = int(self.steps_taken) % 2 == 1
        found: dict[str, list[Tensor]] = {name: [] for name in phase.weights if phase.active(name)}
        for domain in NUMBERS:
            terms = self._translated_terms(found, images[other(domain)], images[domain], domain, by_reference)
            context[domain] = terms.pop("fake").detach()
            for name, value in terms.items():
                found[name].append(value)
        return {name: torch.stack(values).sum() for name, values in found.items()}

    def _translated_terms(
        self, wanted: Any, image: Tensor, reference: Tensor, domain: Domain, by_reference: bool
    ) -> dict[str, Tensor]:
        """The terms of one direction, and the translation as "fake"."""
        networks, number, home = self.networks, NUMBERS[domain], NUMBERS[other(domain)]
        style, second = self._styles(reference, number, by_reference)
        # A reference's style is the encoder's own: trained to find it again, the encoder would grow without bound.
        encode = partial(_held, networks.style_encoder) if by_reference else networks.style_encoder
        fake = networks.translate(image, style)
        terms = {"fake": fake}
        if "adversarial" in wanted:
            terms["adversarial"] = log_adversarial(networks.discriminator(fake, number), real=True)
        if "style" in wanted:
            terms["style"] = F.l1_loss(encode(fake, number), style)
        if "diversity" in wanted:
            left = (1 - self.steps_taken / self.diversity_steps).clamp_min(0)
            with torch.no_grad():
                otherwise = networks.translate(image, second)
            terms["diversity"] = -left * F.l1_loss(fake, otherwise)
        if "cycle" in wanted:
            own = encode(image, home)
            terms["cycle"] = F.l1_loss(networks.translate(fake, own), image)
        return terms

    def _styles(self, reference: Tensor, number: int, by_reference: bool) -> tuple[Tensor, Tensor]:
        """Two styles of a domain, the second without gradients.

        From noise, or from images of it and the next ones of the batch; a batch of one has no next, and takes noise.
        """
        networks, count = self.networks, len(reference)
        style = None if by_reference else networks.drawn_style(count, number)
        with torch.no_grad():
            if style is None:
                style = networks.style_encoder(reference, number)
            second = style.roll(1, 0) if by_reference and count > 1 else networks.drawn_style(count, number)
        return style, second

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Of the true and the generated images of both domains."""
        images = self._images(batch)
        found: dict[str, list[Tensor]] = {name: [] for name in phase.weights if phase.active(name)}
        for domain, number in NUMBERS.items():
            real = images[domain].detach().requires_grad_("penalty" in found)
            logits = self.networks.discriminator(real, number)
            if "discriminator" in found:
                generated = log_adversarial(self.networks.discriminator(context[domain], number), real=False)
                found["discriminator"].append(log_adversarial(logits, real=True) + generated)
            if "penalty" in found:
                found["penalty"].append(gradient_penalty(logits, real))
        return {name: torch.stack(values).sum() for name, values in found.items()}

    def after_step(self) -> None:
        """Count the step, by which the diversity fades."""
        self.steps_taken += 1


def _held(network: nn.Module, *inputs: Any) -> Tensor:
    """What a network gives, with gradients for its inputs and none for its parameters."""
    bare: nn.Module = getattr(network, "module", network)  # distributed, it would wait for gradients that never come
    result: Tensor = functional_call(bare, {name: p.detach() for name, p in bare.named_parameters()}, inputs)
    return result


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """R1: half the squared length of the gradient of an image's logit, mean over images (Mescheder et al. 2018).

    Args:
        logits: (B, 1), one per image.
        images: (B, C, *spatial), which require gradients.
    """
    (gradient,) = torch.autograd.grad(logits.float().sum(), images, create_graph=True)
    return 0.5 * gradient.float().flatten(1).square().sum(1).mean()
