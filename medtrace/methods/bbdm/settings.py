"""Settings of BBDM."""

from __future__ import annotations

from medtrace.methods.common.bridge_settings import BridgeSamplingSettings, BridgeSettings
from medtrace.methods.settings import NonNegative


class BBDMSettings(BridgeSettings):
    """See `BridgeSettings`; only the differing defaults are set here."""

    variance: NonNegative = 1.0
    """Scale of the bridge's variance: the maximum variance, in the middle, is half of it."""
    sampling: BridgeSamplingSettings = BridgeSamplingSettings(steps=10)
