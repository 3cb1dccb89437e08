"""Train a method: run its bundle's own training configuration."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

import medtrace
from medtrace.data import Preparation, count_cases

BUNDLES = Path(medtrace.__file__).parent / "bundles"
CONFIG = "config.yaml"
PREPARATION = "preparation.json"


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
    if dataset is not None and count_cases(dataset)["validation"] == 0:
        workflow.parser["val_interval"] = 0
    with _nothing_left_of_a_false_start(out):
        config = _without_metadata(workflow.parser.get())
        ConfigParser.export_config_file(config, str(out / CONFIG), fmt="yaml", indent=2)
        workflow.initialize()
        _preparation(workflow.parser, dataset).save(out / PREPARATION)
        workflow.run()
        workflow.finalize()
    return out


@contextmanager
def _nothing_left_of_a_false_start(out: Path) -> Iterator[None]:
    """Remove what was written into `out` when a training fails before its first checkpoint."""
    created = not out.exists()
    before = set() if created else set(out.iterdir())
    out.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if not any((out / "checkpoints").glob("*.pt")):
            for path in set(out.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if created:
                out.rmdir()
        raise


def _preparation(parser: ConfigParser, dataset: str | os.PathLike | None) -> Preparation:
    """How a new scan has to be treated for this run: as the data set says, or at TraceBench's voxel size."""
    if dataset is not None:
        return Preparation.load(Path(dataset) / PREPARATION)
    source = parser.get_parsed_content("data#training")[0]["source"]
    shape = tuple(source.shape[1:])
    spacing = source.affine[:3, :3].norm(dim=0).tolist()
    return Preparation(spatial_dims=len(shape), spacing=tuple(spacing), spatial_shape=shape, channels=len(source))


def _overlay(bundle: Path, overlay: str) -> Path:
    path = bundle / "configs" / f"{overlay}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in (bundle / "configs").glob("*.yaml"))
        raise ValueError(f"overlays: expected some of {', '.join(names)}, received {overlay!r}")
    return path


def _without_metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_meta_"}
