"""Training steps of TraceTrans and RegGAN at the papers' size, here and at the commit before the work on speed."""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from .harness import ROOT, Measurement, Settings

EARLIER = "d01bb76"
ROOMS = ("methods", "networks", "engines", "losses", "fields", "data")
FORMER = {"methods": "objectives"}
"""What rooms were called at the earlier commit."""

TITLE = "Training steps and their data"
TEXT = f"""
All phases of one step (forward, backward, optimizer), of the library as it is and of commit {EARLIER}, in one
process, on the same images and first weights. TraceTrans at its paper's 256 × 256 and batch 8, RegGAN (CycleGAN,
NC+R) at 256 × 256 and batch 1; `medtrace` is what `medtrace train` does by default, and `bfloat16` what it
does under `--set training.amp=true --set training.amp_dtype=bfloat16`, which gains on processors that multiply in this
type. "Losses and fields" is all of a TraceTrans step that is neither network nor optimizer (both mutual informations,
L1, least squares, smoothness, exponential and warp, forward and backward), measured alone; it is asked to take at most
a tenth of the step. A case of TraceBench is made once in a training and then kept.
"""


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """Groups of the steps, and of what losses and fields take of one."""
    with library_of(EARLIER) as earlier:
        for method, batch in (("TraceTrans", 2 if settings.quick else 8), ("RegGAN", 1)):
            edge = 32 if settings.quick else 256
            images = smooth_pair(batch, edge, settings.device)
            size = f"{batch}×1×{edge}²"
            common = {"operation": f"{method}, one training step", "size": size, "items": batch}
            here = step(library(), method, images, settings, defaults=True)
            group = [Measurement(peer="medtrace", run=here, **common)]
            group += [
                Measurement(peer=f"medtrace ({name})", run=run, **common)
                for name, run in variants(method, images, settings)
            ]
            if earlier is not None:
                run = step(earlier, method, images, settings, defaults=False)
                group.append(Measurement(peer=f"medtrace at {EARLIER}", run=run, ours=False, **common))
            yield group
            if method == "TraceTrans":
                operation = "TraceTrans, fraction of a training step"
                yield [
                    Measurement(operation, size, "losses and fields", losses_and_fields(images), target=10),
                    Measurement(operation, size, "the whole step", here, ours=False),
                ]
        for task in ("postop", "misaligned", "metamorphic", "domain"):
            yield cases(task, {"medtrace": library(), f"medtrace at {EARLIER}": earlier}, settings)


def cases(task: str, libraries: dict[str, Any], settings: Settings) -> list[Measurement]:
    """TraceBench's cases of a task, in this library and the earlier one."""
    edge, count = (32, 2) if settings.quick else (64, 8)
    return [
        Measurement(
            f"TraceBench, {task}",
            f"{count} cases of {edge}²",
            peer,
            partial(make_cases, rooms.data.TraceBench, task, edge, count),
            ours=peer == "medtrace",
            items=count,
        )
        for peer, rooms in libraries.items()
        if rooms is not None
    ]


def make_cases(dataset: Any, task: str, edge: int, count: int) -> None:
    made = dataset(task, (edge, edge), cases=count, seed=0)
    for index in range(count):
        made[index]


