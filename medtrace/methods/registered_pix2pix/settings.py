"""Settings of Pix2Pix on pairs that were registered first."""

from __future__ import annotations

from typing import Literal

from medtrace.methods.common.two_domain_settings import TwoDomainSettings


class RegisteredPix2PixSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    paired: bool = True
    alignment: Literal["auto", "rigid", "affine", "none"] = "auto"
    """Alignment of a pair before its deformation is estimated, see `medtrace.registration.register`."""
