"""GcGAN: a translator that commutes with a known motion, without pairs and one way."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn
from torch.nn import functional as F

from medtrace.checks import check_choice
from medtrace.losses import adversarial, adversarial_discriminator
from medtrace.methods.base import Abilities, Batch, Phase
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.translator import ImageTranslator, check_weights
from medtrace.methods.gcgan.motion import Motion, MotionName, flip, quarter_turn, random_deformation
from medtrace.methods.gcgan.settings import GcGANSettings
from medtrace.networks.gcgan import GcGAN

MOTIONS = ("quarter_turn", "flip", "deformation")
SEEN = ("unmoved", "moved")


class GcGANMethod(ImageTranslator):
    """Train a generator that commutes with a motion f (Fu et al. 2019).

    | term | weight | value |
    |---|---|---|
    | `unmoved_adversarial`, `moved_adversarial` | 1 | least squares, of G(x) and of G(f x) |
    | `geometry` | 20 | |G(x) − f⁻¹ G(f x)| + |G(f x) − f G(x)|, each a mean |
    | `unmoved_discriminator`, `moved_discriminator` | 1 | of y and G(x), of f y and G(f x), fakes from pools |

    For a quarter turn or a flip the two halves of `geometry` are equal, as each only moves voxels; for a deformation,
    which interpolates, they are not.

    Args:
        networks: generator and discriminators.
        motion: "quarter_turn", "flip" or "deformation" (a small random flow, new for every image; not in the paper).
        geometry_weight: weight of `geometry`.
        adversarial_weight: weight of the adversarial terms.
        deformation_voxels: standard deviation of the flow's velocity at its control points.
        deformation_spacing: voxels between them.
        pool_size: generated images kept for each discriminator.

    Raises:
        ValueError: if there is no such motion, or a weight is below 0.
    """

    name = "gcgan"
    title = "GcGAN"
    paper = "Fu et al., Geometry-Consistent GANs for One-Sided Unsupervised Domain Mapping (2019)"
    settings_type = GcGANSettings
    abilities = Abilities(paired=False, patches=True, channels="any", moves=False)
    networks: GcGAN

    @classmethod
    def from_settings(cls, settings: GcGANSettings) -> Self:
        """Build it from its settings."""
        networks = GcGAN(settings.spatial_dims, settings.in_channels, settings.out_channels, **settings.networks)
        return cls(
            networks,
            motion=settings.motion,
            geometry_weight=settings.geometry_weight,
            adversarial_weight=settings.adversarial_weight,
            deformation_voxels=settings.deformation_voxels,
            deformation_spacing=settings.deformation_spacing,
            pool_size=settings.pool_size,
        )

    def __init__(
        self,
        networks: GcGAN,
        *,
        motion: MotionName | str = "quarter_turn",
        geometry_weight: float = 20.0,
        adversarial_weight: float = 1.0,
        deformation_voxels: float = 2.0,
        deformation_spacing: float = 16.0,
        pool_size: int = 50,
    ) -> None:
        super().__init__()
        check_choice("motion", motion, MOTIONS)
        check_weights({"geometry_weight": geometry_weight, "adversarial_weight": adversarial_weight})
        self.networks = networks
        self.motion = motion
        self.deformation = (deformation_voxels, deformation_spacing)
        self.pools = nn.ModuleDict({name: ImagePool(pool_size) for name in SEEN})
        self.phases = (
            Phase(
                "generator",
                ("networks.generator",),
                {**{f"{name}_adversarial": adversarial_weight for name in SEEN}, "geometry": geometry_weight},
            ),
            Phase(
                "discriminator",
                tuple(f"networks.discriminators.{name}" for name in SEEN),
                {f"{name}_discriminator": adversarial_weight for name in SEEN},
            ),
        )

    def drawn_motion(self, like: Tensor) -> Motion:
        """The motion of a step; a deformation is drawn by torch's global generator."""
        if self.motion == "deformation":
            return random_deformation(like, *self.deformation)
        return quarter_turn() if self.motion == "quarter_turn" else flip()

    def generator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Leaves generated and true images, unmoved and moved, for the discriminators."""
        images = self._images(batch)
        source, target = images["source"], images["target"]
        motion = self.drawn_motion(source)
        fakes = {"unmoved": self.networks(source), "moved": self.networks(motion.forward(source))}
        context["fake"] = {name: fake.detach() for name, fake in fakes.items()}
        context["real"] = {"unmoved": target, "moved": motion.forward(target)}
        terms = {}
        for name, fake in fakes.items():
            if phase.active(f"{name}_adversarial"):
                terms[f"{name}_adversarial"] = adversarial(self.networks.discriminators[name](fake))
        if phase.active("geometry"):
            back = F.l1_loss(fakes["unmoved"], motion.inverse(fakes["moved"]))
            terms["geometry"] = back + F.l1_loss(fakes["moved"], motion.forward(fakes["unmoved"]))
        return terms

    def discriminator_terms(self, phase: Phase, batch: Batch, context: dict[str, Any]) -> dict[str, Tensor]:
        """Each discriminator's halves, on the images that the generator phase made and earlier ones."""
        terms = {}
        for name in SEEN:
            if phase.active(f"{name}_discriminator"):
                network, fake = self.networks.discriminators[name], self.pools[name](context["fake"][name])
                real = context["real"][name]
                terms[f"{name}_discriminator"] = adversarial_discriminator(network(real), network(fake))
        return terms
