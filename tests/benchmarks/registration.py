"""Registration beside greedy and ANTs: real heads and TraceBench.

    python -m tests.benchmarks.registration heads --spacing 3      overlap of 17 structures, folds, roughness, seconds
    python -m tests.benchmarks.registration heads --contrast T2    likewise, T2 to another's T1
    python -m tests.benchmarks.registration heads --template       likewise, ICBM152 to either head
    python -m tests.benchmarks.registration tracebench             error against the true field, 64 test cases
    python -m tests.benchmarks.registration engines                the engine beside instance optimization

The heads are those of the shared data folder (MEDTRACE_DATA, else ../shared/data); labels come from the network in
its folder `meshnet`, run on each T1 at 1 mm. greedy is `picsl-greedy`, ANTs `antspyx`; one that is not installed has no
row. Between two contrasts greedy follows NMI. Everything runs on one thread; the tools take turns, pair by pair.
Seconds are the processor's. Rows are printed as a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS", "1")

import nibabel
import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.evaluation.bench.rivals import ants_field, engine_field, greedy_field, voxel_edge
from medtrace.fields import identity_grid, jacobian_determinant, non_diffeomorphic_fraction, sample, warp
from medtrace.geometry.resampling import resized_affine
from medtrace.kernels.between_grids import between_grids
from medtrace.registration import register_images
from tests.benchmarks.harness import optional
from tests.benchmarks.registered_cases import bench_cases, coarser
from tests.real_heads import DATA, TEMPLATE, Head, head, mean_dice, segmented

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
greedy, ants = optional("picsl_greedy"), optional("ants")


class Field(NamedTuple):
    """What a tool answers for a pair."""

    labels: Tensor
    """The moving labels on the fixed image's 1 mm grid."""
    deformation: Tensor
    """(D, *spatial) of the deformation alone, in voxels of its grid."""
    seconds: float
    note: str = ""


def ours(moving: Head, fixed: Head, labels: Tensor, onto: Head, **settings: Any) -> Field:
    """`medtrace.registration.register_images` with its defaults."""
    started = time.process_time()
    result = register_images(moving.image, fixed.image, moving.affine, fixed.affine, **settings)
    seconds = time.process_time() - started
    carried = carry(result.ddf, moving, fixed, labels, onto)
    note = f"{result.verdict.grade}, {result.alignment.kind}, {result.settings.similarity}"
    return Field(carried, result.deformation.ddf, seconds, note)


def carry(ddf: Tensor, moving: Head, fixed: Head, labels: Tensor, onto: Head) -> Tensor:
    """Labels of the moving image's 1 mm grid, on the fixed image's, through a field of a coarser fixed grid."""
    fine = head(moving.name, moving.contrast).affine
    # The moving header may have been changed: its anatomy is where the coarse voxels are.
    own = resized_affine(fine, labels.shape[1:], moving.image.shape[1:])
    to_fine = torch.linalg.inv(fine) @ own @ torch.linalg.inv(moving.affine) @ fixed.affine
    matrices = (torch.linalg.inv(fixed.affine) @ onto.affine).numpy(), to_fine.numpy()
    shape = onto.image.shape[1:]
    there = between_grids(ddf, None, matrices, shape)
    return sample(labels[None], (identity_grid(shape) + there)[None], mode="nearest")[0]


def moved(matrix: Tensor, points: Tensor) -> Tensor:
    """A 4x4 matrix on (3, *spatial) coordinates."""
    return torch.tensordot(matrix[:3, :3], points, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)


