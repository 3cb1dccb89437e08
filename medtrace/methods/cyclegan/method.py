"""CycleGAN: two generators that undo each other, without pairs."""

from __future__ import annotations

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.cyclegan.settings import CycleGANSettings


class CycleGANMethod(TwoDomainMethod):
    """CycleGAN: two generators that undo each other, without pairs.

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "cyclegan"
    title = "CycleGAN"
    paper = "Zhu et al., Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks (2017)"
    settings_type = CycleGANSettings
    abilities = Abilities(
        tasks=("translate",), spatial_dims=(2, 3), paired=False, patches=True, channels="any", moves=False
    )
