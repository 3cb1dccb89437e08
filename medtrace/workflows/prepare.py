"""Turn before/after images into a dataset that training reads (TraceTrans, Datasets)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from medtrace.data.dataset import INDEX, VERSION
from medtrace.data.layouts import SPLITS, Pair, read_pairs, split_by_subject, split_of_list
from medtrace.data.preparation import FILE, Preparation
from medtrace.data.reading import is_picture
from medtrace.storage.cases import RECORD
from medtrace.storage.directories import atomic_directory
from medtrace.storage.files import atomic_write, link_or_copy, remove
from medtrace.storage.places import stands_alone
from medtrace.storage.reservations import Contents, locked, reserve_folder
from medtrace.storage.workspaces import PARTIAL, sweep
from medtrace.workflows.parallel import CasesFailedError, Outcome, Task, run_cases
from medtrace.workflows.prepare_case import Settings, checked_settings
from medtrace.workflows.prepare_learn import LEARNED, Learned, learn_case, preparation_of
from medtrace.workflows.prepare_maps import columns_in
from medtrace.workflows.prepare_write import WRITTEN, Item, write_case

PAPER_CROP = (192, 192, 128)
PAPER_FRACTIONS = (0.7, 0.0, 0.3)
ENDING = PARTIAL
"""Of the folder beside a dataset, or in it (`stands_alone`), that holds what a preparation has finished so far."""
_PRELOAD = ("medtrace.workflows.prepare_write",)


class PreparationSummary(NamedTuple):
    """What `prepare` made."""

    folder: Path
    counts: dict[str, int]
    """Items (slices or volumes) per split."""
    failures: list[str]
    """One line per case that was left out."""
    split: str = "random"
    """Where the split came from: "random", or "list" for the pair list's own."""


