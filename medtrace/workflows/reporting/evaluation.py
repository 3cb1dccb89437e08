"""The report of an evaluation as a document, failures first."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from medtrace import __version__
from medtrace.checks import check_choice
from medtrace.guard.notices import notify
from medtrace.report.document import Block, CellTable, Document, Heading, Items, Text, document_html, document_pdf
from medtrace.storage.files import atomic_write
from medtrace.workflows.reporting.failures import failure_lines, worst_blocks, worst_order
from medtrace.workflows.reporting.reading import Evaluation, evaluation_folder, read_evaluation
from medtrace.workflows.reporting.scores import (
    case_table,
    comparison_table,
    counted,
    distribution_picture,
    score_tables,
)
from medtrace.workflows.scoring.rows import CHEAP, NO_FIELD

NAME = "evaluation"
SUFFIXES = (".html", ".pdf")
ROWS = {
    CHEAP[0]: "identity: the unchanged source",
    CHEAP[1]: "intensity curve: each source intensity's most likely target intensity, from the training cases",
    CHEAP[2]: "patch ridge: ridge regression on patches, from the training cases",
    CHEAP[3]: "U-Net regression: trained for minutes on the training cases",
}
WARNING = "Not for clinical use: research software, whose images are computed."


def report_evaluation(
    folder: str | os.PathLike, out: str | os.PathLike | None = None, *, split: str | None = None
) -> list[Path]:
    """Write the report of an evaluation: failures, worst cases with images and verdicts, scores, settings.

    Args:
        folder: folder of a run, or of an evaluation.
        out: the file, ending in .html or .pdf; None writes both, `evaluation.html` and `evaluation.pdf`, next to the
            tables.
        split: which of a run's evaluations; None takes the only one.

    Returns:
        The files.

    Raises:
        FileNotFoundError: if the run was not evaluated.
        ImportError: if a PDF is requested and fpdf2 is not installed.
        ValueError: if the evaluation is from an older version, or the run has several and none is named.
    """
    if out is not None:
        check_choice("out's suffix", Path(out).suffix, SUFFIXES)
    evaluation = read_evaluation(evaluation_folder(folder, split))
    document = evaluation_document(evaluation)
    if out is not None:
        content = document_html(document) if Path(out).suffix == ".html" else document_pdf(document)
        return [atomic_write(out, content, make_parents=True)]
    page, paper = (evaluation.folder / f"{NAME}{suffix}" for suffix in SUFFIXES)
    written = [atomic_write(page, document_html(document))]
    try:
        written.append(atomic_write(paper, document_pdf(document)))
    except ImportError as error:
        notify(str(paper), str(error))
    return written


def evaluation_document(evaluation: Evaluation) -> Document:
    """Lay an evaluation out.

    Args:
        evaluation: as it was read.
    """
    record, runs = evaluation.record, evaluation.runs
    title = f"Evaluation: {', '.join(runs.values())}"
    blocks: list[Block] = [Text(WARNING, "warning"), Text(_summary(evaluation))]
    failures = failure_lines(evaluation)
    blocks += [Heading("Failures"), Items(tuple(failures)) if failures else Text(_nothing(evaluation))]
    blocks += [Heading("Worst cases"), *worst_blocks(evaluation)]
    blocks += [Heading("Scores"), *_scores(evaluation)]
    compared = comparison_table(evaluation.comparisons, runs)
    if compared is not None:
        blocks += [Heading("Compared by subject"), compared]
    if any(table.rows for table in evaluation.delivered.values()):
        blocks += [Heading("Delivered scans"), *_delivered(evaluation)]
    blocks.append(Heading("Cases"))
    for run in runs:
        order = worst_order(evaluation.tables[run])
        blocks.append(case_table(evaluation.tables, run, order, runs, evaluation.subjects))
    blocks += [Heading("Settings"), *_settings(evaluation)]
    footer = f"medtrace {record['medtrace']}, {title}. {WARNING}"
    return Document(title, tuple(blocks), footer)


def _summary(evaluation: Evaluation) -> str:
    record = evaluation.record
    cases = {case for table in evaluation.tables.values() for case in table.rows}
    people = {evaluation.subjects.get(case, case) for case in cases}
    where = "cases from Python" if record["dataset"] is None else f"the data set {record['dataset']}"
    return (
        f"{counted(record['cases'], len(people))}, the split {record['split']} of {where}. Failures and the"
        " worst cases come first; scores are shown beside rows that cost nothing."
    )


def _nothing(evaluation: Evaluation) -> str:
    return (
        f"None of {evaluation.record['cases']} cases lacks a score, folds, or is worse than the unchanged source; no"
        " comparison with the rows that cost nothing is lost or undecided."
    )


def _scores(evaluation: Evaluation) -> list[Block]:
    blocks: list[Block] = [*score_tables(evaluation.tables, evaluation.subjects, evaluation.runs)]
    told = [text for row, text in ROWS.items() if row in evaluation.tables]
    if any(row.startswith(NO_FIELD) for row in evaluation.tables):
        told.append(f"{NO_FIELD}: the run's image compared with its source, as if nothing had moved (edges only)")
    if told:
        blocks += [Text("The rows for comparison:", "plain"), Items(tuple(told))]
    picture = distribution_picture(evaluation.tables, evaluation.runs)
    return blocks if picture is None else [*blocks, picture]


def _delivered(evaluation: Evaluation) -> list[Block]:
    facts = evaluation.record["delivered"]["targets"]
    told = "; ".join(
        f"{name} in {one['unit']}{', on the scale of the mean training scan' if one['relative'] else ''}, over the"
        f" {one['region']}, PSNR and SSIM with the range {one['range'][0]:g} to {one['range'][1]:g}"
        for name, one in facts.items()
    )
    return [
        Text(f"Entire scans on their own grid, as medtrace translate writes them: {told}."),
        *score_tables(evaluation.delivered, evaluation.subjects, evaluation.runs, facts),
    ]


def _settings(evaluation: Evaluation) -> list[Block]:
    record = evaluation.record
    made = record.get("made_with") or {}
    lines = [(name, str(value)) for name, value in made.items() if value is not None]
    command = record.get("command") or "called from Python, with cases of its own"
    blocks: list[Block] = [
        Text(command, "code"),
        CellTable(("made with", ""), tuple(lines) or (("medtrace", __version__),), caption="Software used."),
    ]
    for name, title in evaluation.runs.items():
        run = record["runs"][name]
        blocks += [
            Text(f"{title} (run {name}), method {run['method']}, trained by medtrace {run['medtrace']}:"),
            Text(yaml.safe_dump(run["settings"], default_flow_style=None, sort_keys=False, width=100), "code"),
        ]
    return blocks
