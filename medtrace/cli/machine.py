"""The command about the installation itself: doctor."""

from __future__ import annotations

import typer

from medtrace.cli.app import command


@command("doctor")
def doctor() -> None:
    """Show devices, versions, threads and which versions of the hot operations run."""
    from medtrace.workflows.doctor import doctor as examine
    from medtrace.workflows.doctor import report

    typer.echo(report(examine()))
