"""Handlers of an `Evaluator` that write its results: scores per case, and traces."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events

from medtrace.data.dataset import read_index
from medtrace.data.population import SCANS
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import PREPARATION, RunRecord, save_weights
from medtrace.evaluation.edges import PATHOLOGY, healthy_region
from medtrace.evaluation.scoring import score
from medtrace.io import save_trace
from medtrace.methods.settings import MethodSettings, TraceBenchData
from medtrace.metrics import CaseTable
from medtrace.storage.cases import content_digest
from medtrace.storage.files import make_directory
from medtrace.trace import Trace


class CaseScores:
    """Score every case of an evaluation, as `medtrace evaluate` does.

    At the end `cases.csv` has one row per case, and `summary.csv` has n, mean, SD and median of every column (see
    `medtrace.evaluation.scoring.score_cases`); the means are in `engine.state.metrics` too.

    Args:
        folder: receives the tables.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.table = CaseTable()
        self.names = _CaseNames()

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _start(self, engine: Engine) -> None:
        self.table = CaseTable()
        self.names = _CaseNames()

    def _add(self, engine: Engine) -> None:
        batch = engine.state.batch
        if "target" not in batch:
            raise ValueError("batch: expected a 'target' to score against, received none; evaluate on pairs")
        for item, (name, trace) in enumerate(self.names.traces(engine)):
            truth = batch["ddf"][item] if "ddf" in batch else None
            healthy = healthy_region({name: batch[name][item] for name in PATHOLOGY if name in batch})
            self.table.add(name, score(trace.to("cpu"), batch["target"][item], truth, healthy))

    def _finish(self, engine: Engine) -> None:
        self.table.write_csv(self.folder / "cases.csv")
        self.table.write_summary(self.folder / "summary.csv")
        for column, summary in self.table.summary().items():
            engine.state.metrics.setdefault(column, summary.mean)


class TraceSaver:
    """Save the trace of every case into its own folder (see `medtrace.io.save_trace`).

    Args:
        folder: the folders' parent, created if missing; a case is named after its entry "case", after its source's file
            (with the file's folder or a number if the name is taken), or numbered.
        method: name of the method, stored with the trace.
        overwrite: replace traces of an earlier run.
    """

    def __init__(self, folder: str | os.PathLike, method: str | None = None, overwrite: bool = False) -> None:
        self.folder = Path(folder)
        self.method = method
        self.overwrite = overwrite
        self.names = _CaseNames()

    def attach(self, engine: Engine) -> None:
        """Register on an evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._save)

    def _start(self, engine: Engine) -> None:
        self.names = _CaseNames()

    def _save(self, engine: Engine) -> None:
        make_directory(self.folder)
        for name, trace in self.names.traces(engine):
            if Path(name).name != name:
                raise ValueError(f"case: expected a name that can be a folder's, received {name!r}; rename the case")
            save_trace(trace.to("cpu"), self.folder / name, method=self.method, overwrite=self.overwrite)


class _CaseNames:
    """Unique names of an evaluation's cases."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def traces(self, engine: Engine) -> list[tuple[str, Trace]]:
        """The traces of an engine's batch with their names."""
        batch: Mapping[str, Any] = engine.state.batch
        traces: Sequence[Trace] = engine.state.output["traces"]
        if "case" in batch:
            return list(zip(map(str, batch["case"]), traces))
        first = (engine.state.iteration - 1) * engine.state.dataloader.batch_size
        files = _files_of(batch["source"], len(traces))
        names = [self._of(file) or f"case-{first + item:04d}" for item, file in enumerate(files)]
        return list(zip(names, traces))

    def _of(self, file: str | None) -> str | None:
        """A new name after a file, without its ending; None without a file."""
        folder, name = os.path.split(file or "")
        name = name.removesuffix(".gz").rpartition(".")[0]
        if not name:
            return None
        parent = os.path.basename(folder)
        result = f"{parent}_{name}" if name in self._used and parent else name
        numbered = (f"{result}-{number}" for number in count(2))
        result = result if result not in self._used else next(one for one in numbered if one not in self._used)
        self._used.add(result)
        return result


