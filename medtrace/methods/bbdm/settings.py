"""Settings of BBDM."""

from __future__ import annotations

from medtrace.methods.common.bridge_settings import BridgeSamplingSettings, BridgeSettings
from medtrace.methods.settings import NonNegative


class BBDMSettings(BridgeSettings):
    """See `BridgeSettings`, of which these differ."""

    variance: NonNegative = 1.0
    """Of the bridge: its greatest variance, in the middle, is half of it."""
    sampling: BridgeSamplingSettings = BridgeSamplingSettings(steps=10)
