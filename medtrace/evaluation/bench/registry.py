"""Every study that `medtrace bench` knows. A new task is a file of studies and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medtrace.evaluation.bench.domain import DOMAIN
from medtrace.evaluation.bench.metamorphic import METAMORPHIC
from medtrace.evaluation.bench.methods import METHODS
from medtrace.evaluation.bench.misaligned import MISALIGNED
from medtrace.evaluation.bench.postop import POSTOP
from medtrace.evaluation.bench.study import Study
from medtrace.evaluation.bench.volume import volume

STUDIES: dict[str, dict[str, Study]] = {}
"""Task → name → study; the first of a task is its default."""

for _study in (*POSTOP, *MISALIGNED, *METAMORPHIC, *DOMAIN, *METHODS):
    STUDIES.setdefault(_study.task, {})[_study.name] = _study

MEASUREMENTS: Mapping[str, Mapping[str, Callable[..., dict[str, Any]]]] = {"metamorphic": {"volume": volume}}
"""Task → name → what is run in a study's place where nothing is trained: (setting, out, *, seed, device, progress)."""
