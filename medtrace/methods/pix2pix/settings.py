"""Settings of Pix2Pix."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import TwoDomainSettings


class Pix2PixSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    paired: bool = True
