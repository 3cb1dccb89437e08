"""Register one scan to another, with or without a trained network, and keep the trace."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from medtrace.checks import check_positive
from medtrace.data.preparation.rules import Preparation
from medtrace.engines.runs import default_device, load_method
from medtrace.fields import jacobian_determinant, non_diffeomorphic_fraction
from medtrace.guard.memory import check_memory, peak_memory
from medtrace.guard.notices import collecting
from medtrace.inference.scan_pair import ScanPair, WorkingGrid, intensity_maps, read_pair
from medtrace.io import save_trace
from medtrace.io.trace_folder import check_trace_room
from medtrace.io.trace_members import check_transform_formats
from medtrace.methods import Method
from medtrace.methods.common.instance import SMOOTHNESS, STEPS, InstanceRegistration, RefinementStep
from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy
from medtrace.methods.common.registration import RegistrationPair
from medtrace.networks.metamorphic import joint_mask
from medtrace.report import overlay_figure, save_figure
from medtrace.report.figures import SUFFIXES
from medtrace.storage.reservations import reserving
from medtrace.trace import Trace
from medtrace.trace.geometry import pull
from medtrace.trace.intensity_map import IntensityMap
from medtrace.trace.prediction import Prediction
from medtrace.workflows.report import report_beside, reserve_outputs
from medtrace.workflows.translate import run_preparation

_BYTES_PER_WORKING_VOXEL = 1740
"""What a refinement keeps for its gradient, float32, measured at 1 mm (7.1 million voxels)."""
_BYTES_PER_VOXEL = 56
"""Images, field, inverse and their resampling on the target's own grid."""
TARGET_NOTE = "target in the source's units"


class Registered(NamedTuple):
    """What registering a pair gave.

    `folds` counts the target's voxels whose Jacobian determinant is negative; `ssd_before` and `ssd_after` are the mean
    squared differences of source and target, and of the final image and the target, of intensities in [0, 1] on the
    grid of the registration.
    """

    trace: Trace
    seconds: float
    peak_gib: float
    folds: int
    folded_fraction: float
    ssd_before: float
    ssd_after: float


@dataclass(frozen=True)
class _Method:
    """What registers, the preparation of its run, and where it runs."""

    method: Method
    preparation: Preparation
    device: torch.device
    steps: int = 0


