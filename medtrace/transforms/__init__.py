"""Transforms that MONAI lacks: each topic's array form X and dictionary form Xd together."""

from .histogram_landmarks import HistogramLandmarks
from .histogram_standardization import (
    HistogramStandardization,
    HistogramStandardizationD,
    HistogramStandardizationd,
    HistogramStandardizationDict,
    above_mean,
)
from .identical_pair import RandIdenticalPairD, RandIdenticalPaird, RandIdenticalPairDict
from .misalignment import RandMisalign, RandMisalignD, RandMisalignd, RandMisalignDict
from .misalignment_draw import (
    MISALIGNMENT_LEVELS,
    Misalignment,
    MisalignmentDraw,
    MisalignmentFields,
    misalignment_between,
)
from .register_pair import RegisterPairD, RegisterPaird, RegisterPairDict
from .rigid_alignment import RigidAlignment, RigidAlignmentD, RigidAlignmentd, RigidAlignmentDict, RigidTransform
from .slice_extraction import SliceExtraction, SliceExtractionD, SliceExtractiond, SliceExtractionDict
from .source_dropout import RandDropChannelsD, RandDropChannelsd, RandDropChannelsDict
from .structure_map import StructureMap, StructureMapD, StructureMapd, StructureMapDict, structure_map

__all__ = [
    "MISALIGNMENT_LEVELS",
    "HistogramLandmarks",
    "HistogramStandardization",
    "HistogramStandardizationD",
    "HistogramStandardizationDict",
    "HistogramStandardizationd",
    "Misalignment",
    "MisalignmentDraw",
    "MisalignmentFields",
    "RandDropChannelsD",
    "RandDropChannelsDict",
    "RandDropChannelsd",
    "RandIdenticalPairD",
    "RandIdenticalPairDict",
    "RandIdenticalPaird",
    "RandMisalign",
    "RandMisalignD",
    "RandMisalignDict",
    "RandMisalignd",
    "RegisterPairD",
    "RegisterPairDict",
    "RegisterPaird",
    "RigidAlignment",
    "RigidAlignmentD",
    "RigidAlignmentDict",
    "RigidAlignmentd",
    "RigidTransform",
    "SliceExtraction",
    "SliceExtractionD",
    "SliceExtractionDict",
    "SliceExtractiond",
    "StructureMap",
    "StructureMapD",
    "StructureMapDict",
    "StructureMapd",
    "above_mean",
    "misalignment_between",
    "structure_map",
]