def greedy_heads(moving: Head, fixed: Head, labels: Tensor, onto: Head, smoothing: str, rounds: str) -> Field:
    """greedy: affine, then deformable, both by NCC of radius 2, or by NMI between two contrasts."""
    tool = greedy.Greedy3D()
    images = {"f": to_itk(fixed), "m": to_itk(moving)}
    started = time.process_time()
    run = f"-d 3 -threads 1 -V 0 -m {'NCC 2x2x2' if moving.contrast == fixed.contrast else 'NMI'}"
    tool.execute(f"{run} -a -dof 12 -ia-image-centers -i f m -n 100x50x10 -o mat", **images, mat=None)
    tool.execute(f"{run} -i f m -it mat -n {rounds} -s {smoothing} -o field", field=None)
    seconds = time.process_time() - started
    fine = sitk.Cast(
        to_itk(Head(moving.name, moving.contrast, labels.float(), head(moving.name).affine)), sitk.sitkFloat32
    )
    tool.execute(
        "-d 3 -threads 1 -V 0 -rf onto -ri NN -rm fine carried -r field mat", onto=to_itk(onto), fine=fine, carried=None
    )
    carried = torch.from_numpy(sitk.GetArrayFromImage(tool["carried"]).T.copy())[None]
    vectors = sitk.GetArrayFromImage(tool["field"]).transpose(3, 2, 1, 0)
    return Field(carried, voxels(vectors, fixed.affine), seconds)


def ants_heads(moving: Head, fixed: Head, labels: Tensor, onto: Head, kind: str, **settings: Any) -> Field:
    """ANTs: affine, then SyN."""
    images = [to_ants(one) for one in (fixed, moving)]
    started = time.process_time()
    found = ants.registration(*images, type_of_transform=kind, random_seed=1, **settings)
    seconds = time.process_time() - started
    fine = to_ants(Head(moving.name, moving.contrast, labels.float(), head(moving.name).affine))
    out = ants.apply_transforms(to_ants(onto), fine, found["fwdtransforms"], interpolator="nearestNeighbor")
    vectors = sitk.GetArrayFromImage(sitk.ReadImage(found["fwdtransforms"][0])).transpose(3, 2, 1, 0)
    return Field(torch.from_numpy(out.numpy())[None], voxels(vectors, fixed.affine), seconds)


def to_itk(one: Head) -> Any:
    """A head, or a slice of one, as SimpleITK has it."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(one.image[0].numpy().T))
    dims = one.image.ndim - 1
    affine = LPS @ one.affine.numpy()
    spacing = np.linalg.norm(affine[:dims, :dims], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:dims, 3].tolist())
    image.SetDirection((affine[:dims, :dims] / spacing).flatten().tolist())
    return image


def to_ants(one: Head) -> Any:
    affine = LPS @ one.affine.numpy()
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    where = {"origin": affine[:3, 3].tolist(), "spacing": spacing.tolist(), "direction": affine[:3, :3] / spacing}
    return ants.from_numpy(one.image[0].numpy().astype(np.float32), **where)


def voxels(vectors: Any, affine: Tensor) -> Tensor:
    """LPS mm vectors (3, *spatial) as displacement in voxels."""
    matrix = torch.from_numpy(np.linalg.inv((LPS @ affine.numpy())[:3, :3]))
    return torch.tensordot(matrix, torch.from_numpy(np.ascontiguousarray(vectors)).double(), 1).float()


HEAD_TOOLS: dict[str, Callable[..., Field]] = {"medtrace": ours}
if greedy:
    HEAD_TOOLS["greedy, defaults"] = lambda *pair: greedy_heads(*pair, "1.732vox 0.7071vox", "100x50x10")
    HEAD_TOOLS["greedy, finer"] = lambda *pair: greedy_heads(*pair, "1.5vox 0.5vox", "100x100x50")
if ants:
    HEAD_TOOLS["ANTs SyN, MI"] = lambda *pair: ants_heads(*pair, "SyN")
    HEAD_TOOLS["ANTs SyN, CC"] = lambda *pair: ants_heads(
        *pair, "SyN", syn_metric="CC", syn_sampling=2, reg_iterations=(100, 70, 50)
    )


def heads(spacing: float, pairs: Sequence[tuple[str, str]], leave: Sequence[str], contrast: str = "T1") -> None:
    """Pairs of a moving and a fixed head."""
    print(f"{contrast} to T1, {spacing:g} mm, one thread, seconds of the processor\n")
    print("| tool | moving | fixed | Dice | folds (share) | sd log J | smallest J | s | |")
    print("|---|---|---|---|---|---|---|---|---|")
    whole = {name: head(name) for pair in pairs for name in pair}
    labels = {name: segmented(one) for name, one in whole.items()}
    first = pairs[0]
    ours(*(coarser(whole[name], 6) for name in first), labels[first[0]], whole[first[1]])  # compiles
    for moving, fixed in pairs:
        pair = coarser(head(moving, contrast), spacing), coarser(whole[fixed], spacing)
        for tool, call in HEAD_TOOLS.items():
            if tool in leave:
                continue
            found = call(*pair, labels[moving], whole[fixed])
            jacobian = jacobian_determinant(found.deformation[None])[0, 0]
            size = found.deformation.norm(dim=0)
            logs = jacobian[size > 1e-3].clamp_min(1e-3).log()
            folds = float(non_diffeomorphic_fraction(found.deformation[None]))
            dice = mean_dice(found.labels, labels[fixed])
            print(
                f"| {tool} | {moving} | {fixed} | {dice:.3f} | {folds:.5f} | {logs.std():.2f} | {jacobian.min():.2f}"
                f" | {found.seconds:.1f} | {found.note} |",
                flush=True,
            )


def demons_slice(case: Mapping[str, Any]) -> Tensor:
    """SimpleITK's diffeomorphic Demons, the lesions filled."""
    from medtrace.evaluation.classical_registration import simpleitk_registration

    return simpleitk_registration(*(case[name] for name in ("source", "target", "mask", "source_mask")))


