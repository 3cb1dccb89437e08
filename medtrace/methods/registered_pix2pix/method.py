"""Pix2Pix on training pairs that medtrace's own registration has aligned before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medtrace.methods.base import Abilities
from medtrace.methods.common.registered_target import RegisteredTarget
from medtrace.methods.common.two_domain import TwoDomainMethod
from medtrace.methods.registered_pix2pix.settings import RegisteredPix2PixSettings


class RegisteredPix2PixMethod(TwoDomainMethod):
    """Register first, then Pix2Pix: what one would do without a method for misaligned pairs.

    Each training target is registered to its source once, before training, by medtrace's registration; terms and
    arguments are Pix2Pix's, see `TwoDomainMethod`. At inference it is Pix2Pix: nothing is registered.
    """

    name = "registered_pix2pix"
    title = "Register, then Pix2Pix"
    paper = "Isola et al. (2017) on pairs that medtrace registered, as asked of the authors of RegGAN"
    settings_type = RegisteredPix2PixSettings
    abilities = Abilities(patches=True, channels="any", moves=False)

    @classmethod
    def case_transform(cls, settings: RegisteredPix2PixSettings) -> Callable[[dict[str, Any]], dict[str, Any]] | None:
        """The registration of a training pair."""
        return RegisteredTarget(settings.alignment)
