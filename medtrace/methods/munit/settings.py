"""Settings of MUNIT."""

from __future__ import annotations

from medtrace.methods.common.two_domain_settings import Backbone, TwoDomainSettings


class MUNITSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    backbone: Backbone = "munit"
    cycle: bool = True
