"""A log of lines that grows while a process works, and that no failure to write can stop."""

from __future__ import annotations

import logging
import os

from medtrace.storage.places import file_place


class LineLog(logging.FileHandler):
    """Append records to a text file, one line each with its time; the file is made with the first.

    Each line is written immediately and in full, so that a killed process leaves all lines so far. Where the file
    cannot be written, such as on a full disk, only that line is lost.

    Args:
        path: the file, in a folder that exists.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        super().__init__(file_place(path), mode="a", encoding="utf-8", delay=True)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Append a record."""
        try:
            super().emit(record)
        except OSError:
            return

    def handleError(self, record: logging.LogRecord) -> None:
        """Lose the line."""
