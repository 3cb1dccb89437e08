"""The MetaRegNet method: register a pair and explain, within a mask, what has no correspondence."""

from __future__ import annotations

from typing import Any, Literal, Self

from torch import Tensor

from medtrace.methods.base import Batch, Phase
from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy
from medtrace.methods.common.registration import RegistrationMethod, RegistrationPair, Segmentation
from medtrace.methods.metaregnet.settings import MetaRegNetSettings
from medtrace.networks import MetamorphicOutput, MetamorphicRegNet
from medtrace.trace.prediction import Prediction


class MetaRegNetMethod(RegistrationMethod):
    """Train a `MetamorphicRegNet` on pairs and register pairs with it.

    The one phase, "registration", has the terms of `MetamorphicEnergy` (MetaRegNet, Eq. 4): `similarity`,
    `intensity_diffusion`, `folding`, `smoothness` and `bending`. The batch is that of `RegistrationMethod`. The trace's
    image is warped + q·M and its appearance q·M, so that its ledger has no residual within the mask.

    Where the paper's text, its equations and the authors' settings disagree, the text is the default and the rest a
    parameter: MSE or L1; the number of blocks (the network's `num_blocks`); Eq. 3 or the blocks' arrays as they are
    (its `integration`); the sum or the mean of folding; no smoothness of φ.

    Args:
        networks: the network.
        similarity: "mse" or "l1".
        similarity_weight: λ1.
        diffusion_weight: λ2.
        folding_weight: λ3.
        folding_reduction: "sum" or "mean".
        folding_measure: "central" or "simplices".
        smoothness_weight: weight of the displacement's smoothness; 0 is the paper's.
        bending_weight: weight of its second derivatives; 0 is the paper's.
        similarity_levels: levels of the similarity's pyramid; 1 is the paper's.
        masked_gradient: "both" or "intensity": what the similarity trains within the mask, see `MetamorphicEnergy`.
        segmentation: see `RegistrationMethod`.
        segment_source: see there.

    Raises:
        ValueError: if a weight is negative or a choice unknown.
    """

    name = "metaregnet"
    title = "MetaRegNet"
    paper = "Joshi and Hong, MetaRegNet: Metamorphic Image Registration Using Flow-Driven Residual Networks"
    settings_type = MetaRegNetSettings
    networks: MetamorphicRegNet

    @classmethod
    def from_settings(cls, settings: MetaRegNetSettings) -> Self:
        """Build it from its settings."""
        networks = MetamorphicRegNet(
            settings.spatial_dims,
            settings.in_channels,
            channels=settings.channels,
            num_blocks=settings.num_blocks,
            share_blocks=settings.share_blocks,
            integration=settings.integration,
            flow_downsampling=settings.flow_downsampling,
        )
        return cls(
            networks,
            similarity=settings.similarity,
            diffusion_weight=settings.diffusion_weight,
            folding_weight=settings.folding_weight,
            folding_reduction=settings.folding_reduction,
            folding_measure=settings.folding_measure,
            smoothness_weight=settings.smoothness_weight,
            bending_weight=settings.bending_weight,
            similarity_levels=settings.similarity_levels,
            masked_gradient=settings.masked_gradient,
        )

    def __init__(
        self,
        networks: MetamorphicRegNet,
        similarity: Literal["mse", "l1"] | str = "mse",
        similarity_weight: float = 1.0,
        diffusion_weight: float = 1.0,
        folding_weight: float = 1e-3,
        folding_reduction: Literal["sum", "mean"] | str = "sum",
        folding_measure: Literal["central", "simplices"] | str = "central",
        smoothness_weight: float = 0.0,
        bending_weight: float = 0.0,
        similarity_levels: int = 1,
        masked_gradient: Literal["both", "intensity"] | str = "both",
        segmentation: Segmentation | None = None,
        segment_source: bool = False,
    ) -> None:
        super().__init__(segmentation, segment_source)
        self.networks = networks
        self.energy = MetamorphicEnergy(
            similarity=similarity,
            similarity_weight=similarity_weight,
            diffusion_weight=diffusion_weight,
            folding_weight=folding_weight,
            folding_reduction=folding_reduction,
            folding_measure=folding_measure,
            smoothness_weight=smoothness_weight,
            bending_weight=bending_weight,
            levels=similarity_levels,
            masked_gradient=masked_gradient,
        )
        self.phases = (Phase("registration", ("networks",), self.energy.weights),)

    def registration_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 4."""
        pair = self.pair(batch)
        output: MetamorphicOutput = self.networks(*pair)
        return self.energy.terms(output, pair.target, pair.joint_mask(output.ddf))

    def answer(self, pair: RegistrationPair) -> Prediction:
        """Run the network."""
        output: MetamorphicOutput = self.networks(*pair)
        mask = pair.joint_mask(output.ddf)
        return Prediction(output.image, output.ddf, mask=mask, appearance=output.intensity)
