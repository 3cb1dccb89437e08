"""Real datasets and how they are prepared and read; TraceBench, the dataset whose truth is known."""

from medtrace.data.case_loader import CaseLoader
from medtrace.data.dataset import count_cases, load_dataset, load_domain
from medtrace.data.deterministic_dataset import DeterministicDataset
from medtrace.data.landmarks.points import read_landmarks, write_landmarks
from medtrace.data.lists.domain_list import read_domains
from medtrace.data.lists.layouts import Pair, read_brats_reg, read_layout, read_pair_list, read_pairs, split_by_subject
from medtrace.data.loaders import evaluation_loader, training_loader
from medtrace.data.masks import read_labels, read_mask
from medtrace.data.partners import RandomPartner, UnpairedDomains
from medtrace.data.preparation.intensity import ContrastStandard
from medtrace.data.preparation.rules import Preparation
from medtrace.data.reading import read_image
from medtrace.data.sources import Sources, sources
from medtrace.data.torchio_subjects import items_of_subjects
from medtrace.data.tracebench import DomainSettings, MetamorphicSettings, PostopSettings, TraceBench
from medtrace.data.tracebench.misaligned import MisalignedSettings
from medtrace.data.tracebench.settings import BrainSettings
from medtrace.trace.contrast import Intensity
from medtrace.trace.intensity_map import IntensityMap

__all__ = [
    "BrainSettings",
    "CaseLoader",
    "ContrastStandard",
    "DeterministicDataset",
    "DomainSettings",
    "Intensity",
    "IntensityMap",
    "MetamorphicSettings",
    "MisalignedSettings",
    "Pair",
    "PostopSettings",
    "Preparation",
    "RandomPartner",
    "Sources",
    "TraceBench",
    "UnpairedDomains",
    "count_cases",
    "evaluation_loader",
    "items_of_subjects",
    "load_dataset",
    "load_domain",
    "read_brats_reg",
    "read_domains",
    "read_image",
    "read_labels",
    "read_landmarks",
    "read_layout",
    "read_mask",
    "read_pair_list",
    "read_pairs",
    "sources",
    "split_by_subject",
    "training_loader",
    "write_landmarks",
]
