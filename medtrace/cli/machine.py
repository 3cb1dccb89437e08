"""The command about the installation itself: doctor."""

from __future__ import annotations

import typer

from medtrace.cli.app import command
from medtrace.cli.errors import USER_ERROR


@command("doctor")
def doctor() -> None:
    """Show devices, versions, threads and which versions of the hot operations run.

    Exits with 1 where a required package is not installed.
    """
    from medtrace.workflows.doctor import doctor as examine
    from medtrace.workflows.doctor import report

    sections = examine()
    typer.echo(report(sections))
    if any(finding.missing for finding in sections["packages"]):
        raise typer.Exit(USER_ERROR)
