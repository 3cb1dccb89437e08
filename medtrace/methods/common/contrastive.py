"""Contrastive unpaired translation: what lies at a place of the translation must be found again at it (CUT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from medtrace.checks import check_positive
from medtrace.losses import adversarial, adversarial_discriminator, patch_nce
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.contrastive_settings import ContrastiveSettings
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.networks.cut import CUT, PatchHeads


class ContrastiveMethod(ImageTranslator):
    """Train a generator whose encoder finds each place of G(x) again in x, among other places (Park et al. 2020).

    | term | weight | value |
    |---|---|---|
    | `target_adversarial` | 1 | least squares, of G(x) |
    | `nce` | CUT 1, FastCUT 10 | `losses.patch_nce` of the features of G(x) against those of x, mean over maps |
    | `identity_nce` | CUT 1, FastCUT 0 | likewise of G(y) against y, the identity NCE |
    | `target_discriminator` | 1 | of y and G(x), generated images from a pool |

    Args:
        networks: generator, heads and discriminator.
        nce_weight: weight of `nce`.
        identity_weight: weight of `identity_nce`.
        adversarial_weight: weight of the adversarial terms.
        flip_equivariance: translate half of the batches mirrored along the first axis, and compare features mirrored
            back.
        temperature: T of `patch_nce`.
        patches: number of positions that are compared.
        pool_size: generated images kept for the discriminator.

    Raises:
        ValueError: if a weight is below 0, or temperature or patches not above 0.
    """

    settings_type = ContrastiveSettings
    abilities = Abilities(paired=False, patches=True, moves=False)
    networks: CUT

    @classmethod
    def from_settings(cls, settings: ContrastiveSettings) -> Self:
        """Build it from its settings."""
        return cls(
            CUT(settings.spatial_dims, settings.in_channels, settings.out_channels, **settings.networks),
            nce_weight=settings.nce_weight,
            identity_weight=settings.identity_weight,
            adversarial_weight=settings.adversarial_weight,
            flip_equivariance=settings.flip_equivariance,
            temperature=settings.temperature,
            patches=settings.patches,
            pool_size=settings.pool_size,
        )

    def __init__(
        self,
        networks: CUT,
        *,
        nce_weight: float = 1.0,
        identity_weight: float = 1.0,
        adversarial_weight: float = 1.0,
        flip_equivariance: bool = False,
        temperature: float = 0.07,
        patches: int = 256,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        check_positive("temperature", temperature)
        check_positive("patches", patches)
        weights = {"target_adversarial": adversarial_weight, "nce": nce_weight, "identity_nce": identity_weight}
        check_weights(weights)
        self.networks = networks
        self.flip_equivariance = flip_equivariance
        self.temperature = temperature
        self.patches = patches
        self.pool = ImagePool(pool_size)
        self.phases = (
            Phase("generator", ("networks.generator", "networks.heads"), weights),
            Phase("discriminator", ("networks.discriminator",), {"target_discriminator": adversarial_weight}),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Leaves the generated images for the discriminator."""
        images = self._images(batch)
        mirrored = self.flip_equivariance and bool(torch.rand(()) < 0.5)
        source = images["source"].flip(2) if mirrored else images["source"]
        fake = self.networks(source)
        context["fake"] = fake.detach()
        terms = {}
        if phase.active("target_adversarial"):
            terms["target_adversarial"] = adversarial(self.networks.discriminator(fake))
        if phase.active("nce"):
            terms["nce"] = self._nce(fake, images["source"], mirrored)
        if phase.active("identity_nce"):
            terms["identity_nce"] = self._nce(self.networks(images["target"]), images["target"])
        return terms

    def _nce(self, translation: Tensor, source: Tensor, mirrored: bool = False) -> Tensor:
        maps = self.networks.features(translation)
        maps = [feature.flip(2) for feature in maps] if mirrored else maps
        with torch.no_grad():
            keys = self.networks.features(source)
        return nce_of_places(self.networks.heads, maps, keys, self.patches, self.temperature)

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The discriminator's halves, on the images that the generator phase made and earlier ones."""
        if not phase.active("target_discriminator"):
            return {}
        network, target = self.networks.discriminator, self._images(batch)["target"]
        return {"target_discriminator": adversarial_discriminator(network(target), network(self.pool(context["fake"])))}


def nce_of_places(
    heads: PatchHeads, maps: Sequence[Tensor], keys: Sequence[Tensor], patches: int, temperature: float
) -> Tensor:
    """PatchNCE of a translation's features against its source's, at the same random places; mean over the maps.

    Args:
        heads: heads on the features.
        maps: features of the translation.
        keys: features of the source, which no gradient reaches.
        patches: number of positions per map.
        temperature: T.
    """
    places = PatchHeads.drawn_places(maps, patches)
    with torch.no_grad():
        wanted = heads(keys, places)
    found = [patch_nce(query, key, temperature) for query, key in zip(heads(maps, places), wanted, strict=True)]
    return torch.stack(found).mean()
