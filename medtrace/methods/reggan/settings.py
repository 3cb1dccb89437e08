"""Settings of RegGAN."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import TwoDomainSettings


class RegGANSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    correction: bool = True
