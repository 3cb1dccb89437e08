"""Accuracy per second: registration beside greedy on real heads, in processor seconds, the tools in turns.

    python -m tests.benchmarks.registration_speed --spacing 3 2 --rounds 3     both directions of one pair of heads
    python -m tests.benchmarks.registration_speed --spacing 3 --threads 2

Rows are the entire calls (alignment, deformation; of medtrace also the alignment from the other side, the inverse, the
fields between the grids and the verdict) and the deformations alone, each from its own affine map. Processor seconds,
summed over threads, are what a machine that other work shares can be asked for; the wall's stand beside them. Heads
and labels are those of `tests.benchmarks.registration`.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from medtrace.fields import jacobian_determinant, non_diffeomorphic_fraction
from medtrace.registration import align, deform, register_images
from medtrace.registration.frames import Frame
from medtrace.registration.working import total_field, working_pair
from tests.benchmarks import registration
from tests.benchmarks.harness import Measurement, peak_memory
from tests.benchmarks.registered_cases import coarser
from tests.benchmarks.registration import carry, greedy, to_itk, voxels
from tests.real_heads import Head, head, mean_dice, segmented


class Timed(NamedTuple):
    """What a run took and gave."""

    processor: float
    wall: float
    answer: Any


def timed(call: Callable[[], Any]) -> Timed:
    processor, wall = time.process_time(), time.perf_counter()
    answer = call()
    return Timed(time.process_time() - processor, time.perf_counter() - wall, answer)


class Pair:
    """Two heads, and each tool's calls for them.

    Args:
        moving: name of the moving head.
        fixed: likewise.
        spacing: mm of their voxels.
        threads: of either tool.
    """

    def __init__(self, moving: str, fixed: str, spacing: float, threads: int) -> None:
        self.whole = head(moving), head(fixed)
        self.moving, self.fixed = (coarser(one, spacing) for one in self.whole)
        self.affines = self.moving.affine, self.fixed.affine
        self.aligned = align(self.moving.image, self.fixed.image, *self.affines)
        self.frame = Frame(self.fixed.affine, self.moving.affine, 3)
        self.matrix = self.frame.from_ras(self.aligned.matrix)
        self.run = f"-d 3 -threads {threads} -V 0 -m NCC 2x2x2"
        if greedy:
            self.tool = greedy.Greedy3D()
            self.images = {"f": to_itk(self.fixed), "m": to_itk(self.moving)}
            self.greedy_affine()

    def calls(self) -> dict[str, Callable[[], tuple[Tensor, Tensor | None]]]:
        """Name and call; a call gives the deformation and, of medtrace, the field of both."""
        ours: dict[str, Callable[[], Any]] = {"medtrace, entire": self.whole_call, "medtrace, deformation": self.deform}
        if greedy:
            ours["greedy, entire"] = lambda: (self.greedy_affine(), self.greedy_deform())[1]
            ours["greedy, deformation"] = self.greedy_deform
        return ours

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
        vectors = sitk.GetArrayFromImage(self.tool["field"]).transpose(3, 2, 1, 0)
        return voxels(vectors, self.fixed.affine), None

    def dice(self, labels: tuple[Tensor, Tensor], field: Tensor | None) -> float:
        """Overlap of the structures, moved by a field of ours or by greedy's last."""
        if field is not None:
            return mean_dice(carry(field, self.moving, self.fixed, labels[0], self.whole[1]), labels[1])
        fine = Head(self.moving.name, self.moving.contrast, labels[0].float(), self.whole[0].affine)
        self.tool.execute(
            "-d 3 -threads 1 -V 0 -rf onto -ri NN -rm fine carried -r field mat",
            onto=to_itk(self.whole[1]), fine=sitk.Cast(to_itk(fine), sitk.sitkFloat32), carried=None,
        )  # fmt: skip
        return mean_dice(torch.from_numpy(sitk.GetArrayFromImage(self.tool["carried"]).T.copy())[None], labels[1])


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


def compare(spacing: float, threads: int, rounds: int) -> None:
    """Both directions between the two heads."""
    names = ("patient07", "patient19")
    labels = {name: segmented(head(name)) for name in names}
    rows: dict[str, dict[str, list[float]]] = {}
    for moving, fixed in (names, names[::-1]):
        pair = Pair(moving, fixed, spacing, threads)
        for number in range(rounds):
            for name, call in pair.calls().items():
                taken = timed(call)
                row = rows.setdefault(name, {"processor": [], "wall": [], "dice": [], "sd": [], "folds": []})
                row["processor"].append(taken.processor)
                row["wall"].append(taken.wall)
                if number == 0:
                    ddf, field = taken.answer
                    sd, folds = roughness(ddf)
                    row["dice"].append(pair.dice((labels[moving], labels[fixed]), field))
                    row["sd"].append(sd)
                    row["folds"].append(folds)
    memory = {name: peak_memory(Measurement("", "", "", call)) for name, call in pair.calls().items()}
    text = f"{spacing:g} mm, {threads} thread(s), {rounds} round(s) of both directions, load {os.getloadavg()[0]:.0f}"
    print(f"\n{text}\n\n| | processor s (least to most) | wall s | Dice | folds (share) | sd log J | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name, row in rows.items():
        own = row["processor"]
        spread = f"{np.median(own):.2f} ({min(own):.2f} to {max(own):.2f})"
        dice = " / ".join(f"{value:.3f}" for value in row["dice"])
        sd = " / ".join(f"{value:.2f}" for value in row["sd"])
        most = "" if memory[name] is None else f"{(memory[name] or 0) / 2**20:.0f}"
        print(
            f"| {name} | {spread} | {np.median(row['wall']):.1f} | {dice} | {max(row['folds']):.5f} | {sd} | {most} |"
        )
    if greedy:
        for what in ("entire", "deformation"):
            pairs = zip(rows[f"greedy, {what}"]["processor"], rows[f"medtrace, {what}"]["processor"])
            ratios = [theirs / ours for theirs, ours in pairs]
            print(
                f"{what}: {np.median(ratios):.1f} times as quick ({min(ratios):.1f} to {max(ratios):.1f})", flush=True
            )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_speed", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--spacing", type=float, nargs="+", default=[3.0], help="of the heads, in mm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(f"{registration.DATA.name}: T1 of patient07 and patient19")
    small = Pair("patient07", "patient19", 6.0, options.threads)
    for call in small.calls().values():
        call()  # compiles
    for spacing in options.spacing:
        compare(spacing, options.threads, options.rounds)


if __name__ == "__main__":
    main()
