"""The backbones by name, for configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medtrace.checks import check_choice
from medtrace.networks.backbone import TranslationBackbone
from medtrace.networks.cyclegan import CycleGAN
from medtrace.networks.munit import MUNIT
from medtrace.networks.nice_gan import NICEGAN
from medtrace.networks.unit import UNIT

BACKBONES: dict[str, Any] = {"cyclegan": CycleGAN, "munit": MUNIT, "unit": UNIT, "nice_gan": NICEGAN}


def translation_backbone(
    name: str,
    spatial_dims: int,
    in_channels: int,
    out_channels: int,
    bidirectional: bool = True,
    options: Mapping[str, Any] | None = None,
) -> TranslationBackbone:
    """Build a backbone of RegGAN.

    Args:
        name: "cyclegan", "munit", "unit" or "nice_gan".
        spatial_dims: 2 or 3.
        in_channels: channels of the source.
        out_channels: channels of the target.
        bidirectional: whether the target is translated to the source too.
        options: the backbone's own arguments.

    Raises:
        ValueError: if there is no such backbone, or an argument is outside its range.

    Example:
        >>> options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4}
        >>> backbone = translation_backbone("unit", 2, 1, 1, bidirectional=False, options=options)
        >>> type(backbone).__name__, dict(backbone.internal_weights)
        ('UNIT', {'reconstruction': 10.0, 'prior': 0.01, 'latent_cycle': 0.01})
    """
    check_choice("name", name, BACKBONES)
    result: TranslationBackbone = BACKBONES[name](
        spatial_dims, in_channels, out_channels, bidirectional, **(options or {})
    )
    return result