def variants(
    method: str, images: dict[str, torch.Tensor], settings: Settings
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """A step with the options of speed that gain on the device; on a CPU channels last and compiling do not."""
    half = {"amp": True, "amp_kwargs": {"dtype": torch.bfloat16}}
    yield "bfloat16", step(library(), method, images, settings, defaults=True, **half)
    if settings.device.type != "cuda":
        return
    yield (
        "bfloat16, channels last",
        step(library(), method, images, settings, defaults=True, channels_last=True, **half),
    )
    yield "bfloat16, compiled", step(library(), method, images, settings, defaults=True, compile=True, **half)


def step(
    medtrace: Any,
    method: str,
    images: dict[str, torch.Tensor],
    settings: Settings,
    defaults: bool,
    channels_last: bool = False,
    compile: bool = False,
    **trainer: Any,
) -> Callable[[], Any]:
    """A training step of the method in some library, ready to run.

    Args:
        medtrace: rooms of the library.
        method: "TraceTrans" or "RegGAN"; the networks are the paper's, in a quick run small ones.
        images: the batch.
        settings: of the run.
        defaults: what `medtrace train` sets: fused Adam, and forwards shared where nothing is compiled.
        channels_last, compile: of `medtrace.engines.Acceleration`.
        trainer: further arguments of the trainer.
    """
    torch.manual_seed(0)
    if method == "TraceTrans":
        method = tracetrans(medtrace, settings.quick, fraction=defaults and not compile)
    else:
        method = reggan(medtrace, settings.quick)
    method.to(settings.device)
    options = {"betas": (0.5, 0.999), "fused": True} if defaults else {"betas": (0.5, 0.999)}
    optimizers = {
        phase.name: torch.optim.Adam(method.parameters_of(phase.name), 1e-4, **options) for phase in method.phases
    }
    handlers = [medtrace.engines.Acceleration(channels_last, compile)] if channels_last or compile else None
    engine = medtrace.engines.Trainer(
        settings.device, 1, [images], method, optimizers, train_handlers=handlers, **trainer
    )
    return lambda: engine._iteration(engine, images)


def tracetrans(medtrace: Any, quick: bool, fraction: bool) -> Any:
    """The TraceTrans method with its paper's networks."""
    options = {"channels": (4, 8), "discriminator_channels": 4, "discriminator_layers": 1} if quick else {}
    networks = medtrace.networks.DualDecoderGAN(2, 1, 1, **options)
    kind = getattr(medtrace.methods, "TraceTransMethod", None) or medtrace.methods.TraceTransObjective
    return kind(networks, **({"share_forwards": True} if fraction else {}))


def reggan(medtrace: Any, quick: bool) -> Any:
    """The RegGAN method in its paper's mode on CycleGAN's networks."""
    options = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1} if quick else {}
    backbone = medtrace.networks.CycleGAN(2, 1, 1, bidirectional=False, **options)
    registration = (
        medtrace.networks.RegistrationUNet(2, 1, (4, 8)) if quick else medtrace.networks.RegistrationUNet(2, 1)
    )
    correction = medtrace.methods.RegistrationCorrection(registration)
    kind = getattr(medtrace.methods, "TwoDomainMethod", None) or medtrace.methods.RegGANObjective
    return kind(backbone, correction=correction)


def losses_and_fields(images: dict[str, torch.Tensor]) -> Callable[[], Any]:
    """What a TraceTrans step computes between the networks' outputs and the two losses, and its gradient."""
    medtrace = library()
    source, target = images["source"], images["target"]
    image = (0.9 * target).requires_grad_()
    velocity = F.interpolate(torch.randn(len(source), 2, 8, 8, device=source.device), source.shape[2:], mode="bicubic")
    velocity.requires_grad_()
    patches = (len(source), 1, max(source.shape[2] // 8 - 2, 1), max(source.shape[3] // 8 - 2, 1))
    logits = [torch.randn(patches, device=source.device, requires_grad=True) for _ in range(6)]
    dnmi = {bins: medtrace.losses.ParzenDNMILoss(num_bins=bins) for bins in (16, 32)}

    def run() -> None:
        warped = medtrace.fields.warp(source, medtrace.fields.exponentiate(velocity, 7))
        loss = F.l1_loss(image, target) + dnmi[16](warped, target) + dnmi[32](image, warped)
        loss = loss + medtrace.losses.velocity_smoothness(velocity)
        for stream in range(2):
            loss = loss + medtrace.losses.least_squares_adversarial(logits[stream], real=True)
            loss = loss + medtrace.losses.least_squares_discriminator(logits[2 + stream], logits[4 + stream])
        torch.autograd.grad(loss, [image, velocity, *logits])

    return run


def smooth_pair(batch: int, edge: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Smooth source and target in [-1, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, batch, 1, 16, 16, generator=generator) * 1.8 - 0.9
    fine = [F.interpolate(image, (edge, edge), mode="bilinear", align_corners=True).to(device) for image in coarse]
    return dict(zip(("source", "target"), fine, strict=True))


def library(former: bool = False) -> Any:
    """The rooms of the library that is being measured, by today's names."""
    names = FORMER if former else {}
    return SimpleNamespace(**{room: importlib.import_module(f"medtrace.{names.get(room, room)}") for room in ROOMS})


@contextmanager
def library_of(commit: str) -> Iterator[Any]:
    """The rooms of the library at another commit, imported beside this one; None where git does not have it.

    Its modules live on in what is built from them. `sys.modules` holds this library again once they are imported.
    """
    library()
    result = subprocess.run(["git", "archive", commit, "medtrace"], cwd=ROOT, capture_output=True, check=False)
    if result.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(result.stdout)) as archive:
            archive.extractall(folder, filter="data")
        kept = _forget_library()
        sys.path.insert(0, folder)
        importlib.invalidate_caches()
        try:
            rooms = library(former=True)
        finally:
            sys.path.remove(folder)
            _forget_library()
            sys.modules.update(kept)
        yield rooms


def _forget_library() -> dict[str, Any]:
    names = [name for name in sys.modules if name.partition(".")[0] == "medtrace"]
    return {name: sys.modules.pop(name) for name in names}
