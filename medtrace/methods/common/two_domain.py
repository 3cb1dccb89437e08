"""RegGAN: translation from misaligned pairs, by adding a registration network to any two-domain translator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_choice
from medtrace.fields import warp
from medtrace.losses import adversarial, adversarial_discriminator, structural_dissimilarity, velocity_smoothness
from medtrace.losses.adversarial import ADVERSARIAL_LOSSES
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.structure import structure_term
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.common.two_domain_settings import TwoDomainSettings
from medtrace.networks.backbone import Code, Domain, TranslationBackbone, other
from medtrace.networks.backbones import translation_backbone
from medtrace.networks.registration_unet import RegistrationUNet
from medtrace.trace.prediction import Prediction


@dataclass(frozen=True)
class CycleConsistency:
    """L1 between an image and its round trip of translations (RegGAN, Eq. 3).

    Attributes:
        weight: weight of the term "cycle", which sums both directions.
    """

    weight: float = 10.0


@dataclass(frozen=True)
class PairedL1:
    """L1 between the translation and the target as it lies (RegGAN, Eq. 2): Pix2Pix.

    Attributes:
        weight: weight of the term "paired_l1"; 100 is Pix2Pix's.
        structure_weight: weight of the term "paired_structure", 1 − SSIM, as a multiple of `weight`; Pix2Pix has none.
    """

    weight: float = 100.0
    structure_weight: float = 0.0


class RegistrationCorrection(nn.Module):
    """A registration network that models a pair's misalignment, so that the translation need not (RegGAN, Eq. 7-8).

    Nothing in Eq. 7-9 fixes the generator's position: R undoes a shift that it makes everywhere. The term
    "mean_displacement" pulls R's displacements to zero on average: it is the squared length of their running mean over
    tissue (weighted by the target's intensity above -1, air). Its gradient is 2·(running mean)·∂(batch's mean), without
    the factor `momentum`, so that the pull depends on what has accumulated and not on a single batch.

    Args:
        network: R, from the translated image and the target to a displacement.
        weight: weight of "correction", L1(G(x)∘R(G(x), ỹ), ỹ).
        smoothness_weight: weight of "smoothness", |∇R|².
        mean_displacement_weight: weight of "mean_displacement", in voxels²; the paper has none.
        momentum: fraction of a batch in the running mean.
        structure_weight: weight of "correction_structure", 1 − SSIM, as a multiple of `weight`; RegGAN has none.
    """

    mean_displacement: Tensor

    def __init__(
        self,
        network: RegistrationUNet,
        weight: float = 20.0,
        smoothness_weight: float = 10.0,
        mean_displacement_weight: float = 0.0,
        momentum: float = 0.01,
        structure_weight: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum: expected a fraction above 0 and at most 1, received {momentum!r}")
        self.network = network
        self.weight = weight
        self.smoothness_weight = smoothness_weight
        self.mean_displacement_weight = mean_displacement_weight
        self.structure_weight = structure_weight
        self.momentum = momentum
        self.register_buffer("mean_displacement", torch.zeros(network.spatial_dims))

    def mean_displacement_penalty(self, ddf: Tensor, target: Tensor) -> Tensor:
        """The term of one batch, of which each process may have a fraction; moves the running mean on."""
        tissue = (target + 1).clamp_min(0).mean(1, keepdim=True)
        gathered = (ddf * tissue).transpose(0, 1).flatten(1).sum(1)
        mass = _over_processes(tissue.sum()).clamp_min(1e-6)
        self.mean_displacement.lerp_(_over_processes(gathered.detach()) / mass, self.momentum)
        # Gradients are averaged over the processes, whose contributions add up.
        pull = _processes() * gathered / mass
        return (self.mean_displacement.clone() + pull - pull.detach()).square().sum()


def _processes() -> int:
    return torch.distributed.get_world_size() if _several() else 1


def _over_processes(value: Tensor) -> Tensor:
    """The sum of a value over the processes that train together."""
    value = value.clone()
    if _several():
        torch.distributed.all_reduce(value)
    return value


def _several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


class TwoDomainMethod(ImageTranslator):
    """Train a two-domain translator in any of RegGAN's modes, and trace images and pairs with it.

    The modes are what is added to the adversarial term: C is `cycle`, C+R `cycle` and `correction`, NC nothing, NC+R
    `correction` (the paper's RegGAN), Pix2Pix `pairing` alone on a `conditional` backbone. The phase "generator" has

    | term | weight | value |
    |---|---|---|
    | `target_adversarial` | 1 | Eq. 1 for G(x); `source_adversarial` likewise, with a cycle |
    | `correction` | 20 | L1(G(x)∘R(G(x), ỹ), ỹ), Eq. 7 |
    | `smoothness` | 10 | |∇R|², Eq. 8, as a mean (see `losses.velocity_smoothness`) |
    | `mean_displacement` | 0 | see `RegistrationCorrection` |
    | `cycle` | 10 | Eq. 3, both directions |
    | `paired_l1` | 100 | Eq. 2 |
    | `paired_structure`, `correction_structure` | none | 1 − SSIM of the images of the two L1s, not in the papers |
    | `reconstruction`, `prior`, `latent_cycle` | the backbone's | the backbone's own terms, see `TranslationBackbone` |

    and "discriminator" one term per discriminator, on generated images from a pool. Without a cycle the backbone's
    `latent_cycle` is off, since it belongs to the cycle; of the other own terms, those of the target remain.

    Args:
        networks: the backbone.
        cycle: cycle consistency; the backbone must be built `bidirectional`.
        correction: registration of the translated image to the target.
        pairing: the pixel-wise term of Pix2Pix.
        adversarial_loss: "least_squares" or "log".
        adversarial_weight: weight of the adversarial terms.
        internal_weights: weights of the backbone's own terms; None takes the published ones, {} switches them off.
        pool_size: generated images kept for each discriminator.

    Raises:
        ValueError: if the backbone cannot do what is requested, a weight is below 0, or an internal term is unknown.
    """

    settings_type = TwoDomainSettings
    abilities = Abilities(
        tasks=("translate", "register"), patches=True, channels="any", moves=False, identity_start=True
    )
    networks: TranslationBackbone

    @classmethod
    def from_settings(cls, settings: TwoDomainSettings) -> Self:
        """Build it from its settings."""
        options = dict(settings.networks.get(settings.backbone, {}))
        if settings.backbone == "cyclegan":
            options["conditional"] = settings.paired
        networks = translation_backbone(
            settings.backbone,
            settings.spatial_dims,
            settings.in_channels,
            settings.out_channels,
            settings.cycle,
            options,
        )
        correction = None
        if settings.correction:
            registration = RegistrationUNet(
                settings.spatial_dims,
                settings.out_channels,
                channels=settings.registration_channels,
                downsampling=settings.registration_downsampling,
            )
            correction = RegistrationCorrection(
                registration,
                weight=settings.correction_weight,
                smoothness_weight=settings.smoothness_weight,
                mean_displacement_weight=settings.mean_displacement_weight,
                structure_weight=settings.structure_weight,
            )
        return cls(
            networks,
            cycle=CycleConsistency(settings.cycle_weight) if settings.cycle else None,
            correction=correction,
            pairing=PairedL1(settings.paired_weight, settings.structure_weight) if settings.paired else None,
            adversarial_loss=settings.adversarial_loss,
            adversarial_weight=settings.adversarial_weight,
            internal_weights=settings.internal_weights,
            pool_size=settings.pool_size,
        )

    def __init__(
        self,
        networks: TranslationBackbone,
        *,
        cycle: CycleConsistency | None = None,
        correction: RegistrationCorrection | None = None,
        pairing: PairedL1 | None = None,
        adversarial_loss: str = "least_squares",
        adversarial_weight: float = 1.0,
        internal_weights: Mapping[str, float] | None = None,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        check_choice("adversarial_loss", adversarial_loss, ADVERSARIAL_LOSSES)
        if networks.bidirectional != (cycle is not None):
            raise ValueError(
                f"networks: expected a backbone built with bidirectional={cycle is not None},"
                f" {'for' if cycle else 'without'} a"
                f" cycle, received bidirectional={networks.bidirectional}; nothing else trains the reverse direction"
            )
        self.networks = networks
        self.correction = correction
        if correction is None:
            self.abilities = replace(type(self).abilities, tasks=("translate",))
        self.adversarial_loss = adversarial_loss
        self.domains: tuple[Domain, ...] = ("target", "source") if cycle else ("target",)
        self.pools = nn.ModuleDict({domain: ImagePool(pool_size) for domain in self.domains})
        weights = {f"{domain}_adversarial": adversarial_weight for domain in self.domains}
        weights |= {
            "correction": correction.weight if correction else 0.0,
            "smoothness": correction.smoothness_weight if correction else 0.0,
            "mean_displacement": correction.mean_displacement_weight if correction else 0.0,
            "cycle": cycle.weight if cycle else 0.0,
            "paired_l1": pairing.weight if pairing else 0.0,
            **self._structure(pairing, correction),
            **self._internal(internal_weights, cycled=cycle is not None),
        }
        check_weights(weights)
        decoders = ("networks.encoders", "networks.decoders")
        self.phases = (
            Phase("generator", (*decoders, "correction.network") if correction else decoders, weights),
            Phase(
                "discriminator",
                tuple(f"networks.discriminators.{domain}" for domain in self.domains),
                {f"{domain}_discriminator": adversarial_weight for domain in self.domains},
            ),
        )

    @staticmethod
    def _structure(pairing: PairedL1 | None, correction: RegistrationCorrection | None) -> dict[str, float]:
        weights: dict[str, float] = {}
        for name, part in (("paired_structure", pairing), ("correction_structure", correction)):
            if part is not None:
                weights |= structure_term(part.structure_weight, part.weight, name)
        return weights

    def _internal(self, given: Mapping[str, float] | None, cycled: bool) -> dict[str, float]:
        known = ("reconstruction", "prior", "latent_cycle")
        weights = dict(self.networks.internal_weights if given is None else given)
        for name in weights:
            check_choice("internal_weights", name, known)
        if not cycled:
            weights["latent_cycle"] = 0.0
        return {name: weights.get(name, 0.0) for name in known}

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 1-3 and 7-9; leaves the generated images for the discriminators."""
        images = self._images(batch)
        backbone = self.networks
        cycled = "source" in self.domains
        codes: dict[Domain, Code] = {"source": backbone.encode(images["source"], "source")}
        if cycled or phase.active("reconstruction"):
            codes["target"] = backbone.encode(images["target"], "target")
        drawn = {domain: backbone.drawn(codes[other(domain)]) for domain in self.domains}
        fakes = {domain: backbone.decode(drawn[domain], domain) for domain in self.domains}
        context.update({domain: fake.detach() for domain, fake in fakes.items()})

        terms = {}
        for domain, fake in fakes.items():
            if phase.active(f"{domain}_adversarial"):
                logits = backbone.discriminate(self._seen(fake, images, domain), domain)
                terms[f"{domain}_adversarial"] = adversarial(logits, self.adversarial_loss)
        terms |= self._aligned_terms(phase, fakes["target"], images["target"])
        terms |= self._cycle_terms(phase, images, codes, drawn, fakes)
        if phase.active("reconstruction"):
            terms["reconstruction"] = torch.stack(
                [F.l1_loss(backbone.decode(codes[domain], domain), images[domain]) for domain in self.domains]
            ).sum()
        if phase.active("prior"):
            terms["prior"] = torch.stack([backbone.prior(code) for code in codes.values()]).sum()
        return terms

    def _aligned_terms(self, phase: Phase, fake: Tensor, target: Tensor) -> dict[str, Tensor]:
        terms = {}
        if phase.active("paired_l1"):
            terms["paired_l1"] = F.l1_loss(fake, target)
        if "paired_structure" in phase.weights:
            terms["paired_structure"] = structural_dissimilarity(fake, target)
        if self.correction is not None and any(map(phase.active, ("correction", "smoothness", "mean_displacement"))):
            ddf = self.correction.network(fake, target)
            if phase.active("correction"):
                terms["correction"] = F.l1_loss(warp(fake, ddf), target)
            if "correction_structure" in phase.weights:
                terms["correction_structure"] = structural_dissimilarity(warp(fake, ddf), target)
            if phase.active("smoothness"):
                terms["smoothness"] = velocity_smoothness(ddf)
            if phase.active("mean_displacement"):
                terms["mean_displacement"] = self.correction.mean_displacement_penalty(ddf, target)
        return terms

    def _cycle_terms(
        self,
        phase: Phase,
        images: Mapping[Domain, Tensor],
        codes: Mapping[Domain, Code],
        drawn: Mapping[Domain, Code],
        fakes: Mapping[Domain, Tensor],
    ) -> dict[str, Tensor]:
        """Code every translation again: decoded with the style it came from it must give the image back."""
        if not (phase.active("cycle") or phase.active("latent_cycle")):
            return {}
        backbone, cycle, latent = self.networks, [], []
        for domain, fake in fakes.items():
            home = other(domain)
            again = backbone.encode(fake, domain)
            if phase.active("cycle"):
                back = backbone.decode(again._replace(style=codes[home].style), home)
                cycle.append(F.l1_loss(back, images[home]))
            if phase.active("latent_cycle"):
                latent.append(backbone.latent_cycle(drawn[domain], again))
        terms = {"cycle": cycle, "latent_cycle": latent}
        return {name: torch.stack(values).sum() for name, values in terms.items() if values}

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The discriminators' part of Eq. 1, on the images that the generator phase made and its earlier ones."""
        images = self._images(batch)
        terms = {}
        for domain in self.domains:
            if phase.active(f"{domain}_discriminator"):
                fake = self.pools[domain](self._seen(context[domain], images, domain))
                real = self._seen(images[domain], images, domain)
                terms[f"{domain}_discriminator"] = adversarial_discriminator(
                    self.networks.discriminate(real, domain),
                    self.networks.discriminate(fake, domain),
                    self.adversarial_loss,
                )
        return terms

    def _seen(self, assessed: Tensor, images: Mapping[Domain, Tensor], domain: Domain) -> Tensor:
        """What the discriminator sees: the image, for a conditional backbone beside the one it was made from."""
        return torch.cat([images[other(domain)], assessed], dim=1) if self.networks.conditional else assessed

    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Prediction:
        """The misalignment of each pair: R from the translated source to the target.

        Args:
            moving: (B, in_channels, *spatial), sources.
            fixed: (B, out_channels, *spatial), their targets, misaligned.
            mask: none: the correction explains alignment alone.
            source_mask: none.

        Returns:
            A prediction whose `image` is G(x)∘R, on the target's grid; the trace's `warped` is x∘R.

        Raises:
            TypeError: if the training had no `correction`, or a mask is given.
            ValueError: if the images are not on one grid, or their intensities outside [-1, 1].
        """
        if self.correction is None:
            return super().register(moving, fixed)
        if mask is not None or source_mask is not None:
            raise TypeError("mask: expected none, received one; RegGAN's registration permits no intensity change")
        images = self._images({"source": moving, "target": fixed})
        translated = self.networks(images["source"])
        ddf = self.correction.network(translated, images["target"])
        return Prediction(warp(translated, ddf), ddf)