def _files_of(images: Any, number: int) -> list[str | None]:
    """The files that a batch was read from; None if the images do not say."""
    paths = getattr(images, "meta", {}).get("filename_or_obj")
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(paths, (list, tuple)) or len(paths) != number:
        return [None] * number
    return [os.fspath(path) for path in paths]


class WeightsSaver:
    """Write the weights of a finished training as safetensors into its run folder; only rank 0 writes.

    Args:
        run: the run folder.
    """

    def __init__(self, run: str | os.PathLike) -> None:
        self.run = Path(run)

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.COMPLETED, self._save)

    def _save(self, engine: Engine) -> None:
        if engine.state.rank == 0:
            with engine.as_used():
                save_weights(engine.method, self.run)


class RunFolder:
    """Write the files that make the folder of a bundle's training a run folder: `preparation.json`, `run.json`; only
    rank 0 writes.

    Args:
        run: the run folder.
        name: the method's.
        settings: settings of the training, resolved.
        dataset: the folder made by `medtrace prepare`; ignored if the settings name other data.
    """

    def __init__(self, run: str | os.PathLike, name: str, settings: MethodSettings, dataset: str | os.PathLike) -> None:
        self.run = Path(run)
        self.name = name
        self.settings = settings
        self.dataset = None if isinstance(settings.data, TraceBenchData) else dataset

    def attach(self, engine: Engine) -> None:
        """Register on a trainer."""
        engine.add_event_handler(Events.STARTED, self._write)

    def _write(self, engine: Engine) -> None:
        if engine.state.rank == 0:
            make_directory(self.run)
            training = engine.data_loader.dataset
            listed = isinstance(training.data, (list, tuple))  # given in place of the folder's data
            record_run(self.run, self.name, self.settings, None if listed else self.dataset, training)


def record_run(
    run: Path,
    name: str,
    settings: MethodSettings,
    dataset: str | os.PathLike | None,
    training: Any,
    started_from: Mapping[str, Any] | None = None,
    remembered: Mapping[str, Any] | None = None,
    renewed: bool = False,
) -> None:
    """Write `preparation.json`, where there is none, and then `run.json`: a folder with a record is a run.

    Args:
        run: the run folder.
        name: the method's.
        settings: settings of the training, resolved.
        dataset: a folder made by `medtrace prepare`, or None.
        training: the training's `DeterministicDataset`.
        remembered: a resumed run's record of its data; None is what `training_data` reports of `dataset`.
        renewed: whether the data set is not the run's own, so that its preparation now replaces the run's.
    """
    if renewed or not (run / PREPARATION).exists():
        preparation_of(training, dataset).save(run / PREPARATION)
    data = training_data(dataset) if remembered is None else remembered
    RunRecord(name, settings, training_data=data, started_from=started_from or {}).write(run)


def training_data(dataset: str | os.PathLike | None) -> dict[str, Any]:
    """A run's record of its training cases: subjects, digests of the prepared images, and the scans' fingerprints and
    appearance."""
    if dataset is None:
        return {}
    folder = Path(dataset)
    index = read_index(folder)
    scans = [scan for scan in index.get(SCANS, ()) if scan["split"] in ("training", "validation")]
    return {
        "dataset": str(folder.absolute()),
        **({SCANS: scans} if SCANS in index else {}),
        **{
            split: [
                {
                    "case": entry["case"],
                    "subject": entry["subject"],
                    **{role: content_digest(folder / entry[role]) for role in ("source", "target") if role in entry},
                }
                for entry in index[split]
            ]
            for split in ("training", "validation")
        },
    }


def preparation_of(training: Any, dataset: str | os.PathLike | None) -> Preparation:
    """How a new scan must be prepared for a run: as in the data set, or at TraceBench's voxel size.

    Args:
        training: the training's `DeterministicDataset`.
        dataset: a folder made by `medtrace prepare`, or None.
    """
    if dataset is not None:
        return Preparation.load(Path(dataset) / PREPARATION)
    # Reading a data set may draw random numbers, which must not change the training's own.
    with torch.random.fork_rng(devices=[]):
        source = training.given(0)["source"]
    shape = tuple(source.shape[1:])
    spacing = source.affine[:3, :3].norm(dim=0).tolist()
    return Preparation(spatial_dims=len(shape), spacing=tuple(spacing), spatial_shape=shape, channels=len(source))
