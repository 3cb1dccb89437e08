"""A method on one scan's array: on the grid that the method was trained on, and back to the scan's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from monai.data import MetaTensor
from rich.progress import Progress, TaskID
from torch import Tensor

from medtrace.data.neighbors import neighbors_in
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import default_device
from medtrace.geometry.resampling import (
    Reorientation,
    resize,
    resized_affine,
    shape_at_spacing,
    shifted_affine,
    spacing_of,
)
from medtrace.guard.notices import notify
from medtrace.inference.patched import patches_for, taking_patches
from medtrace.methods.base import NEIGHBORS, Method
from medtrace.networks.patches import PatchInferer
from medtrace.trace import Trace

Advance = Callable[[int], Any]
NEIGHBORS_APART = 0.1
"""Fraction of the distance between neighbors in training by which that in a scan may differ."""


@dataclass(frozen=True)
class TranslatedArrays:
    """The networks' prediction for a volume (C, H, W, S); fields have three components, in its voxels."""

    image: Tensor
    ddf: Tensor
    inverse_ddf: Tensor
    velocity: Tensor | None
    mask: Tensor | None


def translate_array(
    method: Method,
    preparation: Preparation,
    image: Tensor,
    affine: Tensor,
    batch_size: int,
    patch_size: int | Sequence[int] | None,
    bar: Progress,
) -> tuple[TranslatedArrays, PatchInferer | None]:
    """Translate a normalized image (C, *spatial) on a working grid and come back to its own; and how it was divided."""
    flat = image.ndim == 3
    volume = image[..., None] if flat else image
    slice_wise = preparation.spatial_dims == 2
    if preparation.natural_image:
        plan = Reorientation.none(volume.shape[1:])
    else:
        plan = Reorientation.to_ras(affine, volume.shape[1:], preparation.axis.index if slice_wise else None)
    volume, turned_affine = plan.apply(volume), plan.affine(affine)
    own_shape = tuple(volume.shape[1:])
    shape = _working_shape(preparation, own_shape, turned_affine)
    working_affine = resized_affine(turned_affine, own_shape, shape)
    working = resize(volume, shape)
    device = next(method.parameters(), torch.zeros(1, device=default_device("cpu"))).device
    steps = working.shape[3] if slice_wise else 1
    task = bar.add_task("translating", total=steps)
    wanted = preparation.out_channels if preparation.outputs else None
    inferer = patches_for(method, preparation, shape, patch_size)

    def advance(count: int) -> None:
        bar.advance(task, count)

    if slice_wise:
        stride = neighbor_stride(preparation, spacing_of(working_affine)[2]) if method.neighbors else 1
        parts = _translate_slices(method, working, working_affine, batch_size, device, advance, wanted, stride)
    else:
        with taking_patches(method, inferer, partial(_show_patches, bar, task)):
            parts = _translate_volume(method, working, working_affine, device, wanted)
        bar.update(task, completed=bar.tasks[task].total)
    parts = _resized(parts, own_shape)
    parts = TranslatedArrays(
        image=plan.undo(parts.image),
        ddf=plan.undo_field(parts.ddf),
        inverse_ddf=plan.undo_field(parts.inverse_ddf),
        velocity=None if parts.velocity is None else plan.undo_field(parts.velocity),
        mask=None if parts.mask is None else plan.undo(parts.mask),
    )
    return (_flattened(parts) if flat else parts), inferer


def _show_patches(bar: Progress, task: TaskID, done: int, count: int) -> None:
    bar.update(task, completed=done, total=count)


def neighbor_stride(preparation: Preparation, apart: float) -> int:
    """Slices from one neighbor to the next in a scan, so that they lie as far apart as in training where they can.

    Args:
        preparation: preparation of the run.
        apart: distance between slices of the scan, in mm.

    Warns:
        Notice: if their distance is not that in training.
    """
    if preparation.spacing is None:
        return 1
    learned = float(preparation.spacing[2])
    stride = max(1, round(learned / apart))
    if abs(stride * apart - learned) > NEIGHBORS_APART * learned:
        notify(
            "scan",
            f"neighboring slices are {stride * apart:.3g} mm apart, in training {learned:.3g} mm: the network has not"
            " learned from such slices",
        )
    return stride


def _working_shape(preparation: Preparation, shape: tuple[int, ...], affine: Tensor) -> tuple[int, ...]:
    """The grid the network works on: the training images' voxel size, or for natural images their size."""
    if preparation.natural_image:
        return (*preparation.spatial_shape, 1) if preparation.spatial_shape else shape
    if preparation.spacing is None:
        return shape
    own = spacing_of(affine)
    wanted = list(preparation.spacing)
    if preparation.spatial_dims == 2:
        wanted[2] = own[2]
    return shape_at_spacing(shape, own, wanted)


