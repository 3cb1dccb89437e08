"""Output of a command: result lines, notes, a log file, or one JSON object for scripts."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from medtrace import __version__
from medtrace.cli.paths import at_home

_LOGGER = "medtrace.cli"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_BAR = "%|"
"""The state of a tqdm bar."""

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only: no bars, no notes.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show what the libraries report.")]
LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="Also append every line, with its time, to this file.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the results, for scripts.")]
COMMON: Mapping[str, tuple[Any, Any]] = {
    "quiet": (Quiet, False),
    "verbose": (Verbose, False),
    "log_file": (LogFile, None),
    "json_": (Json, False),
}
"""Options that every command has: name → (type, default)."""


@dataclass
class Output:
    """Where the lines of a command go.

    Attributes:
        command: its name.
        quiet: leave out bars and notes.
        verbose: show what libraries report.
        log_file: gets every line as well.
        json: print one object at the end, and no result lines.
    """

    command: str = ""
    quiet: bool = False
    verbose: bool = False
    log_file: Path | None = None
    json: bool = False
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


_current = Output()


def tell(line: Any = "") -> None:
    """Print a line of the result."""
    _current.lines.append(str(line))
    _log(logging.INFO, str(line))
    if not _current.json:
        typer.echo(line)


def note(line: str, *, error: bool = False) -> None:
    """Print a line apart from the result, on stderr; `--quiet` keeps only error lines."""
    if error:
        _current.error = line.removeprefix("medtrace: ").removeprefix("error: ")
    else:
        _current.notes.append(line.removeprefix("medtrace: "))
    if error or not _current.quiet:
        typer.echo(line, err=True)


def ask(question: str) -> bool:
    """Ask for yes or no, on stderr only, even with `--quiet`.

    Raises:
        typer.Abort: if there is no answer.
    """
    with unfiltered(), redirect_stdout(sys.stderr):
        return typer.confirm(question, err=True)


@contextmanager
def unfiltered() -> Iterator[None]:
    """Send every line to stderr for now, even with `--quiet`."""
    stream = sys.stderr
    if not isinstance(stream, _Lines):
        yield
        return
    quiet, stream.quiet = stream.quiet, False
    try:
        yield
    finally:
        stream.quiet = quiet


def give(values: Mapping[str, Any]) -> None:
    """Add an entry to the object that `--json` prints."""
    _current.result.update(values)


def bars() -> bool:
    """Whether bars are shown: on a terminal, and not with `--quiet`. Files and pipes get none."""
    return sys.stderr.isatty() and not _current.quiet


@contextmanager
def told_of_progress() -> Iterator[None]:
    """Show on stderr what long work is about to do, and without bars how far it is; `--quiet` shows neither."""
    if is_quiet():
        yield
        return
    from medtrace.guard.progress import listening  # which loads torch

    with listening(lambda line: typer.echo(line, err=True), steps=not bars()):
        yield


def is_quiet() -> bool:
    """Whether only results and errors are shown."""
    return _current.quiet


def is_verbose() -> bool:
    """Whether what libraries report is shown."""
    return _current.verbose


def _log(level: int, line: str) -> None:
    if _current.log_file is not None:
        logging.getLogger(_LOGGER).log(level, line)


@contextmanager
def output_of(command: str, quiet: bool, verbose: bool, log_file: Path | None, json_: bool) -> Iterator[None]:
    """Send a command's lines where its options say; the JSON object is printed however the command ends.

    Raises:
        typer.Exit: with 1, if the log file cannot be created.
    """
    global _current
    earlier, _current = _current, Output(command, quiet, verbose, log_file, json_)
    try:
        with _json_at_the_end(json_), _logging_to(log_file, quiet, verbose), _lines_of_stderr(quiet, bool(log_file)):
            _log(logging.INFO, f"medtrace {__version__}: {' '.join(sys.argv[1:]) or command}")
            yield
    finally:
        _current = earlier


@contextmanager
def _json_at_the_end(wanted: bool) -> Iterator[None]:
    started, code = time.monotonic(), 0
    try:
        yield
    except BaseException as error:
        code = _code_of(error)
        if not isinstance(error, typer.Exit) and _current.error is None:
            _current.error = "aborted" if isinstance(error, typer.Abort) else f"{type(error).__name__}: {error}"
        raise
    finally:
        if wanted:
            typer.echo(_as_json(code, time.monotonic() - started))


def _code_of(error: BaseException) -> int:
    """The program's exit code after an error."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return error.code or 0
    return 1


