"""A training as a MONAI workflow, built from settings."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Events
from monai.bundle import BundleWorkflow
from monai.data import list_data_collate
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from monai.utils import set_determinism

from medtrace.data.augmentation import patches
from medtrace.data.case_loader import sizes_of
from medtrace.data.deterministic_dataset import DeterministicDataset
from medtrace.data.loaders import evaluation_loader, training_loader
from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.data.preparation.rules import Preparation, target_units
from medtrace.data.sources import sources
from medtrace.engines import Trainer, distributed
from medtrace.engines.assembly import (
    Units,
    build_evaluator,
    build_optimizers,
    build_trainer,
    leads,
)
from medtrace.engines.runs import default_device
from medtrace.guard.shortage import MemoryShortageError, first_that_fits, halves
from medtrace.methods import Method, MethodSettings
from medtrace.methods.settings import PreparedData, TraceBenchData
from medtrace.workflows.training.fine_tuning import load_start
from medtrace.workflows.training.handlers import WeightsSaver
from medtrace.workflows.training.run_page import RunPage

LEAST_PATCH = 32
"""Edge length in voxels below which no patch is tried."""


class TrainingWorkflow(BundleWorkflow):
    """Build a method, its data and its trainer from settings, and train it; `python -m monai.bundle run` on the
    generated bundle does the same and gives the same weights.

    MONAI's properties of a training workflow (`trainer`, `network_def`, `train_dataset`, `max_epochs`, ...) can be read
    after `initialize` and set before `run`.

    Args:
        kind: the method's class.
        settings: settings of the training.
        run_dir: the run folder.
        dataset: a folder made by `medtrace prepare`, where the settings ask for one.
        device: by default CUDA if available; in a process group each process takes its own.
        resume: continue from the newest checkpoint.
        start: the run whose weights the training begins with, as `fine_tuning.start_of` gives it.
    """

    def __init__(
        self,
        kind: type[Method],
        settings: MethodSettings,
        run_dir: str | os.PathLike,
        dataset: str | os.PathLike | None = None,
        device: str | torch.device | None = None,
        resume: bool = False,
        start: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(workflow_type="train", meta_file=None, logging_file=None)
        self._values: dict[str, Any] = {}  # MONAI reads and writes its properties, trainer and device among them, here
        self.kind = kind
        self.settings = settings
        self.run_dir = Path(run_dir)
        self.dataset_dir = dataset
        self.resume = resume
        self.start = dict(start or {})
        self.bundle_root = str(self.run_dir)
        self._grouped = "RANK" in os.environ
        self._begun = False
        self.device = _device(device, self._grouped)

    def initialize(self) -> None:
        """Build everything, after seeding all randomness."""
        if self._grouped:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)
            distributed.join("nccl" if self.device.type == "cuda" else "gloo")
        settings = self.settings
        set_determinism(seed=settings.training.seed)
        self.method = self.kind.build(settings)
        begun = not self.start or load_start(self.method, settings, self.start)
        self.method.to(self.device)
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
            handlers=(WeightsSaver(self.run_dir), *self._page()),
        )
        for event in (Events.EPOCH_STARTED, Events.COMPLETED):
            self.trainer.add_event_handler(event, self._begin)
        if not begun:
            self.trainer.when_ready.append(self._check_resumed)

    def _check_resumed(self, trainer: Trainer) -> None:
        if not trainer.state.iteration:
            missing = Path(self.start["run"]) / self.start["weights"]
            raise ValueError(f"from: {missing} is missing, and no checkpoint continues without it; restore it")

    def _page(self) -> list[RunPage]:
        return [RunPage(self.run_dir, self.kind.title, self.evaluator)] if leads() else []

    @property
    def begun(self) -> bool:
        """Whether the training completed an epoch, or had none left to train."""
        return self._begun

    def _units(self) -> Units | None:
        """From [-1, 1] to the units of the data set's only target; None if they are not on record."""
        if self.dataset_dir is None or isinstance(self.settings.data, TraceBenchData):
            return None
        preparation = Preparation.load(Path(self.dataset_dir) / PREPARATION)
        return target_units(preparation, self.settings.out_channels)

    def run(self) -> None:
        """Train to `max_epochs`."""
        self.trainer.run()

    def fitting(self) -> dict[str, Any]:
        """The settings with which a step fits into memory; none if no such change makes it fit.

        That is the largest half, quarter, ... of the batch, or else a batch of one with such a part of an image's edge,
        where the method works on patches of prepared cases. Nothing is trained; in a process group there is no search.
        """
        if self._grouped:
            return {}
        data = self.train_dataset
        sizes = sizes_of(data)
        largest = 0 if sizes is None else max(range(len(sizes)), key=lambda index: math.prod(sizes[index]))
        case = data[largest]

        def attempt(count: int, cut: Callable[[Any], Any]) -> None:
            try:
                self.trainer.try_step(list_data_collate([cut(case) for _ in range(count)]))
            finally:
                for optimizer in self.optimizers.values():
                    optimizer.zero_grad(set_to_none=True)

        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        whole = Compose([])
        batch = first_that_fits(halves(self.settings.training.batch_size), lambda count: attempt(count, whole))
        if batch is not None:
            return {"training.batch_size": batch}
        shape = tuple(case["source"].shape[1:])
        patch = first_that_fits(self._smaller_patches(shape), lambda size: attempt(1, Compose(patches(size))))
        return {} if patch is None else {"training.batch_size": 1, "data.patch": list(patch)}

    def _smaller_patches(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        if not self.kind.abilities.patches or not isinstance(self.settings.data, PreparedData):
            return []
        result = [tuple(shape)]
        while (smaller := tuple(max(edge // 2, min(edge, LEAST_PATCH)) for edge in result[-1])) != result[-1]:
            result.append(smaller)
        return result[1:]

    def _begin(self) -> None:
        self._begun = True

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


def check_fitting(
    fitting: Mapping[str, Any], settings: MethodSettings, device: torch.device, fit: bool, reason: Exception
) -> None:
    """Raise an error that says which batch or patch fits into a device's memory, unless it is used.

    Args:
        fitting: settings with which a step fits.
        settings: those with which it did not fit.
        device: whose memory ran out.
        fit: whether `fitting` is used.
        reason: the error of the step.

    Raises:
        MemoryShortageError: if nothing fits, or `fit` is off.
    """
    short = f"training.batch_size: a batch of {settings.training.batch_size} does not fit into the memory of {device}"
    if not fitting:
        raise MemoryShortageError(
            f"{short}, nor a part of it;"
            " prepare smaller images (--crop, --spacing), use a smaller network (channels) or set training.amp=true"
        ) from reason
    if not fit:
        options = " ".join(f"--set {name}={str(value).replace(' ', '')}" for name, value in fitting.items())
        raise MemoryShortageError(f"{short}; {fitting_words(fitting)} does: resume with {options} or --fit") from reason


def fitting_words(fitting: Mapping[str, Any]) -> str:
    """A batch, or one of patches, in words."""
    patch = fitting.get("data.patch")
    cut = "" if patch is None else f" of patches of {' x '.join(map(str, patch))}"
    return f"{fitting['training.batch_size']}{cut}"


def _device(device: str | torch.device | None, grouped: bool) -> torch.device:
    if grouped and torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return default_device(device)
