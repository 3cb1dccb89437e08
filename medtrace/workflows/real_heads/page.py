"""The page of the study on real heads, from the rows that are finished."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medtrace.evaluation.cheap_rows import RIDGE
from medtrace.evaluation.real.heads import TEST, VALIDATION, Head
from medtrace.evaluation.real.scores import MAE, SSIM, UNITS, interval
from medtrace.evaluation.real.tasks import DROPPED, LABELS, TASKS, RealTask
from medtrace.evaluation.verdicts import comparison_table
from medtrace.metrics.paired import compare_paired
from medtrace.storage.files import atomic_write
from medtrace.workflows.real_heads.figures import FIGURES, figure_name
from medtrace.workflows.real_heads.labels import COARSE, SCORES, mean_dice
from medtrace.workflows.real_heads.rows import CHEAP, SLICES, label_of, read_rows

PAGE = "real_translation.md"
HEADINGS = (
    "row",
    "trainings",
    "MAE, 0-255 [95 %]",
    "SSIM [95 %]",
    "MAE in units",
    "validation head: MAE, SSIM",
    "CPU s",
)
INTRO = f"""# Translation of real heads

Translations between T1, T2 and FLAIR of persons not seen in training, by

```sh
medtrace bench real --data FOLDER --out demo_out     # or MEDTRACE_DATA=FOLDER
medtrace bench real --study t1+flair-t2              # also images, labels, t1-t2, ...; --setting full
```