def _as_json(code: int, seconds: float) -> str:
    told = {
        "medtrace": __version__,
        "command": _current.command,
        "exit_code": code,
        "seconds": round(seconds, 3),
        "error": _current.error,
        "notes": _current.notes,
        "lines": _current.lines,
        "result": _current.result,
    }
    return json.dumps(_finite(told), default=str, allow_nan=False)  # ASCII: any pipe takes it


def _finite(value: Any) -> Any:
    """Numbers that are not finite as null: JSON has none."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return value


@contextmanager
def _logging_to(path: Path | None, quiet: bool, verbose: bool) -> Iterator[None]:
    """Write the lines of commands and loggers to a file and, with `verbose`, those of loggers to stderr.

    Even with a file, library warnings stay on stderr, where Python shows them if nothing handles them.
    """
    if path is None and not verbose:
        yield
        return
    root = logging.getLogger()
    handlers: list[logging.Handler] = []
    if path is not None:
        handlers.append(_log_at(path))
    if verbose:
        shown = logging.StreamHandler(sys.stderr)
        shown.addFilter(lambda record: record.name != _LOGGER)
        shown.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        handlers.append(shown)
    elif not quiet and not root.handlers:
        shown = logging.StreamHandler(sys.stderr)
        shown.setLevel(logging.WARNING)
        shown.addFilter(_is_unhandled)
        handlers.append(shown)
    level = root.level
    root.setLevel(logging.INFO)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _log_at(path: Path) -> logging.Handler:
    from medtrace.storage.logs import LineLog

    try:
        path = at_home(path)
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent}: no such folder; create it, or name another")
        return LineLog(path)
    except (OSError, ValueError) as error:
        note(f"medtrace: error: --log-file: {error}", error=True)
        raise typer.Exit(1) from None


def _is_unhandled(record: logging.LogRecord) -> bool:
    """Whether a record is shown by no logger below the root."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None and logger.parent is not None:
        if logger.handlers:
            return False
        logger = logger.parent
    return True


class _Lines(io.TextIOBase):
    """Standard error whose complete lines also go to a log file, without the bars; when quiet, it passes on errors
    only."""

    def __init__(self, stream: Any, quiet: bool) -> None:
        self.stream = stream
        self.quiet = quiet
        self.part = ""

    def write(self, text: str) -> int:
        """Pass text on, and log the lines that it completes."""
        *whole, part = (self.part + text).split("\n")
        self.part = _redrawn(part) + "\r" * part.endswith("\r")
        for line in whole:
            shown = _redrawn(_ESCAPES.sub("", line)).rstrip()
            if shown and _BAR not in shown:
                _log(logging.INFO, shown)
            if self.quiet and shown.startswith("medtrace: "):
                self.stream.write(shown + "\n")
        if not self.quiet:
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Likewise of what waits."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether stderr is an interactive terminal; false when quiet."""
        return not self.quiet and self.stream.isatty()


def _redrawn(line: str) -> str:
    """The text left on a terminal of a line that is rewritten repeatedly; a carriage return at its end clears
    nothing."""
    return line.removesuffix("\r").rpartition("\r")[2]


@contextmanager
def _lines_of_stderr(quiet: bool, logged: bool) -> Iterator[None]:
    if not quiet and not logged:
        yield
        return
    with redirect_stderr(_Lines(sys.stderr, quiet)):
        yield
