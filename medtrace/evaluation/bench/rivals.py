"""Classical registrations beside a table's methods: medtrace's engine, and greedy and ANTs where they are installed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.evaluation.scoring import Tracer
from medtrace.fields import warp
from medtrace.networks.metamorphic import joint_mask
from medtrace.registration import register_images
from medtrace.registration.presets import thorough
from medtrace.storage.files import remove
from medtrace.trace import Trace
from medtrace.trace.prediction import Prediction, traces_of
from medtrace.trace.validation import as_tensor

Case = Mapping[str, Tensor]
"""`source`, `target`, `mask`, `source_mask`, (1, *spatial) each, and `affine`."""
SMOOTHING = "4vox 0.5vox"
"""greedy's smoothing of update and field that measures best on these cases (`tests/benchmarks/registration.py`)."""


def engine_field(case: Case) -> Tensor:
    """medtrace's engine with its preset for smooth deformations; the pair lies in one space, so nothing is aligned."""
    return register_images(
        case["source"],
        case["target"],
        case["affine"],
        case["affine"],
        alignment="none",
        similarity="lncc",
        settings=thorough,
        check_starts=False,
        mask=case["mask"],
        moving_mask=case["source_mask"],
    ).ddf


def greedy_field(case: Case, smoothing: str = SMOOTHING) -> Tensor:
    """greedy (Yushkevich et al.) by weighted NCC of radius 2, both lesions left out, on one thread."""
    tools: Any = import_module("picsl_greedy")
    dims, spacing = case["source"].ndim - 1, voxel_edge(case)
    tool = tools.Greedy2D() if dims == 2 else tools.Greedy3D()

    def itk(image: Tensor) -> sitk.Image:
        result = sitk.GetImageFromArray(np.ascontiguousarray(image[0].float().numpy().T))
        result.SetSpacing([spacing] * dims)
        return result

    images = {"f": itk(case["target"] + 1), "m": itk(case["source"] + 1)}
    masks = {"gm": itk(1 - case["mask"].float()), "mm": itk(1 - case["source_mask"].float())}
    how = f"-d {dims} -threads 1 -V 0 -m WNCC {'x'.join('2' * dims)} -n 100x100x100 -s {smoothing}"
    tool.execute(f"{how} -gm gm -mm mm -i f m -o field", **images, **masks, field=None)
    return _voxels(sitk.GetArrayFromImage(tool["field"]), spacing)


def ants_field(case: Case) -> Tensor:
    """ANTs SyN by CC of radius 2, both lesions left out."""
    ants: Any = import_module("ants")
    spacing, dims = voxel_edge(case), case["source"].ndim - 1
    images = [
        ants.from_numpy(image[0].float().numpy(), spacing=(spacing,) * dims)
        for image in (case["target"], case["source"], 1 - case["mask"].float(), 1 - case["source_mask"].float())
    ]
    found = ants.registration(
        *images[:2],
        type_of_transform="SyNOnly",
        initial_transform="Identity",
        syn_metric="CC",
        syn_sampling=2,
        reg_iterations=(100, 100, 100),
        mask=images[2],
        moving_mask=images[3],
        random_seed=1,
    )
    paths = [Path(path) for path in (*found["fwdtransforms"], *found["invtransforms"])]
    path = next(path for path in found["fwdtransforms"] if path.endswith(".nii.gz"))
    field = _voxels(sitk.GetArrayFromImage(sitk.ReadImage(path)), spacing)
    for one in paths:
        remove(one)
    return field


def voxel_edge(case: Case) -> float:
    """Edge of a voxel in mm, which TraceBench has the same along every axis."""
    return float(case["affine"][:3, 0].norm())


def _voxels(vectors: np.ndarray, spacing: float) -> Tensor:
    """A displacement as SimpleITK reads it, last axis first and in mm, in voxels and array-axis order."""
    return torch.from_numpy(np.ascontiguousarray(vectors.T)).float() / spacing


def tracer_by(field: Callable[[Case], Tensor]) -> Tracer:
    """Trace pairs by a classical registration: the image is the warped source."""

    def trace(batch: Mapping[str, Any]) -> list[Trace]:
        affines = batch["source"].affine
        cases = [
            {
                **{name: as_tensor(batch[name])[item] for name in ("source", "target", "mask", "source_mask")},
                "affine": torch.as_tensor(affines[item] if affines.ndim == 3 else affines).double(),
            }
            for item in range(len(batch["source"]))
        ]
        ddf = torch.stack([field(case) for case in cases])
        mask, source_mask = (as_tensor(batch[name]) for name in ("mask", "source_mask"))
        prediction = Prediction(warp(as_tensor(batch["source"]), ddf), ddf, mask=joint_mask(ddf, mask, source_mask))
        return traces_of(batch["source"], prediction, batch["target"])

    return trace


GREEDY, ANTS = "greedy, weighted NCC", "ANTs SyN, CC"
RIVALS: Mapping[str, Tracer] = {
    "medtrace register, thorough": tracer_by(engine_field),
    GREEDY: tracer_by(greedy_field),
    ANTS: tracer_by(ants_field),
}
OPTIONAL: Mapping[str, str] = {GREEDY: "picsl_greedy", ANTS: "ants"}
"""Row → module of the optional package."""
