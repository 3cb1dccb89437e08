"""The study on real follow-ups: does a trace show the changes that experts marked?"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from medtrace.evaluation.intensity.features import unexplained_change
from medtrace.evaluation.real.changes import (
    follow_up_trace,
    over_local_scale,
    score_map,
    scored_region,
    seen_through_gaussian,
)
from medtrace.evaluation.real.follow_ups import (
    MASKED,
    WORKED_MM,
    DatedPair,
    FollowUp,
    brain_of,
    find_follow_ups,
    prepared,
    read_pair,
    standardized,
)
from medtrace.registration import register_images
from medtrace.registration.alignment import Alignment
from medtrace.registration.deformable import Deformable
from medtrace.storage.files import make_directory, write_json
from medtrace.storage.reservations import locked, reserving
from medtrace.trace.geometry import pull
from medtrace.workflows.real_heads.follow_ups_page import ROWS, change_figure, write_follow_ups_page

FOLDER = "follow_ups"


@dataclass(frozen=True)
class Dated:
    """A person at two dates, aligned.

    Attributes:
        pair: as scanned.
        alignment: rigid, of the dates.
        brain: boolean (1, *spatial) on the grid of the truth.
        unbiased: the pair without its bias fields, on one scale.
    """

    pair: DatedPair
    alignment: Alignment
    brain: Tensor
    unbiased: DatedPair

    @property
    def first_brain(self) -> Tensor:
        """The brain mask on the first date's grid."""
        return brain_on_first(self.pair, self.brain, self.alignment)


@reserving(lambda out: locked(out))
def follow_ups(data: str | os.PathLike, out: str | os.PathLike = "real", *, progress: bool = True) -> Path:
    """Score maps of change between two dates of real heads against the experts' marks.

    Rows are plain subtraction after rigid alignment and the trace that `medtrace.registration.register_images` finds,
    each of the scans as they are and as prepared: without bias field (N4) and standardized by Nyul's landmarks of the
    other persons. The threshold for a person's masks is the best one for the other persons.

    Args:
        data: folder of the open MS data (see `medtrace.evaluation.real.follow_ups`).
        out: receives `follow_ups/` with the scores of every person and figures, and the page `real_followups.md`.
        progress: report progress.

    Returns:
        The page.

    Raises:
        FileNotFoundError: if `data` holds no follow-ups.
    """
    out, console = Path(out), Console(stderr=True, quiet=not progress)
    folder = make_directory(out / FOLDER)
    found = find_follow_ups(data)
    missing = [one.person for one in found if not (folder / f"{one.person}.json").is_file()]
    if missing:
        persons = _aligned(found, console)
        for person in missing:
            console.print(f"{person}: maps of change")
            _scored(person, persons, folder)
    scores = {one.person: json.loads((folder / f"{one.person}.json").read_text(encoding="utf-8")) for one in found}
    return write_follow_ups_page(out, scores)


def _aligned(found: Sequence[FollowUp], console: Console) -> dict[str, Dated]:
    """Every person, aligned and corrected for bias."""
    pairs = {one.person: read_pair(one) for one in found}
    fitting = next((one, pairs[one.person]) for one in found if one.person == MASKED)
    result = {}
    for one in found:
        console.print(f"{one.person}: alignment, brain mask and bias field")
        pair = pairs[one.person]
        rigid = register_images(
            pair.first,
            pair.second,
            pair.first_affine,
            pair.affine,
            alignment="rigid",
            spacing=WORKED_MM,
            settings=Deformable(iterations=(0,)),
        )
        brain = brain_of(one, pair, fitting)
        first = prepared(pair.first, pair.first_affine, brain_on_first(pair, brain, rigid.alignment))
        unbiased = replace(pair, first=first, second=prepared(pair.second, pair.affine, brain))
        result[one.person] = Dated(pair, rigid.alignment, brain, unbiased)
    return result


def brain_on_first(pair: DatedPair, brain: Tensor, alignment: Alignment) -> Tensor:
    """The brain mask on the first date's grid."""
    back = torch.linalg.solve(alignment.matrix.double() @ pair.affine, pair.first_affine)
    return pull(brain.float(), torch.zeros(3, *pair.first.shape[1:]), back) > 0.5


def _maps(pair: DatedPair, own: Dated, region: Tensor) -> tuple[Tensor, ...]:
    """The maps of `ROWS`, for a pair as scanned or as prepared."""
    spacing = pair.spacing
    to_first = torch.linalg.solve(pair.first_affine, own.alignment.matrix.double() @ pair.affine)
    aligned = pull(pair.first, torch.zeros(3, *pair.second.shape[1:]), to_first)
    subtraction = seen_through_gaussian(pair.second - aligned, region, spacing)
    trace = follow_up_trace(pair, own.brain, own.alignment)
    change = trace.appearance
    if change is None:
        raise RuntimeError("trace: expected an appearance change of two dates of one contrast, received none")
    appearance = seen_through_gaussian(change, region, spacing)
    beyond = torch.from_numpy(unexplained_change(trace.image, trace.warped, own.brain).residual)
    return (
        subtraction,
        over_local_scale(subtraction, aligned, region, spacing) * region,
        appearance,
        seen_through_gaussian(beyond, region, spacing),
        over_local_scale(appearance, trace.warped, region, spacing) * region,
    )


def _scored(person: str, persons: dict[str, Dated], folder: Path) -> None:
    """Score every row of a person, draw it and write both."""
    own, spacing = persons[person], persons[person].pair.spacing
    others = [one for name, one in persons.items() if name != person]
    learned = [(one.unbiased.second, one.brain) for one in others]
    learned += [(one.unbiased.first, one.first_brain) for one in others]
    images = standardized([own.unbiased.first, own.unbiased.second], [own.first_brain, own.brain], learned)
    region = scored_region(own.brain, spacing)
    truth = own.pair.truth & region
    record: dict[str, Any] = {
        "person": person,
        "gt_ml": float(own.pair.truth.sum()) * float(torch.tensor(spacing).prod()) / 1000,
        "gt_scored": float(truth.sum()) / float(own.pair.truth.sum()),
        "rows": {},
    }
    maps: dict[str, Tensor] = {}
    started = time.process_time()
    for kind, pair in (("as scanned", own.pair), ("prepared", replace(own.pair, first=images[0], second=images[1]))):
        maps |= dict(zip(ROWS[kind], _maps(pair, own, region)))
    for row, change in maps.items():
        record["rows"][row] = score_map(change, truth, region, spacing)._asdict()
    record["cpu_seconds"] = round(time.process_time() - started, 1)
    change_figure(own.pair, images[1], maps, truth, region, folder / f"{person}.png")
    write_json(folder / f"{person}.json", record)
