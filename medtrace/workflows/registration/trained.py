"""Registration by a trained network, by gradient steps on a pair's own flows, or by both."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from monai.data import MetaTensor
from rich.progress import Progress
from torch import Tensor

from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import default_device, load_method
from medtrace.fields import folded_voxels, invert
from medtrace.guard.memory import check_memory
from medtrace.inference.scan_pair import ScanPair, WorkingGrid, corrected_pair, intensity_maps
from medtrace.methods import Method
from medtrace.methods.common.instance import STEPS, InstanceRegistration, RefinementStep
from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy
from medtrace.methods.common.registration import RegistrationPair
from medtrace.registration import Alignment, Deformable, Deformation, Verdict, align
from medtrace.registration.contrast import contrast_of
from medtrace.registration.frames import Frame
from medtrace.registration.register import check_apart
from medtrace.registration.verdict import assess
from medtrace.registration.working import total_field, total_inverse, working_pair
from medtrace.trace import Trace
from medtrace.trace.contrast import Contrast
from medtrace.trace.geometry import pull
from medtrace.trace.intensity_map import IntensityMap
from medtrace.trace.prediction import Prediction
from medtrace.workflows.registration.greedy import BYTES_PER_WORKING_VOXEL
from medtrace.workflows.registration.pair import PairRegistration, mean_square
from medtrace.workflows.translate import run_preparation

_BYTES_OF_A_GRADIENT = 1740
"""Bytes that a refinement keeps for its gradient, float32, measured at 1 mm (7.1 million voxels)."""
_BYTES_PER_VOXEL = 56
"""Images, field, inverse and their resampling on the target's own grid."""


@dataclass(frozen=True)
class Descent:
    """Settings of registration by a network or by gradient steps.

    Attributes:
        run: folder of a training, or None.
        refine: gradient steps; None for 100 without a run and none with one.
        smoothness: weight of the displacement's smoothness in them.
        contrast: contrast of both images, if the run was trained on several.
        device: such as "cuda:0".
        continued: preset of the engine that continues a network's field; None for none.
    """

    run: str | os.PathLike | None
    refine: int | None
    smoothness: float
    contrast: str | None
    device: str | None
    continued: str | None = None


@dataclass(frozen=True)
class _Method:
    """What registers, the preparation of its run, and where it runs."""

    method: Method
    preparation: Preparation
    device: torch.device
    steps: int = 0


def register_trained(
    pair: ScanPair, how: Descent, *, alignment: str, spacing: float | None, match: bool | None, bar: Progress
) -> PairRegistration:
    """Register a pair of scans, first aligned, by a trained network or gradient steps."""
    method = _method(how, pair, _reporter(bar))
    scans = pair
    pair, meaning = corrected_pair(scans, method.preparation, how.contrast)
    maps = intensity_maps(pair, method.preparation, how.run is None if match is None else match, how.contrast)
    frame = Frame(pair.affine, pair.source_affine, pair.spatial_dims)
    check_apart(frame, pair.source.shape[1:], pair.target.shape[1:], alignment)
    images = pair.source, pair.target, pair.source_affine, pair.affine
    result = align(*images, kind=alignment, mask=pair.mask, moving_mask=pair.source_mask)
    still = result.kind == "none"
    aligned = pair if still else replace(pair, source_affine=torch.linalg.inv(result.matrix) @ pair.source_affine)
    grid = WorkingGrid(aligned, method.preparation, spacing)
    _check_room(pair, grid, method, engine=how.continued is not None)
    working = grid.bring(maps[0].forward(pair.source), maps[1].forward(pair.target))
    output = _answer(method, working, grid.spacing)
    ddf, intensity = grid.back(output)
    ssd = mean_square(working.source, working.target), mean_square(output.image.cpu(), working.target)
    del working, output
    matrix = frame.from_ras(result.matrix)
    verdict = _verdict(pair, ddf, frame, matrix, result)
    total, inverse = ddf, None
    if not still:
        total = total_field(ddf, frame.fixed, matrix, frame.fixed, pair.target.shape[1:])
        inverse = total_inverse(ddf, frame.fixed, matrix, frame.moving, pair.source.shape[1:])
    trace = _in_units(_trace(pair, maps[0], total, inverse, intensity), meaning)
    record: dict[str, Any] = {"run": None if how.run is None else os.path.basename(how.run), "refine": method.steps}
    if how.continued is not None:
        reason = f"of the engine, which continues the network's field by its preset {how.continued}"
        record |= {"continued_by": how.continued, "similarity": Deformable().similarity, "similarity_reason": reason}
    name = type(method.method).__name__
    record["working_shape"] = list(grid.shape)
    shown = None if pair is scans else maps[0].inverse(maps[1].forward(pair.target), maps[1].foreground)
    return PairRegistration(trace, maps, ssd, verdict, result, name, record, method.device, shown)


def _in_units(trace: Trace, contrast: Contrast | None) -> Trace:
    """A trace with the contrast of its intensities, where they are not those of the file."""
    if contrast is None or not contrast.bias_corrected:
        return trace
    contrasts = (contrast,) * len(trace.source)
    return replace(trace, source_contrasts=contrasts, contrasts=contrasts)


def _verdict(pair: ScanPair, ddf: Tensor, frame: Frame, matrix: Tensor, result: Alignment) -> Verdict:
    """Assess a field of the target's grid that follows an alignment."""
    images, masks = (pair.source, pair.target), (pair.source_mask, pair.mask)
    working = working_pair(images, masks, frame, matrix, None)
    first = (torch.linalg.inv(torch.from_numpy(frame.fixed)) @ torch.from_numpy(working.affine))[:-1, -1].round().int()
    cut = (slice(None), *(slice(int(a), int(a) + size) for a, size in zip(first, working.fixed.shape[1:])))
    part = ddf.expand(ddf.shape[0], *pair.target.shape[1:])[cut].contiguous()
    inverse = invert(part[None])
    folds = int(folded_voxels(part[None]).sum())
    deformation = Deformation(part, inverse.ddf[0], float(inverse.residual[0]), (), folds, folds)
    weight = working.content.float() * (1 - working.mask)
    contrast = contrast_of(*working.shown, weight) if bool((weight > 0).any()) else None
    return assess(working, deformation, result, None, "", contrast)