def _translate_slices(
    method: Method,
    volume: Tensor,
    affine: Tensor,
    batch_size: int,
    device: torch.device,
    advance: Advance,
    wanted: int | None,
    stride: int = 1,
) -> TranslatedArrays:
    """Trace every slice that holds something; the others keep their intensities and do not move."""
    slices = volume.movedim(-1, 0)
    spans = slices.flatten(2).amax(2) > slices.flatten(2).amin(2)
    filled = [k for k, spanned in enumerate(spans) if bool(spanned.any())]
    advance(len(slices) - len(filled))
    traces: dict[int, Trace] = {}
    for start in range(0, len(filled), batch_size):
        chosen = filled[start : start + batch_size]
        affines = torch.stack([shifted_affine(affine, (0, 0, k)) for k in chosen])
        batch: dict[str, Tensor] = {"source": MetaTensor(slices[chosen].to(device), affine=affines)}
        if method.neighbors:
            batch[NEIGHBORS] = neighbors_in(slices, chosen, method.neighbors, stride).to(device)
        traces.update(zip(chosen, method.trace(batch)))
        advance(len(chosen))
    if not traces:
        raise ValueError("image: expected at least one slice with tissue, received none; check the scan")
    like = next(iter(traces.values()))
    _check_channels(like, volume, wanted)

    def stacked(name: str, empty: Callable[[int], Tensor]) -> Tensor | None:
        if getattr(like, name) is None:
            return None
        result = [getattr(traces[k], name).cpu() if k in traces else empty(k) for k in range(len(slices))]
        return torch.stack(result, dim=-1)

    still = torch.zeros_like(like.ddf.cpu())
    fields = {name: stacked(name, lambda _: still) for name in ("ddf", "inverse_ddf", "velocity")}
    fields = {name: None if value is None else _with_third_component(value) for name, value in fields.items()}
    return TranslatedArrays(
        image=_present(stacked("image", lambda k: _blank(slices[k], like.image.shape[0]))),
        ddf=_present(fields["ddf"]),
        inverse_ddf=_present(fields["inverse_ddf"]),
        velocity=fields["velocity"],
        mask=stacked("mask", lambda _: still[:1]),
    )


def _translate_volume(
    method: Method, volume: Tensor, affine: Tensor, device: torch.device, wanted: int | None
) -> TranslatedArrays:
    batch = MetaTensor(volume[None].to(device), affine=affine[None])
    trace = method.trace({"source": batch})[0].to("cpu")
    _check_channels(trace, volume, wanted)
    return TranslatedArrays(trace.image, trace.ddf, trace.inverse_ddf, trace.velocity, trace.mask)


def _check_channels(trace: Trace, volume: Tensor, wanted: int | None) -> None:
    if trace.image.shape[0] != (volume.shape[0] if wanted is None else wanted):
        if wanted is not None:
            expected = f"a network with {wanted} output channel(s), as the preparation says"
        else:
            expected = f"a network with as many output as input channels ({volume.shape[0]})"
        raise ValueError(
            f"image: expected {expected}, received {trace.image.shape[0]}; its intensities cannot be mapped to units"
        )


def _blank(values: Tensor, channels: int) -> Tensor:
    """A slice without tissue as the image has it: as it is, or where the channels are others, its first one."""
    return values if len(values) == channels else values[:1].expand(channels, *values.shape[1:])


def _present(value: Tensor | None) -> Tensor:
    if value is None:
        raise ValueError("method.trace: expected image, ddf and inverse_ddf in every trace, received None")
    return value


def _with_third_component(field: Tensor) -> Tensor:
    return torch.cat([field, torch.zeros_like(field[:1])])


def _resized(parts: TranslatedArrays, shape: Sequence[int]) -> TranslatedArrays:
    """Resample everything on a grid over the same extent; displacements are in its voxels."""
    ratio = torch.tensor([new / old for new, old in zip(shape, parts.image.shape[1:])])

    def field(value: Tensor) -> Tensor:
        return resize(value, shape) * ratio.reshape(3, 1, 1, 1)

    return TranslatedArrays(
        image=resize(parts.image, shape),
        ddf=field(parts.ddf),
        inverse_ddf=field(parts.inverse_ddf),
        velocity=None if parts.velocity is None else field(parts.velocity),
        mask=None if parts.mask is None else resize(parts.mask, shape).clamp(0, 1),
    )


def _flattened(parts: TranslatedArrays) -> TranslatedArrays:
    """From one slice with 3D fields to a 2D image with 2D fields."""
    return replace(
        parts,
        image=parts.image[..., 0],
        ddf=parts.ddf[:2, ..., 0],
        inverse_ddf=parts.inverse_ddf[:2, ..., 0],
        velocity=None if parts.velocity is None else parts.velocity[:2, ..., 0],
        mask=None if parts.mask is None else parts.mask[..., 0],
    )
