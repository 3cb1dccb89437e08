"""A training as a MONAI workflow, built from settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from monai.bundle import BundleWorkflow
from monai.inferers import SimpleInferer
from monai.utils import set_determinism

from medtrace.data.deterministic_dataset import DeterministicDataset
from medtrace.data.loaders import evaluation_loader, training_loader
from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.data.preparation.rules import Preparation, target_units
from medtrace.data.sources import sources
from medtrace.engines import distributed
from medtrace.engines.assembly import (
    Units,
    build_evaluator,
    build_optimizers,
    build_trainer,
)
from medtrace.methods import Method, MethodSettings
from medtrace.methods.settings import TraceBenchData
from medtrace.workflows.handlers import WeightsSaver


class TrainingWorkflow(BundleWorkflow):
    """Build a method, its data and its trainer from settings, and train it; `python -m monai.bundle run` on the
    generated bundle does the same to the same weights.

    MONAI's properties of a training workflow (`trainer`, `network_def`, `train_dataset`, `max_epochs`, ...) can be read
    after `initialize` and set before `run`.

    Args:
        kind: the method's class.
        settings: of the training.
        run_dir: the run folder.
        dataset: a folder made by `medtrace prepare`, where the settings ask for one.
        device: by default CUDA where there is one; in a process group each process takes its own.
        resume: continue from the newest checkpoint.
    """

    def __init__(
        self,
        kind: type[Method],
        settings: MethodSettings,
        run_dir: str | os.PathLike,
        dataset: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        resume: bool = False,
    ) -> None:
        super().__init__(workflow_type="train", meta_file=None, logging_file=None)
        self._values: dict[str, Any] = {}  # MONAI reads and writes its properties, trainer and device among them, here
        self.kind = kind
        self.settings = settings
        self.run_dir = Path(run_dir)
        self.dataset_dir = dataset
        self.resume = resume
        self.bundle_root = str(self.run_dir)
        self._grouped = "RANK" in os.environ
        self.device = _device(device, self._grouped)

    def initialize(self) -> None:
        """Build everything, all randomness seeded first."""
        if self._grouped:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            distributed.join("nccl" if self.device.type == "cuda" else "gloo")
        settings = self.settings
        set_determinism(seed=settings.training.seed)
        self.method = self.kind.build(settings).to(self.device)
        if self._grouped:
            distributed.distribute(self.method, self.method.distributed_networks())
        self.sources = sources(settings, self.dataset_dir, self.kind.case_transform(settings))
        self.optimizers = build_optimizers(self.method, settings)
        self.train_dataset = DeterministicDataset(self.sources.training(), settings.training.seed)
        self.evaluator = None
        if settings.training.val_interval:
            validation = self.sources.validation()
            if len(validation):
                loader = evaluation_loader(validation, settings)
                self.evaluator = build_evaluator(self.method, settings, loader, self.device, units=self._units())
        self.trainer = build_trainer(
            self.method,
            settings,
            training_loader(self.train_dataset, settings, self.device),
            self.optimizers,
            self.run_dir,
            self.device,
            resume=self.resume,
            validator=self.evaluator,
            handlers=(WeightsSaver(self.run_dir),),
        )

    def _units(self) -> Units | None:
        """From [-1, 1] to the units of the one target that the data set has; None where they are not on record."""
        if self.dataset_dir is None or isinstance(self.settings.data, TraceBenchData):
            return None
        preparation = Preparation.load(Path(self.dataset_dir) / PREPARATION)
        return target_units(preparation, self.settings.out_channels)

    def run(self) -> None:
        """Train to `max_epochs`."""
        self.trainer.run()

    def finalize(self) -> None:
        """Leave the process group."""
        if self._grouped:
            distributed.leave()

    def _readers(self) -> dict[str, Callable[[], Any]]:
        return {
            "network_def": lambda: self.method.io_network(),
            "max_epochs": lambda: self.trainer.state.max_epochs,
            "train_inferer": lambda: SimpleInferer(),
            "val_interval": lambda: self.settings.training.val_interval,
        }

    def _get_property(self, name: str, property: dict) -> Any:
        if name in self._values:
            return self._values[name]
        reader = self._readers().get(name)
        return None if reader is None else reader()

    def _set_property(self, name: str, property: dict, value: Any) -> Any:
        if name == "max_epochs":
            self.trainer.state.max_epochs = value
        self._values[name] = value


def _device(device: str | torch.device | None, grouped: bool) -> torch.device:
    if grouped and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
