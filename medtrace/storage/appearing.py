"""Files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medtrace.storage.files import sync_folder


@contextmanager
def appearing_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, of the same ending, that takes its name when all went well.

    Raises:
        FileNotFoundError: if the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder; make it first")
    temporary = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        _sync_file(temporary)
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def appearing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when all went well.

    Raises:
        FileExistsError: if there is a file, or a folder that is not empty.
        FileNotFoundError: if its parent does not exist.
    """
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"{folder.absolute().parent}: no such folder; make it first")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: expected a new or empty folder, received one in use; choose another")
    temporary = folder.absolute().with_name(f".{folder.absolute().name}-{uuid.uuid4().hex}")
    try:
        temporary.mkdir()
        yield temporary
        for path in temporary.rglob("*"):
            _sync_file(path) if path.is_file() else sync_folder(path)
        temporary.replace(folder)
        sync_folder(folder.absolute().parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync_file(path: Path) -> None:
    """Have a file's content on the disk before its name, so that a power cut leaves no empty file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
