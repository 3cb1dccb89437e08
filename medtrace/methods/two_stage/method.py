"""A registration and a structure-preserving translation, trained apart and used one after the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, NamedTuple, Self

import torch
from monai.networks.utils import eval_mode
from torch import Tensor, nn

from medtrace.checks import check_choice, check_range, check_same_grid
from medtrace.fields import warp
from medtrace.losses import ParzenDNMILoss, velocity_smoothness
from medtrace.methods.base import Abilities, Batch, Method, Phase
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.channels import compared
from medtrace.methods.common.diffusion import (
    Sampling,
    TranslatedImage,
    estimate_noise,
    estimator_of,
    in_range,
    schedule_of,
)
from medtrace.methods.two_stage.settings import TwoStageSettings
from medtrace.networks.deformation_module import DeformationModule, DeformationOutput
from medtrace.networks.diffusion_sampling import Intermediate, denoise, noisy_start
from medtrace.networks.diffusion_schedule import NoiseSchedule
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.patches import in_patches
from medtrace.trace.prediction import Prediction
from medtrace.trace.validation import as_tensor
from medtrace.transforms.structure_map import StructureMap, StructureMapd

ORDERS = ("register_first", "translate_first")
START = 0.5
"""Fraction of the schedule where sampling starts, so that something is left of the image that is translated."""


class Refined(NamedTuple):
    """A translation and the deformation beside it."""

    image: Tensor
    deformation: DeformationOutput
    intermediates: list[Intermediate]


class TwoStageMethod(Method):
    """Train a deformation and a translation that know nothing of each other, and use them in either order.

    | phase | term | weight | value |
    |---|---|---|---|
    | `noise` | `noise_l1` | 1 | mean |ε − ε̂| on the target and its structure map |
    | `deformation` | `forward_similarity` | 1 | −NMI(x∘φ, y), φ of x alone |
    | | `inverse_similarity` | 1 | −NMI(x, y∘φ⁻¹) |
    | | `smoothness` | λ | mean |∇v|² |

    No phase reads what another computes, and no weight is shared, so that one run is two separate trainings: what
    Plasticine's Table IV calls a combination. The networks are Plasticine's, without what ties them together: the
    deformation sees neither ε̂ nor, at inference, the target.

    - "register_first": the deformed source x∘φ is noised and translated, conditioned on its structure map x_s∘φ.
    - "translate_first": the source is noised and translated, conditioned on its own structure map; the result is
      deformed by φ.

    Args:
        registration: the deformation of a source alone.
        translation: the noise estimator, conditioned on the structure map.
        schedule: the noise levels.
        order: see above; may be replaced after the training.
        structure: gives the structure map (1, *spatial) of 0 and 1 of an image (1, *spatial).
        smoothness_weight: λ.
        num_bins: number of bins of the NMI.
        noise_weighting: see `diffusion.estimate_noise`.
        average_decay: decay of the averaged weights of the translation.
        sampling: how images are sampled; may be replaced after the training.
    """

    name = "two_stage"
    title = "Registration and translation, trained apart"
    paper = "Zhang, Cheng et al., Plasticine, Table IV: the combination that it is compared with"
    settings_type = TwoStageSettings
    abilities = Abilities(paired=False, patches=True, channels="any", one_pass=False, identity_start=True)

    @classmethod
    def from_settings(cls, settings: TwoStageSettings) -> Self:
        """Build it from its settings."""
        registration = DeformationModule(
            settings.spatial_dims,
            settings.in_channels,
            channels=settings.deformation_channels,
            use_noise=False,
            velocity_downsampling=settings.velocity_downsampling,
            target_channels=settings.out_channels,
        )
        return cls(
            registration,
            estimator_of(settings, settings.out_channels, condition_channels=1),
            schedule_of(settings),
            order=settings.order,
            structure=StructureMap(method=settings.structure, gamma=settings.structure_gamma),
            smoothness_weight=settings.smoothness_weight,
            num_bins=settings.num_bins,
            noise_weighting=settings.noise_weighting,
            average_decay=settings.average_decay,
            sampling=Sampling.from_settings(settings.sampling, START),
        )

    @classmethod
    def case_transform(cls, settings: TwoStageSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """The target's structure map, made once per image; of several channels the method makes it itself."""
        if settings.out_channels > 1:
            return None
        return StructureMapd(
            ["target"], method=settings.structure, gamma=settings.structure_gamma, allow_missing_keys=True
        )

    def __init__(
        self,
        registration: DeformationModule,
        translation: NoiseEstimator,
        schedule: NoiseSchedule | None = None,
        order: Literal["register_first", "translate_first"] | str = "register_first",
        structure: Callable[[Tensor], Tensor] | None = None,
        smoothness_weight: float = 1.0,
        num_bins: int = 32,
        noise_weighting: Literal["noise", "velocity"] | str = "noise",
        average_decay: float = 0.9999,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        check_choice("order", order, ORDERS)
        if smoothness_weight < 0:
            raise ValueError(f"smoothness_weight: expected at least 0, received {smoothness_weight!r}")
        registration.target_stem.requires_grad_(False)  # nothing reaches it: processes would wait for it
        self.networks = nn.ModuleDict({"registration": registration, "translation": translation})
        self.order = order
        self.structure = StructureMap() if structure is None else structure
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.noise_weighting = noise_weighting
        self.similarity = ParzenDNMILoss(num_bins=num_bins)
        self.average = WeightAverage(translation, average_decay)
        self.sampling = Sampling(start=START) if sampling is None else sampling
        weights = {"forward_similarity": 1.0, "inverse_similarity": 1.0, "smoothness": smoothness_weight}
        self.phases = (
            Phase("noise", ("networks.translation",), {"noise_l1": 1.0}),
            Phase("deformation", ("networks.registration",), weights),
        )

    def set_sampling(self, values: Mapping[str, Any]) -> None:
        """Replace how images are sampled, or the order."""
        values = dict(values)
        if "order" in values:
            check_choice("order", values["order"], ORDERS)
            self.order = values.pop("order")
        self.sampling = self.sampling.replaced(values)

    def io_network(self) -> nn.Module:
        """The image as sampled."""
        return TranslatedImage(self)

    def noise_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """The L1 of the noise, given the target's structure map."""
        target, structure = _image(batch, "target"), self._structure(batch, "target")
        estimator = self.networks["translation"]
        return {"noise_l1": estimate_noise(estimator, self.schedule, target, structure, self.noise_weighting).loss}

    def deformation_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Both similarities and the smoothness of the field that the source alone gives."""
        source, target = _image(batch, "source"), _image(batch, "target")
        check_same_grid("source", source, "target", target)
        output: DeformationOutput = self.networks["registration"](source)
        terms = {
            "forward_similarity": self.similarity(*compared(warp(source, output.ddf), target)),
            "inverse_similarity": self.similarity(*compared(source, warp(target, output.inverse_ddf))),
        }
        if phase.active("smoothness"):
            terms["smoothness"] = velocity_smoothness(output.velocity)
        return terms

    def after_step(self) -> None:
        """Move the averaged weights on."""
        self.average.update_parameters(self.networks["translation"])

    def predict(self, batch: Batch) -> Prediction:
        """Deform and translate each source, in the order that is set."""
        drawn = self.refinement(batch)
        field = drawn.deformation
        return Prediction(in_range(drawn.image), field.ddf, field.inverse_ddf, field.velocity)

    @torch.no_grad()
    def refinement(self, batch: Batch, keep: Collection[int] = ()) -> Refined:
        """The translation as the sampler gives it, its deformation, and images on the way."""
        source, structure, how = _image(batch, "source"), self._structure(batch, "source"), self.sampling
        networks: Any = self.networks
        gammas = self.schedule.levels(how.steps, how.start, how.spacing)
        estimate = in_patches(self.average, self.inferer, networks["translation"].stride)
        channels = networks["translation"].in_channels
        first = self.order == "register_first"

        def draw(generators: list[torch.Generator], label: str | None, kept: Collection[int]) -> Refined:
            field = networks["registration"](source, inferer=self.inferer)
            begun, condition = source, structure
            if first:
                begun = warp(source, field.ddf)
                condition = (warp(structure, field.ddf) >= 0.5).to(structure)
            if begun.shape[1] != channels:
                begun = begun.mean(1, keepdim=True).expand(-1, channels, *begun.shape[2:])
            denoised = denoise(
                lambda noisy, gamma: estimate(noisy, gamma, condition),
                noisy_start(begun, gammas, generators),
                gammas,
                how.sampler,
                generators,
                clip=how.clip,
                keep=kept,
                progress=label,
            )
            image = denoised.image if first else warp(denoised.image, field.ddf)
            return Refined(image, field, denoised.intermediates)

        with eval_mode(self):
            return how.mean(source, draw, keep)

    def _structure(self, batch: Batch, name: str) -> Tensor:
        """The structure map of an image, (B, 1, *spatial) of 0 and 1."""
        if f"{name}_structure" in batch:
            return as_tensor(batch[f"{name}_structure"])
        image = as_tensor(batch[name])
        return torch.stack([as_tensor(self.structure(item.mean(0, keepdim=True).cpu())) for item in image]).to(image)


def _image(batch: Batch, name: str) -> Tensor:
    image = as_tensor(batch[name])
    check_range(name, image, -1, 1)
    return image
