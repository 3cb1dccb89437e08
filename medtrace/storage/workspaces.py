"""Hidden folders in which outputs are made, locked by the process that makes them and cleared away when it has died.

A workspace is beside its output, or in it where the output is a folder that already exists. `new/` holds what is being
made. While its members replace others, `delivery.json` lists them, so that a process that is killed midway leaves
either all of the old or all of the new to the next process.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from medtrace.storage.locks import HOLDER, Lock, acquire, holder
from medtrace.storage.places import first_reason

PREFIX = ".medtrace-"
_WORKSPACE = re.compile(re.escape(PREFIX) + r"([0-9a-f]{16}|[0-9a-f]{32})(-\d+)?")
PARTIAL = ".partial"
"""Ending of a folder beside an output, or in it, that keeps finished cases for another attempt."""
LOCK = ".lock"
"""In a folder that several files go into one by one, while a process is at work there."""
_LOCK, _NEW, _OLD, _DELIVERY = "lock", "new", "old", "delivery.json"
_AGE = 60.0
"""Seconds after which a workspace without a lock was not just made."""
_TRIES = 20


class Workspace(NamedTuple):
    """A hidden folder of this process."""

    folder: Path
    lock: Lock

    def new(self, name: str) -> Path:
        """The path at which something with this name is made."""
        (self.folder / _NEW).mkdir(exist_ok=True)
        return self.folder / _NEW / name


@contextmanager
def workspace(parent: Path, key: str | None, given: str | os.PathLike) -> Iterator[Workspace]:
    """A workspace in a folder, removed at the end.

    Args:
        parent: the folder, which must exist.
        key: what it is for: no other process has one of the same key there meanwhile. None lets several have one each.
        given: the output as it was named, for messages.

    Raises:
        OSError: if another process has it, whose number and host the message states, or `parent` cannot be written.
    """
    opened = _open(parent, key, given)
    try:
        yield opened
    finally:
        _remove(opened)


def visible(folder: Path) -> list[str]:
    """Names in a folder, in order, without workspaces and its own `PARTIAL`; none where there is no folder."""
    if not folder.is_dir():
        return []
    partial = f"{folder.name}{PARTIAL}"
    return sorted(name for name in os.listdir(folder) if not _WORKSPACE.fullmatch(name) and name != partial)


def sweep(folder: Path) -> None:
    """Clear away what processes left in a folder that died; what a living one makes stays."""
    try:
        entries = list(os.scandir(folder))
    except OSError:  # no folder, or none that can be read
        return
    for entry in entries:
        with suppress(OSError):
            if _WORKSPACE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _sweep(Path(entry.path))
            elif entry.name == LOCK and HOLDER.match(Path(entry.path).read_bytes()[:200]):
                lock = acquire(Path(entry.path), create=False)
                if lock.sure:
                    lock.release()
                else:
                    os.close(lock.descriptor)


def being_made(path: Path) -> bool:
    """Whether a path is in a workspace, so that it appears with what is made there."""
    return any(_WORKSPACE.fullmatch(part) for part in path.parts)


def shown(path: Path) -> Path:
    """A path as the user will see it: of what is in a workspace, where it will be."""
    for index, part in enumerate(path.parts):
        name, rest = path.parts[index + 2 : index + 3], path.parts[index + 3 :]
        if (match := _WORKSPACE.fullmatch(part)) and name:
            parent = Path(*path.parts[:index])
            return (parent if match[1] == _digest("") else parent / name[0]).joinpath(*rest)
    return path


def sync(path: Path) -> None:
    """Have a file's content, or the names in a folder, on the disk before anything else, as after a power cut."""
    if os.name != "posix" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Have a folder, and all that is in it, on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.is_file():
            sync(path)
    sync(folder)


def _digest(key: str) -> str:
    return hashlib.blake2b(os.fsencode(key), digest_size=8).hexdigest()


