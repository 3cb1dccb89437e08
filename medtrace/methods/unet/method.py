"""U-Net regression: the plain baseline of paired translation."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor
from torch.nn import functional as F

from medtrace.checks import check_range, check_same_shape
from medtrace.losses import structural_dissimilarity
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.structure import RESIDUAL, STRUCTURE, residual_term, structure_term
from medtrace.methods.common.translator import ImageTranslator
from medtrace.methods.unet.settings import UNetSettings
from medtrace.networks.blocks.intensity_table import curve_of
from medtrace.networks.regression_unet import RegressionUNet
from medtrace.trace.validation import as_tensor


class UNetMethod(ImageTranslator):
    """Train a `RegressionUNet` by the mean absolute error to the target.

    The one phase, "regression", has the term `l1`, mean |G(x) − y|, of weight 1 and, if requested, `structure`,
    1 − SSIM, and `residual`, mean |G(x) − c(x)| with the network's intensity curve c: what is uncertain stays on the
    curve. Nothing moves: the trace's field is zero.

    Args:
        networks: the network.
        structure_weight: weight of `structure`.
        residual_weight: weight of `residual`; needs a network with a curve.

    Raises:
        ValueError: if a weight is below 0, or belongs to a term that the network does not have.
    """

    name = "unet"
    title = "U-Net regression"
    paper = "Ronneberger et al., U-Net (2015), as MONAI has it, trained by L1"
    settings_type = UNetSettings
    abilities = Abilities(patches=True, channels="any", moves=False)
    networks: RegressionUNet

    @classmethod
    def from_settings(cls, settings: UNetSettings) -> Self:
        """Build it from its settings."""
        return cls(
            RegressionUNet(
                settings.spatial_dims,
                settings.in_channels,
                settings.out_channels,
                settings.channels,
                settings.num_res_units,
                settings.dropout,
                settings.refine,
                settings.curve,
            ),
            settings.structure_weight,
            settings.residual_weight,
        )

    def __init__(self, networks: RegressionUNet, structure_weight: float = 0.0, residual_weight: float = 0.0) -> None:
        super().__init__()
        self.networks = networks
        residual = residual_term(residual_weight, curve=curve_of(networks) is not None)
        self.phases = (Phase("regression", ("networks",), {"l1": 1.0, **structure_term(structure_weight), **residual}),)

    def regression_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The mean absolute error, and the structural dissimilarity."""
        source, target = as_tensor(batch["source"]), as_tensor(batch["target"])
        check_range("source", source, -1, 1)
        check_range("target", target, -1, 1)
        image = self.networks(source)
        check_same_shape("prediction", image, "target", target)
        terms = {"l1": F.l1_loss(image, target)}
        if STRUCTURE in phase.weights:
            terms[STRUCTURE] = structural_dissimilarity(image, target)
        curve = curve_of(self.networks)
        if curve is not None and RESIDUAL in phase.weights:
            terms[RESIDUAL] = F.l1_loss(image, curve(source).tanh())
        return terms
