"""TraceTrans composed: an image made of its own warped source, and a field that moves nothing without a reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_range, check_same_shape
from medtrace.losses import ParzenDNMILoss, motion_magnitude, sub_voxel_pair, velocity_smoothness
from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.common.channels import check_registered, compared, without_neighbors
from medtrace.methods.tracetrans_composed.settings import ComposedTraceTransSettings
from medtrace.networks.tracetrans_composed import ComposedOutput, ComposedTraceTrans
from medtrace.trace.prediction import Prediction
from medtrace.trace.validation import as_tensor


class ComposedTraceTransMethod(Method):
    """Train a `ComposedTraceTrans` on before/after pairs and trace single images with it.

    The network's image is c(x∘φ) + δ, with an intensity curve c that cannot displace an edge and a sparse change δ. The
    one phase, "generator", has the terms

    | term | weight | value |
    |---|---|---|
    | `image_l1` | `image_weight` | mean |y_trans − y| |
    | `image_squared` | `image_weight`·`squared_weight` | mean (y_trans − y)² |
    | `warp_dnmi` | `similarity_weight` | −NMI(x∘φ, y), both read at one random position between voxels |
    | `smoothness` | `smoothness_weight` | |∇v|², as a mean |
    | `motion` | `motion_weight` | mean |v| |
    | `change` | `change_weight` | mean |δ| |

    The image teaches curve and change; the field learns from `warp_dnmi`, `smoothness` and `motion` alone, so that it
    has nothing to gain from blurring noise or from producing what δ should. Compared with TraceTrans (Luo, Li et al.),
    the cross term has no purpose any more, because the image cannot contradict its field, and no discriminator takes
    part.

    Args:
        networks: the generator.
        image_weight: weight of the mean absolute error.
        squared_weight: weight of the mean squared error, as a multiple of that.
        similarity_weight: weight of the NMI of warped source and target.
        bins: bins of the NMI.
        smoothness_weight: weight of the squared differences of the velocity, in voxels.
        motion_weight: weight of its mean length, in voxels.
        change_weight: weight of the mean |δ|, of images in [-1, 1].
        registered_channels: for a source of several contrasts, those that, warped, are compared with the target; None
            compares channel by channel where source and target have as many, and otherwise takes all.

    Raises:
        ValueError: if a weight is below 0, or a registered channel is not one of the source's.
    """

    name = "tracetrans_composed"
    title = "TraceTrans composed"
    paper = "none; after Luo, Li et al., TraceTrans: Translation and Spatial Tracing for Surgical Prediction"
    settings_type = ComposedTraceTransSettings
    abilities = Abilities(patches=True, channels="any", identity_start=True)
    networks: ComposedTraceTrans

    @classmethod
    def widened(cls, settings: ComposedTraceTransSettings) -> ComposedTraceTransSettings:
        """As of every method; of neighboring slices none is compared with the target."""
        wide: ComposedTraceTransSettings = without_neighbors(settings, super().widened(settings))
        return wide

    @classmethod
    def from_settings(cls, settings: ComposedTraceTransSettings) -> Self:
        """Build it from its settings."""
        networks = ComposedTraceTrans(
            settings.spatial_dims,
            settings.in_channels,
            settings.out_channels,
            channels=settings.channels,
            norm=settings.norm,
            velocity_downsampling=settings.velocity_downsampling,
            dead_zone=settings.dead_zone,
            inference_dead_zone=settings.inference_dead_zone,
            inference_reach=settings.inference_reach,
        )
        return cls(
            networks,
            image_weight=settings.image_weight,
            squared_weight=settings.squared_weight,
            similarity_weight=settings.similarity_weight,
            bins=settings.bins,
            smoothness_weight=settings.smoothness_weight,
            motion_weight=settings.motion_weight,
            change_weight=settings.change_weight,
            registered_channels=settings.registered_channels,
        )

    def __init__(
        self,
        networks: ComposedTraceTrans,
        image_weight: float = 0.5,
        squared_weight: float = 2.0,
        similarity_weight: float = 0.5,
        bins: int = 32,
        smoothness_weight: float = 0.5,
        motion_weight: float = 0.01,
        change_weight: float = 0.05,
        registered_channels: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        weights = {
            "image_l1": image_weight,
            "image_squared": image_weight * squared_weight,
            "warp_dnmi": similarity_weight,
            "smoothness": smoothness_weight,
            "motion": motion_weight,
            "change": change_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"weight of {name}: expected at least 0, received {value!r}")
        check_registered(registered_channels, networks.in_channels)
        self.registered_channels = registered_channels
        self.networks = networks
        self.warp_dnmi = ParzenDNMILoss(num_bins=bins, out_of_range="clamp")
        self.phases = (Phase("generator", ("networks",), weights),)

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The active terms; see the class."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        output: ComposedOutput = self.networks(source)
        check_same_shape("prediction", output.image, "target", target)
        terms = {}
        if phase.active("image_l1"):
            terms["image_l1"] = F.l1_loss(output.image, target)
        if phase.active("image_squared"):
            terms["image_squared"] = F.mse_loss(output.image, target)
        if phase.active("warp_dnmi"):
            warped, fixed = sub_voxel_pair(source, output.ddf, target)
            terms["warp_dnmi"] = self.warp_dnmi(*compared(warped, fixed, self.registered_channels))
        if phase.active("smoothness"):
            terms["smoothness"] = velocity_smoothness(output.velocity)
        if phase.active("motion"):
            terms["motion"] = motion_magnitude(output.velocity)
        if phase.active("change"):
            terms["change"] = output.change.abs().mean()
        return terms

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source of the batch; the inverse field is that of `ddf` itself (`fields.invert`)."""
        source = as_tensor(batch["source"])
        check_range("source", source, -1, 1)
        output: ComposedOutput = self.networks(source, inferer=self.inferer)
        return Prediction(output.image, output.ddf, velocity=output.velocity)
