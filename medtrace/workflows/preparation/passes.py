"""The two passes of a preparation over all pairs: what is learned from the training pairs must be known before anything
is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from medtrace.data.duplicates import same_voxels
from medtrace.data.lists.layouts import SPLITS, Pair
from medtrace.data.natural_images.tiff import Depth
from medtrace.data.preparation.case import PreparationSettings
from medtrace.data.preparation.learning import Learned, channels_of, learn_case, preparation_of
from medtrace.data.preparation.natural_images import value_range_of
from medtrace.data.preparation.rules import Preparation
from medtrace.guard.progress import Steps
from medtrace.trace.contrast import Intensity
from medtrace.workflows.many.attempts import Outcome, Task
from medtrace.workflows.many.parallel import run_cases
from medtrace.workflows.preparation.writing import Item, write_case

_PRELOAD = ("medtrace.workflows.preparation.writing",)


class Runner:
    """Runs the cases of a pass on its workers, with a progress bar."""

    def __init__(self, workers: int, scheduler: str | None, bar: Progress) -> None:
        self.workers = workers
        self.scheduler = scheduler
        self.bar = bar

    def __call__(self, function: Callable[..., Any], tasks: Sequence[Task], label: str) -> list[Outcome]:
        task = self.bar.add_task(label, total=len(tasks))
        steps, failed = Steps(label, len(tasks)), 0

        def finished(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.failure is not None
            steps.done()
            self.bar.update(task, advance=1, description=f"{label} ({failed} failed)" if failed else label)

        return run_cases(
            function,
            tasks,
            workers=self.workers,
            scheduler=self.scheduler,
            finished=finished,
            preload=_PRELOAD,
        )


@dataclass(frozen=True)
class Passes:
    """The passes over the pairs of a data set."""

    split: Mapping[str, Sequence[Pair]]
    settings: PreparationSettings
    natural_images: bool
    columns: Sequence[str]
    """Of lesions and labels that at least one pair has."""
    partial: Path
    threads: int | None
    value_range: Sequence[float] | None = None
    """Of natural images, as asked for."""
    depth: Depth | None = None
    """Of natural images."""

    def learn(self, run: Runner) -> tuple[dict[str, Learned], list[str]]:
        """The findings about each pair, and the lines of those that failed."""
        tasks = [
            Task(
                pair.name,
                (
                    pair,
                    self.settings,
                    self.natural_images,
                    name == "training",
                    self.columns,
                    self.partial,
                    self.threads,
                ),
            )
            for name in SPLITS
            for pair in self.split[name]
        ]
        outcomes = run(learn_case, tasks, "reading and learning")
        learned = {outcome.name: outcome.value for outcome in outcomes if outcome.failure is None}
        pairs = [pair for name in SPLITS for pair in self.split[name]]
        doubled = same_voxels(pairs, {name: one.digests for name, one in learned.items()})
        odd = _odd_channels(self.split["training"], learned) | {
            name: f"case {name}: {line}" for name, line in doubled.items()
        }
        return {name: one for name, one in learned.items() if name not in odd}, [*_lines(outcomes), *odd.values()]

    def preparation(self, learned: Mapping[str, Learned], failures: Sequence[str]) -> Preparation:
        """The values learned from the training pairs."""
        training = self.split["training"]
        if not self.natural_images and not any(pair.name in learned for pair in training):
            raise ValueError(f"no training case could be read: {[*failures, 'the training split is empty'][0]}")
        return (
            self._of_natural_images(learned)
            if self.natural_images
            else preparation_of(training, learned, self.settings)
        )

    def _of_natural_images(self, learned: Mapping[str, Learned]) -> Preparation:
        training = self.split["training"]
        result = [learned[pair.name] for pair in training if pair.name in learned]
        low, high, origin = value_range_of(self.depth, self.value_range, result, [pair.first.path for pair in training])
        return Preparation(
            spatial_dims=self.settings.spatial_dims,
            intensity=Intensity.RANGE,
            value_range=(low, high),
            range_origin=origin,
            depth=None if self.depth is None else self.depth.code,
            page=self.settings.page,
            natural_image=True,
            axis=self.settings.axis,
            channels=result[0].channels if result else None,
            **channels_of(training),
        )

    def write(
        self, run: Runner, preparation: Preparation, learned: Mapping[str, Learned]
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
    """The training pairs whose images differ from the first one's in channels, with a line for each."""
    result = [pair for pair in pairs if pair.name in learned]
    expected = learned[result[0].name].channels if result else 0
    return {
        pair.name: f"case {pair.name}: {pair.first.path}: expected {expected} channel(s) as earlier cases, received"
        f" {learned[pair.name].channels}; prepare images of one kind"
        for pair in result
        if learned[pair.name].channels != expected
    }
