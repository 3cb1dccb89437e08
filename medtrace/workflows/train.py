"""Training of a method from its settings into a run folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtrace.data.dataset import read_index
from medtrace.engines.interruption import TrainingInterruptedError
from medtrace.engines.model_folder import RECORD
from medtrace.engines.runs import OLD_CONFIG, PREPARATION, read_run
from medtrace.guard.notices import notify
from medtrace.guard.shortage import is_shortage
from medtrace.methods import Method, MethodSettings, method_class, method_names, resolve
from medtrace.methods.settings import TraceBenchData
from medtrace.storage.files import atomic_write, remove
from medtrace.storage.places import folder_place
from medtrace.storage.reservations import locked
from medtrace.workflows.planning.facts import DatasetFacts
from medtrace.workflows.planning.training import plan_training, settings_of_dataset
from medtrace.workflows.training.fine_tuning import inherited_settings, start_of
from medtrace.workflows.training.foreign_bundle import train_bundle
from medtrace.workflows.training.handlers import record_run
from medtrace.workflows.training.resuming import resumption
from medtrace.workflows.training.workflow import TrainingWorkflow, check_fitting, fitting_words


def train(
    name: str,
    dataset: str | os.PathLike | None = None,
    out: str | os.PathLike = "run",
    *,
    presets: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str | None = None,
    start_from: str | os.PathLike | None = None,
    other_data: bool = False,
    fit: bool = False,
) -> Path:
    """Train the method called `name` and write a run folder.

    Args:
        name: see `medtrace.methods.method_names`; or the folder of a bundle made elsewhere, which may must be
            allowed.
        dataset: a folder made by `medtrace prepare`; not with a preset that trains on TraceBench.
        out: the run folder: `run.json`, `preparation.json`, `checkpoints/`, `history.csv`, `tensorboard/`.
        presets: presets of the method, applied over its defaults in this order, such as ["tracebench", "full"]. With
            `dataset` the preset `default` comes first, unless `paper` is among them, and the epochs follow from the
            preset's budget of steps if not given (see `medtrace.workflows.planning.training.plan_training`).
        settings: dotted name → value on top, such as {"alpha": 0.75, "training.max_epochs": 3}. Dimensions and channels
            come from `dataset`.
        resume: continue from the newest checkpoint in `out`, with that run's settings, and `presets` and `settings` on
            top, which apply from there on; changes that a checkpoint would override (another network, other data) are
            refused. `dataset` may have moved; it is recognized by its content. If `out` has no run yet, one begins.
        device: such as "cuda:0" or "cpu"; by default CUDA if available.
        start_from: a run of the same method, whose weights the training starts from and whose settings replace the
            defaults; its optimizers start anew. `run.json` records it.
        other_data: resume on a data set other than the run's.
        fit: if memory runs out, use the largest batch that fits, instead of reporting it.

    Returns:
        The run folder.

    Raises:
        ValueError: if a name is unknown, a value is refused, no data set is named, or a resumed run used another.
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
        if start_from is not None:
            raise ValueError(f"from: expected none with a bundle, received {start_from}; train the method by its name")
        return train_bundle(Path(name), dataset, Path(out), settings=settings, resume=resume, device=device)
    out = Path(out)
    folder_place(out)
    kind = method_class(name)
    resuming = _holds_run(out) and (resume or not _leads())
    if _holds_run(out) and not resuming:
        raise FileExistsError(f"out: {out} holds a run already; choose another folder, or pass resume=True")
    if dataset is not None and not Path(dataset).is_dir():
        raise FileNotFoundError(f"dataset: {dataset} is not a folder; make it with `medtrace prepare`")
    start: Mapping[str, Any] = {}
    if resuming:
        start = read_run(out).started_from
        if start_from is not None and start.get("run") != os.path.abspath(start_from):
            raise ValueError(
                f"from: {out} did not begin with the weights of {start_from}, and continues with its own; resume it"
                " without --from, or choose another folder"
            )
        resolved, dataset, remembered, renewed = resumption(kind, out, presets, settings, dataset, other_data)
    else:
        of_data = {} if dataset is None else settings_of_dataset(Path(dataset))
        given = {**of_data, **(settings or {})}
        remembered, renewed = None, False
        if start_from is not None:
            start = start_of(start_from, name)
            inherited = inherited_settings(start_from, dataset is not None)
            resolved = resolve(kind.settings_type, tuple(presets), given, inherited)
        elif dataset is None:
            resolved = resolve(kind.settings_type, tuple(presets), given)
        else:
            _check_data(resolve(kind.settings_type, tuple(presets), given), dataset)
            resolved = plan_training(kind.settings_type, DatasetFacts.of(dataset), presets, given).resolved
    _check_data(resolved, dataset)
    _check_pairs(kind, dataset)
    workflow = TrainingWorkflow(kind, resolved, out, dataset, device, resume, start)
    if not _leads():
        _run(workflow)
        return out
    with locked(out), _nothing_left_of_a_false_start(out, workflow), _saying_how_to_resume(name, out):
        if _holds_run(out) and not resuming:
            raise FileExistsError(f"out: {out} holds a run already, which has just begun; choose another folder")
        workflow.initialize()
        record_run(out, name, resolved, dataset, workflow.train_dataset, start, remembered, renewed)
        fitting: dict[str, Any] = {}
        try:
            workflow.run()
        except Exception as error:
            if not is_shortage(error):
                raise
            fitting = workflow.fitting()
            check_fitting(fitting, resolved, workflow.device, fit, error)
        workflow.finalize()
    if not fitting:
        return out
    del workflow  # and with it the memory that it uses
    size = resolved.training.batch_size
    notify(out, f"a batch of {size} did not fit into memory; continues with {fitting_words(fitting)}")
    changed = {**(settings or {}), **fitting}
    return train(name, dataset, out, settings=changed, resume=True, device=device, other_data=other_data, fit=fit)


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
def _saying_how_to_resume(name: str, out: Path) -> Iterator[None]:
    try:
        yield
    except TrainingInterruptedError as error:
        told = f"{error.name} ended the training after {error.place}; nothing is lost: {_resuming(name, out)}"
        error.args = (told,)
        raise


