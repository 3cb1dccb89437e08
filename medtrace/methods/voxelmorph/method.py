"""VoxelMorph's method, plain or with the pathology left out of the comparison."""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from torch import Tensor

from medtrace.checks import check_choice, check_whole
from medtrace.losses import jacobian_folding, velocity_smoothness
from medtrace.methods.base import Batch, Phase
from medtrace.methods.common.metamorphic_energy import SIMILARITIES, bending_energy, check_weights, image_distance
from medtrace.methods.common.registration import RegistrationMethod, RegistrationPair, Segmentation
from medtrace.methods.voxelmorph.settings import VoxelMorphSettings
from medtrace.networks import DiffeomorphicVoxelMorph, VoxelMorphOutput
from medtrace.trace.prediction import Prediction

SPAN = 2.0
"""Length of the images' range, [-1, 1]."""


class VoxelMorphMethod(RegistrationMethod):
    """Train a `DiffeomorphicVoxelMorph` on pairs and register pairs with it: MetaRegNet's rival VM-CFM, or plain.

    The one phase, "registration":

    | term | value |
    |---|---|
    | `similarity` | mean squared (or absolute) difference of warped source and target, as for images in [0, 1] |
    | `smoothness` | mean |∇v|² of the velocity, in voxels |
    | `folding` | ½(|J| − J) summed over the grid; off, for an equal footing with MetaRegNet |
    | `bending` | mean |∇∇v|² of the velocity, in voxels; off |

    With `masking` (cost-function masking, Brett et al. 2001) the similarity leaves out the pathology, the target's and
    the source's warped along, and is the mean over the healthy voxels. The batch is that of `RegistrationMethod`.
    The trace's image is the warped source, and its appearance 0.

    Args:
        networks: the network.
        masking: whether pathology is left out of the similarity; if not, masks are only passed to the trace.
        similarity: "mse" or "l1".
        similarity_weight: its weight.
        smoothness_weight: its weight.
        folding_weight: its weight.
        bending_weight: its weight.
        similarity_levels: levels of the similarity's pyramid.
        segmentation: see `RegistrationMethod`.
        segment_source: see there.

    Raises:
        ValueError: if a weight is negative or a choice unknown.
    """

    name = "voxelmorph"
    title = "VoxelMorph"
    paper = "Dalca et al., Unsupervised Learning of Probabilistic Diffeomorphic Registration (2019)"
    settings_type = VoxelMorphSettings
    networks: DiffeomorphicVoxelMorph

    @classmethod
    def from_settings(cls, settings: VoxelMorphSettings) -> Self:
        """Build it from its settings."""
        networks = DiffeomorphicVoxelMorph(
            settings.spatial_dims,
            settings.in_channels,
            channels=settings.channels,
            velocity_downsampling=settings.velocity_downsampling,
        )
        return cls(
            networks,
            masking=settings.masking,
            similarity=settings.similarity,
            smoothness_weight=settings.smoothness_weight,
            bending_weight=settings.bending_weight,
            similarity_levels=settings.similarity_levels,
        )

    def __init__(
        self,
        networks: DiffeomorphicVoxelMorph,
        masking: bool = True,
        similarity: Literal["mse", "l1"] | str = "mse",
        similarity_weight: float = 1.0,
        smoothness_weight: float = 0.01,
        folding_weight: float = 0.0,
        bending_weight: float = 0.0,
        similarity_levels: int = 1,
        segmentation: Segmentation | None = None,
        segment_source: bool = False,
    ) -> None:
        super().__init__(segmentation, segment_source)
        check_choice("similarity", similarity, SIMILARITIES)
        check_whole("similarity_levels", similarity_levels, 1)
        weights = {
            "similarity": similarity_weight,
            "smoothness": smoothness_weight,
            "folding": folding_weight,
            "bending": bending_weight,
        }
        check_weights(weights)
        self.networks = networks
        self.masking = masking
        self.similarity = similarity
        self.similarity_levels = similarity_levels
        self.phases = (Phase("registration", ("networks",), weights),)

    @property
    def leaves_out_masks(self) -> bool:
        """Whether it is VM-CFM."""
        return self.masking

    def registration_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Similarity of the healthy voxels, smoothness of the velocity, and folds."""
        pair = self.pair(batch)
        output: VoxelMorphOutput = self.networks(pair.source, pair.target)
        terms = {}
        if phase.active("similarity"):
            healthy = 1 - pair.joint_mask(output.ddf) if self.masking else None
            terms["similarity"] = image_distance(
                output.warped, pair.target, self.similarity, SPAN, healthy, self.similarity_levels
            )
        if phase.active("smoothness"):
            terms["smoothness"] = velocity_smoothness(output.velocity)
        if phase.active("folding"):
            terms["folding"] = jacobian_folding(output.ddf)
        if phase.active("bending"):
            terms["bending"] = bending_energy(output.velocity.float())
        return terms

    def answer(self, pair: RegistrationPair) -> Prediction:
        """Run the network; the prediction has the velocity too."""
        output: VoxelMorphOutput = self.networks(pair.source, pair.target)
        return Prediction(
            output.warped,
            output.ddf,
            velocity=output.velocity,
            mask=pair.joint_mask(output.ddf),
            appearance=torch.zeros_like(output.warped),
        )
