"""Training pairs that medtrace's own registration brings together before a method sees them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from monai.data.meta_tensor import MetaTensor

from medtrace.trace.validation import as_tensor
from medtrace.transforms.register_pair import ALIGNMENT_ALONE, RegisterPaird

_MOVING, _FIXED = "registered_moving", "registered_fixed"


@dataclass(frozen=True)
class RegisteredTarget:
    """Bring the target of a training case onto its source by `RegisterPaird`, whatever its verdict.

    Images of several channels are registered by the mean of their channels. Where the registration reports that it
    failed, its result is kept: whoever trains has no verdicts at hand, and leaving cases out would favor it.

    Attributes:
        alignment: rigid or affine, see `medtrace.registration.align`.
        deformable: whether a deformation is estimated after it.
    """

    alignment: str = "auto"
    deformable: bool = True

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        source, target = item["source"], item["target"]
        affine = source.affine if isinstance(source, MetaTensor) else None
        pair: dict[Hashable, Any] = {_MOVING: _mean(target), _FIXED: _mean(source), "target": target}
        settings: dict[str, Any] = {} if self.deformable else {"settings": ALIGNMENT_ALONE}
        register = RegisterPaird(
            (_MOVING, "target"), _FIXED, on_fail="keep", alignment=self.alignment, check_starts=False, **settings
        )
        moved = as_tensor(register(pair)["target"]).clamp(-1, 1)
        return {**item, "target": moved if affine is None else MetaTensor(moved, affine=affine)}


def _mean(image: Any) -> Any:
    mean = as_tensor(image).mean(0, keepdim=True)
    return MetaTensor(mean, affine=image.affine) if isinstance(image, MetaTensor) else mean