def _resuming(name: str, out: Path) -> str:
    return f"continue with `medtrace train {name} --out {out} --resume`"


@contextmanager
def _nothing_left_of_a_false_start(out: Path, workflow: TrainingWorkflow) -> Iterator[None]:
    """When a training fails before its first epoch, put back a resumed run's record and remove what was written."""
    before = set(out.iterdir())
    kept = {path: path.read_bytes() for path in (out / RECORD, out / PREPARATION) if path.is_file()}
    try:
        yield
    except BaseException:
        if workflow.begun:
            raise
        for path, content in kept.items():
            if path.read_bytes() != content:
                atomic_write(path, content)
        for path in set(out.iterdir()) - before:
            remove(path)
        raise


def _check_data(settings: MethodSettings, dataset: str | os.PathLike | None) -> None:
    bench = isinstance(settings.data, TraceBenchData)
    if bench and dataset is not None:
        raise ValueError(
            f"dataset: expected none, since the settings train on TraceBench (--tracebench, --smoke or a preset"
            f" with its own cases), received {dataset}; leave one of the two out"
        )
    if not bench and dataset is None:
        raise ValueError(
            "dataset: expected a folder made by `medtrace prepare`, received none; or train on TraceBench (the preset"
            " tracebench)"
        )


def _check_pairs(kind: type[Method], dataset: str | os.PathLike | None) -> None:
    if dataset is None or not kind.abilities.paired or not read_index(Path(dataset)).get("unpaired"):
        return
    able = [name for name in method_names() if not method_class(name).abilities.paired]
    raise ValueError(
        f"dataset: {kind.title} learns from pairs, but {dataset} holds unpaired domains; train one of {', '.join(able)}"
    )
