"""Ends of commands: errors in one line on stderr, and the exit codes."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

from medtrace.cli.output import is_verbose, note, unfiltered
from medtrace.guard.notices import Caution, Notice

USER_ERROR = 1
"""Refused or broken."""
NOT_PARSED = 2
"""A command line that cannot be parsed."""
FAILED_VERDICT = 3
"""The results are written and marked, but a verdict is FAIL."""
INTERRUPTED = 130
"""The exit code after Ctrl-C; after SIGTERM or SIGHUP it is 143 or 129, which schedulers and containers take as obeying
the signal."""
PATIENCE = 10.0
"""Seconds for cleaning up, during which further signals are ignored."""
_LIBRARY = Path(__file__).resolve().parents[1]
_ENDING = ("SIGTERM", "SIGHUP")
_TALKATIVE = ("nibabel.global", "monai.bundle.workflows", "monai.data.nvimgcodec_pydicom_plugin")
"""Loggers whose warnings concern things that a user neither caused nor can change."""


class CommandLineError(ValueError):
    """An option's text that cannot be parsed."""


class Terminated(KeyboardInterrupt):
    """A signal asks the program to end: the same clean-up as after Ctrl-C follows."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def one_line_errors(reword: Callable[[str], str] = str) -> Iterator[None]:
    """Wrap the body of a command: report errors and warnings in one line each, then exit with the code.

    Args:
        reword: rewrites a message of the library in the command line's terms.
    """
    debug = os.environ.get("MEDTRACE_DEBUG", "") not in ("", "0")
    notes: list[str] = []
    try:
        with _ending_by_signals(), _quiet(not debug and not is_verbose(), notes):
            yield
    except Terminated as error:
        note(f"medtrace: ended by {signal.Signals(error.number).name}", error=True)
        raise typer.Exit(128 + error.number) from None
    except KeyboardInterrupt as error:
        note(f"medtrace: {str(error) or 'interrupted'}", error=True)
        raise typer.Exit(128 + getattr(error, "signal_number", signal.SIGINT)) from None
    except (typer.Exit, typer.Abort):
        _echo(notes, reword)
        raise
    except Exception as error:
        if debug:
            with unfiltered():
                traceback.print_exc()
        failures = getattr(error, "failures", ())  # of many cases; the error itself reports the first
        for line in failures if len(failures) > 1 else ():
            note(f"medtrace: failed {reword(line)}", error=True)
        note(f"medtrace: error: {reword(describe(error))}", error=True)
        raise typer.Exit(NOT_PARSED if isinstance(error, CommandLineError) else USER_ERROR) from None
    _echo(notes, reword)


def _echo(notes: list[str], reword: Callable[[str], str]) -> None:
    """Report the notices once the work is done: a refusal has its own line."""
    for text in dict.fromkeys(notes):
        note(f"medtrace: {reword(text)}")


@contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Make termination signals act like Ctrl-C; further signals soon after must not interrupt the clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _ENDING if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]

    last = -math.inf

    def end(number: int, _: object) -> None:
        nonlocal last
        if time.monotonic() - last > PATIENCE:
            last = time.monotonic()
            raise Terminated(number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)


def describe(error: BaseException) -> str:
    """One line for an error.

    MONAI wraps errors raised in a configured component; the cause is what the user can act on. Anything that is
    not about the user's input says how to learn more.
    """
    while not _for_the_user(error) and error.__cause__ is not None:
        error = error.__cause__
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if _for_the_user(error) and text:
        return text
    first = str(error).strip().splitlines()[0] if text else ""
    return f"{type(error).__name__}: {first}; `medtrace --debug` shows where"


def _for_the_user(error: BaseException) -> bool:
    """Whether an error is about the user's input, or names the package to install."""
    lacking = isinstance(error, ImportError) and "pip install" in str(error)
    return lacking or isinstance(error, (ValueError, TypeError, OSError))


@contextmanager
def _quiet(active: bool, notes: list[str]) -> Iterator[None]:
    """Keep the libraries' warnings from burying the lines that matter, and collect medtrace's own notices."""
    if not active:
        yield
        return

    def collect(message: Warning | str, category: type[Warning], file: str = "", *_: object, **__: object) -> None:
        own = isinstance(message, Notice) or Path(file).is_relative_to(_LIBRARY)
        if own and not issubclass(category, DeprecationWarning):
            kind = "note" if isinstance(message, Notice) and not isinstance(message, Caution) else "warning"
            notes.append(f"{kind}: {' '.join(str(message).split())}")

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    engines = logging.getLogger("ignite")  # its engines repeat an error that is about to be reported
    level = engines.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("always", RuntimeWarning)
        warnings.showwarning = collect  # type: ignore[assignment]
        for logger in loggers:
            logger.addFilter(_is_error)
        engines.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            engines.setLevel(level)
            for logger in loggers:
                logger.removeFilter(_is_error)


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
