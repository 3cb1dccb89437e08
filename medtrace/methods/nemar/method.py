"""NeMAR: a translator and a spatial transformer that must agree in both orders."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_choice, check_range
from medtrace.fields import warp
from medtrace.losses import adversarial, adversarial_discriminator
from medtrace.losses.adversarial import ADVERSARIAL_LOSSES
from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.nemar.settings import NeMARSettings
from medtrace.networks.nemar import NeMAR
from medtrace.trace.prediction import Prediction, zero_field
from medtrace.trace.validation import as_tensor

ORDERS = ("registered_translation", "translated_registration")


class NeMARMethod(Method):
    """Train a translator T and a spatial transformer R on misaligned pairs, and register pairs with R.

    With the source x, the target y, the field φ = R(x, y) and the two orders R∘T = T(x)∘φ and T∘R = T(x∘φ), the phase
    "generator" has

    | term | weight | value |
    |---|---|---|
    | `registered_translation_l1` | λ1 | L1(T(x)∘φ, y) |
    | `translated_registration_l1` | λ1 | L1(T(x∘φ), y) |
    | `registered_translation_adversarial` | 1 | of T(x)∘φ, beside x |
    | `translated_registration_adversarial` | 1 | of T(x∘φ), beside x |
    | `smoothness` | λ2 | mean over axes of the mean of exp(−α·|∂y|)·|∂φ|, in voxels |

    and "discriminator" one term, real pairs against both orders. That both orders give the same is what keeps T from
    learning the misalignment: a T that moves what it translates cannot satisfy both. A translation is T(x), and moves
    nothing; the trace of a pair has R's field.

    Args:
        networks: T, R and the discriminator.
        l1_weight: λ1.
        smoothness_weight: λ2.
        edge_sensitivity: α.
        adversarial_loss: "least_squares" or "log".
        adversarial_weight: weight of the adversarial terms.

    Raises:
        ValueError: if a weight is below 0, or the loss is unknown.
    """

    name = "nemar"
    title = "NeMAR"
    paper = (
        "Arar et al., Unsupervised Multi-Modal Image Registration via Geometry Preserving Image-to-Image Translation"
    )
    paper += " (2020)"
    settings_type = NeMARSettings
    abilities = Abilities(
        tasks=("translate", "register"), patches=True, channels="any", moves=False, identity_start=True
    )
    networks: NeMAR

    @classmethod
    def from_settings(cls, settings: NeMARSettings) -> Self:
        """Build it from its settings."""
        networks = NeMAR(
            settings.spatial_dims,
            settings.in_channels,
            settings.out_channels,
            settings.channels,
            settings.num_blocks,
            settings.downsamplings,
            settings.registration_channels,
            settings.registration_downsampling,
            settings.discriminator_channels,
            settings.discriminator_layers,
        )
        return cls(
            networks,
            l1_weight=settings.l1_weight,
            smoothness_weight=settings.smoothness_weight,
            edge_sensitivity=settings.edge_sensitivity,
            adversarial_loss=settings.adversarial_loss,
            adversarial_weight=settings.adversarial_weight,
        )

    def __init__(
        self,
        networks: NeMAR,
        l1_weight: float = 100.0,
        smoothness_weight: float = 1.5,
        edge_sensitivity: float = 0.0,
        adversarial_loss: str = "least_squares",
        adversarial_weight: float = 1.0,
    ) -> None:
        super().__init__()
        check_choice("adversarial_loss", adversarial_loss, ADVERSARIAL_LOSSES)
        self.networks = networks
        self.adversarial_loss = adversarial_loss
        self.edge_sensitivity = edge_sensitivity
        weights = {
            **{f"{order}_l1": l1_weight for order in ORDERS},
            **{f"{order}_adversarial": adversarial_weight for order in ORDERS},
            "smoothness": smoothness_weight,
        }
        for name, weight in {**weights, "edge_sensitivity": edge_sensitivity}.items():
            if weight < 0:
                raise ValueError(f"{name}: expected at least 0, received {weight!r}")
        self.phases = (
            Phase("generator", ("networks.translator", "networks.registration"), weights),
            Phase("discriminator", ("networks.discriminator",), {"discriminator": adversarial_weight}),
        )

    def io_network(self) -> nn.Module:
        """The translator: a source in, its translation out."""
        return self.networks.translator

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Both orders against the target, and the field's smoothness; leaves both images for the discriminator."""
        source, target = self._images(batch)
        output = self.networks(source, target)
        terms = {}
        for order in ORDERS:
            image: Tensor = getattr(output, order)
            context[order] = image.detach()
            if phase.active(f"{order}_l1"):
                terms[f"{order}_l1"] = F.l1_loss(image, target)
            if phase.active(f"{order}_adversarial"):
                logits = self.networks.assess(source, image)
                terms[f"{order}_adversarial"] = adversarial(logits, self.adversarial_loss)
        if phase.active("smoothness"):
            terms["smoothness"] = edge_aware_smoothness(output.ddf, target, self.edge_sensitivity)
        return terms

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Real pairs against both orders, half each."""
        source, target = self._images(batch)
        real = self.networks.assess(source, target)
        parts = [
            adversarial_discriminator(real, self.networks.assess(source, context[order]), self.adversarial_loss)
            for order in ORDERS
        ]
        return {"discriminator": torch.stack(parts).mean()}

    @staticmethod
    def _images(batch: Batch) -> tuple[Tensor, Tensor]:
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        return source, target

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source; the translation is on the source's grid, so the field is zero by design."""
        source = as_tensor(batch["source"])
        check_range("source", source, -1, 1)
        if self.inferer is None:
            image = self.networks.translator(source)
        else:
            image = self.inferer(source, lambda patch: (self.networks.translator(patch),), self.networks.stride)[0]
        return Prediction(image, zero_field(image), zero_field(image))

    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Prediction:
        """R's field of each pair.

        Args:
            moving: (B, in_channels, *spatial), sources.
            fixed: (B, out_channels, *spatial), their targets, misaligned.
            mask: none.
            source_mask: none.

        Returns:
            A prediction whose `image` is T(x)∘φ, on the target's grid; the trace's `warped` is x∘φ.

        Raises:
            TypeError: if a mask is given.
        """
        if mask is not None or source_mask is not None:
            raise TypeError("mask: expected none, received one; NeMAR's registration permits no intensity change")
        source, target = self._images({"source": moving, "target": fixed})
        ddf = self.networks.register(source, target)
        return Prediction(warp(self.networks.translator(source), ddf), ddf)


def edge_aware_smoothness(ddf: Tensor, image: Tensor, sensitivity: float = 0.0) -> Tensor:
    """Mean absolute first differences of a field, less where the image has an edge: exp(−sensitivity·|∂image|)·|∂ddf|.

    Args:
        ddf: (B, d, *spatial), in voxels.
        image: (B, C, *spatial) in [-1, 1].
        sensitivity: 0 or more.

    Returns:
        The mean over axes of the means over voxels, a scalar.

    Example:
        >>> ramp = torch.arange(4.0).expand(1, 2, 4, 4)
        >>> float(edge_aware_smoothness(ramp, torch.zeros(1, 1, 4, 4)))
        0.5
    """
    parts = []
    for axis in range(2, ddf.ndim):
        if ddf.shape[axis] > 1:
            edge = image.float().diff(dim=axis).abs().mean(1, keepdim=True)
            parts.append((torch.exp(-sensitivity * edge) * ddf.float().diff(dim=axis).abs()).mean())
    return torch.stack(parts).mean() if parts else ddf.sum() * 0
