"""Plasticine: translate an image by diffusion into another domain, with the deformation that leads there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from monai.networks.utils import one_hot
from torch import Tensor, nn

from medtrace.checks import check_batched, check_choice, check_same_grid, check_whole
from medtrace.fields import warp
from medtrace.networks.deformation_module import DeformationModule
from medtrace.networks.diffusion_sampling import Intermediate, denoise, noisy_start
from medtrace.networks.diffusion_schedule import NoiseSchedule
from medtrace.networks.noise_estimator import NoiseEstimator
from medtrace.networks.patches import PatchInferer, in_patches

MODES = ("joint", "combination")


class DiffusionTranslation(NamedTuple):
    """The translation of a batch of sources, on the grid `*spatial`."""

    image: Tensor
    """Translated image (B, C, *spatial); about [-1, 1], unclipped unless asked."""
    warped: Tensor
    """Source pulled by `ddf`, (B, C, *spatial)."""
    structure: Tensor
    """x_s∘φ, the structure map pulled by `ddf`, (B, 1, *spatial): the sampler's condition."""
    velocity: Tensor
    """Stationary velocity of φ, (B, spatial_dims, *spatial) in voxels."""
    ddf: Tensor
    """Displacement of φ in voxels, pull."""
    inverse_ddf: Tensor
    """Displacement of φ⁻¹ in voxels, pull, on the source's grid."""
    intermediates: list[Intermediate]
    """The sampler's kept steps."""


