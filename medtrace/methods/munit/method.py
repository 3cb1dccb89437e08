"""MUNIT: content and style apart, without pairs."""

from __future__ import annotations

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.munit.settings import MUNITSettings


class MUNITMethod(TwoDomainMethod):
    """MUNIT: content and style apart, without pairs.

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "munit"
    title = "MUNIT"
    paper = "Huang et al., Multimodal Unsupervised Image-to-Image Translation (2018)"
    settings_type = MUNITSettings
    abilities = Abilities(
        tasks=("translate",), spatial_dims=(2, 3), paired=False, patches=True, channels="any", moves=False
    )