SLICE_TOOLS: dict[str, Callable[[Mapping[str, Any]], Tensor]] = {"medtrace, thorough": engine_field}
if greedy:
    SLICE_TOOLS["greedy, weighted NCC"] = greedy_field
    SLICE_TOOLS["greedy, weighted NCC, its smoothing"] = lambda case: greedy_field(case, "1.732vox 0.7071vox")
if ants:
    SLICE_TOOLS["ANTs SyN, CC"] = ants_field
SLICE_TOOLS["SimpleITK Demons, masked"] = demons_slice


def scores(case: Mapping[str, Any], ddf: Tensor) -> tuple[float, float, float, float]:
    """Error (mm) in the healthy head and near the lesion, mean Dice of three tissues, folded share."""
    from medtrace.data.tracebench import LABELS, TISSUES

    error = (ddf - case["ddf"]).norm(dim=0) * voxel_edge(case)
    outside = ~case["pathology"][0]
    near = case["near_lesion"][0]
    carried = warp(case["source_labels"][None], ddf[None], mode="nearest")[0, 0]
    regions = [(one == LABELS[name]) & outside for name in TISSUES for one in (carried, case["target_labels"][0])]
    dice = [2 * float((a & b).sum()) / float(a.sum() + b.sum()) for a, b in zip(regions[::2], regions[1::2]) if b.any()]
    healthy = float(error[case["head"][0] & outside].mean())
    return (
        healthy,
        float(error[near].mean()) if near.any() else float("nan"),
        float(np.mean(dice)),
        float(non_diffeomorphic_fraction(ddf[None])),
    )


def tracebench(tools: Mapping[str, Callable[..., Tensor]], count: int, seed: int, split: str) -> None:
    """Every tool on every case."""
    cases = bench_cases(count, seed, split)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in tools}
    for call in tools.values():
        call(cases[0])
    for case in cases:
        for name, call in tools.items():
            started = time.process_time()
            ddf = call(case)
            seconds = time.process_time() - started
            found[name].append((*scores(case, ddf), 1e3 * seconds))
    print(f"TraceBench metamorphic, 64², {count} {split} cases, seed {seed}, one thread\n")
    print("| tool | error healthy (mm) | near the lesion (mm) | Dice | folds (share) | ms |\n|---|---|---|---|---|---|")
    for name, rows in found.items():
        mean, spread = np.nanmean(rows, 0), np.nanstd(rows, 0)
        print(
            f"| {name} | {mean[0]:.2f} ± {spread[0]:.2f} | {mean[1]:.2f} ± {spread[1]:.2f} | {mean[2]:.4f} |"
            f" {mean[3]:.5f} | {np.median([row[4] for row in rows]):.0f} |"
        )


