"""A trained method's translation as one file that runs without medtrace: ONNX, TorchScript or torch's PT2."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace import __version__
from medtrace.checks import check_choice, check_shape
from medtrace.engines.runs import PREPARATION, load_method, read_run
from medtrace.guard.notices import notify
from medtrace.methods import Method, MethodSettings
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import reserve_file, reserving
from medtrace.workflows.exporting.programs import FORMATS, INPUT, decode, encode, example_shapes, fix_weights

TOLERANCE = 1e-4
"""Maximum difference of image ([-1, 1]) and displacement (voxels) from the method's own, relative to the largest above
1."""


class ExportedModel(NamedTuple):
    """The written file, and how it compares with the method."""

    file: Path
    size: tuple[int, ...] | None
    """The only size that it accepts; None is any."""
    difference: float | None
    """The largest difference from the method's own output, over image and displacement; None if nothing could run it
    here."""

    def __str__(self) -> str:
        sizes = "any size" if self.size is None else "×".join(map(str, self.size))
        if self.difference is None:
            return f"{self.file}: takes {sizes}; not checked, as onnxruntime is not installed"
        return f"{self.file}: takes {sizes}; within {self.difference:.1e} of the run's own image and field"


@reserving(lambda out: reserve_file(out, make_parents=True))
def export_model(
    run: str | os.PathLike,
    out: str | os.PathLike,
    *,
    format: str = "onnx",
    size: Sequence[int] | None = None,
) -> ExportedModel:
    """Write a run's translation as a program: source (B, C, *spatial) in, image and displacement out.

    All three are on one grid, with intensities in [-1, 1] and displacements in its voxels (pull, array axes). The file
    carries facts as JSON, `medtrace.json`: inputs, outputs, conventions, how the training images were prepared and the
    rules between units and [-1, 1]. The program consists of plain torch operations, and is run before it is written:
    its output must match the method's.

    Args:
        run: folder left by `medtrace train`, of a method that translates in one pass.
        out: the file.
        format: "onnx" (opset 20), "torchscript" or "pt2" (`torch.export`).
        size: the only size (H, W) or (H, W, D) that it accepts; None is any from 8 voxels, where "pt2" takes one image
            at a time and the others any number.

    Returns:
        The file, and the largest difference from the method's own output.

    Raises:
        FileNotFoundError: if the run is missing.
        ModuleNotFoundError: if ONNX is asked for and the package is missing.
        ValueError: if the method samples or only registers, the format or size is invalid, or the program's output
            differs by more than 1e-4.
    """
    check_choice("format", format, FORMATS)
    record = read_run(run)
    method = load_method(run, "cpu")
    settings = type(method).widened(record.settings)
    _check_able(method)
    if size is not None and check_shape("size", size) != settings.spatial_dims:
        raise ValueError(f"size: expected {settings.spatial_dims} numbers, received {tuple(size)}")
    shapes = example_shapes(settings.spatial_dims, size)
    batches = [_images(settings.in_channels, shape, seed) for seed, shape in enumerate(shapes)]
    facts = json.dumps(_facts(method, settings, Path(run), size), indent=1, allow_nan=False)
    program = load_method(run, "cpu")
    fix_weights(program)
    content = encode(program, format, batches[0], size is not None, facts)
    difference = _difference(method, content, format, batches)
    if difference is None:
        notify(str(out), "the program was not run: install onnxruntime to have it checked")
    elif not difference <= TOLERANCE:
        raise ValueError(
            f"format: expected a program within {TOLERANCE:g} of the run's own output, received one {difference:.3g}"
            f" away as {format}; use another format, or a fixed size"
        )
    atomic_write(out, content)
    return ExportedModel(Path(out), None if size is None else tuple(size), difference)


def _check_able(method: Method) -> None:
    if not method.translates:
        raise ValueError(
            f"run: expected a method that translates a source alone, received {method.title}, which registers pairs;"
            " use `medtrace register`"
        )
    if not method.abilities.one_pass:
        raise ValueError(
            f"run: expected a method that translates in one pass, received {method.title}, which samples in many;"
            " use `medtrace translate`"
        )


def _images(channels: int, shape: Sequence[int], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, *shape, generator=generator) * 2 - 1


@torch.no_grad()
def _difference(method: Method, content: bytes, format: str, batches: Sequence[Tensor]) -> float | None:
    program = decode(content, format)
    if program is None:
        return None
    worst = 0.0
    for batch in batches:
        own = method.predict({INPUT: batch})
        for value, expected in zip(program(batch), (own.image, own.ddf), strict=True):
            scale = max(1.0, float(expected.abs().max()))
            worst = max(worst, float((value - expected).abs().max()) / scale)
    return worst


def _facts(method: Method, settings: MethodSettings, run: Path, size: Sequence[int] | None) -> dict[str, Any]:
    """The facts that somebody with only the file needs."""
    axes = list(size) if size is not None else ["any"] * settings.spatial_dims
    preparation = run / PREPARATION
    rules = json.loads(preparation.read_text(encoding="utf-8")) if preparation.is_file() else None
    channels = settings.out_channels if method.abilities.channels == "any" else settings.in_channels
    return {
        "format": "medtrace model",
        "version": 1,
        "medtrace": __version__,
        "method": method.name,
        "paper": method.paper,
        "inputs": {INPUT: {"channels": settings.in_channels, "size": axes, "range": [-1, 1], "background": -1}},
        "outputs": {
            "image": {"channels": channels, "range": [-1, 1]},
            "ddf": {
                "channels": settings.spatial_dims,
                "unit": "voxel of the input's grid",
                "convention": "pull, components in the order of the array's axes: warped(p) = source(p + ddf(p))",
            },
        },
        "neighbors": method.neighbors,
        "preparation": rules,
        "intended_use": "Research. Not a medical device; not for diagnosis or the planning of treatment",
    }
