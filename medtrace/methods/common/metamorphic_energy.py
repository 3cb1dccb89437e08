"""The terms that compare a metamorphic registration with its target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from monai.losses import BendingEnergyLoss
from monai.networks.layers import get_pool_layer
from torch import Tensor

from medtrace.checks import check_choice, check_same_shape, check_whole
from medtrace.losses import intensity_diffusion, jacobian_folding, velocity_smoothness
from medtrace.losses.folding import MEASURES
from medtrace.networks import MetamorphicOutput

SIMILARITIES = ("mse", "l1")


bending_energy = BendingEnergyLoss()
"""Mean squared second derivatives of a field, (B, D, *spatial) in voxels; an affine field has none."""


def image_distance(
    image: Tensor,
    target: Tensor,
    similarity: str = "mse",
    span: float = 2.0,
    weights: Tensor | None = None,
    levels: int = 1,
) -> Tensor:
    """Mean distance of two images in units of their range, so that it is the one of images in [0, 1].

    Args:
        image: (B, C, *spatial).
        target: target of the same shape.
        similarity: "mse" or "l1".
        span: the range's length, 2 for [-1, 1].
        weights: (B, 1, *spatial) >= 0 of the voxels in the mean, or None for equal ones. Where all are 0, the distance
            is 0.
        levels: levels of a pyramid, each made of (weighted) means of 2 voxels per axis of the previous one; the
            distance is the mean over levels.
    """
    check_same_shape("image", image, "target", target)
    check_choice("similarity", similarity, SIMILARITIES)
    difference = (image.float() - target.float()) / span
    distances = [_mean_distance(difference, similarity, weights)]
    halve = get_pool_layer(("avg", {"kernel_size": 2, "ceil_mode": True}), image.ndim - 2)
    for _ in range(levels - 1):
        if weights is None:
            difference = halve(difference)
        else:
            halved = halve(weights.float())
            difference, weights = halve(difference * weights) / halved.clamp_min(torch.finfo(torch.float32).eps), halved
        distances.append(_mean_distance(difference, similarity, weights))
    return torch.stack(distances).mean()


def _mean_distance(difference: Tensor, similarity: str, weights: Tensor | None) -> Tensor:
    distance = difference.square() if similarity == "mse" else difference.abs()
    if weights is None:
        return distance.mean()
    return (distance * weights).sum() / (weights.sum() * distance.shape[1]).clamp_min(1.0)


class MetamorphicEnergy:
    """MetaRegNet, Eq. 4, for a network's answer and for the flows of a single pair.

    | term | weight | value |
    |---|---|---|
    | `similarity` | λ1 | mean squared (or absolute) difference of image and target |
    | `intensity_diffusion` | λ2 | mean |∇(q·M)|² |
    | `folding` | λ3 | ½(|J| − J), summed over the grid |
    | `smoothness` | 0 | mean |∇φ|², not in the paper |
    | `bending` | 0 | mean |∇∇φ|² (Rueckert et al. 1999), in voxels; an affine motion costs nothing; not in the paper |

    Images are in [-1, 1], the paper's in [0, 1]: the first two are divided by 2² (an absolute difference by 2), so that
    the paper's weights carry over.

    Args:
        similarity: "mse" as in the text, or "l1" as in the authors' settings.
        similarity_weight: λ1.
        diffusion_weight: λ2.
        folding_weight: λ3.
        folding_reduction: "sum" or "mean", see `losses.jacobian_folding`.
        folding_measure: "central" differences or all "simplices", see there.
        smoothness_weight: weight of the squared differences of the displacement, in voxels.
        bending_weight: weight of the squared second derivatives of the displacement, in voxels.
        levels: levels of the similarity's pyramid, see `image_distance`; 1 is the paper's.
        masked_gradient: what the similarity trains within the mask: "both" the field and the intensity, as Eq. 4
            reads, or the "intensity" alone, the warped source being held fixed there. With "both" the field is driven
            to explain the lesion too, by whatever is bright nearby, until the intensity explains it.
        span: length of the images' range.

    Raises:
        ValueError: if a weight is negative or a choice unknown.
    """

    def __init__(
        self,
        similarity: Literal["mse", "l1"] | str = "mse",
        similarity_weight: float = 1.0,
        diffusion_weight: float = 1.0,
        folding_weight: float = 1e-3,
        folding_reduction: Literal["sum", "mean"] | str = "sum",
        folding_measure: Literal["central", "simplices"] | str = "central",
        smoothness_weight: float = 0.0,
        bending_weight: float = 0.0,
        levels: int = 1,
        masked_gradient: Literal["both", "intensity"] | str = "both",
        span: float = 2.0,
    ) -> None:
        check_choice("masked_gradient", masked_gradient, ("both", "intensity"))
        check_whole("levels", levels, 1)
        check_choice("similarity", similarity, SIMILARITIES)
        check_choice("folding_reduction", folding_reduction, ("sum", "mean"))
        check_choice("folding_measure", folding_measure, MEASURES)
        self.similarity = similarity
        self.folding_reduction = folding_reduction
        self.folding_measure = folding_measure
        self.masked_gradient = masked_gradient
        self.levels = levels
        self.span = span
        self.weights: Mapping[str, float] = {
            "similarity": similarity_weight,
            "intensity_diffusion": diffusion_weight,
            "folding": folding_weight,
            "smoothness": smoothness_weight,
            "bending": bending_weight,
        }
        check_weights(self.weights)

    def terms(self, output: MetamorphicOutput, target: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The terms whose weight is not 0, unweighted.

        Args:
            output: a registration of the batch.
            target: (B, C, *spatial), in the images' range.
            mask: (B, 1, *spatial) in [0, 1], where intensity may change.
        """
        image = output.image
        if self.masked_gradient == "intensity":
            image = torch.lerp(output.warped, output.warped.detach(), mask) + output.intensity
        terms = {}
        if self.weights["similarity"] != 0:
            terms["similarity"] = image_distance(image, target, self.similarity, self.span, levels=self.levels)
        if self.weights["intensity_diffusion"] != 0:
            terms["intensity_diffusion"] = intensity_diffusion(output.intensity) / self.span**2
        if self.weights["folding"] != 0:
            terms["folding"] = jacobian_folding(output.ddf, self.folding_reduction, self.folding_measure)
        if self.weights["smoothness"] != 0:
            terms["smoothness"] = velocity_smoothness(output.ddf)
        if self.weights["bending"] != 0:
            terms["bending"] = bending_energy(output.ddf.float())
        return terms

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `terms`."""
        return torch.stack([self.weights[name] * value.float() for name, value in terms.items()]).sum()


def check_weights(weights: Mapping[str, float]) -> None:
    """Check that no weight is negative."""
    for name, value in weights.items():
        if not value >= 0:
            raise ValueError(f"{name}: expected a weight of at least 0, received {value!r}")