def instance_slice(case: Mapping[str, Any]) -> Tensor:
    """100 gradient steps on the pair's own flows, as `medtrace register` did without a run."""
    from medtrace.methods.common.instance import InstanceRegistration
    from medtrace.methods.common.metamorphic_energy import MetamorphicEnergy

    energy = MetamorphicEnergy(smoothness_weight=0.01, masked_gradient="intensity", folding_measure="simplices")
    pair = [case[name].float()[None] for name in ("source", "target", "mask", "source_mask")]
    return InstanceRegistration(energy).register(*pair).ddf[0].detach()


def plain_slice(case: Mapping[str, Any]) -> Tensor:
    """The engine with its defaults."""
    pair = case["source"], case["target"], case["affine"], case["affine"]
    masks = {"mask": case["mask"], "moving_mask": case["source_mask"]}
    return register_images(*pair, alignment="none", check_starts=False, **masks).ddf


def instance_head(moving: Head, fixed: Head, labels: Tensor, onto: Head) -> Field:
    """Instance optimization from the engine's own alignment, 100 steps."""
    from medtrace.registration import align
    from medtrace.workflows.register import register as files

    started = time.perf_counter()
    matrix = align(moving.image, fixed.image, moving.affine, fixed.affine).matrix
    seconds = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        fine = sampled(moving, fixed, matrix)
        paths = [Path(folder) / name for name in ("m.nii", "f.nii")]
        for path, one in zip(paths, (fine, fixed)):
            nibabel.save(nibabel.Nifti1Image(one.image[0].numpy(), one.affine.numpy()), path)
        found = files(*paths, Path(folder) / "out", engine="instance", align="none", report=False, progress=False)
    there = found.trace.ddf
    total = moved(
        torch.linalg.inv(fixed.affine) @ matrix @ fixed.affine, identity_grid(there.shape[1:]).double() + there
    )
    ddf = (total - identity_grid(there.shape[1:]).double()).float()
    return Field(carry(ddf, moving, fixed, labels, onto), there, seconds + found.seconds)


def sampled(moving: Head, fixed: Head, matrix: Tensor) -> Head:
    """The moving head on the fixed grid, aligned."""
    to_moving = torch.linalg.inv(moving.affine) @ matrix @ fixed.affine
    points = moved(to_moving, identity_grid(fixed.image.shape[1:]).double())
    return moving._replace(image=sample(moving.image[None], points[None].float())[0], affine=fixed.affine)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("what", choices=("heads", "tracebench", "engines"))
    parser.add_argument("--spacing", type=float, nargs="+", default=[3.0], help="of heads, in mm")
    parser.add_argument("--contrast", default="T1", help="of the moving head")
    parser.add_argument("--template", action="store_true", help="ICBM152 to either head")
    parser.add_argument("--leave", nargs="*", default=[], help="tools to leave out")
    parser.add_argument("--cases", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of TraceBench")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    names = ("patient07", "patient19")
    pairs = [(TEMPLATE, name) for name in names] if options.template else [names, names[::-1]]
    print(f"load of the machine: {os.getloadavg()[0]:.1f}, data: {DATA.name}\n")
    if options.what == "heads":
        for spacing in options.spacing:
            heads(spacing, pairs, options.leave, options.contrast)
    elif options.what == "engines":
        tools = {"medtrace, thorough": engine_field, "medtrace, defaults": plain_slice, "instance": instance_slice}
        tracebench(tools, options.cases, 1, "validation")
        HEAD_TOOLS.clear()
        HEAD_TOOLS.update({"medtrace": ours, "instance": instance_head})
        heads(3.0, pairs, ())
    else:
        tools = {name: call for name, call in SLICE_TOOLS.items() if name not in options.leave}
        tracebench(tools, options.cases, options.seed, "test")


if __name__ == "__main__":
    main()
