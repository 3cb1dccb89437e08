"""Folders that appear complete or not at all: the one way in which medtrace makes an output of several files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medtrace.storage.places import first_reason
from medtrace.storage.reservations import (
    Contents,
    Reservation,
    check_replaced,
    is_replacing,
    new_or_empty,
    reserve_folder,
)
from medtrace.storage.workspaces import exchange, sync, sync_tree, visible


@contextmanager
def atomic_directory(
    folder: str | os.PathLike,
    contents: Contents = new_or_empty,
    *,
    last: Sequence[str] = (),
    make_parents: bool = False,
) -> Iterator[Path]:
    """A new folder of the same name whose content is that of `folder` when all went well.

    A missing folder appears by a single rename. An existing one stays the same folder (with its permissions, mounted or
    behind a symbolic link): its new files replace the old ones one after the other, `last` last, and a process that is
    killed meanwhile leaves the old ones to the next run. Anything that others put into it meanwhile stays, and is
    refused.

    Args:
        folder: the output; see `reserve_folder`, which this joins if the place is reserved already.
        contents: what may be in it and is replaced; `new_or_empty` by default.
        last: names without which the other files are worthless.
        make_parents: see `reserve_folder`.

    Raises:
        FileExistsError, FileNotFoundError, OSError: as of `reserve_folder`.
    """
    with reserve_folder(folder, contents, make_parents=make_parents) as held:
        contents(folder, visible(held.place))
        content = held.space.new(held.place.name)
        content.mkdir()
        yield content
        contents(folder, visible(held.place))
        if contents is new_or_empty and is_replacing():
            check_replaced(folder, _files(held.place), _files(content))
        try:
            _deliver(content, held, last)
        except OSError as error:
            raise OSError(
                f"{folder}: cannot be put there ({first_reason(error)}); what was there before is intact: choose"
                " another folder"
            ) from error


def _files(folder: Path) -> list[str]:
    """Paths of the files below a folder, from there."""
    roots = [folder / name for name in visible(folder)]
    below = (path for root in roots for path in ([root] if not root.is_dir() else root.rglob("*")))
    return sorted(path.relative_to(folder).as_posix() for path in below if not path.is_dir())


def _deliver(content: Path, held: Reservation, last: Sequence[str]) -> None:
    sync_tree(content)
    if held.space.folder.parent == held.place:
        exchange(held.space, content, held.place, last)
        content.rmdir()
        return
    # Renaming a folder rightly fails where a file or a folder with content has appeared in the meantime.
    os.rename(content, held.place)
    sync(held.place.parent)
