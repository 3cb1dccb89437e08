"""The TraceTrans method: content alignment, two adversaries and a smooth velocity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_choice, check_range, check_same_shape
from medtrace.losses import (
    ParzenDNMILoss,
    least_squares_adversarial,
    least_squares_discriminator,
    structural_dissimilarity,
    velocity_smoothness,
)
from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.common.channels import check_registered, compared, without_neighbors
from medtrace.methods.common.structure import RESIDUAL, STRUCTURE, residual_term, structure_term
from medtrace.methods.tracetrans.settings import TraceTransSettings
from medtrace.networks import DualDecoderGAN, TraceTransOutput
from medtrace.networks.blocks.intensity_table import curve_of
from medtrace.trace.prediction import Prediction
from medtrace.trace.validation import as_tensor


class TraceTransMethod(Method):
    """Train a `DualDecoderGAN` on before/after pairs and trace single images with it.

    The phase "generator" has, with the weights of TraceTrans, Eq. 8 and 12:

    | term | weight | value |
    |---|---|---|
    | `translation_l1` | α | mean |y_trans − y| |
    | `warp_dnmi` | 1 − α | −NMI(y_warp, y), 16 bins |
    | `cross_dnmi` | min(α, 1 − α)·γ | −NMI(y_trans, y_warp), 32 bins |
    | `translation_adversarial` | λ_adv·α | Eq. 10 on D_trans |
    | `warp_adversarial` | λ_adv·(1 − α) | Eq. 10 on D_warp |
    | `smoothness` | (1 − α)·λ_smooth | |∇v|² |
    | `structure` | α·`structure_weight` | 1 − SSIM(y_trans, y), not in the paper |
    | `residual` | α·`residual_weight` | mean abs. y_trans − c(y_warp), c the intensity curve, not in the paper |

    and "discriminator" the two halves of Eq. 13 (`translation_discriminator`, `warp_discriminator`). At α = 1 only
    `translation_l1`, `translation_adversarial` and `translation_discriminator` remain: Pix2Pix in its
    least-squares form without dropout. At α = 0 the image stream is off.

    Args:
        networks: the generator and its two discriminators.
        alpha: fraction of the translation stream, in [0, 1].
        gamma: strength of the cross-domain constraint, at least 0.
        adversarial_weight: λ_adv.
        smoothness_weight: λ_smooth.
        smoothness_reduction: "mean" over voxels (as VoxelMorph's code does) or "sum" over the grid (as the paper
            prints); the paper's λ_smooth = 0.2 is usable with the mean only.
        warp_bins: bins of `warp_dnmi`.
        cross_bins: bins of `cross_dnmi`.
        cross_gradient: what `cross_dnmi` trains: "both" streams, as Eq. 8 reads, or the "image" alone, the warped
            source being held fixed. With "both", an image that still copies the source's noise and structure pulls
            the field towards zero until both have learned the deformation; see the results in the documentation.
        registered_channels: for a source of several contrasts, those that, warped, are compared with the target; None
            compares channel by channel where source and target have as many, and otherwise takes all. One field warps
            all channels.
        structure_weight: weight of `structure`; the paper has none.
        residual_weight: weight of `residual`; the paper has none.
        share_forwards: let the discriminators learn from the forward pass that trained the generator, instead of
            assessing the same images again. The gradients are the same, with one forward pass less for each
            discriminator; in exchange the generator's features stay in memory until the step ends. Not for networks
            under `torch.compile`, which backpropagate through an entire network at once.

    Raises:
        ValueError: if a weight is outside its range, or a registered channel is not one of the source's.
    """

    name = "tracetrans"
    title = "TraceTrans"
    paper = "Luo, Li et al., TraceTrans: Translation and Spatial Tracing for Surgical Prediction"
    settings_type = TraceTransSettings
    abilities = Abilities(patches=True, channels="any", identity_start=True)
    networks: DualDecoderGAN

    @classmethod
    def widened(cls, settings: TraceTransSettings) -> TraceTransSettings:
        """As of every method; of neighboring slices none is compared with the target."""
        wide: TraceTransSettings = without_neighbors(settings, super().widened(settings))
        return wide

    @classmethod
    def from_settings(cls, settings: TraceTransSettings) -> Self:
        """Build it from its settings."""
        networks = DualDecoderGAN(
            settings.spatial_dims,
            settings.in_channels,
            settings.out_channels,
            channels=settings.channels,
            norm=settings.norm,
            shared_encoder=settings.shared_encoder,
            velocity_downsampling=settings.velocity_downsampling,
            discriminator_channels=settings.discriminator_channels,
            discriminator_layers=settings.discriminator_layers,
            curve=settings.curve,
        )
        return cls(
            networks,
            alpha=settings.alpha,
            gamma=settings.gamma,
            adversarial_weight=settings.adversarial_weight,
            smoothness_weight=settings.smoothness_weight,
            smoothness_reduction=settings.smoothness_reduction,
            warp_bins=settings.warp_bins,
            cross_bins=settings.cross_bins,
            cross_gradient=settings.cross_gradient,
            registered_channels=settings.registered_channels,
            structure_weight=settings.structure_weight,
            residual_weight=settings.residual_weight,
            share_forwards=settings.training.compile is False,
        )

    def distributed_networks(self) -> Mapping[str, Mapping[str, Any]]:
        """At alpha 0 and 1 the loss does not reach one of the generator's decoders."""
        partial = not 0 < self.alpha < 1
        generator = {"networks.generator": {"find_unused_parameters": partial}}
        return {**super().distributed_networks(), **generator}

    def __init__(
        self,
        networks: DualDecoderGAN,
        alpha: float = 0.5,
        gamma: float = 1.0,
        adversarial_weight: float = 0.01,
        smoothness_weight: float = 0.2,
        smoothness_reduction: str = "mean",
        warp_bins: int = 16,
        cross_bins: int = 32,
        cross_gradient: str = "both",
        share_forwards: bool = False,
        registered_channels: Sequence[int] | None = None,
        structure_weight: float = 0.0,
        residual_weight: float = 0.0,
    ) -> None:
        super().__init__()
        check_choice("cross_gradient", cross_gradient, ("both", "image"))
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected a fraction in [0, 1], received {alpha!r}")
        for name, value in (
            ("gamma", gamma),
            ("adversarial_weight", adversarial_weight),
            ("smoothness_weight", smoothness_weight),
        ):
            if value < 0:
                raise ValueError(f"{name}: expected a weight of at least 0, received {value!r}")
        check_registered(registered_channels, networks.generator.in_channels)
        self.registered_channels = registered_channels
        self.networks = networks
        self.alpha = alpha
        self.cross_gradient = cross_gradient
        self.smoothness_reduction = smoothness_reduction
        self.warp_dnmi = ParzenDNMILoss(num_bins=warp_bins)
        self.cross_dnmi = ParzenDNMILoss(num_bins=cross_bins)
        self.deform = alpha < 1
        self.share_forwards = share_forwards
        discriminators = ("networks.translation_discriminator", "networks.warp_discriminator")
        self.phases = (
            Phase(
                "generator",
                ("networks.generator",),
                {
                    "translation_l1": alpha,
                    "warp_dnmi": 1 - alpha,
                    "cross_dnmi": min(alpha, 1 - alpha) * gamma,
                    "translation_adversarial": adversarial_weight * alpha,
                    "warp_adversarial": adversarial_weight * (1 - alpha),
                    "smoothness": (1 - alpha) * smoothness_weight,
                    **structure_term(structure_weight, alpha),
                    **residual_term(residual_weight, alpha, curve=curve_of(networks) is not None),
                },
                shared=discriminators if share_forwards else (),
            ),
            Phase(
                "discriminator",
                discriminators,
                {
                    "translation_discriminator": adversarial_weight * alpha,
                    "warp_discriminator": adversarial_weight * (1 - alpha),
                },
            ),
        )

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 8, 10 and 12; leaves the detached images, or how they were assessed, for the discriminators."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        output: TraceTransOutput = self.networks(source, deform=self.deform)
        check_same_shape("prediction", output.image, "target", target)
        warped, fixed = compared(output.warped, target, self.registered_channels)
        context["image"], context["warped"] = output.image.detach(), warped.detach()
        context["logits"] = {}
        terms = {}
        if phase.active("translation_l1"):
            terms["translation_l1"] = F.l1_loss(output.image, target)
        if STRUCTURE in phase.weights:
            terms[STRUCTURE] = structural_dissimilarity(output.image, target)
        curve = curve_of(self.networks)
        if curve is not None and RESIDUAL in phase.weights:
            terms[RESIDUAL] = F.l1_loss(output.image, curve(output.warped.detach()).tanh())
        if phase.active("warp_dnmi"):
            terms["warp_dnmi"] = self.warp_dnmi(warped, fixed)
        if phase.active("cross_dnmi"):
            moved = output.warped if self.cross_gradient == "both" else output.warped.detach()
            moved, image = compared(moved, output.image, self.registered_channels)
            terms["cross_dnmi"] = self.cross_dnmi(image, moved)
        for stream, image in (("translation", output.image), ("warp", warped)):
            if phase.active(f"{stream}_adversarial"):
                logits = self._discriminator(stream)(_repeated(source, image), image)
                terms[f"{stream}_adversarial"] = least_squares_adversarial(logits, real=True)
                if self.share_forwards:
                    context["logits"][stream] = logits
        if phase.active("smoothness"):
            terms["smoothness"] = velocity_smoothness(output.velocity, reduction=self.smoothness_reduction)
        return terms

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 11 for each stream, on the images that the generator phase made."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        terms = {}
        for stream, fake in (("translation", context["image"]), ("warp", context["warped"])):
            if phase.active(f"{stream}_discriminator"):
                discriminator = self._discriminator(stream)
                assessed = context.get("logits", {}).get(stream)
                terms[f"{stream}_discriminator"] = least_squares_discriminator(
                    discriminator(source, target),
                    discriminator(_repeated(source, fake), fake) if assessed is None else assessed,
                )
        return terms

    def _discriminator(self, stream: str) -> torch.nn.Module:
        result: torch.nn.Module = getattr(self.networks, f"{stream}_discriminator")
        return result

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source of the batch.

        The inverse field is that of `ddf` itself (`fields.invert`): on a grid the exponential of −v differs from it by
        some tenths of a voxel where the flow converges.
        """
        source = as_tensor(batch["source"])
        check_range("source", source, -1, 1)
        output: TraceTransOutput = self.networks(source, deform=self.deform, inferer=self.inferer)
        return Prediction(output.image, output.ddf, velocity=output.velocity)


def _repeated(source: Tensor, images: Tensor) -> Tensor:
    """A source beside each of the images that it was compared in."""
    return torch.cat([source] * (len(images) // len(source))) if len(images) > len(source) else source
