"""Settings of CycleGAN."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import TwoDomainSettings


class CycleGANSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    cycle: bool = True
