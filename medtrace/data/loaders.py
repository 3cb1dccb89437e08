"""Loaders of a training's cases, by its settings."""

from __future__ import annotations

from typing import Any

import torch
from monai.data import DistributedSampler
from monai.data.utils import worker_init_fn

from medtrace.data.case_loader import CaseLoader
from medtrace.engines.assembly import processes
from medtrace.engines.interruption import LoaderWorker
from medtrace.methods.settings import MethodSettings


def training_loader(dataset: Any, settings: MethodSettings, device: torch.device | str) -> CaseLoader:
    """Shuffled batches; in a process group each process has its fraction."""
    training = settings.training
    sampler = None
    if processes() > 1:
        sampler = DistributedSampler(dataset, even_divisible=True, shuffle=True, seed=training.seed)
    return CaseLoader(
        dataset,
        batch_size=training.batch_size,
        shuffle=sampler is None,
        sampler=sampler,
        num_workers=training.num_workers,
        persistent_workers=training.num_workers > 0,
        worker_init_fn=LoaderWorker(worker_init_fn) if training.num_workers else None,
        pin_memory=torch.device(device).type == "cuda",
    )


def evaluation_loader(dataset: Any, settings: MethodSettings) -> CaseLoader:
    """Batches in order; in a process group each case is seen by one process, if every process can have one."""
    sampler = None
    if processes() > 1:
        sampler = DistributedSampler(dataset, even_divisible=len(dataset) < processes(), shuffle=False)
    training = settings.training
    return CaseLoader(
        dataset,
        batch_size=training.batch_size,
        sampler=sampler,
        num_workers=training.num_workers,
        worker_init_fn=LoaderWorker(worker_init_fn) if training.num_workers else None,
    )
