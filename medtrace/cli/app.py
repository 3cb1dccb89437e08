"""The application to which commands are added."""

from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from medtrace import __version__
from medtrace.cli.errors import NOT_PARSED, one_line_errors
from medtrace.cli.help import HelpedCommand, help_width, write_groups
from medtrace.cli.language import in_options, words_of
from medtrace.cli.output import COMMON, output_of, told_of_progress
from medtrace.cli.paths import as_given
from medtrace.storage.reservations import NEW_OR_EMPTY, replacing

_UsageError: type[Any] = typer.BadParameter.__bases__[0]
"""The parse error of the parser that typer vendors."""


class OneLineGroup(TyperGroup):
    """Commands in groups; a parse error is reported in one line, like the commands' own errors."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Under headings, with whole descriptions."""
        write_groups(self.commands, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Where to go on."""
        formatter.write("\n`medtrace COMMAND --help` shows options and examples.\n")

    def make_context(self, info_name: Any, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Like the parser's, with help as wide as the terminal."""
        return super().make_context(info_name, args, parent, **{"max_content_width": help_width(), **extra})

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Like the parser's, with errors in one line; every command's options may also come before its name."""
        with _in_one_line():
            return super().parse_args(ctx, _command_first(args, self.commands))

    def invoke(self, ctx: Any) -> Any:
        """Likewise."""
        with _in_one_line():
            return super().invoke(ctx)


def _command_first(arguments: Sequence[str], commands: Mapping[str, Any]) -> list[str]:
    """`--quiet bench` as `bench --quiet`, for the options that every command has."""
    options = [option for option in next(iter(commands.values())).params if option.name in COMMON]
    flags = {name: option.is_flag for option in options for name in option.opts}
    rest = list(arguments)
    before: list[str] = []
    while rest and (name := rest[0].partition("=")[0]) in flags:
        words = 1 if flags[name] or "=" in rest[0] else 2
        before += rest[:words]
        del rest[:words]
    return [rest[0], *before, *rest[1:]] if before and rest and rest[0] in commands else list(arguments)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if "NoArgs" in type(error).__name__:  # shows the help
            raise
        where = getattr(error.ctx, "command_path", "medtrace")
        typer.echo(f"medtrace: error: {' '.join(error.format_message().split())} (see `{where} --help`)", err=True)
        raise typer.Exit(NOT_PARSED) from None


app = typer.Typer(
    name="medtrace",
    cls=OneLineGroup,
    help="Traceable medical image translation: what an image becomes, and where every voxel came from.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
"""The command line as a typer application."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Torch is loaded after this. Unless `OMP_WAIT_POLICY` or `GOMP_SPINCOUNT` says otherwise, its waiting threads soon
    sleep, since long spinning wastes time on a shared machine.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    app(args=None if arguments is None else list(arguments), prog_name="medtrace")


def command(name: str, *, new_folder: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors end in one line on stderr and exit code 1.

    Args:
        name: name of the command.
        new_folder: whether it writes into a folder that must be new. `--overwrite` then lets it replace an earlier
            result.
    """
    more = {**({"replace": _REPLACE} if new_folder else {}), **COMMON}

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            common = {key: kwargs.pop(key, default) for key, (_, default) in COMMON.items()}
            replace = new_folder and kwargs.pop("replace", False)
            with (
                output_of(name, **common),
                one_line_errors(lambda text: in_options(text, words_of(name, function))),
                told_of_progress(),
                _replacing(replace) if new_folder else nullcontext(),
            ):
                function(*args, **{key: as_given(key, value) for key, value in kwargs.items()})

        guarded.__signature__ = _with_more(function, more)  # type: ignore[attr-defined]
        guarded.__annotations__ = {**guarded.__annotations__, **{key: kind for key, (kind, _) in more.items()}}
        return app.command(name, cls=HelpedCommand)(guarded)

    return register


_REPLACE = (
    Annotated[bool, typer.Option("--overwrite", help="Replace an earlier result of the same files in --out.")],
    False,
)


@contextmanager
def _replacing(wanted: bool) -> Iterator[None]:
    """Let an earlier result be replaced, or explain how to allow it."""
    with replacing(wanted):
        try:
            yield
        except FileExistsError as error:
            if not wanted and str(error).endswith(NEW_OR_EMPTY):
                raise FileExistsError(f"{error}, or pass --overwrite") from error
            raise


def _with_more(function: Callable[..., None], more: Mapping[str, tuple[Any, Any]]) -> inspect.Signature:
    """A command's parameters, with additional ones."""
    hints = typing.get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters.values()
    return inspect.Signature(
        [
            *(one.replace(annotation=hints[one.name]) for one in own),
            *(
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
                for key, (kind, default) in more.items()
            ),
        ]
    )


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"medtrace {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="MEDTRACE_DEBUG", help="Show the traceback of an error.")
    ] = False,
    allow_foreign_code: Annotated[
        bool,
        typer.Option(
            "--allow-foreign-code",
            help="Run classes and expressions that come with a run folder or bundle; they are printed first.",
        ),
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    if debug:
        os.environ["MEDTRACE_DEBUG"] = "1"
    if allow_foreign_code:
        os.environ["MEDTRACE_ALLOW_FOREIGN_CODE"] = "1"