def _check_room(pair: ScanPair, grid: WorkingGrid, method: _Method, *, engine: bool) -> None:
    """Check the memory for a registration before it begins; a trained network's needs are not known in advance.

    The engine, which may continue the network's field, runs on the CPU.
    """
    voxels = math.prod(pair.target.shape[1:])
    working = math.prod(grid.shape)
    refined = method.steps > 0
    needed = {"cpu": voxels * _BYTES_PER_VOXEL + (working * BYTES_PER_WORKING_VOXEL if engine else 0)}
    place = method.device.type
    needed[place] = needed.get(place, 0) + working * (_BYTES_OF_A_GRADIENT if refined else 0)
    for device, room in needed.items():
        check_memory(
            f"a registration of {'x'.join(map(str, grid.shape))} voxels, for a target of {voxels:,}",
            room,
            "register on a coarser grid (a larger --spacing), or crop the scans",
            method.device if device == place else device,
        )


def _method(how: Descent, pair: ScanPair, progress: Callable[[RefinementStep], None]) -> _Method:
    run, refine, device = how.run, how.refine, how.device
    place = default_device(device)
    start: Method | None = None
    preparation = Preparation(spatial_dims=pair.spatial_dims, natural_image=pair.natural_image)
    if run is not None:
        method = load_method(run, device)
        if not method.registers:
            raise ValueError(
                f"run: expected one of a method that registers pairs, received {type(method).__name__} in {run};"
                " train one that does (`medtrace methods`), or leave the run out"
            )
        start = method
        if how.continued is not None:
            if not start.abilities.continued:
                raise ValueError(
                    f"engine: expected none with a run of {start.title}, whose field the engine cannot continue,"
                    " received 'greedy'; leave it out, or leave the run out"
                )
            start.set_sampling({"continued_by": how.continued})
        preparation = run_preparation(run, start, natural_image=pair.natural_image)
        _check_run(run, preparation, pair)
    steps = (STEPS if run is None else 0) if refine is None else refine
    if start is not None and steps == 0:
        return _Method(start, preparation, place)
    energy = MetamorphicEnergy(
        smoothness_weight=how.smoothness, masked_gradient="intensity", folding_measure="simplices"
    )
    return _Method(InstanceRegistration(energy, start, steps, progress=progress), preparation, place, steps)


def _check_run(run: str | os.PathLike, preparation: Preparation, pair: ScanPair) -> None:
    if preparation.spatial_dims != pair.spatial_dims:
        kinds = {2: "single slices", 3: "volumes"}
        raise ValueError(
            f"run: {run} registers {kinds[preparation.spatial_dims]}, but the images are {kinds[pair.spatial_dims]};"
            f" train with spatial_dims={pair.spatial_dims}, or leave the run out"
        )
    if preparation.natural_image != pair.natural_image:
        kind = ("scans", "natural images")
        raise ValueError(
            f"run: {run} was trained on {kind[preparation.natural_image]}, but the images are"
            f" {kind[pair.natural_image]}; give"
            " images of the same kind, or leave the run out"
        )


def _reporter(bar: Progress) -> Callable[[RefinementStep], None]:
    task = bar.add_task("refining", total=None, visible=False)

    def show(report: RefinementStep) -> None:
        bar.update(
            task, visible=True, total=report.steps, completed=report.step, description=f"energy {report.total:.5f}"
        )

    return show


def _answer(method: _Method, working: RegistrationPair, spacing: Sequence[float]) -> Prediction:
    batch = {name: value.to(method.device) for name, value in working._asdict().items() if value is not None}
    masks = {name: batch.get(name) for name in ("mask", "source_mask")} if method.method.abilities.masks else {}
    source, target = batch["source"], batch["target"]
    if method.method.abilities.continued:
        affine = torch.diag(torch.tensor([*spacing, *[1.0] * (4 - len(spacing))], dtype=torch.float64))
        source, target = (MetaTensor(image, affine=affine) for image in (source, target))  # lengths are in mm
    with torch.no_grad():
        return method.method.register(source, target, **masks)


def _trace(pair: ScanPair, source_map: IntensityMap, ddf: Tensor, inverse: Tensor | None, intensity: Tensor) -> Trace:
    """Everything on its own grid and in the source's units."""
    if pair.mask is None and pair.source_mask is None:
        nowhere = torch.zeros(()).expand(1, *ddf.shape[1:])
        warped = pull(pair.source, ddf, pair.to_source)
        grids: dict[str, Any] = {"affine": pair.affine, "source_affine": pair.source_affine, "inverse_ddf": inverse}
        trace = Trace.build(source=pair.source, image=warped, ddf=ddf, mask=nowhere, **grids)
        return replace(trace, warped=trace.image)  # one volume, not two of the same
    mask = pair.joint_mask(ddf)
    warped = pull(pair.source, ddf, pair.to_source)
    bare = replace(source_map, foreground=None)
    normalized = bare.forward(warped)
    change = bare.inverse(normalized + intensity) - bare.inverse(normalized)
    return Trace.build(
        source=pair.source,
        image=warped + torch.where(mask, change, 0.0),
        ddf=ddf,
        mask=mask,
        affine=pair.affine,
        source_affine=pair.source_affine,
        inverse_ddf=inverse,
    )
