"""A run as a model folder: weights, record and a model card in the layout of Hugging Face."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from medtrace.data.preparation.rules import FILE as PREPARATION
from medtrace.engines.checkpoint_choice import weights_file
from medtrace.engines.model_folder import CARD, CONFIG, MODEL
from medtrace.engines.runs import RunRecord, load_method, read_run, save_weights
from medtrace.evaluation.intensity.interval import FILE as INTERVAL
from medtrace.evaluation.intensity.interval import IntensityInterval
from medtrace.io.digest import sha256
from medtrace.methods import Method
from medtrace.methods.registry import folder_of
from medtrace.report.tables import markdown_table
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write
from medtrace.storage.reservations import reserve_folder, reserving
from medtrace.workflows.handing_on.facts import (
    Score,
    command_of,
    data_lines,
    data_name,
    limit_lines,
    scores_of,
    training_lines,
)
from medtrace.workflows.handing_on.record import handed_on
from medtrace.workflows.intensity import serves

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LEFT_OUT = ("This bundle", "The paper's tables", "# ")
"""Beginnings of a method's paragraphs that do not concern a trained model."""


class ModelFolder(NamedTuple):
    """What was written."""

    folder: Path
    scores: list[Score]
    """Those in the card, of `medtrace evaluate`."""


@reserving(lambda out: reserve_folder(out, make_parents=True))
def card(
    run: str | os.PathLike,
    out: str | os.PathLike,
    *,
    license: str,
    title: str | None = None,
    limits: Sequence[str] = (),
) -> ModelFolder:
    """Write a run as a folder to share, whose `README.md` is a model card.

    `config.json` is the run's record, `model.safetensors` its weights, `preparation.json` how its training images were
    prepared; an interval of intensities calibrated for these weights is included. Nothing in it is executable: no
    pickle, no code. The folder is accepted wherever a run is, by its path or, from the Hugging Face Hub, as
    `hf://owner/name`.

    The card says what it was trained on, contrasts and units, the scores that `medtrace evaluate` left in the run with
    their intervals, limits, the command of the training and its commit. Names of subjects, cases and folders are left
    out of all files.

    Args:
        run: folder left by `medtrace train`; its weights are those that `using_checkpoint` chooses.
        out: a new or empty folder.
        license: license of the weights, as Hugging Face names it, such as "apache-2.0" or "cc-by-4.0"; "other" for one
            that is not listed there. It is not guessed: the terms of the training data decide.
        title: title of the card; by default the method's.
        limits: further sentences on how far to trust it.

    Returns:
        The folder, and the scores in the card.

    Raises:
        FileNotFoundError: if the run or its weights are missing.
        FileExistsError: if `out` is in use.
        ValueError: if the run does not fit its weights, or the license is not an identifier.
    """
    if not _LICENSE.fullmatch(license):
        raise ValueError(
            f"license: expected an identifier such as apache-2.0, cc-by-4.0 or other, received {license!r}; it is that"
            " of the weights"
        )
    run = Path(run)
    record = read_run(run)
    method = load_method(run, "cpu")
    scores = scores_of(run)
    with atomic_directory(out) as folder:
        save_weights(method, folder, Path(MODEL))
        digest = sha256(folder / MODEL)
        atomic_write(folder / CONFIG, json.dumps(handed_on(record, digest), indent=1) + "\n")
        if (run / PREPARATION).is_file():
            atomic_write(folder / PREPARATION, (run / PREPARATION).read_bytes())
        interval = _interval(run)
        if interval is not None:
            content = json.loads((run / INTERVAL).read_text(encoding="utf-8"))
            atomic_write(folder / INTERVAL, json.dumps({**content, "weights_sha256": digest}, indent=1) + "\n")
        told = [*limits, *limit_lines(record, scores, interval)]
        text = _card(run, record, method, scores, license, title or method.title, told)
        atomic_write(folder / CARD, text)
    return ModelFolder(Path(out), scores)


