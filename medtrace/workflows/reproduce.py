"""Rerun a paper on a user's copy of its data: preparation, trainings, tables next to the printed numbers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from medtrace.evaluation.papers.places import find_data
from medtrace.methods.recipes import Recipe
from medtrace.methods.registry import recipe_names, recipe_of
from medtrace.storage.reservations import locked, reserving
from medtrace.workflows.reproducing.costs import plan_lines
from medtrace.workflows.reproducing.datasets import described, prepared_data
from medtrace.workflows.reproducing.pages import write_page
from medtrace.workflows.reproducing.rows import rows_of, run_row


def papers() -> list[str]:
    """The reproducible papers, their data and their tables, as lines.

    Example:
        >>> [line for line in papers() if line.startswith("reggan")]
        ['reggan: L. Kong, C. Lian, D. Huang, Z. Li, Y. Hu, Q. Zhou: Breaking the Dilemma of Medical Image-to-image Translation. NeurIPS 2021']
    """  # noqa: E501
    lines: list[str] = []
    for name in recipe_names():
        recipe = recipe_of(name)
        lines.append(f"{name}: {recipe.citation}")
        for data in recipe.data:
            lines += [f"  data {data.name}: {data.title}; {data.access}", f"    DIR[/{data.name}]: {data.layout}"]
        lines += [f"  table {table.number}: {table.title}; {_rows(recipe, table.name)}" for table in recipe.tables]
        lines += [f"  not reproduced: {line}" for line in recipe.left_out]
    return lines


def _rows(recipe: Recipe, name: str) -> str:
    table = next(table for table in recipe.tables if table.name == name)
    missing = sum(bool(row.missing) for row in table.rows)
    return f"{len(table.rows)} rows" + (f", {missing} of them not run" if missing else "")


@reserving(lambda out: locked(out))
def reproduce(
    name: str,
    data: str | os.PathLike,
    out: str | os.PathLike = "reproduction",
    *,
    table: str | None = None,
    smoke: bool = False,
    plan: bool = False,
    device: str | None = None,
    progress: bool = True,
    say: Callable[[str], None] | None = None,
) -> Path | None:
    """Prepare a paper's data, train the rows of its tables with the preset `paper`, and measure them as the paper does.

    The plan is told first. A finished row is kept in `out/rows`, a training that did not finish goes on where it was: a
    second call does what is missing.

    Args:
        name: name of a method whose folder has a recipe (see `papers`).
        data: folder of the paper's data, or of several of its data sets, each in a folder with its name.
        out: receives `data/`, `runs/`, `rows/`, `tables/` (CSV) and the page `reproduction.md`.
        table: number of the only table to make.
        smoke: try all steps in minutes: few small images, tiny networks, short trainings; all into `out/smoke`.
        plan: report the plan and train nothing.
        device: by default CUDA if available.
        progress: show bars.
        say: receives each line of the plan; by default it goes to stderr.

    Returns:
        The page; None with `plan`.

    Raises:
        FileNotFoundError: if `data` does not have the paper's data; the message describes the expected layout.
        ValueError: if there is no such paper or table, or the data are too few.
    """
    recipe = recipe_of(name)
    wanted = recipe.chosen(table)
    places = find_data(recipe, Path(data))
    needs = {one.data for one in wanted}
    lacking = [one for one in recipe.data if one.name in needs and one.name not in places]
    if len(lacking) == len(needs):
        needed = "; or ".join(f"{one.title}: {one.layout}" for one in lacking)
        raise FileNotFoundError(f"data: table {table} needs {needed}; found only {', '.join(places)} in {data}")
    folder = Path(out) / "smoke" if smoke else Path(out)
    speak = say or Console(stderr=True, quiet=not progress).print
    there = [one for one in recipe.data if one.name in needs and one.name in places]
    datasets = {
        one.name: prepared_data(one, places[one.name], folder / "data", smoke=smoke, progress=progress) for one in there
    }
    told = [described(one, places[one.name], datasets[one.name]) for one in there]
    rows = rows_of(wanted, datasets, folder, smoke)
    for line in (*told, *plan_lines(rows, device, measure=not smoke)):
        speak(line)
    absent = [f"{one.title}: not in the folder ({one.access})." for one in lacking]
    for line in (*recipe.left_out, *absent):
        speak(f"not reproduced: {line}")
    if plan:
        return None
    page = write_page(recipe, rows, folder, told=told, lacking=absent, smoke=smoke)
    for row in rows:
        if not row.done:
            run_row(row, device, progress)
            write_page(recipe, rows, folder, told=told, lacking=absent, smoke=smoke)
    return page