@reserving(lambda out, report, overwrite, figure: reserve_outputs(out, report, overwrite, figure))
def register(
    source: str | os.PathLike,
    target: str | os.PathLike,
    out: str | os.PathLike,
    *,
    mask: str | os.PathLike | None = None,
    source_mask: str | os.PathLike | None = None,
    run: str | os.PathLike | None = None,
    refine: int | None = None,
    spacing: float | None = None,
    smoothness: float = SMOOTHNESS,
    match: bool | None = None,
    contrast: str | None = None,
    labels: str | os.PathLike | None = None,
    figure: str | os.PathLike | None = None,
    device: str | None = None,
    progress: bool = True,
    overwrite: bool = False,
    report: bool = True,
    keep_metadata: bool = False,
    source_series: str | int | None = None,
    target_series: str | int | None = None,
    resample_tilt: bool = False,
    precise: bool = False,
    transforms: Sequence[str] = (),
) -> Registered:
    """Register a source to a target and save the trace, with a page to look at it beside its folder (OUT.html).

    Both may be volumes, single slices or pictures, on grids of their own. The source is read at the target's voxels by
    the two headers (linearly; no alignment is sought, so scans must lie on each other roughly, as in a common
    template's space); the registration runs there, and its field is brought back to the target's grid. The trace keeps
    the source as it was, with its own affine: its warped image is interpolated once.

    Intensities are normalized to [-1, 1] by the run's own rule, or without a run by the .5 and 99.5 percentiles of the
    tissue outside the masks. The trace's images are in the source's units; the change of intensity within the mask is
    brought there through the inverse of the source's map. Without masks it is exactly 0, and the image is the warped
    source.

    Args:
        source: a file or DICOM folder (see `medtrace.data.reading`).
        target: likewise, with as many channels.
        out: folder of the trace (see `medtrace.io.save_trace`); it appears complete or not at all.
        mask: pathology of the target on its grid (see `data.masks`): where intensity may change.
        source_mask: pathology of the source on its grid; it moves with the source.
        run: folder left by `medtrace train metaregnet`; None registers by instance optimization alone.
        refine: gradient steps on this pair's own flows; by default 100 without a run and none with one.
        spacing: voxel size in mm to register at; by default the run's, or the target's own.
        smoothness: weight of the displacement's smoothness in the refinement.
        match: send the source's percentiles to the target's, for scans of different machines; by default without a
            run.
        contrast: of both images, where the run was trained on several.
        labels: of the source on its grid, for the figure: the contours of what is carried over.
        figure: a .png, .pdf or .svg of the registration.
        device: such as "cuda:0"; by default CUDA where there is one.
        progress: show a bar on stderr.
        overwrite: replace an earlier trace in `out`.
        keep_metadata: write the names of both files into the trace and the figure's title; names of files often are
            names of patients.
        report: write the page. It shows the target in the source's units, through the intensity maps of both.
        source_series, target_series: which volume of a DICOM folder that holds several, see
            `medtrace.data.reading.read_image`.
        resample_tilt: resample DICOM series of a tilted gantry onto grids at right angles.
        precise: keep every bit in the trace (see `medtrace.io.save_trace`).
        transforms: formats in which to write the fields once more: "h5", "nrrd".

    Returns:
        The trace, 3D for volumes and 2D otherwise, on the CPU, and what it cost.

    Raises:
        FileNotFoundError: if the run or a file is missing.
        FileExistsError: if `out` is in use.
        ValueError: if a file cannot be used, the run does not fit or nothing would register; the message says which.
    """
    out = Path(out)
    _check_request(run, refine, spacing, figure)
    check_transform_formats(transforms)
    with collecting() as notices:
        pair = read_pair(
            Path(source),
            Path(target),
            _path(mask),
            _path(source_mask),
            _path(labels),
            source_series=source_series,
            target_series=target_series,
            resample_tilt=resample_tilt,
        )
    check_trace_room(out, pair.source.shape, pair.target.shape)
    started = time.perf_counter()
    with Progress(console=Console(stderr=True), disable=not progress) as bar:
        method = _method(run, refine, smoothness, pair, device, _reporter(bar))
        maps = intensity_maps(pair, method.preparation, run is None if match is None else match, contrast)
        grid = WorkingGrid(pair, method.preparation, spacing)
        _check_room(pair, grid, method)
        working = grid.bring(maps[0].forward(pair.source), maps[1].forward(pair.target))
        output = _answer(method, working)
    ddf, intensity = grid.back(output)
    ssd = _ssd(working.source, working.target), _ssd(output.image.cpu(), working.target)
    del working, output
    trace = _trace(pair, maps[0], ddf, intensity)
    seconds = time.perf_counter() - started
    found = Registered(
        trace=trace,
        seconds=seconds,
        peak_gib=peak_memory(method.device),
        folds=int((jacobian_determinant(trace.ddf[None]) < 0).sum()),
        folded_fraction=float(non_diffeomorphic_fraction(trace.ddf[None])),
        ssd_before=ssd[0],
        ssd_after=ssd[1],
    )
    steps = method.steps
    names = {"source": Path(source).name, "target": Path(target).name} if keep_metadata else {}
    metadata = {
        **names,
        "run": None if run is None else Path(run).name,
        "refine": steps,
        "working_shape": list(grid.shape),
        **({"notices": [notice.text for notice in notices]} if notices else {}),
        **{name: value for name, value in found._asdict().items() if name != "trace"},
    }
    stored: dict[str, Any] = {"precise": precise, "transforms": transforms, "overwrite": overwrite}
    save_trace(trace, out, method=type(method.method).__name__, metadata=metadata, **stored)
    if figure is not None:
        transferred = None if pair.source_labels is None else trace.transfer(pair.source_labels)
        title = " to ".join(names.values()) or None
        save_figure(overlay_figure(trace, pair.target, transferred, title=title), figure)
    if report:
        shown = _in_source_units(pair.target, *maps)
        report_beside(trace, out, type(method.method).__name__, shown, notes=(TARGET_NOTE,))
    return found


def _check_room(pair: ScanPair, grid: WorkingGrid, method: _Method) -> None:
    """Ask for the memory of a registration before it begins; what a trained network takes is not known beforehand."""
    voxels = math.prod(pair.target.shape[1:])
    working = math.prod(grid.shape)
    refined = method.steps > 0
    needed = {"cpu": voxels * _BYTES_PER_VOXEL}
    place = method.device.type
    needed[place] = needed.get(place, 0) + working * (_BYTES_PER_WORKING_VOXEL if refined else 0)
    for device, room in needed.items():
        check_memory(
            f"a registration of {'x'.join(map(str, grid.shape))} voxels, for a target of {voxels:,}",
            room,
            "register on a coarser grid (a larger --spacing), or crop the scans",
            method.device if device == place else device,
        )


