"""The files of a bundle made elsewhere, read once and checked, as MONAI's workflow of a training."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import merge_kv

from medtrace.guard.configurations import BUNDLES, as_plain, check_code, code_is_allowed, read_config
from medtrace.guard.method_size import check_size
from medtrace.storage.reservations import locked

METADATA = "metadata.json"
_META = "_meta_"


def train_bundle(
    bundle: Path,
    dataset: str | os.PathLike | None,
    out: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    device: str | None = None,
) -> Path:
    """Train a bundle by its own `train.yaml`.

    Args:
        bundle: its folder; it runs code that medtrace does not ship only if that is allowed (see
            `medtrace.guard.configurations`).
        dataset: becomes the entry `dataset_dir`.
        out: becomes the entry `run_dir`.
        settings: dotted name → value, set below the entry `settings`.
        resume: becomes the entry `resume`.
        device: such as "cuda:0".

    Returns:
        `out`.

    Raises:
        ValueError: if the bundle runs code that is not allowed, does not define a training, or requests networks that
            are too large.
    """
    configs = bundle / "configs"
    for file in sorted(configs.glob("*.yaml")):
        check_code(read_config(file), file, training=False)
    if (configs / METADATA).is_file():
        check_code({_META: read_config(configs / METADATA)}, configs / METADATA)
    values: dict[str, Any] = {"bundle_root": as_plain(bundle), "run_dir": as_plain(out), "resume": resume}
    if dataset is not None:
        values["dataset_dir"] = as_plain(dataset)
    if device is not None:
        values["device"] = f"$torch.device({device!r})"
    values |= {f"settings#{name.replace('.', '#')}": value for name, value in (settings or {}).items()}
    workflow = BundleTraining([configs / "train.yaml"], bundle, values)
    if dataset is not None and workflow.parser.get("settings#data#kind") == "tracebench":
        raise ValueError(
            f"dataset: expected none, since the settings of {bundle} train on TraceBench, received {dataset}; leave it"
            " out, or set data.kind=prepared"
        )
    if not code_is_allowed():
        parser = ConfigParser(copy.deepcopy(workflow.parser.get()))
        check_size(lambda: parser.get_parsed_content("method"), configs / "train.yaml")
    with locked(out):
        workflow.initialize()
        workflow.run()
        workflow.finalize()
    return out


class BundleTraining(ConfigWorkflow):
    """MONAI's workflow on configurations that are read and checked here, not read again by MONAI.

    Two readers of one file could interpret it differently, so what was checked is what is built. MONAI also puts a
    bundle's
    folder at the front of Python's path, where a file of it could take a library's name: here only if the user allows
    foreign code.

    Args:
        files: the configurations, each merged into those before.
        bundle: the folder that provides the metadata.
        values: entries to set, by MONAI's ids.

    Raises:
        ValueError: if a file is not a configuration, or together they would run code that medtrace does not ship and
            that is not allowed.
    """

    def __init__(self, files: Sequence[Path], bundle: Path, values: Mapping[str, Any]) -> None:
        metadata = bundle / "configs" / METADATA
        parser = ConfigParser(config={})
        for file in files:
            for key, value in read_config(file).items():
                merge_kv(parser, key, value)
        config = {_META: read_config(metadata) if metadata.is_file() else {}, **parser.get()}
        if not all(_is_shipped(file) for file in (*files, metadata)) and not code_is_allowed():
            check_code(config, " with ".join(map(str, files)), allow=False)
        super().__init__(config_file=None, meta_file=str(metadata), logging_file=False, workflow_type="train")
        self.config_root_path = bundle / "configs"
        self.parser.set(config)
        self.parser.update(dict(values))

    def run(self) -> list[Any]:
        """Run the training.

        Raises:
            ValueError: if the configuration does not define one.
        """
        if code_is_allowed():
            result: list[Any] = super().run()
            return result
        if self.run_id not in self.parser:
            raise ValueError(f"{self.run_id}: expected the entry that trains, received none; use a complete file")
        expressions: list[Any] = self._run_expr(id=self.run_id)
        return expressions


def _is_shipped(file: Path) -> bool:
    return file.resolve().is_relative_to(BUNDLES.resolve())
