"""Training steps of every method, for test_distributed: on two processes, or on one with the whole batch.

The optimizer is plain gradient descent, so that weights move by the gradients and nothing else. Noise and levels of a
diffusion are drawn by the content of each case, whichever process has it.
"""

import multiprocessing
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import torch

from medtrace.methods.common.diffusion import case_generators
from medtrace.methods.plasticine import method as plasticine
from medtrace.workflows.train import train

CASES = 4
_PLASTICINE = {"estimator.dropout": 0.0}
VARIANTS = {
    "tracetrans": ("tracetrans", {}),
    "tracetrans, no image stream": ("tracetrans", {"alpha": 0.0}),
    "reggan": ("reggan", {}),
    "metaregnet": ("metaregnet", {}),
    "plasticine": ("plasticine", _PLASTICINE),
    "plasticine, no alignment": ("plasticine", {**_PLASTICINE, "alignment_weight": 0.0}),
}


def settings_of(name: str, count: int, processes: int) -> dict:
    return {
        **VARIANTS[name][1],
        "data.train_cases": CASES,
        "training.max_epochs": count,
        "training.batch_size": CASES // processes,
        "training.val_interval": 0,
    }


def steps(out: Path, name: str, count: int = 2, processes: int = 1, rate: float = 0.1) -> Path:
    """Train for `count` epochs of one step over all cases."""
    with stepping(rate):
        return train(
            VARIANTS[name][0],
            out=out / name,
            presets=("tracebench", "smoke"),
            settings=settings_of(name, count, processes),
            device="cpu",
        )


def stepping(rate: float = 0.1) -> ExitStack:
    """Plain gradient descent and noise by content, while the context lasts."""

    def descent(method, _settings):
        return {phase.name: torch.optim.SGD(list(method.parameters_of(phase.name)), rate) for phase in method.phases}

    stack = ExitStack()
    stack.enter_context(mock.patch("medtrace.workflows.training.workflow.build_optimizers", descent))
    stack.enter_context(mock.patch("medtrace.engines.build_optimizers", descent))  # which bundles name
    stack.enter_context(mock.patch.object(plasticine, "estimate_noise", drawn_by_content))
    return stack


def drawn_by_content(estimator, schedule, image, condition=None, weighting="noise", original=plasticine.estimate_noise):
    generators = case_generators(image, 0)
    gamma = torch.cat([schedule.draw(1, generator=generator) for generator in generators])
    noise = torch.stack([torch.randn(image.shape[1:], generator=generator) for generator in generators])
    with (
        mock.patch.object(schedule, "draw", return_value=gamma),
        mock.patch.object(torch, "randn_like", return_value=noise),
    ):
        return original(estimator, schedule, image, condition, weighting)


def as_rank(rank: int, out: Path, names: list[str]) -> None:
    """Be one of two processes, as torchrun lays them out, which meet anew for every training."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for place, name in enumerate(names):
        meeting = f"file://{out}/meeting-{place}"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        steps(out, name, processes=2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    folder.mkdir()
    # Forked, so that both share the imports; nothing has run in parallel yet.
    context = multiprocessing.get_context("fork")
    chosen = sys.argv[2:] or list(VARIANTS)
    ranks = [context.Process(target=as_rank, args=(rank, folder, chosen)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode or 0) for process in ranks))