class DiffusionTranslator(nn.Module):
    """Deform a source's structure into the target domain, then grow that domain's contrast on it (Plasticine, III).

    The deformation module estimates φ from the source alone; the noise estimator then leads from the noised source to
    the target domain under the condition x_s∘φ (Algorithm 1).

    Args:
        noise_estimator: trained on the target domain with its structure maps, condition_channels=1.
        deformation: trained from the source to the target domain.
        schedule: that of the estimator's training; the paper's by default.
        binary_structure: whether x_s∘φ, interpolated linearly, is divided into its classes again; two at one half.
            The estimator has seen only classes in training; the paper does not say.
        structure_classes: number of classes K of the structure maps, the values k / (K - 1), see
            `transforms.StructureMap`. Of several each is warped by itself, and a voxel takes the one with the largest
            share: between dark and bright there is no voxel of a class between.

    Raises:
        ValueError: if the two networks do not fit each other or the structure map.

    Example:
        >>> estimator = NoiseEstimator(2, 1, channels=(8, 8), head_channels=4, norm_groups=4, residual_blocks=1)
        >>> network = DiffusionTranslator(estimator, DeformationModule(2, 1, channels=(4, 8)))
        >>> source, structure = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
        >>> network(source, structure, [torch.Generator().manual_seed(0)], steps=2).image.shape
        torch.Size([1, 1, 16, 16])
    """

    def __init__(
        self,
        noise_estimator: NoiseEstimator,
        deformation: DeformationModule,
        schedule: NoiseSchedule | None = None,
        binary_structure: bool = True,
        structure_classes: int = 2,
    ) -> None:
        super().__init__()
        check_whole("structure_classes", structure_classes, minimum=2)
        for name, own in (("spatial_dims", "spatial_dims"), ("in_channels", "target_channels")):
            expected, received = getattr(noise_estimator, name), getattr(deformation, own)
            if expected != received:
                raise ValueError(
                    f"deformation: expected {own}={expected} as the noise estimator's, received {received}"
                )
        if noise_estimator.condition_channels != 1:
            raise ValueError(
                "noise_estimator: expected condition_channels=1 for the structure map, received"
                f" {noise_estimator.condition_channels}"
            )
        self.noise_estimator = noise_estimator
        self.deformation = deformation
        self.schedule = NoiseSchedule() if schedule is None else schedule
        self.binary_structure = binary_structure
        self.structure_classes = structure_classes

    @torch.no_grad()
    def forward(
        self,
        source: Tensor,
        structure: Tensor,
        generators: Sequence[torch.Generator],
        *,
        steps: int = 50,
        start: float = 1.0,
        spacing: float = 1.0,
        sampler: Literal["ancestral", "ddim", "dpm_solver"] | str = "ancestral",
        mode: Literal["joint", "combination"] | str = "joint",
        clip: tuple[float, float] | None = None,
        keep: Collection[int] = (),
        progress: str | None = None,
        inferer: PatchInferer | None = None,
    ) -> DiffusionTranslation:
        """Translate a batch, without gradient.

        `mode` determines which image is noised for the start: with "joint", the paper's, the source as it is; with
        "combination" the deformed source x∘φ, that is a deformation followed by a translation that keeps the structure
        (Section IV-F, Table IV). The condition is x_s∘φ in both, as the deformed source's structure map is the deformed
        structure map. At start = 1 almost nothing of the starting image is left (√γ_K = 0.0066), and neither is the
        difference between the modes: compare them at a lower start.

        Args:
            source: (B, in_channels, *spatial), in [-1, 1].
            structure: (B, 1, *spatial) of 0 and 1, or of several classes, the source's structure map.
            generators: one CPU generator per case.
            steps: steps of the sampler; see `NoiseSchedule.levels`. 50 is one reading of the paper's "sample size".
            start: fraction of the schedule at which the source enters, in (0, 1]; 1 is the paper's. A source with
                another number of channels than the target enters as the mean of its channels.
            spacing: spacing of the levels, see `NoiseSchedule.levels`.
            sampler: "ancestral", "ddim" or "dpm_solver"; see `denoise`.
            mode: "joint" or "combination".
            clip: range to which the sampler clips the clean image it aims at; the paper has none.
            keep: steps of the sampler to keep.
            progress: label of a progress bar; None for no bar.
            inferer: passes the volume through both networks in patches, through the estimator in every step.

        Returns:
            The translated image, the deformation and the kept intermediate images.

        Raises:
            TypeError: if a tensor is of the wrong type.
            ValueError: if an argument is outside its range or a shape does not fit.
        """
        check_choice("mode", mode, MODES)
        check_batched("structure", structure, channels=1)
        check_batched("source", source)
        check_same_grid("source", source, "structure", structure)
        gammas = self.schedule.levels(steps, start, spacing)
        field = self.deformation(source, inferer=inferer)
        estimate = in_patches(self.noise_estimator, inferer, self.noise_estimator.stride)
        warped = warp(source, field.ddf)
        condition = self._condition(structure, field.ddf)
        begun = source if mode == "joint" else warped
        if begun.shape[1] != self.noise_estimator.in_channels:
            begun = begun.mean(1, keepdim=True).expand(-1, self.noise_estimator.in_channels, *begun.shape[2:])
        noisy = noisy_start(begun, gammas, generators)
        denoised = denoise(
            lambda image, gamma: estimate(image, gamma, condition),
            noisy,
            gammas,
            sampler,
            generators,
            clip=clip,
            keep=keep,
            progress=progress,
        )
        return DiffusionTranslation(
            denoised.image, warped, condition, field.velocity, field.ddf, field.inverse_ddf, denoised.intermediates
        )

    if TYPE_CHECKING:
        __call__ = forward

    def _condition(self, structure: Tensor, ddf: Tensor) -> Tensor:
        """x_s∘φ, of classes alone if `binary_structure`."""
        brightest = self.structure_classes - 1
        if not self.binary_structure:
            return warp(structure, ddf)
        if brightest == 1:
            return (warp(structure, ddf) >= 0.5).to(structure.dtype)
        classes = one_hot((structure * brightest).round(), self.structure_classes)
        return warp(classes, ddf).argmax(1, keepdim=True).to(structure.dtype) / brightest


Plasticine = DiffusionTranslator
