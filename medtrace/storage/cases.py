"""The finished result of a case on disk: recognized by what went in and what came out, not by being there.

A case's folder appears complete or not at all. Its `case.json` holds a key, the digest of everything that the result
depends on (the bytes of the inputs, the settings, the version), and size and digest of every file of the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medtrace import __version__
from medtrace.storage.files import atomic_write, make_directory
from medtrace.storage.workspaces import sync, sync_tree, workspace

RECORD = "case.json"
VERSION = 1
HEADERS = (".mhd", ".nhdr", ".hdr", ".img", ".hdr.gz", ".img.gz")
"""Image files whose voxels may lie in files of the same stem beside them."""

_one_at_a_time = threading.Lock()


def content_digest(path: str | os.PathLike) -> str:
    """Digest of a file's bytes, or of the names and bytes of several files: a folder's, or those of a header's stem.

    Raises:
        FileNotFoundError: if there is nothing at the path.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    files = _files_of(path)
    if files == [path]:
        return _file_digest(path)
    total = hashlib.blake2b(digest_size=20)
    for file in files:
        total.update(f"{file.name}\0{_file_digest(file)}\0".encode())
    return total.hexdigest()


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=20)).hexdigest()


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    if path.name.lower().endswith(HEADERS):
        return sorted(file for file in path.parent.glob("*") if file.name.split(".")[0] == path.name.split(".")[0])
    return [path]


def case_key(inputs: Mapping[str, str | os.PathLike | None], **settings: Any) -> str:
    """Digest of what a case's result follows from.

    Args:
        inputs: role → file or folder, whose content counts and not its name; None for one that is absent.
        settings: everything else, as JSON holds it.
    """
    digests = {role: None if path is None else content_digest(path) for role, path in inputs.items()}
    what = {"medtrace": __version__, "version": VERSION, "inputs": digests, "settings": settings}
    text = json.dumps(what, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the whole result of this key, every file as it was written."""
    record = _record(folder)
    if record is None or record.get("key") != key:
        return False
    files = record.get("files")
    return isinstance(files, dict) and all(_is_as_written(folder / name, seen) for name, seen in files.items())


def key_of(folder: Path) -> str | None:
    """The key of the result in `folder`, whether whole or not; None if there is none."""
    record = _record(folder)
    return None if record is None else record.get("key")


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError):
        return None
    return record if isinstance(record, dict) and record.get("version") == VERSION else None


def _is_as_written(file: Path, seen: Mapping[str, Any]) -> bool:
    return file.is_file() and file.stat().st_size == seen["size"] and _file_digest(file) == seen["digest"]


@contextmanager
def atomic_case(folder: Path, key: str) -> Iterator[Path]:
    """A temporary folder that becomes `folder`, with its record, when all went well.

    An earlier result there is replaced. If another process has finished the same case meanwhile, its result stays.
    """
    make_directory(folder.parent)
    with workspace(folder.parent, None, folder) as space:
        temporary = space.new(folder.name)
        temporary.mkdir()
        yield temporary
        _write_record(temporary, key)
        sync_tree(temporary)
        _take_place(temporary, folder, space.new(f"{folder.name}.old"), key)
        sync(folder.parent)


def _write_record(folder: Path, key: str) -> None:
    files = {
        str(file.relative_to(folder)): {"size": file.stat().st_size, "digest": _file_digest(file)}
        for file in _files_of(folder)
    }
    record = {"version": VERSION, "key": key, "files": files}
    atomic_write(folder / RECORD, json.dumps(record, indent=1) + "\n")


def _take_place(temporary: Path, folder: Path, retired: Path, key: str) -> None:
    if folder.exists():
        folder.rename(retired)
    try:
        temporary.rename(folder)
    except OSError:
        if not is_finished(folder, key):
            if retired.exists() and not folder.exists():
                retired.rename(folder)
            raise


@contextmanager
def compute_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads of the CPU, and one case of this process at a time; None changes nothing."""
    if count is None:
        yield
        return
    import torch

    with _one_at_a_time:
        before = torch.get_num_threads()
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)
