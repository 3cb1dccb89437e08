"""Registration of many pairs, or of many images to one template: in parallel, resuming where it stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from medtrace.data.lists.image_list import list_images
from medtrace.engines.checkpoint_choice import chosen_checkpoint, using_checkpoint, weights_file
from medtrace.engines.model_folder import record_file
from medtrace.storage.cases import case_key
from medtrace.workflows.many.attempts import Task
from medtrace.workflows.many.overview import TRACE, reason_of, registration_numbers, write_summary
from medtrace.workflows.many.pairs import FinishedPairs, PairCase, keep_or_make, listed_pairs, run_pairs, shared_threads
from medtrace.workflows.register import Registered, register

_PRELOAD = (__name__,)


def register_cases(
    pairs: str | os.PathLike,
    template: str | os.PathLike | None,
    out: str | os.PathLike,
    *,
    workers: int = 1,
    scheduler: str | None = None,
    threads: int | None = None,
    progress: bool = True,
    overwrite: bool = False,
    **settings: Any,
) -> FinishedPairs:
    """Register many pairs, each into `OUT/NAME`: `trace`, its page, and what it was made from.

    Finished pairs are kept; a pair that fails does not stop the others. `OUT/index.html` and `OUT/cases.csv` list all
    pairs, the worst verdict first.

    Args:
        pairs: without a template a pair list (see `medtrace.data.lists.pair_list.read_pair_list`; its columns
            target_lesion and source_lesion are the masks), else images, a folder or a list of them (see
            `image_list.list_images`).
        template: the fixed image of all pairs, or None.
        out: folder of the cases.
        workers: processes that share the pairs.
        scheduler: address of a Dask scheduler whose workers process the pairs instead (see `parallel.run_cases`).
        threads: threads of a pair; None for one if there are several workers.
        progress: show a bar on stderr.
        overwrite: replace results with the same name from other images or settings.
        **settings: of `register`.

    Returns:
        The pairs and the overview.

    Raises:
        FileNotFoundError: if a file is missing.
        OSError: if another command is using `out`.
        ValueError: if the list cannot be read.
    """
    out = Path(out).absolute()
    remedy = "FIXED: expected the image to register to, received none; or give a pair list"
    listed = listed_pairs(pairs, remedy) if template is None else _to_template(Path(pairs), Path(template))
    shared = shared_threads(settings, threads, workers, scheduler)
    if shared.get("run") is not None:
        shared["run"] = str(Path(shared["run"]).absolute())
    tasks = [Task(pair.name, (pair, str(out), shared, overwrite, chosen_checkpoint())) for pair in listed]
    how: dict[str, Any] = {"workers": workers, "scheduler": scheduler, "progress": progress}
    return run_pairs(register_case, tasks, out, title="Registrations", doing="registering", preload=_PRELOAD, **how)


def register_case(
    pair: PairCase, out: str, settings: dict[str, Any], overwrite: bool, checkpoint: str | None = None
) -> bool:
    """Register one pair into its folder, unless that has its result; `checkpoint` is the run's, if there is one.

    Returns:
        Whether it was kept.

    Raises:
        FileExistsError: if the folder holds something else and may not be overwritten.
        FileNotFoundError, ValueError: see `register`.
    """
    known = {name: value for name, value in settings.items() if name not in ("run", "threads")}
    run = settings.get("run")
    trained: dict[str, Path | None] = {"run": None, "weights": None}
    if run is not None:
        with using_checkpoint(checkpoint):
            trained = {"run": record_file(Path(run)), "weights": weights_file(Path(run))}
    key = case_key({**pair.files, **trained}, series=pair.series, summary=1, **known)

    def make(folder: Path) -> None:
        files: dict[str, Any] = {name: value for name, value in pair.files.items() if value is not None}
        files |= pair.series
        source, target = files.pop("source"), files.pop("target")
        with using_checkpoint(checkpoint):
            result = register(source, target, folder / TRACE, progress=False, **files, **settings)
        write_summary(folder, result.trace, result.verdict.grade, _reason(result), _numbers(result), result.target)

    return keep_or_make(Path(out) / pair.name, key, overwrite, make)


def _reason(result: Registered) -> str:
    return reason_of(line.text for line in result.lines if line.grade != "PASS")


def _numbers(result: Registered) -> dict[str, float | None]:
    return {**registration_numbers(result.verdict.figures), "seconds": result.seconds}


def _to_template(images: Path, template: Path) -> list[PairCase]:
    if not template.exists():
        raise FileNotFoundError(f"{template}: no such file or folder; check the path")
    fixed = str(template.absolute())
    return [
        PairCase(one.name, {"source": str(one.path.absolute()), "target": fixed}, {"source_series": one.series})
        for one in list_images([images])
    ]
