"""Settings of RegGAN."""

from __future__ import annotations

from typing import Literal

from medtrace.methods.common.two_domain_settings import TwoDomainSettings


class RegGANSettings(TwoDomainSettings):
    """See `TwoDomainSettings`, of which these differ."""

    correction: bool = True
    alignment: Literal["none", "auto", "rigid", "affine"] = "none"
    """How each training target is brought onto its source before the training, so that the registration network
    begins with what is left (see `medtrace.registration.align`); the paper does not."""
