"""Settings of NICE-GAN."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import Backbone, TwoDomainSettings


class NICEGANSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    backbone: Backbone = "nice_gan"
    cycle: bool = True