def _in_source_units(target: Tensor, source_map: IntensityMap, target_map: IntensityMap) -> Tensor:
    """The target as the source's intensities would show it, for the column of the error."""
    return source_map.inverse(target_map.forward(target), target_map.foreground)


def _path(path: str | os.PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _check_request(
    run: str | os.PathLike | None, refine: int | None, spacing: float | None, figure: str | os.PathLike | None
) -> None:
    if refine is not None and refine < 0:
        raise ValueError(f"refine: expected 0 or more gradient steps, received {refine}")
    if refine == 0 and run is None:
        raise ValueError("refine: expected 1 or more gradient steps without a run, received 0; or name a run")
    if spacing is not None:
        check_positive("spacing", spacing)
    if figure is not None and Path(figure).suffix not in SUFFIXES:
        raise ValueError(f"figure: expected a name ending in {', '.join(SUFFIXES)}, received {figure}")


def _method(
    run: str | os.PathLike | None,
    refine: int | None,
    smoothness: float,
    pair: ScanPair,
    device: str | None,
    progress: Callable[[RefinementStep], None],
) -> _Method:
    place = default_device(device)
    start: Method | None = None
    preparation = Preparation(spatial_dims=pair.spatial_dims, picture=pair.picture)
    if run is not None:
        method = load_method(run, device)
        if not method.registers:
            raise ValueError(
                f"run: expected one of a method that registers pairs, received {type(method).__name__} in {run};"
                " train one that does (`medtrace methods`), or leave the run out"
            )
        start = method
        preparation = run_preparation(run, start, picture=pair.picture)
        _check_run(run, preparation, pair)
    steps = (STEPS if run is None else 0) if refine is None else refine
    if start is not None and steps == 0:
        return _Method(start, preparation, place)
    energy = MetamorphicEnergy(smoothness_weight=smoothness, masked_gradient="intensity", folding_measure="simplices")
    return _Method(InstanceRegistration(energy, start, steps, progress=progress), preparation, place, steps)


def _check_run(run: str | os.PathLike, preparation: Preparation, pair: ScanPair) -> None:
    if preparation.spatial_dims != pair.spatial_dims:
        kinds = {2: "single slices", 3: "volumes"}
        raise ValueError(
            f"run: {run} registers {kinds[preparation.spatial_dims]}, but the images are {kinds[pair.spatial_dims]};"
            f" train with spatial_dims={pair.spatial_dims}, or leave the run out"
        )
    if preparation.picture != pair.picture:
        kind = ("scans", "pictures")
        raise ValueError(
            f"run: {run} was trained on {kind[preparation.picture]}, but the images are {kind[pair.picture]}; give"
            " images of the same kind, or leave the run out"
        )


def _reporter(bar: Progress) -> Callable[[RefinementStep], None]:
    task = bar.add_task("refining", total=None, visible=False)

    def show(report: RefinementStep) -> None:
        bar.update(
            task, visible=True, total=report.steps, completed=report.step, description=f"energy {report.total:.5f}"
        )

    return show


def _answer(method: _Method, working: RegistrationPair) -> Prediction:
    batch = {name: value.to(method.device) for name, value in working._asdict().items() if value is not None}
    masks = {name: batch.get(name) for name in ("mask", "source_mask")} if method.method.abilities.masks else {}
    with torch.no_grad():
        return method.method.register(batch["source"], batch["target"], **masks)


def _trace(pair: ScanPair, source_map: IntensityMap, ddf: Tensor, intensity: Tensor) -> Trace:
    """Everything on its own grid and in the source's units."""
    if pair.mask is None and pair.source_mask is None:
        nowhere = torch.zeros(()).expand(1, *ddf.shape[1:])
        warped = pull(pair.source, ddf, pair.to_source)
        grids: dict[str, Any] = {"affine": pair.affine, "source_affine": pair.source_affine}
        trace = Trace.build(source=pair.source, image=warped, ddf=ddf, mask=nowhere, **grids)
        return replace(trace, warped=trace.image)  # one volume, not two of the same
    masks = (None if mask is None else mask[None] for mask in (pair.mask, pair.source_mask_on_target))
    mask = joint_mask(ddf[None], *masks)[0] > 0.5
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
    )


def _ssd(image: Tensor, target: Tensor) -> float:
    return float(((image - target) / 2).double().square().mean())
