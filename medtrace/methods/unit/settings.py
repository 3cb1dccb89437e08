"""Settings of UNIT."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import Backbone, TwoDomainSettings


class UNITSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    backbone: Backbone = "unit"
    cycle: bool = True
