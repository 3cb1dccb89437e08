"""Every study that `medtrace bench` knows. A new task is a file of studies and a line here."""

from __future__ import annotations

from medtrace.workflows.bench.metamorphic import METAMORPHIC
from medtrace.workflows.bench.misaligned import MISALIGNED
from medtrace.workflows.bench.postop import POSTOP
from medtrace.workflows.bench.study import Study

STUDIES: dict[str, dict[str, Study]] = {}
"""Task → name → study; the first of a task is its default."""

for _study in (*POSTOP, *MISALIGNED, *METAMORPHIC):
    STUDIES.setdefault(_study.task, {})[_study.name] = _study
