"""Translations of a run whose truth is known: of TraceBench's subjects, or of a prepared data set's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from monai.data import list_data_collate

from medtrace.data import load_dataset
from medtrace.data.sources import sources
from medtrace.data.tracebench.dataset import TraceBench
from medtrace.engines.runs import load_method, read_run
from medtrace.evaluation.intensity.interval import Known
from medtrace.evaluation.tracers import tracer_of
from medtrace.methods.base import Method
from medtrace.methods.settings import TraceBenchData
from medtrace.trace.validation import as_tensor

BATCH = 8


class RunCases:
    """What a run makes of subjects that it was not trained on, in the networks' range [-1, 1].

    Args:
        run: a folder written by `medtrace train`.
        dataset: a folder made by `medtrace prepare`, for a run that was trained on one.
        subjects: of TraceBench, per split.
        seed: seed of TraceBench's subjects; None is the run's own.
        device: device of the method; by default CUDA if available.

    Raises:
        ValueError: if a data set is missing, or is given to a run of TraceBench.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        dataset: str | os.PathLike | None = None,
        *,
        subjects: int = 200,
        seed: int | None = None,
        device: str | None = None,
    ) -> None:
        settings = read_run(run).settings
        data = settings.data
        bench = isinstance(data, TraceBenchData)
        if bench and dataset is not None:
            raise ValueError(f"dataset: expected none, since {run} was trained on TraceBench, received {dataset}")
        if not bench and dataset is None:
            raise ValueError(f"dataset: expected the prepared folder whose subjects {run} is to be measured on")
        self.method: Method = load_method(run, device)
        self.dataset = dataset
        if isinstance(data, TraceBenchData):
            own = {"validation_cases": subjects, "test_cases": subjects}
            data = data.model_copy(update=own if seed is None else {**own, "seed": seed})
            settings = settings.model_copy(update={"data": data})
            shape = "x".join(map(str, data.spatial_shape))
            self.population = f"TraceBench {data.task} at {shape}"
        else:
            self.population = f"the population of {os.path.basename(os.fspath(dataset or ''))}"
        self._settings = settings

    def items(self, split: str) -> Any:
        """The cases of a split, "validation" or "test", as mappings."""
        if self.dataset is not None:
            return load_dataset(self.dataset, split, neighbors=self.method.neighbors)
        found = sources(self._settings)
        made = {"validation": found.validation, "test": found.test}[split]()
        if isinstance(made, TraceBench):
            made._cache = None  # each is asked for once
        return made

    def known(self, split: str) -> Iterator[Known]:
        """The traces of a split beside its true images."""
        for item, trace in self.traced(self.items(split)):
            yield Known(str(item["subject"]), trace, as_tensor(item["target"]).float())

    def traced(self, items: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
        """Cases with their traces, in batches of one size."""
        tracer = tracer_of(self.method)
        for first in range(0, len(items), BATCH):
            chunk = [items[number] for number in range(first, min(first + BATCH, len(items)))]
            for _, group in groupby(chunk, key=lambda item: tuple(item["source"].shape)):
                alike = [{k: v for k, v in item.items() if "landmarks" not in k} for item in group]
                yield from zip(alike, tracer(list_data_collate(alike)))
