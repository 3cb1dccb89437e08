"""Settings of GcGAN."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from medtrace.methods.common.unpaired_settings import PooledSettings, unpaired_presets
from medtrace.methods.gcgan.motion import MotionName
from medtrace.methods.settings import NonNegative, Positive, Preset

_PRESETS = unpaired_presets(paper={"geometry_weight": 20.0})


class GcGANSettings(PooledSettings):
    """See `PooledSettings`, of which these differ."""

    motion: MotionName = "quarter_turn"
    """f: a quarter turn or a flip as in the paper, or a small random deformation, resampled for every image."""
    deformation_voxels: NonNegative = 2.0
    """Standard deviation of the deformation's velocity at its control points."""
    deformation_spacing: Positive = 16.0
    """Voxels between the deformation's control points."""
    geometry_weight: NonNegative = 20.0

    presets: ClassVar[Mapping[str, Preset]] = {
        **_PRESETS,
        # With 20, narrow networks saturate: an image of two values, white on black, commutes with every motion.
        "default": {**_PRESETS["default"], "geometry_weight": 2.0},
        "tracebench": {**_PRESETS["tracebench"], "geometry_weight": 2.0},
    }
