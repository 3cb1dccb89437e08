"""Pix2Pix on training pairs that medtrace's own registration has aligned before."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from monai.data.meta_tensor import MetaTensor

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.registered_pix2pix.settings import RegisteredPix2PixSettings
from medtrace.trace.validation import as_tensor
from medtrace.transforms import RegisterPaird

_MOVING, _FIXED = "registered_moving", "registered_fixed"


@dataclass(frozen=True)
class RegisteredTarget:
    """Bring the target of a training case onto its source by `RegisterPaird`, whatever its verdict.

    Images of several channels are registered by the mean of their channels. Where the registration says that it
    failed, its result is kept: who trains has the verdicts of no case at hand, and leaving cases out would favor it.

    Attributes:
        alignment: of the pair before the deformation.
    """

    alignment: str = "auto"

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        source, target = item["source"], item["target"]
        affine = source.affine if isinstance(source, MetaTensor) else None
        pair: dict[Hashable, Any] = {_MOVING: _mean(target), _FIXED: _mean(source), "target": target}
        register = RegisterPaird(
            (_MOVING, "target"), _FIXED, on_fail="keep", alignment=self.alignment, check_starts=False
        )
        moved = as_tensor(register(pair)["target"]).clamp(-1, 1)
        return {**item, "target": moved if affine is None else MetaTensor(moved, affine=affine)}


def _mean(image: Any) -> Any:
    mean = as_tensor(image).mean(0, keepdim=True)
    return MetaTensor(mean, affine=image.affine) if isinstance(image, MetaTensor) else mean


class RegisteredPix2PixMethod(TwoDomainMethod):
    """Register first, then Pix2Pix: what one would do without a method for misaligned pairs.

    Each training target is brought onto its source once, before the training, by medtrace's registration; then terms
    and arguments are Pix2Pix's, see `TwoDomainMethod`. At inference it is Pix2Pix: nothing is registered.
    """

    name = "registered_pix2pix"
    title = "Register, then Pix2Pix"
    paper = "Isola et al. (2017) on pairs that medtrace registered, as asked of the authors of RegGAN"
    settings_type = RegisteredPix2PixSettings
    abilities = Abilities(patches=True, channels="any", moves=False)

    @classmethod
    def case_transform(cls, settings: RegisteredPix2PixSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """The registration of a training pair."""
        return RegisteredTarget(settings.alignment)
