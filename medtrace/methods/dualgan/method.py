"""DualGAN: two generators that undo each other, held by Wasserstein critics, without pairs."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_positive
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.dualgan.settings import DualGANSettings
from medtrace.networks.backbone import Domain, other
from medtrace.networks.dualgan import DualGAN

DOMAINS: tuple[Domain, ...] = ("target", "source")


class DualGANMethod(ImageTranslator):
    """Train two generators that undo each other against two Wasserstein critics (Yi et al. 2017).

    | term | weight | value |
    |---|---|---|
    | `target_adversarial`, `source_adversarial` | 1 | −mean D(G(x)), of either direction |
    | `source_reconstruction`, `target_reconstruction` | 500 | mean |x − G'(G(x))|, of either domain |
    | `target_critic`, `source_critic` | 1 | mean D(G(x)) − mean D(y) |

    After every step the critics' weights are clipped to [-clip, clip], which keeps them Lipschitz.

    Args:
        networks: generators and critics of both domains.
        source_weight: λ of `source_reconstruction`.
        target_weight: λ of `target_reconstruction`.
        adversarial_weight: weight of the adversarial terms.
        clip: bound of the critics' weights.
        pool_size: generated images kept for each critic; the paper has none.

    Raises:
        ValueError: if a weight is below 0, or the bound not above 0.
    """

    name = "dualgan"
    title = "DualGAN"
    paper = "Yi et al., DualGAN: Unsupervised Dual Learning for Image-to-Image Translation (2017)"
    settings_type = DualGANSettings
    abilities = Abilities(paired=False, patches=True, channels="any", moves=False)
    networks: DualGAN

    @classmethod
    def from_settings(cls, settings: DualGANSettings) -> Self:
        """Build it from its settings."""
        return cls(
            DualGAN(settings.spatial_dims, settings.in_channels, settings.out_channels, **settings.networks),
            source_weight=settings.source_weight,
            target_weight=settings.target_weight,
            adversarial_weight=settings.adversarial_weight,
            clip=settings.clip,
            pool_size=settings.pool_size,
        )

    def __init__(
        self,
        networks: DualGAN,
        *,
        source_weight: float = 500.0,
        target_weight: float = 500.0,
        adversarial_weight: float = 1.0,
        clip: float = 0.01,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        check_positive("clip", clip)
        weights = {f"{domain}_adversarial": adversarial_weight for domain in DOMAINS}
        weights |= {"source_reconstruction": source_weight, "target_reconstruction": target_weight}
        check_weights(weights)
        self.networks = networks
        self.clip = clip
        self.pools = nn.ModuleDict({domain: ImagePool(pool_size) for domain in DOMAINS})
        critics = tuple(f"networks.discriminators.{domain}" for domain in DOMAINS)
        self.phases = (
            Phase("generator", ("networks.decoders",), weights),
            Phase("critic", critics, {f"{domain}_critic": adversarial_weight for domain in DOMAINS}),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Leaves the generated images for the critics."""
        images = self._images(batch)
        terms = {}
        for domain in DOMAINS:
            home = other(domain)
            fake = self.networks.translate(images[home], home)
            context[domain] = fake.detach()
            if phase.active(f"{domain}_adversarial"):
                terms[f"{domain}_adversarial"] = -self._mark(fake, domain)
            if phase.active(f"{home}_reconstruction"):
                terms[f"{home}_reconstruction"] = F.l1_loss(self.networks.translate(fake, domain), images[home])
        return terms

    def critic_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """How much higher each critic marks generated images than true ones."""
        images = self._images(batch)
        return {
            f"{domain}_critic": self._mark(self.pools[domain](context[domain]), domain)
            - self._mark(images[domain], domain)
            for domain in DOMAINS
            if phase.active(f"{domain}_critic")
        }

    def _mark(self, image: Tensor, domain: Domain) -> Tensor:
        (marks,) = self.networks.discriminate(image, domain)
        return marks.float().mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Cut the critics' weights."""
        for parameter in self.networks.discriminators.parameters():
            parameter.clamp_(-self.clip, self.clip)
