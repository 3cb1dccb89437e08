"""The Plasticine method: a noise estimator that knows the structure, and the deformation that brings it there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, Self, cast

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_choice, check_range, check_same_grid
from medtrace.fields import compose, warp
from medtrace.losses import ParzenDNMILoss, velocity_smoothness
from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.channels import check_registered, compared, without_neighbors
from medtrace.methods.common.diffusion import (
    WEIGHTINGS,
    Sampling,
    case_generators,
    estimate_noise,
    estimator_of,
    in_range,
    schedule_of,
)
from medtrace.methods.common.partner_pose import PartnerPose
from medtrace.methods.plasticine.settings import PlasticineSettings
from medtrace.networks.deformation_module import DeformationModule, DeformationOutput
from medtrace.networks.diffusion_sampling import draw_noise
from medtrace.networks.diffusion_schedule import add_noise
from medtrace.networks.diffusion_translator import MODES, DiffusionTranslation, DiffusionTranslator
from medtrace.networks.output_field import OutputField
from medtrace.trace.prediction import Prediction
from medtrace.trace.validation import as_tensor
from medtrace.transforms.structure_map import StructureMap, StructureMapd

Structure = Callable[[Tensor], Tensor]


class PlasticineMethod(Method):
    """Train a `DiffusionTranslator` on pairs across domains, of one subject or of any two, and trace single images.

    | phase | term | weight | value |
    |---|---|---|---|
    | `noise` | `noise_l1` | 1 | mean |ε − ε̂| on the target and its structure map, Eq. 1 |
    | `deformation` | `forward_similarity` | 1 | −NMI(x∘φ, y), Eq. 6 |
    | | `inverse_similarity` | 1 | −NMI(x, y∘φ⁻¹), Eq. 6 |
    | | `smoothness` | λ1 | |∇v|²; with a predicted inverse the mean of |∇v|² and |∇v⁻¹|² |
    | | `alignment` | 1 | mean square between the surrogate features and those of (y, ε̂), Eq. 7 |
    | | `surrogate_similarity` | 0 | both NMIs for the field that x alone gives |
    | | `surrogate_smoothness` | 0 | smoothness of that field |
    | | `inverse_consistency` | 0 | mean square of φ∘φ⁻¹ − id and φ⁻¹∘φ − id, in voxels² |

    Eq. A.13 lacks the minus sign of the similarities. ε̂ comes from the noise phase of the same step, without a
    gradient. The three last terms are not the paper's: at inference the module sees x alone, and nothing but
    `alignment` prepares it for that.

    Structure maps enter the network as they are, 0 and 1. At inference φ comes from x alone, and the noise estimator
    runs with its averaged weights under the condition x_s∘φ, from the noised source on (Eq. 2, Algorithm 1); see
    `networks.DiffusionTranslator`. The image is cut to [-1, 1], to which nothing else bounds it.

    Args:
        networks: noise estimator, deformation module and schedule.
        mode: "joint", the paper's method; or "combination" (Table IV): the source image itself is deformed, and the
            deformed image is translated in its place. It differs at inference only, and only where `Sampling.start`
            leaves something of the image to start from: use a start below 1 for it.
        structure: gives the structure map (1, *spatial) of 0 and 1 of an image (1, *spatial); by default
            `StructureMap()`. It is used where the batch has no "source_structure" or "target_structure"; for an image
            with several channels it sees their mean.
        smoothness_weight: λ1; the paper uses 0.1 for retinal OCT and 1 for chest and heart.
        smoothness_reduction: "mean" or "sum", see `losses.velocity_smoothness`; the paper does not say.
        alignment_weight: weight of `alignment`.
        alignment_gradient: what `alignment` trains: the "surrogate" layers alone, which learn features that are held
            fixed; or "both", which also makes the features of (y, ε̂) predictable.
        surrogate_similarity_weight: weight of `surrogate_similarity`.
        surrogate_smoothness_weight: weight of `surrogate_smoothness`.
        inverse_consistency_weight: weight of `inverse_consistency`.
        num_bins: number of bins of the NMI.
        registered_channels: for a source of several contrasts, those that the NMIs compare with the target; None
            compares channel by channel where source and target have as many, and otherwise takes all.
        partner_pose: whether the deformation's targets are brought into the pose and the relative size of their sources
            before they are compared, see `PartnerPose`: for random partners, whose pose says nothing about the source.
        noise_weighting: "noise", the paper's, or "velocity", see `diffusion_training.estimate_noise`.
        average_decay: decay of the averaged weights, see `WeightAverage`; 0.9999 is SR3's and Palette's.
        sampling: how images are sampled; may be replaced after the training.

    Raises:
        ValueError: if a weight is negative, a choice unknown, or a registered channel is not one of the source's.
    """

    name = "plasticine"
    title = "Plasticine"
    paper = "Zhang, Cheng et al., Plasticine: A Traceable Diffusion Model for Medical Image Translation"
    settings_type = PlasticineSettings
    abilities = Abilities(
        tasks=("translate", "register"),
        paired=False,
        patches=True,
        channels="any",
        one_pass=False,
        identity_start=True,
    )
    sampling: Sampling
    networks: DiffusionTranslator

    @classmethod
    def widened(cls, settings: PlasticineSettings) -> PlasticineSettings:
        """As of every method; of neighboring slices none is compared with the target."""
        wide: PlasticineSettings = without_neighbors(settings, super().widened(settings))
        return wide

    @classmethod
    def from_settings(cls, settings: PlasticineSettings) -> Self:
        """Build it from its settings."""
        networks = DiffusionTranslator(
            estimator_of(settings, settings.out_channels, condition_channels=1),
            DeformationModule(
                settings.spatial_dims,
                settings.in_channels,
                channels=settings.deformation.channels,
                inverse=settings.deformation.inverse,
                use_noise=settings.deformation.use_noise,
                velocity_downsampling=settings.deformation.velocity_downsampling,
                target_channels=settings.out_channels,
            ),
            schedule_of(settings),
            binary_structure=settings.binary_structure,
            structure_classes=settings.structure.classes,
        )
        return cls(
            networks,
            mode=settings.mode,
            structure=StructureMap(**_map_settings(settings)),
            smoothness_weight=settings.smoothness_weight,
            smoothness_reduction=settings.smoothness_reduction,
            alignment_weight=settings.alignment_weight,
            alignment_gradient=settings.alignment_gradient,
            surrogate_similarity_weight=settings.surrogate_similarity_weight,
            surrogate_smoothness_weight=settings.surrogate_smoothness_weight,
            inverse_consistency_weight=settings.inverse_consistency_weight,
            num_bins=settings.num_bins,
            registered_channels=settings.registered_channels,
            partner_pose=settings.partner_pose,
            noise_weighting=settings.noise_weighting,
            average_decay=settings.average_decay,
            sampling=Sampling.from_settings(settings.sampling, _start_of(settings.mode)),
        )

    @classmethod
    def case_transform(cls, settings: PlasticineSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """Structure maps, made once per image; of images with several channels the method makes them itself."""
        if max(cls.widened(settings).in_channels, settings.out_channels) > 1:
            return None
        return StructureMapd(["source", "target"], **_map_settings(settings), allow_missing_keys=True)

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Replace how images are sampled, or the mode."""
        values = dict(values)
        if "mode" in values:
            check_choice("mode", values["mode"], MODES)
            self.mode = values.pop("mode")
            values.setdefault("start", _start_of(self.mode))
        self.sampling = self.sampling.replaced(values)

    def io_network(self) -> nn.Module:
        """The deformation that the source alone gives."""
        return OutputField(self.networks.deformation, "ddf")

    def __init__(
        self,
        networks: DiffusionTranslator,
        mode: Literal["joint", "combination"] | str = "joint",
        structure: Structure | None = None,
        smoothness_weight: float = 1.0,
        smoothness_reduction: Literal["mean", "sum"] | str = "mean",
        alignment_weight: float = 1.0,
        alignment_gradient: Literal["surrogate", "both"] | str = "surrogate",
        surrogate_similarity_weight: float = 0.0,
        surrogate_smoothness_weight: float = 0.0,
        inverse_consistency_weight: float = 0.0,
        num_bins: int = 32,
        registered_channels: Sequence[int] | None = None,
        partner_pose: bool = False,
        noise_weighting: Literal["noise", "velocity"] | str = "noise",
        average_decay: float = 0.9999,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        check_choice("noise_weighting", noise_weighting, WEIGHTINGS)
        self.noise_weighting = noise_weighting
        check_choice("mode", mode, MODES)
        check_choice("smoothness_reduction", smoothness_reduction, ("mean", "sum"))
        check_choice("alignment_gradient", alignment_gradient, ("surrogate", "both"))
        weights = {
            "forward_similarity": 1.0,
            "inverse_similarity": 1.0,
            "smoothness": smoothness_weight,
            "alignment": alignment_weight,
            "surrogate_similarity": surrogate_similarity_weight,
            "surrogate_smoothness": surrogate_smoothness_weight,
            "inverse_consistency": inverse_consistency_weight,
        }
        for name, value in weights.items():
            if value < 0:
                raise ValueError(f"{name}_weight: expected a weight of at least 0, received {value!r}")
        if not any(weights[name] for name in ("alignment", "surrogate_similarity", "surrogate_smoothness")):
            networks.deformation.alignment.requires_grad_(False)  # no term reaches it: processes would wait for it
        self.networks = networks
        self.mode = mode
        self.structure = StructureMap() if structure is None else structure
        self.smoothness_reduction = smoothness_reduction
        self.alignment_gradient = alignment_gradient
        check_registered(registered_channels, networks.deformation.in_channels)
        self.registered_channels = registered_channels
        self.partner_pose = PartnerPose() if partner_pose else None
        self.similarity = ParzenDNMILoss(num_bins=num_bins)
        self.average = WeightAverage(networks.noise_estimator, average_decay)
        self.sampling = Sampling() if sampling is None else sampling
        self.phases = (
            Phase("noise", ("networks.noise_estimator",), {"noise_l1": 1.0}),
            Phase("deformation", ("networks.deformation",), weights),
        )

    # Training

    def noise_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 1; leaves ε̂ for the deformation."""
        target = self._image(batch, "target")
        condition = self._structure(batch, "target")
        estimate = estimate_noise(
            self.networks.noise_estimator, self.networks.schedule, target, condition, self.noise_weighting
        )
        context["noise"] = estimate.noise.detach()
        return {"noise_l1": estimate.loss}

    def deformation_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Eq. 6 and 7."""
        source, target = self._image(batch, "source"), self._image(batch, "target")
        check_same_grid("source", source, "target", target)
        noise = self._seen(context["noise"])
        if self.partner_pose is not None:
            pose = self.partner_pose(source, target)
            target = warp(target, pose)
            noise = None if noise is None else warp(noise, pose)
        output = self.networks.deformation(source, target, noise)
        terms = {}
        if phase.active("forward_similarity"):
            terms["forward_similarity"] = self._forward_similarity(output, source, target)
        if phase.active("inverse_similarity"):
            terms["inverse_similarity"] = self._inverse_similarity(output, source, target)
        if phase.active("smoothness"):
            terms["smoothness"] = self._smoothness(output)
        if phase.active("alignment"):
            # Neither is None when the target is given.
            features, surrogate = cast(Tensor, output.features), cast(Tensor, output.surrogate)
            features = features.detach() if self.alignment_gradient == "surrogate" else features
            terms["alignment"] = F.mse_loss(surrogate.float(), features.float())
        if phase.active("inverse_consistency"):
            there, back = output.ddf, output.inverse_ddf
            misses = compose(there, back).square().mean() + compose(back, there).square().mean()
            terms["inverse_consistency"] = 0.5 * misses
        return terms | self._surrogate_terms(phase, source, target)

    def _surrogate_terms(self, phase: Phase, source: Tensor, target: Tensor) -> dict[str, Tensor]:
        """What the module is asked for at inference: a field from the source alone."""
        if not (phase.active("surrogate_similarity") or phase.active("surrogate_smoothness")):
            return {}
        alone = self.networks.deformation(source)
        terms = {}
        if phase.active("surrogate_similarity"):
            terms["surrogate_similarity"] = self._forward_similarity(alone, source, target) + self._inverse_similarity(
                alone, source, target
            )
        if phase.active("surrogate_smoothness"):
            terms["surrogate_smoothness"] = self._smoothness(alone)
        return terms

    def _seen(self, noise: Tensor) -> Tensor | None:
        return noise if self.networks.deformation.use_noise else None

    def _forward_similarity(self, output: DeformationOutput, source: Tensor, target: Tensor) -> Tensor:
        return self.similarity(*compared(warp(source, output.ddf), target, self.registered_channels))

    def _inverse_similarity(self, output: DeformationOutput, source: Tensor, target: Tensor) -> Tensor:
        return self.similarity(*compared(source, warp(target, output.inverse_ddf), self.registered_channels))

    def _smoothness(self, output: DeformationOutput) -> Tensor:
        smoothness = velocity_smoothness(output.velocity, reduction=self.smoothness_reduction)
        if self.networks.deformation.inverse == "negated":
            return smoothness
        return 0.5 * (smoothness + velocity_smoothness(output.inverse_velocity, reduction=self.smoothness_reduction))

    def after_step(self) -> None:
        """Move the averaged weights on."""
        self.average.update_parameters(self.networks.noise_estimator)

    # Inference

    def predict(self, batch: Batch) -> Prediction:
        """Translate each source of the batch.

        Args:
            batch: "source" (B, C, *spatial) in [-1, 1], and optionally its "source_structure" (B, 1, *spatial).
        """
        translation = self.refinement(batch)
        return _prediction(in_range(translation.image), translation)

    @torch.no_grad()
    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> DiffusionTranslation:
        """The translation as the sampler gives it, and images on the way there (Plasticine, Fig. 15).

        Args:
            batch: as for `trace`.
            keep: steps of the sampler to keep, from 0, the noised source, to `sampling.steps`, the result.
        """
        source, structure, how = self._image(batch, "source"), self._structure(batch, "source"), self.sampling
        ours = self.networks
        averaged: Any = self.average.module
        translator = DiffusionTranslator(
            averaged, ours.deformation, ours.schedule, ours.binary_structure, ours.structure_classes
        )

        def draw(generators: list[torch.Generator], label: str | None, kept: Collection[int]) -> DiffusionTranslation:
            return translator(
                source,
                structure,
                generators,
                steps=how.steps,
                start=how.start,
                spacing=how.spacing,
                sampler=how.sampler,
                mode=self.mode,
                clip=how.clip,
                keep=kept,
                progress=label,
                inferer=self.inferer,
            )

        with eval_mode(self):
            return how.mean(source, draw, keep)

    @torch.no_grad()
    def register(
        self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None, source_mask: Tensor | None = None
    ) -> Prediction:
        """The deformation of each pair as in the training, with ε̂ of the fixed image half way of the schedule.

        Args:
            moving: (B, C, *spatial), sources in [-1, 1].
            fixed: (B, C', *spatial), their targets.
            mask: none; the deformation permits no change of intensity.
            source_mask: none.

        Returns:
            A prediction whose image is the deformed source.

        Raises:
            TypeError: if a mask is given.
            ValueError: if the shapes differ or intensities lie outside [-1, 1].
        """
        if mask is not None or source_mask is not None:
            raise TypeError("mask: expected none, received one; Plasticine's deformation permits no intensity change")
        batch = {"source": moving, "target": fixed}
        source, target = self._image(batch, "source"), self._image(batch, "target")
        check_same_grid("moving", source, "fixed", target)
        noise = None
        if self.networks.deformation.use_noise:
            gamma = self.networks.schedule.levels(2)[1].to(source).expand(len(source))
            drawn = draw_noise(target, case_generators(target, self.sampling.seed))
            noise = self.average(add_noise(target, drawn, gamma), gamma, self._structure(batch, "target"))
        output = self.networks.deformation(source, target, noise)
        return _prediction(warp(source, output.ddf), output)

    # The batch

    @staticmethod
    def _image(batch: Batch, name: str) -> Tensor:
        image = as_tensor(batch[name])
        check_range(name, image, -1, 1)
        return image

    def _structure(self, batch: Batch, name: str) -> Tensor:
        """The structure map of an image, (B, 1, *spatial) of 0 and 1, or of several classes."""
        if f"{name}_structure" in batch:
            structure = as_tensor(batch[f"{name}_structure"])
        else:
            image = as_tensor(batch[name])
            maps = [as_tensor(self.structure(item.mean(0, keepdim=True).cpu())) for item in image]
            structure = torch.stack(maps).to(image)
        check_range(f"{name}_structure", structure, 0, 1)
        return structure


def _map_settings(settings: PlasticineSettings) -> dict[str, Any]:
    """The arguments of `StructureMap`."""
    return settings.structure.model_dump()


def _prediction(image: Tensor, output: DeformationOutput | DiffusionTranslation) -> Prediction:
    return Prediction(image, output.ddf, output.inverse_ddf, output.velocity)


def _start_of(mode: str) -> float:
    """Where sampling starts: the combination's lower, so that something of the deformed image is left to translate."""
    return 0.5 if mode == "combination" else 1.0
