"""TraceBench: paired cases from real brain anatomy whose true correspondence is known by construction."""

from medtrace.data.tracebench.anatomy import LABELS, TISSUES
from medtrace.data.tracebench.dataset import SPLITS, TASKS, Task, TraceBench, sharing_cases
from medtrace.data.tracebench.domain import DomainSettings
from medtrace.data.tracebench.metamorphic import MetamorphicSettings
from medtrace.data.tracebench.postop import PostopSettings

__all__ = [
    "LABELS",
    "SPLITS",
    "TASKS",
    "TISSUES",
    "DomainSettings",
    "MetamorphicSettings",
    "PostopSettings",
    "Task",
    "TraceBench",
    "sharing_cases",
]
