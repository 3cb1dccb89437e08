"""Commands that list runs and describe the installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace.cli.app import command
from medtrace.cli.errors import FAILED_VERDICT, USER_ERROR
from medtrace.cli.output import ask, give, note, tell


@command("runs")
def runs(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="Run folders, or folders of them.  [default: runs]")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Show the settings in which the runs differ, and their scores.")
    ] = False,
    delete: Annotated[bool, typer.Option("--delete", help="Remove the runs, after asking.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking.")] = False,
) -> None:
    """List trainings, compare them, or remove them."""
    from medtrace.workflows.runs import find_runs  # isort: split
    from medtrace.workflows.runs import amount, compare_runs, delete_runs, run_state, run_table

    if compare and delete:
        raise ValueError("--delete: expected without --compare, received both; compare first")
    asked = places or [Path("runs")]
    result = find_runs(asked)
    if not result:
        raise ValueError(f"{', '.join(map(str, asked))}: holds no run; name the folder of a training")
    if compare:
        comparison = compare_runs(result)
        give(comparison.as_dict())
        tell(comparison)
        return
    states = [run_state(run) for run in result]
    give({"runs": [_facts(state) for state in states]})
    tell(run_table(states))
    for state in states:
        if state.problem:
            note(f"medtrace: note: {state.problem}")
    if not delete:
        return
    what = f"{len(result)} run{'s' if len(result) > 1 else ''} ({amount(sum(state.size for state in states))})"
    if not yes and not ask(f"Remove {what}?"):
        tell("nothing removed")
        return
    delete_runs(result)
    tell(f"{what} removed")


def _facts(state: Any) -> dict[str, Any]:
    """A run's state, for scripts."""
    record = state.record
    return {
        "path": state.path,
        "method": record and record.method,
        "finished": state.finished,
        "in_use": state.in_use,
        "epochs": state.epochs,
        "loss": state.loss,
        "bytes": state.size,
        "problem": state.problem,
    }


@command("doctor")
def doctor(
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile the hot operations now and keep the result, so that no later command has to: two minutes of"
            " one core, once per installation.",
        ),
    ] = False,
) -> None:
    """Show devices, versions, threads and which versions of the hot operations run.

    Exits with 1 where a required package is not installed.
    """
    from medtrace.workflows.doctor import doctor as examine
    from medtrace.workflows.doctor import report

    sections = examine()
    give({name: [vars(one) for one in section] for name, section in sections.items()})
    tell(report(sections))
    if any(finding.missing for finding in sections["packages"]):
        raise typer.Exit(USER_ERROR)
    if compile_:
        from medtrace.workflows.compiling import compile_operations

        note("medtrace: compiling the hot operations; two minutes, if that was not done before")
        seconds = compile_operations()
        give({"compile_seconds": seconds})
        tell(f"hot operations compiled in {seconds:.0f} s")


@command("demo", new_folder=True)
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for scans, traces and the page.")] = Path(
        "medtrace_demo"
    ),
    show: Annotated[bool, typer.Option(help="Open the page if there is a display.")] = True,
) -> None:
    """Translate and register two simulated scans with weights that ship, and show the page; needs no data.

    The scans' true fields are known, so the errors are reported. Exits with 3 on a FAIL.
    """
    from medtrace.workflows.demo import demo as call
    from medtrace.workflows.demo import show as open_page

    result = call(out, say=lambda line: note(f"medtrace: {line}"))
    give({"page": result.page, "numbers": result.numbers, "verdict": result.verdict})
    for line in result.lines:
        tell(line)
    opened = show and open_page(result.page)
    tell(f"page written to {result.page}" + (", and opened" if opened else "; open it in a browser"))
    if result.verdict == "FAIL":
        raise typer.Exit(FAILED_VERDICT)