where FOLDER holds the open MS data of Lesjak et al. (CC-BY, [open_ms_data](https://github.com/muschellij2/open_ms_data);
cross-sectional: Neuroinformatics 2017, [doi 10.1007/s12021-017-9348-7](https://doi.org/10.1007/s12021-017-9348-7);
longitudinal: Neuroinformatics 2016); the tables use a part of it. A finished row is kept; a second call does what is
missing. Every method is trained once, then the two of each translation that are best on the validation head with two
more seeds.

- *Heads.* Two cross-sectional heads ({" and ".join(TEST)}, the test persons in turn) and longitudinal heads, brought to
  one grid with the data's own transforms and skull-stripped. A head without a contrast of the translation is left out;
  so is one whose mask holds the full head. {VALIDATION} is the validation head throughout: settings were chosen on that
  head, never on the test heads. One name in both data sets counts as one person, who is never on two sides.
- *Bias field.* The cross-sectional heads are published corrected by N4, the longitudinal ones are as scanned;
  these are corrected by N4 before anything else, so both are treated alike.
- *Slices.* {SLICES} axial slices of a head, 96 × 112 pixels of 2 mm, 3 mm apart; Nyul's landmarks and the window of z
  from training heads only.
- *Numbers.* Over the target's foreground. *MAE 0-255* on the network's scale; *in units* on that of the mean training
  scan, to which both images are brought by one curve (MR intensities have no unit of their own, and a scan's own scale
  cannot be known from another contrast).
- *Row beside row*: under each table, slice by slice, every row beside patch ridge and every learned one beside the best
  of them: mean difference with the interval of a paired bootstrap, how often the row is better, Cohen's d of paired
  differences (above 0: the row is better), Wilcoxon's p.
- *Intervals* are 95 % bootstrap intervals over the {SLICES} slices of one person: n is {SLICES} slices and **1 person**
  per table. They say nothing about other persons. Trainings are averaged slice by slice.
- *CPU s* is processor time of one thread on a machine that did other work too, training and start included. The
  budget is the preset `small`, 800 steps of 2 slices; `--setting full` has 4000 steps.
- *A source is missing*: translations from two contrasts are trained with `data.drop_sources={DROPPED}` and scored
  twice, the second time with the FLAIR's channel empty. Cheap rows without it are learned without it.

Rows that need no network: the *identity*; the *intensity curve*, the median target of every source intensity; *patch
ridge*, ridge regression on 7 × 7 patches of the sources and of their curve.
"""
LABELS_INTRO = """A whole scan is translated by `medtrace translate`, labeled by a network that was trained on other
T1s, by others (MeshNet of [brainchop](https://github.com/neuroneural/brainchop), Masoud, Hu and Plis, JOSS 2023;
folder `meshnet` of the data), the labels are warped back to the source by the trace's inverse field, and compared
with those of the true T1 of the same head: mean Dice over 17 structures, and over the seven that the network finds
reliably (cerebral white matter and cortex, thalamus, caudate, putamen, brain stem, amygdala). n = 1 head per column,
one training per row. *True T1 at the network's pixels* was resampled to 2 mm and back: no translation on that grid can
be expected to be better."""
TRUSTED = ("Cerebral-White-Matter", "Cerebral-Cortex", "Thalamus", "Caudate", "Putamen", "Brain-Stem", "Amygdala")
"""Structures that the network segments reliably."""


def write_page(out: Path, heads: Sequence[Head], left: Sequence[str]) -> Path:
    """Write tables of all finished rows, of all translations in the folder; figures are `write_figures`'s."""
    rows = read_rows(out)
    parts, empty = [INTRO], []
    for task in TASKS.values():
        for person in TEST:
            chosen = [row for row in rows if (row["task"], row["person"]) == (task.name, person)]
            if any(row["row"] not in CHEAP for row in chosen):
                parts += [
                    f"## {task.title}, {person}",
                    "",
                    *_table(chosen),
                    "",
                    *_verdicts(chosen),
                    "",
                    *_paired(chosen),
                ]
                parts += _untrained(task, chosen)
                parts += _figures(out, task, person)
            elif chosen:
                empty.append(f"{task.name} of {person}")
    labels = [line for task in LABELS for line in _labels(out, task)]
    if labels:
        parts += ["## Structures in translations to T1", "", LABELS_INTRO, "", *labels]
    listed = ", ".join(f"{head.name} ({', '.join(head.images)})" for head in heads)
    notes = [f"Heads: {listed}.", *[f"Left out: {line}." for line in left], *_machines(rows)]
    notes += [f"No method trained yet: {', '.join(empty)}."] if empty else []
    atomic_write(out / PAGE, "\n".join([*parts, *notes]) + "\n")
    return out / PAGE


def _label(row: Mapping[str, Any]) -> str:
    return label_of(row["row"], row["missing"])


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {_label(row): row for row in rows}
    order = sorted(
        names, key=lambda name: (bool(names[name]["missing"]), names[name]["row"] not in CHEAP, _mean(rows, name, MAE))
    )
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---|" + "---:|" * (len(HEADINGS) - 1)]
    for name in order:
        trained = [row for row in rows if _label(row) == name]
        first = trained[0]
        cells = [
            name,
            "-" if first["row"] in CHEAP else str(len(trained)),
            _cell(_slices(trained, MAE), 2),
            _cell(_slices(trained, SSIM), 3),
            f"{np.mean(_slices(trained, UNITS)):.1f}" if UNITS in first["cases"] else "-",
            ", ".join(
                f"{np.mean([row['validation'][name] for row in trained]):.{digits}f}"
                for name, digits in ((MAE, 2), (SSIM, 3))
            ),
        ]
        cells.append(f"{np.mean([row['cpu_seconds'] for row in trained]):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _verdicts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Whether the best learned method beats patch ridge, with all sources and without one."""
    result = []
    for missing in dict.fromkeys(row["missing"] for row in rows):
        result += _verdict([row for row in rows if row["missing"] == missing], missing)
    return result


def _verdict(rows: Sequence[Mapping[str, Any]], missing: str) -> list[str]:
    learned = {_label(row) for row in rows if row["row"] not in CHEAP}
    ridge = label_of(RIDGE, missing)
    if not learned or not any(_label(row) == ridge for row in rows):
        return []
    best = min(learned, key=lambda name: _mean(rows, name, MAE))
    parts = []
    for column, name, lower in ((MAE, "MAE", True), (SSIM, "SSIM", False)):
        own, other = _mean(rows, best, column), _mean(rows, ridge, column)
        won = own < other if lower else own > other
        parts.append(f"{name} {own:.3g} against {other:.3g}: {'better' if won else 'worse'}")
    cases = len(rows[0]["names"])
    return [f"Best learned method: {best}; beside {ridge} {'; '.join(parts)}. n = {cases} slices of 1 person."]


def _paired(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows beside patch ridge, and learned rows beside the best of them, slice by slice; with the same sources each."""
    found = {}
    for missing in dict.fromkeys(row["missing"] for row in rows):
        learned = {_label(row): row["row"] not in CHEAP for row in rows if row["missing"] == missing}
        ridge = label_of(RIDGE, missing)
        for column, measure in ((MAE, "MAE, 0-255"), (SSIM, "SSIM")):
            larger = column == SSIM
            order = sorted(learned, key=lambda name: _mean(rows, name, column), reverse=larger)
            best = next((name for name in order if learned[name]), "")
            pairs = [(name, ridge) for name in order if ridge in learned and name != ridge]
            pairs += [(name, best) for name in order if learned[name] and name != best]
            for pair in pairs:
                values = [_slices([row for row in rows if _label(row) == name], column).tolist() for name in pair]
                found[measure, *pair] = compare_paired(*values, larger_is_better=larger)
    table = comparison_table(found, counted="slices")
    return [table] if table else []


def _untrained(task: RealTask, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [name for name in task.methods if name not in {row["row"] for row in rows}]
    return [f"Not trained yet: {', '.join(names)}.", ""] if names else []


def _machines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The settings and versions of the trained rows."""
    trained = [row for row in rows if "device" in row]
    if not trained:
        return []
    names = ("device", "threads", "torch", "commit")
    found = [f"{name} {', '.join(sorted({str(row[name]) for row in trained}))}" for name in names]
    return [f"Trained rows: {'; '.join(found)}."]


def _figures(out: Path, task: RealTask, person: str) -> list[str]:
    names = {"slices": "Three slices", "worst": "The worst slice of each network"}
    files = {kind: figure_name(task.name, person, kind) for kind in names}
    return [
        f"![{names[kind]} of {person}, {task.title}](figures/{file})\n"
        for kind, file in files.items()
        if (out / FIGURES / file).is_file()
    ]


def _labels(out: Path, task: RealTask) -> list[str]:
    """Dice of structures, both persons side by side."""
    files = sorted((out / SCORES).glob(f"{task.name}-*.json")) if (out / SCORES).is_dir() else []
    records = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if not records:
        return []
    columns = [(person, kind) for person in TEST for kind in ("all", "trusted")]
    heads = [f"{person}, {'all' if kind == 'all' else len(TRUSTED)} structures" for person, kind in columns]
    lines = [
        f"### {task.title}",
        "",
        "| row | " + " | ".join(heads) + " |",
        "|---|" + "---:|" * len(heads),
    ]
    for row in (*CHEAP, *task.methods, COARSE):
        known = {record["person"]: record for record in records if record["row"] == row}
        cells = [_dice(known.get(person), None if kind == "all" else TRUSTED) for person, kind in columns]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def _dice(record: Mapping[str, Any] | None, names: Sequence[str] | None) -> str:
    if record is None or not set(names or ()) <= record["dice"].keys():  # a network of other structures
        return "-"
    text = f"{mean_dice(record, names):.3f}"
    if "dice_still" in record:
        text += f" ({mean_dice({'dice': record['dice_still']}, names):.3f} without its field)"
    return text


def _slices(rows: Sequence[Mapping[str, Any]], column: str) -> np.ndarray:
    """A value per slice, the mean over trainings."""
    result: np.ndarray = np.mean([row["cases"][column] for row in rows], axis=0)
    return result


def _mean(rows: Sequence[Mapping[str, Any]], name: str, column: str) -> float:
    return float(_slices([row for row in rows if _label(row) == name], column).mean())


def _cell(values: np.ndarray, digits: int) -> str:
    low, high = interval(values.tolist())
    return f"{values.mean():.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
