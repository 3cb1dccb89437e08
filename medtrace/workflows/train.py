"""Train a method from its settings and leave a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtrace.engines.runs import OLD_CONFIG, PREPARATION, RECORD, read_run
from medtrace.guard.method_size import check_size
from medtrace.methods import MethodSettings, method_class, resolve
from medtrace.methods.settings import TraceBenchData
from medtrace.storage.files import atomic_write, remove
from medtrace.storage.places import folder_place
from medtrace.storage.reservations import locked
from medtrace.workflows.bundle_files import train_bundle
from medtrace.workflows.handlers import record_run
from medtrace.workflows.planning.facts import DatasetFacts
from medtrace.workflows.planning.training import plan_training, settings_of_dataset
from medtrace.workflows.training import TrainingWorkflow


def train(
    name: str,
    dataset: str | os.PathLike | None = None,
    out: str | os.PathLike = "run",
    *,
    presets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str | None = None,
) -> Path:
    """Train the method called `name` and leave a run folder.

    Args:
        name: see `medtrace.methods.method_names`; or the folder of a bundle made elsewhere, which may have to be
            allowed.
        dataset: a folder made by `medtrace prepare`; not with a preset that trains on TraceBench.
        out: the run folder: `run.json`, `preparation.json`, `checkpoints/`, `history.csv`, `tensorboard/`.
        presets: of the method, laid over its defaults in this order, such as ["tracebench", "full"]. With `dataset` the
            preset `default` comes first, unless `paper` is among them, and the epochs follow from the preset's budget
            of steps where nobody says them (see `medtrace.workflows.planning.training.plan_training`).
        settings: dotted name → value on top, such as {"alpha": 0.75, "training.max_epochs": 3}. Dimensions and channels
            come from `dataset`.
        resume: continue from the newest checkpoint in `out`, with that run's settings and `settings` on top; `presets`
            then count only if `out` holds no run yet.
        device: such as "cuda:0" or "cpu"; by default CUDA where there is one.

    Returns:
        The run folder.

    Raises:
        ValueError: if a name is unknown, a value is refused, or no data set is named.
        FileExistsError: if `out` holds a run already and `resume` is off.
        FileNotFoundError: if `dataset` is not a folder.
        OSError: if another training uses `out`, or it cannot be written to; checkpoints there stay intact.
    """
    if (Path(name) / "configs" / "train.yaml").is_file():
        if presets:
            raise ValueError(
                f"presets: expected none with a bundle, which has its own values, received {', '.join(presets)}; change"
                " single settings"
            )
        return train_bundle(Path(name), dataset, Path(out), settings=settings, resume=resume, device=device)
    out = Path(out)
    folder_place(out)
    kind = method_class(name)
    resuming = _holds_run(out) and (resume or not _leads())
    if _holds_run(out) and not resuming:
        raise FileExistsError(f"out: {out} holds a run already; choose another folder, or resume it")
    if dataset is not None and not Path(dataset).is_dir():
        raise FileNotFoundError(f"dataset: {dataset} is not a folder; make it with `medtrace prepare`")
    if resuming:
        earlier = read_run(out)
        if earlier.method != name:
            raise ValueError(
                f"name: expected {earlier.method}, whose run {out} is, received {name!r}; name that method"
            )
        resolved = resolve(kind.settings_type, (), settings, start=earlier.settings.model_dump(mode="json"))
        dataset = dataset or earlier.training_data.get("dataset")
        check_size(lambda: kind.build(resolved), out / RECORD)
    else:
        of_data = {} if dataset is None else settings_of_dataset(Path(dataset))
        given = {**of_data, **(settings or {})}
        if dataset is None:
            resolved = resolve(kind.settings_type, tuple(presets), given)
        else:
            resolved = plan_training(kind.settings_type, DatasetFacts.of(dataset), presets, given).resolved
    _check_data(resolved, dataset)
    workflow = TrainingWorkflow(kind, resolved, out, dataset, device, resume)
    if not _leads():
        _run(workflow)
        return out
    with locked(out), _nothing_left_of_a_false_start(out):
        if _holds_run(out) and not resuming:
            raise FileExistsError(f"out: {out} holds a run already, which has just begun; choose another folder")
        workflow.initialize()
        record_run(out, name, resolved, dataset, workflow.train_dataset)
        workflow.run()
        workflow.finalize()
    return out


def _holds_run(out: Path) -> bool:
    return (out / RECORD).exists() or (out / OLD_CONFIG).exists()


def _leads() -> bool:
    """Whether this process writes: alone, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def _run(workflow: TrainingWorkflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@contextmanager
def _nothing_left_of_a_false_start(out: Path) -> Iterator[None]:
    """When a training fails, put back a resumed run's record; before a first checkpoint, remove what was written."""
    before = set(out.iterdir())
    kept = {path: path.read_bytes() for path in (out / RECORD, out / PREPARATION) if path.is_file()}
    try:
        yield
    except BaseException:
        for path, content in kept.items():
            if path.read_bytes() != content:
                atomic_write(path, content)
        if not any((out / "checkpoints").glob("*.pt")):
            for path in set(out.iterdir()) - before:
                remove(path)
        raise


def _check_data(settings: MethodSettings, dataset: str | os.PathLike | None) -> None:
    bench = isinstance(settings.data, TraceBenchData)
    if bench and dataset is not None:
        raise ValueError(
            f"dataset: expected none with a preset that trains on TraceBench, received {dataset}; leave one of both out"
        )
    if not bench and dataset is None:
        raise ValueError(
            "dataset: expected a folder made by `medtrace prepare`, received none; or train on TraceBench (the preset"
            " tracebench)"
        )
