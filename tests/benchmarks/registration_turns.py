"""Heads whose headers were turned, shifted and scaled on purpose: recovered, or FAILed, or silently wrong.

    python -m tests.benchmarks.registration_turns                     the default alignment, three pairs
    python -m tests.benchmarks.registration_turns --alignment none    without one

Pairs at 3 mm: T1 of patient07 to T1 of patient19, and T1 of patient07 to its own T2 and FLAIR, which lie on one grid.
The moving head's header is changed; what is asked for is the registration of the unchanged pair. The error is the mean
distance in mm, over the fixed head, from there: between two people from the result for the unchanged header, of one
person from the truth. Recovered is an error below RECOVERED; what is not and does not FAIL is silently wrong.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medtrace.fields import identity_grid
from medtrace.registration import register_images
from tests.benchmarks.registered_cases import SPOILS, coarser, corrupted, places
from tests.real_heads import Head, head

RECOVERED = 3.0
"""mm: one voxel."""

PAIRS = {
    "T1 to another's T1": (("patient07", "T1"), ("patient19", "T1")),
    "T1 to T2": (("patient07", "T1"), ("patient07", "T2")),
    "T1 to FLAIR": (("patient07", "T1"), ("patient07", "FLAIR")),
}
"""Moving and fixed."""


class Outcome(NamedTuple):
    """What became of a pair."""

    grade: str
    error: float
    """mm; NaN where it was refused."""
    why: str
    overlap: float = float("nan")
    """What was asked for besides."""

    @property
    def kind(self) -> str:
        if self.grade == "error":
            return "refused"
        if self.error < RECOVERED:
            return "recovered" if self.grade != "FAIL" else "recovered, but FAIL"
        return "FAIL" if self.grade == "FAIL" else "silently wrong"


def outcomes(
    name: str,
    spoils: dict[str, dict[str, Any]],
    alignment: str,
    overlap: Callable[[Tensor, Head, Head], float] | None = None,
) -> dict[str, Outcome]:
    """What became of a pair, per change of the moving header; `overlap` is asked of a field and both heads."""
    (moving_name, moving_contrast), (fixed_name, fixed_contrast) = PAIRS[name]
    moving, fixed = coarser(head(moving_name, moving_contrast), 3), coarser(head(fixed_name, fixed_contrast), 3)
    region = fixed.image[0] > 0.1 * fixed.image.max()
    edge = float(moving.affine[:3, 0].norm())
    truth = identity_grid(fixed.image.shape[1:], dtype=torch.float64)
    if moving_name != fixed_name:
        truth = places(
            register_images(moving.image, fixed.image, moving.affine, fixed.affine).ddf, moving.affine, fixed.affine
        )
    result = {}
    for what, change in spoils.items():
        bad = corrupted(moving, **change)
        try:
            found = register_images(bad.image, fixed.image, bad.affine, fixed.affine, alignment=alignment)
        except ValueError as error:
            result[what] = Outcome("error", float("nan"), str(error))
            continue
        missed = float((places(found.ddf, bad.affine, fixed.affine) - truth).norm(dim=0)[region].mean()) * edge
        share = float("nan") if overlap is None else overlap(found.ddf, bad, fixed)
        result[what] = Outcome(found.verdict.grade, missed, found.verdict.text(), share)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.registration_turns", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--alignment", default="auto")
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--reasons", action="store_true", help="print every verdict")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    started = time.process_time()
    spoils = {what: change for what, change in SPOILS.items() if not change.get("inverted")}
    found = {name: outcomes(name, spoils, options.alignment) for name in options.pairs}
    print(f"| the moving header | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    for what in spoils:
        cells = []
        for own in found.values():
            one = own[what]
            cells.append("refused" if one.grade == "error" else f"{one.grade}, {one.error:.1f} mm")
        print(f"| {what} | {' | '.join(cells)} |")
    print()
    for name, own in found.items():
        counts = Counter(one.kind for one in own.values())
        print(f"{name}: {', '.join(f'{number} {kind}' for kind, number in counts.most_common())}")
    print(f"{time.process_time() - started:.0f} CPU s")
    if options.reasons:
        for name, own in found.items():
            for what, one in own.items():
                print(f"{name}, {what}: {one.kind}, {one.error:.1f} mm: {one.why}")


if __name__ == "__main__":
    main()
