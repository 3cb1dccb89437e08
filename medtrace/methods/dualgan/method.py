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
    | `target_penalty`, `source_penalty` | 0 | mean (length of the gradient of mean D at an image between both − 1)² |

    A critic must be Lipschitz. The paper clips its weights to [-clip, clip] after every step; the gradient penalty of
    Gulrajani et al. (2017), if its weight is above 0, takes the place of clipping.

    Args:
        networks: generators and critics of both domains.
        source_weight: λ of `source_reconstruction`.
        target_weight: λ of `target_reconstruction`.
        adversarial_weight: weight of the adversarial terms.
        clip: bound of the critics' weights.
        penalty_weight: weight of the gradient penalty, which replaces clipping if it is above 0.
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
            penalty_weight=settings.penalty_weight,
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
        penalty_weight: float = 0.0,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        check_positive("clip", clip)
        weights = {f"{domain}_adversarial": adversarial_weight for domain in DOMAINS}
        weights |= {"source_reconstruction": source_weight, "target_reconstruction": target_weight}
        judged = {f"{domain}_critic": adversarial_weight for domain in DOMAINS}
        judged |= {f"{domain}_penalty": penalty_weight for domain in DOMAINS if penalty_weight}
        check_weights(weights | judged)
        self.networks = networks
        self.clip = None if penalty_weight else clip
        self.pools = nn.ModuleDict({domain: ImagePool(pool_size) for domain in DOMAINS})
        critics = tuple(f"networks.discriminators.{domain}" for domain in DOMAINS)
        self.phases = (
            Phase("generator", ("networks.decoders",), weights),
            Phase("critic", critics, judged),
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
        """How much higher each critic marks generated images than true ones, and how far its slope is from 1."""
        images, terms = self._images(batch), {}
        for domain in DOMAINS:
            fake, real = self.pools[domain](context[domain]), images[domain]
            if phase.active(f"{domain}_critic"):
                terms[f"{domain}_critic"] = self._mark(fake, domain) - self._mark(real, domain)
            if phase.active(f"{domain}_penalty"):
                terms[f"{domain}_penalty"] = self._slope_penalty(fake, real, domain)
        return terms

    def _slope_penalty(self, fake: Tensor, real: Tensor, domain: Domain) -> Tensor:
        share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device, dtype=real.dtype)
        between = torch.lerp(fake.detach(), real, share).requires_grad_()
        (marks,) = self.networks.discriminate(between, domain)
        (gradient,) = torch.autograd.grad(marks.float().flatten(1).mean(1).sum(), between, create_graph=True)
        lengths: Tensor = gradient.float().flatten(1).norm(dim=1)
        return (lengths - 1).square().mean()

    def _mark(self, image: Tensor, domain: Domain) -> Tensor:
        (marks,) = self.networks.discriminate(image, domain)
        return marks.float().mean()

    @torch.no_grad()
    def after_step(self) -> None:
        """Cut the critics' weights, unless the penalty holds them."""
        if self.clip is not None:
            for parameter in self.networks.discriminators.parameters():
                parameter.clamp_(-self.clip, self.clip)
