"""The page and the figures of the study on real follow-ups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from medtrace.evaluation.real.changes import RIM_MM, SMOOTHING_MM, THRESHOLDS, dice, robust_deviation, threshold_without
from medtrace.evaluation.real.follow_ups import MASKED, DatedPair
from medtrace.report import save_figure
from medtrace.report.view import view_of
from medtrace.storage.files import atomic_write

PAGE = "real_followups.md"
ROWS: Mapping[str, tuple[str, ...]] = {
    kind: tuple(
        f"{row}, {kind}"
        for row in (
            "rigid subtraction",
            "rigid subtraction, local",
            "trace's appearance",
            "trace's residual",
            "trace's appearance, local",
        )
    )
    for kind in ("as scanned", "prepared")
}
"""How the scans are read → the rows of the table."""
SHOWN = 3
"""Slices of a figure."""
INTRO = f"""# Real follow-ups: what a trace says has changed

Two dates of {{n}} persons with multiple sclerosis, with masks of what experts saw as changed (new, gone, larger
and smaller lesions), by

```sh
medtrace bench real --study follow-ups --data FOLDER --out demo_out     # or MEDTRACE_DATA=FOLDER
```

where FOLDER holds the open MS data of Lesjak et al. (CC-BY, [open_ms_data](https://github.com/muschellij2/open_ms_data);
longitudinal: Neuroinformatics 2016). n = {{n}} persons; no interval can be given for so few.

- *Scans.* The FLAIR of both dates: the first is the source; the second, on the grid of the experts' mask, is
  the image. The other contrasts lack a date in one or more persons.
- *Rigid subtraction*: second date minus first date after rigid alignment (`registration.register_images`).
- *Trace's appearance*: on top of that alignment a stiff deformation (26 mm windows, updates smoothed by 16 mm), so that
  it cannot pull a lesion away; the trace's mask is the brain, its appearance change the second date minus the warped
  first.
- *Trace's residual*: that minus the change of contrast, E[second given warped first], which the brain shows.
- *Local*: a map without its slow part (10 mm), over its usual size at voxels of similar edges and texture, both learned
  from the pair itself without the experts' mask.
- *Prepared*: without bias field (N4) and standardized by Nyul's landmarks of the **other** persons.
- *Scores* of the absolute values of a map, smoothed by {SMOOTHING_MM} mm, in the brain without its outer
  {RIM_MM:g} mm. AUC over voxels. Dice and volume at a threshold in robust standard deviations of the map (1.4826 times
  the median absolute value) that is the best for the **other** persons; beside it is the best Dice that any threshold
  of the person's own would have.
- *Brain masks*: that of {MASKED} is the data's; those of the others do not fit (one cuts off the frontal lobes, one
  holds the skull), so {MASKED}'s is carried there by a registration of the FLAIRs.
"""


def write_follow_ups_page(out: Path, scores: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write the page from the scores of every person.

    Args:
        out: receives the page, in which the figures of `follow_ups/` are shown.
        scores: person → the study's record of them.
    """
    parts = [INTRO.format(n=len(scores))]
    for person, record in scores.items():
        parts.append(f"## {person}\n\n{_told(record)}\n\n{_table(person, scores)}\n")
        parts.append(f"![Maps of change of {person}](follow_ups/{person}.png)\n")
    parts.append("## Mean over persons\n\n" + _means(scores) + "\n")
    path = out / PAGE
    atomic_write(path, "\n".join(parts))
    return path


def _told(record: Mapping[str, Any]) -> str:
    return (
        f"Experts marked {record['gt_ml']:.1f} ml as changed, {100 * record['gt_scored']:.0f} % of it where maps are"
        f" scored. Maps and scores took {record['cpu_seconds']:.0f} s of processor time."
    )


def _cells(person: str, row: str, scores: Mapping[str, Mapping[str, Any]]) -> tuple[float, float, float, float, float]:
    """AUC, threshold, Dice there, volume there in ml, and the best Dice."""
    own = scores[person]["rows"][row]
    number = threshold_without(person, {name: one["rows"][row] for name, one in scores.items()})
    values = dice(own)
    return own["auc"], THRESHOLDS[number], values[number], own["above"][number] * own["voxel_ml"], float(values.max())


def _table(person: str, scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| map | AUC | threshold of the others | Dice there | volume there, ml | best Dice |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for rows in ROWS.values():
        for row in rows:
            auc, limit, value, volume, best = _cells(person, row, scores)
            lines.append(f"| {row} | {auc:.3f} | {limit:.2f} | {value:.3f} | {volume:.1f} | {best:.3f} |")
    return "\n".join(lines)


def _means(scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| map | AUC | Dice at the threshold of the others | best Dice |", "|---|--:|--:|--:|"]
    for rows in ROWS.values():
        for row in rows:
            cells = np.array([_cells(person, row, scores) for person in scores]).mean(0)
            lines.append(f"| {row} | {cells[0]:.3f} | {cells[2]:.3f} | {cells[4]:.3f} |")
    return "\n".join(lines)


def change_figure(
    pair: DatedPair, second: Tensor, maps: Mapping[str, Tensor], truth: Tensor, region: Tensor, path: Path
) -> Path:
    """Draw the slices with the most change: the second date, and every map of the prepared scans, with the truth
    outlined.

    Args:
        pair: whose grid is drawn.
        second: (1, *spatial), the second date as it is shown.
        maps: row → (1, *spatial).
        truth, region: boolean (1, *spatial).
        path: path of the file.
    """
    most = truth[0].sum((0, 1)).argsort(descending=True)
    chosen = sorted(int(k) for k in most[: 3 * SHOWN : 3])
    drawn = [row for row in maps if row.endswith("prepared")]
    figure = Figure(figsize=(3 * (1 + len(drawn)), 3.3 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), 1 + len(drawn), squeeze=False)
    top = float(np.percentile(second[region].numpy(), 99.8))
    for line, k in zip(axes, chosen):
        view = view_of(pair.affine, tuple(second.shape[1:]), "axial", k)
        outline = view.page(truth.float())[..., 0]
        for axis, row in zip(line, ("second date", *drawn)):
            image = second if row == "second date" else maps[row]
            limit = 6 * robust_deviation(image[region].numpy())
            shown = {"cmap": "gray", "vmin": 0, "vmax": top}
            if row != "second date":
                shown = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
            axis.imshow(view.page(image)[..., 0], aspect=view.aspect, **shown)
            if outline.max() > 0:
                axis.contour(outline, [0.5], colors="#00A000", linewidths=0.7)
            axis.set_axis_off()
            axis.set_title(row.removesuffix(", prepared"), fontsize=8)
    figure.suptitle(f"{pair.person}, prepared; green: where experts saw change; maps to ±6 robust SD", fontsize=9)
    return save_figure(figure, path, dpi=80)
