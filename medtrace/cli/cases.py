"""The result lines of commands that run many cases."""

from __future__ import annotations

from typing import Any

import typer

from medtrace.cli.errors import FAILED_VERDICT, USER_ERROR
from medtrace.cli.output import give, tell


def tell_cases(result: Any) -> None:
    """A line for each case, the worst first, and where the overview is; exits with the worst case's code.

    Args:
        result: with `cases` and `overview`, as `medtrace.workflows.many.pairs.FinishedPairs`.
    """
    give({"cases": [case._asdict() for case in result.cases], "overview": result.overview})
    for case in result.cases:
        tell(f"{case.verdict:<7}{case.name}: {case.reason}")
    tell(f"overview written to {result.overview}")
    if any(case.verdict == "error" for case in result.cases):
        raise typer.Exit(USER_ERROR)
    if any(case.verdict == "FAIL" for case in result.cases):
        raise typer.Exit(FAILED_VERDICT)


def refuse_with_several(options: dict[str, Any]) -> None:
    """Refuse options that name a file of one pair.

    Raises:
        ValueError: if one is given.
    """
    for name, value in options.items():
        if value is not None:
            option = name.replace("_", "-").replace("source-mask", "moving-mask")
            raise ValueError(
                f"--{option}: expected with one pair, received several; name files in a pair list, in the columns"
                " target_lesion, source_lesion, source_series and target_series"
            )
