"""Pix2Pix: pixel-wise L1 to an aligned target and a discriminator that sees the source."""

from __future__ import annotations

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.pix2pix.settings import Pix2PixSettings


class Pix2PixMethod(TwoDomainMethod):
    """Pix2Pix: pixel-wise L1 to an aligned target and a discriminator that sees the source.

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "pix2pix"
    title = "Pix2Pix"
    paper = "Isola et al., Image-to-Image Translation with Conditional Adversarial Networks (2017)"
    settings_type = Pix2PixSettings
    abilities = Abilities(
        tasks=("translate",), spatial_dims=(2, 3), paired=True, patches=True, channels="any", moves=False
    )
