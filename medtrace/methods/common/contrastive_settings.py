"""Settings of contrastive unpaired translation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from medtrace.methods.common.unpaired_settings import MINIMAL, SMALL, PooledSettings, unpaired_presets
from medtrace.methods.settings import Count, NonNegative, Positive, Preset


class ContrastiveSettings(PooledSettings):
    """See `PooledSettings`, of which these differ: CUT's settings; 400 epochs in the paper are 200 here."""

    nce_weight: NonNegative = 1.0
    identity_weight: NonNegative = 1.0
    flip_equivariance: bool = False
    """Translate half of the batches mirrored, and compare features mirrored back."""
    temperature: Positive = 0.07
    patches: Count = 256
    """Places of an image whose features are compared."""

    presets: ClassVar[Mapping[str, Preset]] = unpaired_presets(
        small={**SMALL, "head_features": 64}, minimal={**MINIMAL, "head_features": 8}
    )
