"""Fingerprints of files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_BLOCK = 1 << 20


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file, or of a folder: of the names and hashes of its files, sorted."""
    path = Path(path)
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            digest.update(f"{file.relative_to(path).as_posix()}\0{sha256(file)}\n".encode())
        return digest.hexdigest()
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_hashes(folder: str | os.PathLike) -> dict[str, str]:
    """SHA-256 of every file of a folder, by name; its folders are left out."""
    return {path.name: sha256(path) for path in sorted(Path(folder).iterdir()) if path.is_file()}
