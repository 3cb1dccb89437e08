"""UNIT: one latent space of both domains, without pairs."""

from __future__ import annotations

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.unit.settings import UNITSettings


class UNITMethod(TwoDomainMethod):
    """UNIT: one latent space of both domains, without pairs.

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "unit"
    title = "UNIT"
    paper = "Liu et al., Unsupervised Image-to-Image Translation Networks (2017)"
    settings_type = UNITSettings
    abilities = Abilities(
        tasks=("translate",), spatial_dims=(2, 3), paired=False, patches=True, channels="any", moves=False
    )
