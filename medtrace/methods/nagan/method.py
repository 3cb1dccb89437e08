"""NAGAN: the target's style, for one discriminator, on the source's content, for another."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.losses import adversarial, adversarial_discriminator
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.nagan.settings import NAGANSettings
from medtrace.networks.nagan import NAGAN, without_style


class NAGANMethod(ImageTranslator):
    """Train a generator against a discriminator of style and one of content (Zhang et al. 2020).

    | term | weight | value |
    |---|---|---|
    | `style_adversarial` | 1 | least squares, of G(x) by D_s |
    | `style_gram` | 1 | Σ mean |Gram(G(x)) − Gram(y)| of D_s's shallow features, means over the batch |
    | `content_adversarial` | 1 | least squares, of G(x) by D_c, which should take it for a source |
    | `content_features` | 10 | mean |D_c(G(x)) − D_c(x)| of the deepest features |
    | `style_discriminator` | 1 | D_s of y and G(x) |
    | `content_discriminator` | 1 | D_c of x and G(x) |

    D_c sees every image with mean 0 and standard deviation 1, so that it cannot use brightness and contrast.

    Args:
        networks: generator and discriminators.
        style_weight: weight of `style_gram`.
        content_weight: weight of `content_features`.
        adversarial_weight: weight of the adversarial terms.
        pool_size: generated images kept, one pool for both discriminators.

    Raises:
        ValueError: if a weight is below 0.
    """

    name = "nagan"
    title = "NAGAN"
    paper = "Zhang et al., Noise Adaptation Generative Adversarial Network for Medical Image Analysis (2020)"
    settings_type = NAGANSettings
    abilities = Abilities(paired=False, patches=True, moves=False)
    networks: NAGAN

    @classmethod
    def from_settings(cls, settings: NAGANSettings) -> Self:
        """Build it from its settings."""
        return cls(
            NAGAN(settings.spatial_dims, settings.in_channels, settings.out_channels, **settings.networks),
            style_weight=settings.style_weight,
            content_weight=settings.content_weight,
            adversarial_weight=settings.adversarial_weight,
            pool_size=settings.pool_size,
        )

    def __init__(
        self,
        networks: NAGAN,
        *,
        style_weight: float = 1.0,
        content_weight: float = 10.0,
        adversarial_weight: float = 1.0,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        weights = {"style_adversarial": adversarial_weight, "style_gram": style_weight}
        weights |= {"content_adversarial": adversarial_weight, "content_features": content_weight}
        check_weights(weights)
        self.networks = networks
        self.pool = ImagePool(pool_size)
        names = ("style", "content")
        self.phases = (
            Phase("generator", ("networks.generator",), weights),
            Phase(
                "discriminator",
                tuple(f"networks.{name}" for name in names),
                {f"{name}_discriminator": adversarial_weight for name in names},
            ),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Leaves the generated images for the discriminators."""
        images, networks = self._images(batch), self.networks
        fake = networks(images["source"])
        context["fake"] = fake.detach()
        terms = {}
        styled = networks.style(fake)
        if phase.active("style_adversarial"):
            terms["style_adversarial"] = adversarial([styled.logits])
        if phase.active("style_gram"):
            with torch.no_grad():
                wanted = networks.grams(networks.style(images["target"]).features)
            pairs = zip(networks.grams(styled.features), wanted, strict=True)
            apart = [(own.mean(0) - y.mean(0)).abs().mean() for own, y in pairs]
            terms["style_gram"] = torch.stack(apart).sum()
        kept = networks.content(without_style(fake))
        if phase.active("content_adversarial"):
            terms["content_adversarial"] = adversarial([kept.logits])
        if phase.active("content_features"):
            with torch.no_grad():
                content = networks.content(without_style(images["source"])).features[-1]
            terms["content_features"] = F.l1_loss(kept.features[-1], content)
        return terms

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """D_s of targets and D_c of sources, each against images that the generator phase made and earlier ones."""
        images, networks, fake, terms = self._images(batch), self.networks, self.pool(context["fake"]), {}
        if phase.active("style_discriminator"):
            real, made = networks.style(images["target"]).logits, networks.style(fake).logits
            terms["style_discriminator"] = adversarial_discriminator([real], [made])
        if phase.active("content_discriminator"):
            real, made = (networks.content(without_style(each)).logits for each in (images["source"], fake))
            terms["content_discriminator"] = adversarial_discriminator([real], [made])
        return terms
