"""Settings of FastCUT."""

from __future__ import annotations

from medtrace.methods.common.contrastive_settings import ContrastiveSettings
from medtrace.methods.settings import NonNegative


class FastCUTSettings(ContrastiveSettings):
    """See `ContrastiveSettings`, of which these differ."""

    nce_weight: NonNegative = 10.0
    identity_weight: NonNegative = 0.0
    flip_equivariance: bool = True