def _interval(run: Path) -> IntensityInterval | None:
    """The run's interval of intensities, if it has one for the shared weights."""
    interval = IntensityInterval.read(run / INTERVAL) if (run / INTERVAL).is_file() else None
    return interval if interval is not None and serves(interval, run) else None


def _card(
    run: Path,
    record: RunRecord,
    method: Method,
    scores: list[Score],
    license: str,
    title: str,
    limits: list[str],
) -> str:
    front = yaml.safe_dump(
        _front(method, scores, license, title, data_name(record)), sort_keys=False, allow_unicode=True
    )
    parts = [
        f"# {title}",
        *_about(method),
        "## Use",
        _USE_REGISTERS if not method.translates else _USE_TRANSLATES,
        "## Data",
        _listed(data_lines(run, record)),
        "## Scores",
        _score_text(scores),
        "## Limits",
        _listed(limits),
        "## Training",
        f"```sh\n{command_of(record)}\n```",
        _listed([*training_lines(run, record), f"Weights: `{weights_file(run).name}` of the run, {_size(method)}."]),
        "## License",
        f"{license} (the weights). Method: {method.paper}",
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(parts).rstrip() + "\n"


def _front(method: Method, scores: list[Score], license: str, title: str, data: str) -> dict[str, Any]:
    """The metadata of a card that Hugging Face reads."""
    front: dict[str, Any] = {
        "license": license,
        "library_name": "medtrace",
        "tags": [
            "medical",
            "monai",
            "image-registration" if not method.translates else "image-translation",
            method.name,
        ],
    }
    if method.translates:
        front["pipeline_tag"] = "image-to-image"
    results = [
        {
            "task": {"type": "image-to-image"},
            "dataset": {"name": f"{data}, {split}", "type": re.sub(r"\W+", "-", data).lower(), "split": split},
            "metrics": [
                {"type": one.measure, "name": one.measure, "value": round(one.summary.mean, 6)}
                for one in scores
                if one.split == split and math.isfinite(one.summary.mean)
            ],
        }
        for split in dict.fromkeys(one.split for one in scores)
    ]
    if results:
        front["model-index"] = [{"name": title, "results": results}]
    return front


def _about(method: Method) -> list[str]:
    path = folder_of(type(method)) / "card.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else method.paper
    return [part.strip() for part in text.split("\n\n") if not part.startswith(_LEFT_OUT)]


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _score_text(scores: list[Score]) -> str:
    if not scores:
        return "None on record."
    table = markdown_table([_score_row(one) for one in scores])
    return f"{table}\n{_SCORES}"


def _score_row(score: Score) -> Mapping[str, Any]:
    summary, beside = score.summary, score.beside
    told = None if beside is None else f"{beside['difference']:+.4g} [{beside['low']:+.4g}, {beside['high']:+.4g}]"
    return {
        "split": score.split,
        "measure": score.measure,
        "mean ± SD": f"{summary.mean:.4g} ± {summary.sd:.2g}",
        "median": f"{summary.median:.4g}",
        "cases": str(summary.n),
        "beside the identity [95 %]": told,
    }


def _size(method: Method) -> str:
    return (
        f"{sum(one.numel() for one in method.state_dict().values() if hasattr(one, 'numel')) / 1e6:.2f} million numbers"
    )


_SCORES = (
    "Written by `medtrace evaluate`: mean, standard deviation and median over the cases; `mae` of 0 to 255, `_mm` in"
    " mm. The last column is the mean difference from the source itself, by subject, with the 95 % interval of a paired"
    " bootstrap."
)
_USE_TRANSLATES = """```sh
# FOLDER is this folder, or hf://owner/name; medtrace is installed
medtrace translate FOLDER scan.nii.gz --out scan_trace
```"""
_USE_REGISTERS = """```sh
# FOLDER is this folder, or hf://owner/name; medtrace is installed
medtrace register moving.nii.gz fixed.nii.gz --run FOLDER --out trace
```"""
