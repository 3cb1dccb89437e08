"""Train a method: run its bundle's own training configuration."""

from __future__ import annotations

import copy
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from medtrace.data import Preparation
from medtrace.data.dataset import read_index
from medtrace.guard.configurations import (
    PATHS,
    as_plain,
    check_code,
    note_own_code,
    parsable_paths,
    plain_paths,
    read_config,
)
from medtrace.guard.declared_networks import check_networks
from medtrace.storage.files import atomic_write, remove
from medtrace.storage.places import folder_place
from medtrace.storage.reservations import locked
from medtrace.workflows.bundle_files import TrainingWorkflow, bundle_folder, overlay_file
from medtrace.workflows.runs import CONFIG

PREPARATION = "preparation.json"


def train(
    name: str,
    dataset: str | os.PathLike | None = None,
    out: str | os.PathLike = "run",
    *,
    overlays: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    tracebench: bool = False,
    smoke: bool = False,
    resume: bool = False,
    device: str | None = None,
) -> Path:
    """Train the bundle called `name` and leave a run folder.

    It is `python -m monai.bundle run` on the bundle's files, with `run_dir` set; both give the same weights.

    Args:
        name: the bundle, such as "tracetrans"; or the folder of one made elsewhere, which may have to be allowed.
        dataset: a folder made by `medtrace prepare`; not needed with `tracebench` or `smoke`.
        out: the run folder: `config.yaml`, `checkpoints/final.pt`, `history.csv`, `tensorboard/`.
        overlays: further configuration files of the bundle by name, such as "tracebench".
        overrides: configuration values by MONAI's ids, such as {"method#alpha": 0.75}; "$..." is an expression of
            the caller's own, which is run. The number of dimensions and channels comes from `dataset`.
        tracebench: train on TraceBench (the overlay "tracebench").
        smoke: a training of seconds on tiny TraceBench cases (the overlays "tracebench" and "smoke").
        resume: go on from the newest checkpoint in `out`, with that run's settings and `overrides` on top; `dataset`,
            `overlays`, `tracebench` and `smoke` then count only if `out` holds no run yet.
        device: such as "cuda:0" or "cpu"; by default CUDA where there is one.

    Returns:
        The run folder.

    Raises:
        ValueError: if the bundle or an overlay is unknown, or no data set is named.
        FileExistsError: if `out` holds a run already and `resume` is off.
        FileNotFoundError: if `dataset` is no folder.
        OSError: if another training uses `out`, or it cannot be written to; checkpoints that there are stay whole.
    """
    bundle = bundle_folder(name)
    out = Path(out)
    folder_place(out)
    names = [*(["tracebench"] if tracebench or smoke else []), *(["smoke"] if smoke else []), *overlays]
    if {"tracebench", "misalign"} <= set(names):
        raise ValueError(
            "overlays: expected tracebench or misalign, received both; TraceBench misaligns by itself, see its `level`"
        )
    resuming = (out / CONFIG).exists() and (resume or _leads())
    if resuming and not resume:
        raise FileExistsError(f"out: {out} holds a run already; choose another folder, or resume it")
    if dataset is None and "tracebench" not in names and not resuming:
        raise ValueError(
            "dataset: expected a folder made by `medtrace prepare`, received none; or pass tracebench=True"
        )
    if dataset is not None and not Path(dataset).is_dir():
        raise FileNotFoundError(f"dataset: {dataset} is no folder; make it with `medtrace prepare`")
    values: dict[str, Any] = {}
    if resuming:
        files = [out / CONFIG]  # a resumed run keeps its own settings
        config = read_config(out / CONFIG)
        if not check_code(config, out / CONFIG):
            check_networks(config, out / CONFIG)
        values = {name: entry for name, entry in parsable_paths(config).items() if name in PATHS}
        values |= {"run_dir": as_plain(out)}  # wherever the folder has been moved to, it is written to and no other
    else:
        files = [bundle / "configs" / "train.yaml", *(overlay_file(bundle, overlay) for overlay in names)]
        values = {"bundle_root": as_plain(bundle), "run_dir": as_plain(out)}
        if dataset is not None:
            values |= _of_dataset(Path(dataset))
    values["resume"] = resume
    if device is not None:
        values["device"] = f"$torch.device({device!r})"
    workflow = TrainingWorkflow(files, bundle, values)
    _override(workflow.parser, overrides or {})
    if not _leads():
        _run(workflow)
        return out
    with locked(out), _nothing_left_of_a_false_start(out):
        if (out / CONFIG).exists() and not resuming:
            raise FileExistsError(f"out: {out} holds a run already, which has just begun; choose another folder")
        config = plain_paths(
            copy.deepcopy(_without_metadata(workflow.parser.get()))
        )  # parsing rewrites its expressions
        note_own_code(config)
        workflow.initialize()
        if not resuming:
            _preparation(workflow.parser, dataset).save(out / PREPARATION)
        # A folder with a configuration is a run: it comes last. In another order of its entries, networks would be
        # made in another order, from other random numbers.
        atomic_write(out / CONFIG, yaml.safe_dump(config, indent=2, sort_keys=False, encoding="utf-8"))
        workflow.run()
        workflow.finalize()
    return out


def _leads() -> bool:
    """Whether this process writes: alone, or the first of those that torchrun started."""
    return int(os.environ.get("RANK", 0)) == 0


def _run(workflow: TrainingWorkflow) -> None:
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@contextmanager
def _nothing_left_of_a_false_start(out: Path) -> Iterator[None]:
    """When a training fails, put back a resumed run's settings; before a first checkpoint, remove what was written."""
    before = set(out.iterdir())
    kept = {path: path.read_bytes() for path in (out / CONFIG, out / PREPARATION) if path.is_file()}
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


def _preparation(parser: ConfigParser, dataset: str | os.PathLike | None) -> Preparation:
    """How a new scan has to be treated for this run: as the data set says, or at TraceBench's voxel size."""
    if dataset is not None:
        return Preparation.load(Path(dataset) / PREPARATION)
    # A data set may draw when it is read, which must not move the training's own draws.
    with torch.random.fork_rng(devices=[]):
        source = parser.get_parsed_content("data#training")[0]["source"]
    shape = tuple(source.shape[1:])
    spacing = source.affine[:3, :3].norm(dim=0).tolist()
    return Preparation(spatial_dims=len(shape), spacing=tuple(spacing), spatial_shape=shape, channels=len(source))


def _of_dataset(dataset: Path) -> dict[str, Any]:
    """Configuration values that a prepared data set settles."""
    index = read_index(dataset)
    values = {"dataset_dir": as_plain(dataset), "spatial_dims": index["spatial_dims"]}
    if "channels" in index:
        values |= {"in_channels": index["channels"], "out_channels": index["channels"]}
    if not index["validation"]:
        values["val_interval"] = 0
    return values


def _override(parser: ConfigParser, overrides: Mapping[str, Any]) -> None:
    known = [name for name in parser.get() if name != "_meta_"]
    for name, value in overrides.items():
        first = name.split("#")[0]
        if first not in known:
            close = difflib.get_close_matches(first, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}"
            raise ValueError(f"overrides: {name!r} is no entry of the configuration; {hint}")
        parser[name] = value


def _without_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_meta_"}
