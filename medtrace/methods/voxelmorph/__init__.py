"""VoxelMorph."""

from medtrace.methods.voxelmorph.method import VoxelMorphMethod as METHOD

__all__ = ["METHOD"]
