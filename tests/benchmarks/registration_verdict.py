"""How often a bad registration passes and a good one fails, where the truth is known.

    python -m tests.benchmarks.registration_verdict --slices 6 --seed 11       TraceBench slices, spoiled six ways
    python -m tests.benchmarks.registration_verdict --heads patient07          one head's T2 and FLAIR to its T1, 3 mm

Slices: TraceBench `metamorphic`, the source as it is, flipped, turned or shifted without a word in the header. Heads:
contrasts of one person lie on one grid, so that the truth is the identity, after a header was turned or shifted, or the
array flipped; and T1s of two people, whose truth is where the unchanged ones are registered to. Each with an alignment
and without. A registration is bad where its mean error over the head is above BAD, good where it is below GOOD, and
neither between.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor

from medtrace.fields import identity_grid
from medtrace.registration import register_images
from medtrace.registration.verdict import unseen_swap
from tests.benchmarks.registered_cases import bench_cases, coarser, corrupted, places
from tests.real_heads import head

BAD, GOOD = 6.0, 3.0
"""Mean error in mm above which a registration counts as bad, and below which as good."""


class Case(NamedTuple):
    """A pair whose truth is known."""

    what: str
    moving: Tensor
    fixed: Tensor
    moving_affine: Tensor
    fixed_affine: Tensor
    truth: Tensor
    """(D, *fixed spatial): moving voxels."""
    region: Tensor
    """(*fixed spatial) boolean."""
    masks: dict[str, Tensor]


def error(case: Case, ddf: Tensor) -> float:
    """Mean distance in mm, on the moving grid, from the truth."""
    found = places(ddf, case.moving_affine, case.fixed_affine)
    edge = float(case.moving_affine[:3, 0].norm())
    return float((found - case.truth).norm(dim=0)[case.region].mean()) * edge


def changes(shape: Sequence[int]) -> dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
    """What is done to a slice (C, H, W), and where its voxels (2, ...) go."""
    ends = torch.tensor([float(size - 1) for size in shape]).reshape(-1, 1, 1)

    def mirrored(axis: int) -> Callable[[Tensor], Tensor]:
        sign = torch.ones(2, 1, 1)
        sign[axis] = -1
        return lambda place: sign * place + ends * (1 - sign) / 2

    return {
        "as it is": (lambda image: image, lambda place: place),
        "flipped, axis 0": (lambda image: image.flip(1), mirrored(0)),
        "flipped, axis 1": (lambda image: image.flip(2), mirrored(1)),
        "turned 180°": (lambda image: image.flip(1, 2), lambda place: ends - place),
        "turned 90°": (
            lambda image: image.rot90(1, (1, 2)),
            lambda place: torch.stack([ends[1] - place[1], place[0]]),
        ),
        "shifted 8 voxels": (
            lambda image: image.roll(8, 1),
            lambda place: place + torch.tensor([8.0, 0.0]).reshape(-1, 1, 1),
        ),
    }


def slices(count: int, seed: int) -> Iterator[Case]:
    """TraceBench slices, each spoiled in every way."""
    for case in bench_cases(count, seed, "validation"):
        truth = identity_grid(case["ddf"].shape[1:]) + case["ddf"]
        for what, (change, move) in changes(case["source"].shape[1:]).items():
            moving, lesion = (change(case[name]).contiguous() for name in ("source", "source_mask"))
            region = case["head"][0] & ~case["pathology"][0]
            masks = {"mask": case["mask"], "moving_mask": lesion}
            yield Case(what, moving, case["target"], case["affine"], case["affine"], move(truth), region, masks)


HEADERS = {
    "as it is": {},
    "turned 20°": {"axis": 0, "degrees": 20},
    "turned 90°": {"axis": 2, "degrees": 90},
    "turned 180°": {"axis": 1, "degrees": 180},
    "shifted 45 mm": {"axis": 1, "shift": 15},
    "inverted": {"inverted": True},
}


def heads(name: str) -> Iterator[Case]:
    """Contrasts of one head to its T1."""
    fixed = coarser(head(name), 3)
    grid = identity_grid(fixed.image.shape[1:])
    region = fixed.image[0] > 0.1 * fixed.image.max()
    for contrast in ("T2", "FLAIR"):
        moving = coarser(head(name, contrast), 3)
        for what, change in HEADERS.items():
            bad = corrupted(moving, **change)
            yield Case(f"{contrast}, {what}", bad.image, fixed.image, bad.affine, fixed.affine, grid, region, {})
        flipped = moving.image.flip(1).contiguous()
        place = grid.clone()
        place[0] = grid.shape[1] - 1 - place[0]
        yield Case(f"{contrast}, flipped", flipped, fixed.image, moving.affine, fixed.affine, place, region, {})


def people(names: Sequence[str]) -> Iterator[Case]:
    """T1s of two people, as they are and flipped; the truth is where a registration with an alignment leads."""
    for first, second in permutations(names, 2):
        moving, fixed = (coarser(head(name), 3) for name in (first, second))
        region = fixed.image[0] > 0.1 * fixed.image.max()
        found = register_images(moving.image, fixed.image, moving.affine, fixed.affine)
        place = places(found.ddf, moving.affine, fixed.affine)
        for what, image in (("as it is", moving.image), ("flipped", moving.image.flip(1).contiguous())):
            if what == "flipped":
                place = place.clone()
                place[0] = image.shape[1] - 1 - place[0]
            yield Case(f"another's T1, {what}", image, fixed.image, moving.affine, fixed.affine, place, region, {})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_verdict", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--slices", type=int, default=0, help="TraceBench cases")
    parser.add_argument("--seed", type=int, default=11, help="of TraceBench")
    parser.add_argument("--heads", nargs="*", default=[], help="names")
    parser.add_argument("--figures", action="store_true", help="print those of every registration")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    named = options.heads
    cases = [*slices(options.slices, options.seed), *(case for name in named for case in heads(name)), *people(named)]
    counts: Counter[tuple[str, str, str, str]] = Counter()
    cautioned = 0
    for case in cases:
        images = case.moving, case.fixed, case.moving_affine, case.fixed_affine
        for alignment in ("auto", "none"):
            found = register_images(*images, alignment=alignment, **case.masks)
            missed = error(case, found.ddf)
            kind = "good" if missed < GOOD else ("bad" if missed > BAD else "between")
            counts[case.what, alignment, kind, found.verdict.grade] += 1
            cautioned += (kind, found.verdict.grade) == ("bad", "PASS") and bool(unseen_swap(found.verdict))
            if options.figures:
                shown = " ".join(f"{name} {value:.3g}" for name, value in found.verdict.figures.items())
                print(f"{case.what}, {alignment}: {missed:.1f} mm, {found.verdict.text()}\n    {shown}", flush=True)
    print("| what was done | alignment | registrations | n | PASS | WARN | FAIL |\n|---|---|---|---|---|---|---|")
    for key in dict.fromkeys(one[:3] for one in counts):
        grades = [counts[(*key, grade)] for grade in ("PASS", "WARN", "FAIL")]
        print(f"| {' | '.join(key)} | {sum(grades)} | {' | '.join(map(str, grades))} |")
    totals = {kind: Counter[str]() for kind in ("good", "between", "bad")}
    for (_, _, kind, grade), number in counts.items():
        totals[kind][grade] += number
    bad, good = totals["bad"], totals["good"]
    print(
        f"\nbad ones that pass: {bad['PASS']} of {bad.total()}, {cautioned} of these with a note that a flip would not"
        f" be noticed; good ones that fail: {good['FAIL']} of {good.total()}"
    )


if __name__ == "__main__":
    main()
