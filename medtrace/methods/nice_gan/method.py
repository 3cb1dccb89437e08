"""NICE-GAN: the discriminators' first layers are the encoders, without pairs."""

from __future__ import annotations

from medtrace.methods.base import Abilities
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.nice_gan.settings import NICEGANSettings


class NICEGANMethod(TwoDomainMethod):
    """NICE-GAN: the discriminators' first layers are the encoders, without pairs.

    Terms and arguments are those of `TwoDomainMethod`.
    """

    name = "nice_gan"
    title = "NICE-GAN"
    paper = "Chen et al., Reusing Discriminators for Encoding (2020)"
    settings_type = NICEGANSettings
    abilities = Abilities(
        tasks=("translate",), spatial_dims=(2, 3), paired=False, patches=True, channels="any", moves=False
    )
