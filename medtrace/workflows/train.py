"""Train a method: run its bundle's own training configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import medtrace

BUNDLES = Path(medtrace.__file__).parent / "bundles"
CONFIG = "config.yaml"


def bundle_folder(name: str) -> Path:
    """Folder of the bundle called `name`.

    Raises:
        ValueError: if there is none.
    """
    names = sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir())
    if name not in names:
        raise ValueError(f"name: expected one of {', '.join(names)}, received {name!r}")
    return BUNDLES / name


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
        name: the bundle, such as "tracetrans".
        dataset: a folder made by `medtrace prepare`; not needed with `tracebench` or `smoke`.
        out: the run folder: `config.yaml`, `checkpoints/final.pt`, `history.csv`, `tensorboard/`.
        overlays: further configuration files of the bundle by name, such as "tracebench".
        overrides: configuration values by MONAI's ids, such as {"objective#alpha": 0.75}.
        tracebench: train on TraceBench (the overlay "tracebench").
        smoke: a training of seconds on tiny TraceBench cases (the overlays "tracebench" and "smoke").
        resume: go on from the newest checkpoint in `out`.
        device: such as "cuda:0" or "cpu"; by default CUDA where there is one.

    Returns:
        The run folder.

    Raises:
        ValueError: if the bundle or an overlay is unknown, or no data set is named.
        FileExistsError: if `out` holds a run already and `resume` is off.
        FileNotFoundError: if `dataset` is no folder.
    """
    from monai.bundle import ConfigParser, ConfigWorkflow

    bundle = bundle_folder(name)
    out = Path(out)
    names = [*(["tracebench"] if tracebench or smoke else []), *(["smoke"] if smoke else []), *overlays]
    if dataset is None and "tracebench" not in names:
        raise ValueError(
            "dataset: expected a folder made by `medtrace prepare`, received none; or pass tracebench=True"
        )
    if dataset is not None and not Path(dataset).is_dir():
        raise FileNotFoundError(f"dataset: {dataset} is no folder; make it with `medtrace prepare`")
    if (out / CONFIG).exists() and not resume:
        raise FileExistsError(f"out: {out} holds a run already; choose another folder, or resume it")
    files = [bundle / "configs" / "train.yaml", *(_overlay(bundle, overlay) for overlay in names)]

    values: dict[str, Any] = {"bundle_root": str(bundle), "run_dir": str(out), "resume": resume}
    if dataset is not None:
        values["dataset_dir"] = str(dataset)
    if device is not None:
        values["device"] = f"$torch.device({device!r})"
    workflow = ConfigWorkflow(
        config_file=[str(file) for file in files],
        logging_file=False,
        workflow_type="train",
        **values,
        **(overrides or {}),
    )
    out.mkdir(parents=True, exist_ok=True)
    ConfigParser.export_config_file(_without_metadata(workflow.parser.get()), str(out / CONFIG), fmt="yaml", indent=2)
    if dataset is not None and (Path(dataset) / "preparation.json").is_file():
        shutil.copyfile(Path(dataset) / "preparation.json", out / "preparation.json")
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    return out


def _overlay(bundle: Path, overlay: str) -> Path:
    path = bundle / "configs" / f"{overlay}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in (bundle / "configs").glob("*.yaml"))
        raise ValueError(f"overlays: expected some of {', '.join(names)}, received {overlay!r}")
    return path


def _without_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_meta_"}