def prepare(
    source: str | os.PathLike,
    out: str | os.PathLike,
    *,
    contrasts: Sequence[str] = ("t1",),
    spatial_dims: int = 2,
    slices: int = 11,
    axis: str = "axial",
    crop: Sequence[int] | None = PAPER_CROP,
    pad: bool = False,
    spacing: Sequence[float] | None = None,
    resize: int | None = None,
    align: bool = True,
    standardize: bool = True,
    fractions: Sequence[float] | Mapping[str, float] | None = None,
    seed: int = 0,
    skip_failed: bool = False,
    overwrite: bool = False,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> PreparationSummary:
    """Prepare pairs of scans or pictures, split by subject: as the list says, else at random.

    Scans: the target is aligned rigidly to the source and resampled on its grid; both are reoriented to RAS, then
    standardised (Nyul's landmarks and the window of z come from training subjects only), cropped about the centre
    and, with `spatial_dims=2`, cut into central slices. Pictures (PNG, JPEG; the paper's faces) are resized
    and their range mapped to [0, 1]. What is stored lies in [0, 1], background at 0. Lesions and labels go
    along, each voxel from the nearest.

    The folder holds `dataset.json` (one list of items per split, and where the split came from), `preparation.json`
    (how a new source is to be treated), `images/` (NIfTI; a slice is a one-slice volume with its own affine), `rigid/`
    (ITK transforms from source to target points) and `landmarks/` (CSV, RAS mm, both dates in the source's frame).

    Pairs are gone over twice: first every one is read and aligned, and the training subjects' intensities are learned;
    then every one is written. A failing pair stops no other. What is finished is kept in `out` with the ending
    ".partial" until the dataset is complete, so that a second call, after a repair or a crash, does only what is
    missing: a finished pair counts as such if the bytes of its files, the settings and, for the second pass, all that
    was learned are the same, and its results are as they were written.

    Args:
        source: a pair list or a BraTS-Reg folder (see `medtrace.data.layouts`).
        out: the dataset's folder; it appears complete or not at all.
        contrasts: of the BraTS-Reg layout.
        spatial_dims: 2 for slices, 3 for volumes.
        slices: how many central slices of each volume.
        axis: "axial", "coronal" or "sagittal".
        crop: voxels right-left, front-back and up-down to which larger volumes are cut; None keeps all.
        pad: whether smaller volumes are padded to `crop`.
        spacing: voxel size in mm to which sources are resampled first, in the same order.
        resize: edge of square slices; None is 256 for pictures and no resizing for scans, 0 is no resizing.
        align: whether targets are aligned; without it they must lie on the source's grid. Pictures never are.
        standardize: whether Nyul's standardisation comes before the z-score.
        fractions: shares of subjects, see `split_by_subject`; None is 7:3 without validation. A list that has a
            split of its own takes none.
        seed: of the random split.
        skip_failed: make the dataset without the cases that fail. Otherwise all cases are tried, and if any failed
            there is no dataset.
        overwrite: replace an earlier dataset.
        workers: processes that share the cases; the dataset is the same for any number.
        scheduler: address of a Dask scheduler whose workers take the cases instead (see `parallel.run_cases`).
        progress: show a bar on stderr.

    Returns:
        Counts per split, the cases that were left out, and where the split came from.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if `out` is in use.
        OSError: if another preparation of `out` is at work.
        ValueError: if a setting or an image cannot be worked with; the message names it. If cases failed it is a
            `CasesFailedError`, whose `failures` has a line for each.
    """
    settings = checked_settings(spatial_dims, slices, axis, crop, pad, spacing, resize, align, standardize)
    pairs = read_pairs(Path(source) if scheduler is None else Path(source).absolute(), contrasts)
    split, origin = _split(pairs, fractions, seed)
    pictures = _all_pictures(pairs)
    with (
        _partial_folder(out, overwrite) as partial,
        Progress(console=Console(stderr=True), disable=not progress) as bar,
    ):
        threads = None if workers == 1 and scheduler is None else 1
        passes = _Passes(split, settings, pictures, columns_in(pairs), partial, threads)
        run = _Runner(workers, scheduler, bar)
        learned, failures = passes.learn(run)
        _stop_unless(skip_failed, failures, pairs, partial)
        preparation = passes.preparation(learned, failures)
        items, more = passes.write(run, preparation, learned)
        failures += more
        _stop_unless(skip_failed, failures, pairs, partial)
        if not items["training"] and split["training"]:
            raise ValueError(f"no training case could be prepared: {failures[0]}")
        with atomic_directory(out, _contents(overwrite), last=(INDEX,)) as dataset:
            _assemble(dataset, partial, items, preparation, origin)
    counts = {name: len(items[name]) for name in SPLITS}
    return PreparationSummary(Path(out), counts, failures, origin["from"])


def _stop_unless(skip: bool, failures: Sequence[str], pairs: Sequence[Pair], partial: Path) -> None:
    if failures and not skip:
        raise CasesFailedError(failures, len(pairs), f"finished cases are kept in {partial} for the next attempt")


@contextmanager
def _partial_folder(out: str | os.PathLike, overwrite: bool) -> Iterator[Path]:
    """The folder of what is finished so far, with the dataset's place reserved; without a finished case, or when the
    dataset is there, it goes."""
    with reserve_folder(out, _contents(overwrite), make_parents=True) as reserved:
        place = reserved.place
        partial = (place if stands_alone(place) else place.parent) / f"{place.name}{ENDING}"
        whole = False
        try:
            with locked(partial):
                _sweep(partial)
                yield partial
                whole = True
        finally:
            _sweep(partial)  # of workers that died
            if whole or not any(partial.glob(f"*/*/{RECORD}")):
                remove(partial)


def _sweep(partial: Path) -> None:
    for name in (LEARNED, WRITTEN):
        sweep(partial / name)


class _Runner:
    """Runs the cases of a pass where they are to run, with a bar."""

    def __init__(self, workers: int, scheduler: str | None, bar: Progress) -> None:
        self.workers = workers
        self.scheduler = scheduler
        self.bar = bar

    def __call__(self, function: Callable[..., Any], tasks: Sequence[Task], label: str) -> list[Outcome]:
        task = self.bar.add_task(label, total=len(tasks))
        failed = 0

        def finished(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.failure is not None
            self.bar.update(task, advance=1, description=f"{label} ({failed} failed)" if failed else label)

        return run_cases(
            function,
            tasks,
            workers=self.workers,
            scheduler=self.scheduler,
            finished=finished,
            preload=_PRELOAD,
        )


class _Passes:
    """The two passes over all pairs: what training teaches has to be known before anything can be written."""

    def __init__(
        self,
        split: Mapping[str, Sequence[Pair]],
        settings: Settings,
        pictures: bool,
        columns: Sequence[str],
        partial: Path,
        threads: int | None,
    ) -> None:
        self.split = split
        self.settings = settings
        self.pictures = pictures
        self.columns = columns
        self.partial = partial
        self.threads = threads

    def learn(self, run: _Runner) -> tuple[dict[str, Learned], list[str]]:
        """What was found out about each pair, and the lines of those that failed."""
        tasks = [
            Task(
                pair.name,
                (pair, self.settings, self.pictures, name == "training", self.columns, self.partial, self.threads),
            )
            for name in SPLITS
            for pair in self.split[name]
        ]
        outcomes = run(learn_case, tasks, "reading and learning")
        learned = {outcome.name: outcome.value for outcome in outcomes if outcome.failure is None}
        odd = _odd_channels(self.split["training"], learned)
        return {name: one for name, one in learned.items() if name not in odd}, [*_lines(outcomes), *odd.values()]

    def preparation(self, learned: Mapping[str, Learned], failures: Sequence[str]) -> Preparation:
        """What the training pairs teach."""
        training = self.split["training"]
        if not self.pictures and not any(pair.name in learned for pair in training):
            raise ValueError(f"no training case could be read: {[*failures, 'the training split is empty'][0]}")
        return preparation_of(training, learned, self.settings, self.pictures)

    def write(
        self, run: _Runner, preparation: Preparation, learned: Mapping[str, Learned]
    ) -> tuple[dict[str, list[Item]], list[str]]:
        """The items of every split, and the lines of pairs that failed."""
        known = {name: [pair for pair in self.split[name] if pair.name in learned] for name in SPLITS}
        tasks = [
            Task(
                pair.name,
                (
                    pair,
                    self.settings,
                    preparation,
                    self.columns,
                    learned[pair.name].key,
                    self.partial,
                    self.threads,
                ),
            )
            for name in SPLITS
            for pair in known[name]
        ]
        outcomes = run(write_case, tasks, "writing")
        written = {outcome.name: outcome.value for outcome in outcomes if outcome.failure is None}
        items = {name: [item for pair in known[name] for item in written.get(pair.name, ())] for name in SPLITS}
        return items, _lines(outcomes)


def _lines(outcomes: Iterable[Outcome]) -> list[str]:
    return [f"case {outcome.name}: {outcome.failure}" for outcome in outcomes if outcome.failure is not None]


def _odd_channels(pairs: Sequence[Pair], learned: Mapping[str, Learned]) -> dict[str, str]:
    """The training pairs whose images have other channels than the first one's, with a line for each."""
    found = [pair for pair in pairs if pair.name in learned]
    expected = learned[found[0].name].channels if found else 0
    return {
        pair.name: f"case {pair.name}: {pair.source}: expected {expected} channel(s) as the cases before, received"
        f" {learned[pair.name].channels}; prepare images of one kind"
        for pair in found
        if learned[pair.name].channels != expected
    }


def _assemble(
    dataset: Path,
    partial: Path,
    items: Mapping[str, Sequence[Item]],
    preparation: Preparation,
    origin: Mapping[str, Any],
) -> None:
    """Put the cases' files together to a dataset; the cases stay, for another attempt."""
    written = [item for name in SPLITS for item in items[name]]
    for case in dict.fromkeys(item.entry["volume"] for item in written):
        for file in (partial / WRITTEN / case).glob("*/*"):
            link_or_copy(file, dataset / file.parent.name / file.name)
    preparation = replace(preparation, **_common_grid(written, preparation.spatial_dims))
    preparation.save(dataset / FILE)
    index = {
        "version": VERSION,
        "spatial_dims": preparation.spatial_dims,
        "channels": preparation.channels,
        "split": origin,
        **{name: [item.entry for item in items[name]] for name in SPLITS},
    }
    atomic_write(dataset / INDEX, json.dumps(index, indent=1) + "\n")


def _split(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] | None, seed: int
) -> tuple[dict[str, list[Pair]], dict[str, Any]]:
    """The pairs of each split, and where the split came from."""
    published = split_of_list(pairs)
    if published is None:
        shares = PAPER_FRACTIONS if fractions is None else fractions
        dealt = split_by_subject(pairs, shares, seed)
        named = dict(shares) if isinstance(shares, Mapping) else dict(zip(SPLITS, shares))
        return dealt, {"from": "random", "fractions": named, "seed": seed}
    if fractions is not None:
        raise ValueError(
            f"fractions: expected none, because the list has a split of its own, received {fractions!r}; leave them"
            " out, or the list's column split"
        )
    return published, {"from": "list"}


def _all_pictures(pairs: Sequence[Pair]) -> bool:
    kinds = {is_picture(path) for pair in pairs for path in (pair.source, pair.target)}
    if len(kinds) > 1:
        first = is_picture(pairs[0].source)
        odd = next(pair for pair in pairs if (is_picture(pair.source), is_picture(pair.target)) != (first, first))
        raise ValueError(f"{odd.origin}: mixes scans and pictures (PNG, JPEG); prepare them as two datasets")
    return kinds == {True}


def _common_grid(items: Sequence[Item], spatial_dims: int) -> dict[str, Any]:
    """Shape and spacing that all written images share, None where they differ."""
    shapes = {item.shape[1 : 1 + spatial_dims] for item in items}
    spacings = np.array([item.spacing for item in items])
    middle = np.median(spacings, axis=0)
    alike = bool(np.all(np.abs(spacings / middle - 1) < 0.01))
    return {
        "spatial_shape": next(iter(shapes)) if len(shapes) == 1 else None,
        "spacing": tuple(round(float(value), 6) for value in middle) if alike else None,
    }


def _contents(overwrite: bool) -> Contents:
    """What a dataset may replace: nothing, or with `overwrite` another dataset."""

    def check(out: str | os.PathLike, names: Sequence[str]) -> None:
        foreign = sorted(set(names) - {INDEX, FILE, "images", "rigid", "landmarks"})
        if foreign or (names and INDEX not in names):
            raise FileExistsError(
                f"{out}: is in use by something else, such as {[*foreign, *names][0]!r}; choose another folder"
            )
        if names and not overwrite:
            raise FileExistsError(f"{out}: holds a dataset already; choose another folder, or overwrite it")

    return check
