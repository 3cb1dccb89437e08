"""RegGAN: a registration network takes the misalignment of the training pairs (the paper's NC+R)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medtrace.methods.base import Abilities
from medtrace.methods.common.registered_target import RegisteredTarget
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.reggan.settings import RegGANSettings


class RegGANMethod(TwoDomainMethod):
    """RegGAN: a registration network takes the misalignment of the training pairs (the paper's NC+R).

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "reggan"
    title = "RegGAN"
    paper = "Kong et al., Breaking the Dilemma of Medical Image-to-image Translation (2021)"
    settings_type = RegGANSettings
    abilities = Abilities(
        tasks=("translate", "register"),
        spatial_dims=(2, 3),
        paired=True,
        patches=True,
        channels="any",
        moves=False,
        identity_start=True,
    )

    @classmethod
    def case_transform(cls, settings: RegGANSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """The alignment of a training pair, where it is asked for."""
        return None if settings.alignment == "none" else RegisteredTarget(settings.alignment, deformable=False)