def _open(parent: Path, key: str | None, given: str | os.PathLike) -> Workspace:
    name = uuid.uuid4().hex if key is None else _digest(key)
    for attempt in range(_TRIES):
        folder, fresh = parent / f"{PREFIX}{name}{f'-{attempt}' if attempt else ''}", False
        try:
            fresh = _make(folder)
            lock = acquire(folder / _LOCK)
        except BlockingIOError as error:
            raise OSError(
                f"{given}: is in use by {holder(folder / _LOCK)}; wait until it has ended, or choose another place"
            ) from error
        except FileExistsError:  # something else of that name, or another user's
            continue
        except FileNotFoundError:
            if parent.is_dir():  # its owner has just removed it
                continue
            raise FileNotFoundError(f"{parent}: no such folder; make it first") from None
        except OSError as error:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise OSError(
                f"{given}: cannot be written to ({first_reason(error)}: {parent}); permit writing, or choose another"
                " place"
            ) from error
        opened = Workspace(folder, lock)
        if fresh:
            return opened
        if lock.sure:  # its owner has died
            _clear(folder)
            return opened
        os.close(lock.descriptor)
    raise OSError(f"{given}: cannot be written to (too many {PREFIX}{name}* in {parent}); remove those that are unused")


def _make(folder: Path) -> bool:
    """Make a folder, or find one of this user; whether it was made."""
    try:
        folder.mkdir()
        return True
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir() or not _own(folder):
            raise
        return False


def _own(folder: Path) -> bool:
    return not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()


def _sweep(folder: Path) -> None:
    """Remove a workspace that nobody has; a folder that only has the name of one stays."""
    try:
        lock = acquire(folder / _LOCK, create=False)
    except FileNotFoundError:
        if time.time() - folder.lstat().st_mtime > _AGE:
            folder.rmdir()
        return
    whole = HOLDER.match((folder / _LOCK).read_bytes()[:200]) or os.listdir(folder) == [_LOCK]
    if lock.sure and whole:
        _remove(Workspace(folder, lock))
    else:
        os.close(lock.descriptor)


def _clear(folder: Path) -> None:
    """Undo a delivery that was cut off, and remove everything but the lock."""
    undo_delivery(folder)
    for entry in list(os.scandir(folder)):
        if entry.name == _LOCK:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def _remove(opened: Workspace) -> None:
    """Remove a workspace; the lock goes last, so that nobody takes it for a dead one's meanwhile."""
    with suppress(OSError):
        _clear(opened.folder)
    with suppress(OSError):
        opened.lock.release()
    with suppress(OSError):
        opened.folder.rmdir()


def exchange(space: Workspace, content: Path, place: Path, last: Sequence[str] = ()) -> None:
    """Put the members of a folder into another one, in place of all visible ones there; or leave that as it was.

    Args:
        space: a workspace in `place`.
        content: the folder whose members are moved.
        place: the folder that receives them.
        last: names that are put last and removed first: without them the rest is worthless.
    """
    new, old = os.listdir(content), visible(place)
    record = {"content": content.name, "new": new, "old": old}
    journal = space.folder / _DELIVERY
    journal.write_text(json.dumps(record), encoding="utf-8")
    sync(journal)
    (space.folder / _OLD).mkdir(exist_ok=True)
    try:
        for name in sorted(old, key=lambda name: name not in last):
            os.rename(place / name, space.folder / _OLD / name)
        for name in sorted(new, key=lambda name: name in last):
            os.rename(content / name, place / name)
    except BaseException:
        undo_delivery(space.folder)
        raise
    sync(place)
    journal.unlink()


def undo_delivery(folder: Path) -> None:
    """Put back what `exchange` had moved when it was cut off."""
    journal = folder / _DELIVERY
    try:
        record = json.loads(journal.read_text(encoding="utf-8"))
        content, new, old = record["content"], record["new"], record["old"]
    except (OSError, ValueError, KeyError, TypeError):  # missing or itself cut off: then nothing was moved
        return
    if not all(isinstance(name, str) and Path(name).name == name for name in (content, *new, *old)):
        return
    place = folder.parent
    for name in new:
        moved = not os.path.lexists(folder / _NEW / content / name) and os.path.lexists(place / name)
        if moved and (name not in old or os.path.lexists(folder / _OLD / name)):
            os.rename(place / name, folder / _NEW / content / name)
    for name in old:
        if os.path.lexists(folder / _OLD / name) and not os.path.lexists(place / name):
            os.rename(folder / _OLD / name, place / name)
    journal.unlink()
