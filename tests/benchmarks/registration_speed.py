"""Accuracy per second: registration beside greedy and ANTs on real heads and slices of them, the tools in turns.

    python -m tests.benchmarks.registration_speed --spacing 3 2 --rounds 3     both directions of one pair of heads
    python -m tests.benchmarks.registration_speed --slices 3 --threads 2       axial slices of the same heads, 1 mm
    python -m tests.benchmarks.registration_speed --spacing 1 --rounds 1 --entire --directions 1
    python -m tests.benchmarks.registration_speed --spacing 3 --rounds 1 --entire --ants      ANTs SyN, CC, minutes long

Rows are the entire calls and the deformations alone, each from its own affine map. Every tool is given both images in
memory and keeps what it found there: greedy's entire call is its affine and its deformable run, medtrace's the
alignment, the deformation, the alignment from the other side, the inverse, the fields between the grids, the warped
image and the verdict; nobody reads or writes files or imports modules, and all have run once before. Processor seconds
are summed over threads: on a machine that other work shares they say more than the wall's, beside them. MiB is what a
call takes above what was there before it. Heads and labels are those of `tests.benchmarks.registration`.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.fields import identity_grid, jacobian_determinant, non_diffeomorphic_fraction, sample, warp
from medtrace.registration import align, deform, register_images
from medtrace.registration.frames import Frame
from medtrace.registration.working import total_field, working_pair
from tests.benchmarks.harness import forget_peak, status
from tests.benchmarks.registered_cases import coarser
from tests.benchmarks.registration import ants, ants_heads, carry, greedy, to_itk, voxels
from tests.real_heads import Head, head, mean_dice, segmented

NAMES = ("patient07", "patient19")
SLICES = (70, 80, 90, 75, 85)
"""Axial slices of the fixed head at 1 mm, in the order they are taken; the moving head is brought there by the affine
map between both heads, so that they show about the same."""

FLAT = torch.diag(torch.tensor([-1.0, -1.0, 1.0, 1.0], dtype=torch.float64))
"""Affine of a slice whose pixels are LPS mm."""


class Timed(NamedTuple):
    """What a run took and gave."""

    processor: float
    wall: float
    mebibytes: float
    answer: Any


def timed(call: Callable[[], Any]) -> Timed:
    gc.collect()
    forget_peak()
    before = status("VmRSS")
    processor, wall = time.process_time(), time.perf_counter()
    answer = call()
    taken = time.process_time() - processor, time.perf_counter() - wall
    return Timed(*taken, max(0, status("VmHWM") - before) / 2**20, answer)


class Pair:
    """Two heads, or the same slice of both, and each tool's calls for them.

    Args:
        moving: name of the moving head.
        fixed: likewise.
        spacing: mm of their voxels.
        threads: of every tool.
        number: of the axial slice at 1 mm; None for the heads themselves.
    """

    def __init__(self, moving: str, fixed: str, spacing: float, threads: int, number: int | None = None) -> None:
        self.whole = head(moving), head(fixed)
        self.labels: Sequence[Tensor] = [segmented(one) for one in self.whole]
        self.number, self.dims = number, 3 if number is None else 2
        self.moving, self.fixed = (coarser(one, spacing) for one in self.whole)
        if number is not None:
            found = align(self.moving.image, self.fixed.image, self.moving.affine, self.fixed.affine)
            self.labels = slice_of(self.labels, self.whole, found.matrix, number)
            images = slice_of([one.image for one in self.whole], self.whole, found.matrix, number)
            self.moving, self.fixed = (one._replace(image=image, affine=FLAT) for one, image in zip(self.whole, images))
        self.affines = self.moving.affine, self.fixed.affine
        self.aligned = align(self.moving.image, self.fixed.image, *self.affines)
        self.frame = Frame(self.fixed.affine, self.moving.affine, self.dims)
        self.matrix = self.frame.from_ras(self.aligned.matrix)
        self.run = f"-d {self.dims} -threads {threads} -V 0 -m NCC {'x'.join('2' * self.dims)}"
        if greedy:
            self.tool = greedy.Greedy2D() if self.dims == 2 else greedy.Greedy3D()
            self.images = {"f": to_itk(self.fixed), "m": to_itk(self.moving)}

    def calls(self, entire: bool, with_ants: bool) -> dict[str, Callable[[], Any]]:
        """Name and call; a call gives the deformation in voxels and, of medtrace, the field of both."""
        result: dict[str, Callable[[], Any]] = {"medtrace, entire": self.whole_call}
        if greedy:
            result["greedy, entire"] = lambda: (self.greedy_affine(), self.greedy_deform())[1]
        if with_ants and ants:
            result["ANTs SyN CC, entire"] = self.ants_call
        if not entire:
            result["medtrace, deformation"] = self.deform
            if greedy:
                self.greedy_affine()
                result["greedy, deformation"] = self.greedy_deform
        return result

    def whole_call(self) -> tuple[Tensor, Tensor]:
        found = register_images(self.moving.image, self.fixed.image, *self.affines)
        return found.deformation.ddf, found.ddf

    def deform(self) -> tuple[Tensor, Tensor]:
        pair = working_pair((self.moving.image, self.fixed.image), (None, None), self.frame, self.matrix, None)
        found = deform(pair.moving, pair.fixed, spacing=pair.spacing, mask=pair.mask)
        shape = self.fixed.image.shape[1:]
        return found.ddf, total_field(found.ddf, pair.affine, self.matrix, self.frame.fixed, shape)

    def greedy_affine(self) -> None:
        start = f"{self.run} -a -dof 12 -ia-image-centers -i f m -n 100x50x10 -o mat"
        with silent():
            self.tool.execute(start, **self.images, mat=None)

    def greedy_deform(self) -> tuple[Tensor, None]:
        with silent():
            self.tool.execute(
                f"{self.run} -i f m -it mat -n 100x50x10 -s 1.732vox 0.7071vox -o field", **self.images, field=None
            )
        vectors = sitk.GetArrayFromImage(self.tool["field"])
        if self.dims == 2:
            return torch.from_numpy(vectors.transpose(2, 1, 0).copy()).float(), None  # the slices' pixels are 1 mm
        return voxels(vectors.transpose(3, 2, 1, 0), self.fixed.affine), None

    def ants_call(self) -> tuple[Tensor, Tensor]:
        found = ants_heads(
            self.moving, self.fixed, self.labels[0], self.whole[1], "SyN", syn_metric="CC", syn_sampling=2,
            reg_iterations=(100, 70, 50),
        )  # fmt: skip
        return found.deformation, found.labels

    def dice(self, answer: tuple[Tensor, Tensor | None], name: str) -> float:
        """Overlap of the structures, moved by what a tool has just found."""
        field = answer[1]
        if name.startswith("ANTs") and field is not None:
            return mean_dice(field, self.labels[1])
        if self.number is not None:
            return self._slice_dice(field)
        if field is not None:
            return mean_dice(carry(field, self.moving, self.fixed, self.labels[0], self.whole[1]), self.labels[1])
        fine = Head(self.moving.name, self.moving.contrast, self.labels[0].float(), self.whole[0].affine)
        return mean_dice(self._carried(to_itk(self.whole[1]), to_itk(fine))[None], self.labels[1])

    def _slice_dice(self, field: Tensor | None) -> float:
        moved, fixed = self.labels
        if field is not None:
            carried = warp(moved[None].float(), field[None], mode="nearest")[0]
        else:
            flat = [to_itk(self.fixed._replace(image=own.float())) for own in (fixed, moved)]
            carried = self._carried(*flat)[None]
        shared = [label for label in range(1, 18) if (fixed == label).sum() >= 20 and (moved == label).sum() >= 20]
        return float(np.mean([overlap(carried == label, fixed == label) for label in shared]))

    def _carried(self, onto: Any, labels: Any) -> Tensor:
        self.tool.execute(
            f"-d {self.dims} -threads 1 -V 0 -rf onto -ri NN -rm fine carried -r field mat",
            onto=onto, fine=sitk.Cast(labels, sitk.sitkFloat32), carried=None,
        )  # fmt: skip
        return torch.from_numpy(sitk.GetArrayFromImage(self.tool["carried"]).T.copy())


def slice_of(images: Sequence[Tensor], heads: Sequence[Head], matrix: Tensor, number: int) -> list[Tensor]:
    """An axial slice of the fixed image, and the moving one there by an affine map: labels by nearest reading."""
    shape = heads[1].image.shape[1:3]
    points = torch.cat([identity_grid((*shape, 1), dtype=torch.float64), torch.ones(1, *shape, 1).double()])
    points[2] = number
    to_moving = torch.linalg.inv(heads[0].affine) @ matrix @ heads[1].affine
    places = torch.tensordot(to_moving, points, 1)[:3]
    mode = "bilinear" if images[0].is_floating_point() else "nearest"
    moved = sample(images[0][None].float(), places[None].float(), mode=mode)[0, ..., 0]
    return [moved.to(images[0].dtype).contiguous(), images[1][..., number].contiguous()]


def overlap(first: Tensor, second: Tensor) -> float:
    return 2 * float((first & second).sum()) / max(float(first.sum() + second.sum()), 1.0)


@contextmanager
def silent() -> Iterator[None]:
    """Send what a library prints from C to nowhere."""
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
    try:
        yield
    finally:
        for number, own in enumerate(kept, start=1):
            os.dup2(own, number)
            os.close(own)


def roughness(ddf: Tensor) -> tuple[float, float]:
    """Standard deviation of the logarithm of the Jacobian where anything moves, and the folded share."""
    jacobian = jacobian_determinant(ddf[None])[0, 0]
    logs = jacobian[ddf.norm(dim=0) > 1e-3].clamp_min(1e-3).log()
    return float(logs.std()), float(non_diffeomorphic_fraction(ddf[None]))


def pairs_of(spacing: float, options: argparse.Namespace) -> Iterator[Pair]:
    """The pairs of a table, in either direction."""
    numbers: list[int | None] = [*SLICES[: options.slices]] or [None]
    for number in numbers:
        for moving, fixed in (NAMES, NAMES[::-1])[: options.directions]:
            yield Pair(moving, fixed, spacing, options.threads, number)


def compare(spacing: float, options: argparse.Namespace) -> None:
    """One table."""
    rows: dict[str, list[Timed]] = {}
    quality: dict[str, list[tuple[float, float, float]]] = {}
    count = 0
    for pair in pairs_of(spacing, options):
        count += 1
        calls = pair.calls(options.entire, options.ants)
        for number in range(options.rounds):
            for name, call in calls.items():
                taken = timed(call)
                if number == 0:
                    own = pair.dice(taken.answer, name), *roughness(taken.answer[0])
                    quality.setdefault(name, []).append(own)
                rows.setdefault(name, []).append(taken._replace(answer=None))
    what = f"{options.slices} slices of 1 mm" if options.slices else f"{spacing:g} mm"
    load = os.getloadavg()[0]
    print(f"\n{what}, {options.threads} thread(s), {count} pairs, {options.rounds} round(s), load {load:.1f}:")
    print("\n| | processor s (least to most) | wall s | Dice | folds (share) | sd log J | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        own, scores = [one.processor for one in row], quality[name]
        spread = f"{np.median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
        wall, most = np.median([one.wall for one in row]), max(one.mebibytes for one in row)
        dice, sd = (
            " / ".join(f"{one[k]:.{digits}f}" for one in scores)
            if count < 3
            else f"{np.mean([one[k] for one in scores]):.{digits}f}"
            for k, digits in ((0, 3), (1, 2))
        )
        folds = max(one[2] for one in scores)
        print(f"| {name} | {spread} | {wall:.2f} | {dice} | {folds:.5f} | {sd} | {most:.0f} |")
    print()
    for name in rows:
        tool, stage = name.split(", ")
        if tool != "medtrace":
            ratios = [a.processor / b.processor for a, b in zip(rows[name], rows[f"medtrace, {stage}"])]
            print(
                f"medtrace's {stage} call is {np.median(ratios):.1f} times as quick as that of {tool}"
                f" ({min(ratios):.1f} to {max(ratios):.1f}).",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--spacing", type=float, nargs="+", default=[3.0], help="of the heads, in mm")
    parser.add_argument("--slices", type=int, default=0, help="axial slices of 1 mm instead of the heads")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directions", type=int, default=2, choices=(1, 2))
    parser.add_argument("--entire", action="store_true", help="leave the deformations alone out")
    parser.add_argument("--ants", action="store_true", help="ANTs SyN by CC, too; heads only")
    options = parser.parse_args(arguments)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = str(options.threads)  # of ANTs
    torch.set_num_threads(options.threads)
    small = Pair(*NAMES, 6.0, options.threads, SLICES[0] if options.slices else None)
    for call in small.calls(options.entire, False).values():
        call()  # compiles
    for spacing in options.spacing:
        compare(spacing, options)


if __name__ == "__main__":
    main()
