"""The several files in which ANTs writes one transform, told by the names that it gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medtrace.io.foreign.point_map import Note

_WARP = re.compile(r"(?P<prefix>.*?)(?P<stage>\d?)(?P<kind>InverseWarp|Warp)\.nii(\.gz)?")
_LINEAR = re.compile(
    r"(?P<prefix>.*?)(?P<stage>\d?)"
    r"(?P<kind>GenericAffine|Affine|CompositeAffine|Rigid|Similarity|Translation|DerivedInitialMoving\w*)"
    r"\.(mat|txt|tfm|h5)"
)


class Member(NamedTuple):
    """A file of a list, and whether it is to be inverted."""

    path: Path
    inverted: bool = False

    def __str__(self) -> str:
        return f"[{self.path.name},1]" if self.inverted else self.path.name


class _Part(NamedTuple):
    prefix: str
    stage: int
    kind: str
    """"Warp", "InverseWarp" or "linear"."""


def parse_member(text: str | Path) -> Member:
    """A file, or ANTs' `[FILE,1]`, which inverts it."""
    result = re.fullmatch(r"\[(.+),\s*([01])\s*\]", str(text))
    if result is None or Path(text).exists():
        return Member(Path(text))
    return Member(Path(result[1].strip()), result[2] == "1")


def completed(members: Sequence[Member]) -> tuple[list[Member], list[Note]]:
    """A list of files with what belongs to it, checked by the names of ANTs' files.

    A warp of antsRegistration is one stage of several: `1Warp` is followed by the `0GenericAffine` before it (points go
    through the first of the list first), `1InverseWarp` follows that affine's inverse.

    Args:
        members: in the order of antsApplyTransforms: the first moves a point of the target first.

    Returns:
        The list, longer where a lone warp was completed by a file beside it, and the notes.

    Raises:
        ValueError: if files of one registration are in another order than ANTs applies them, or one is left out.
    """
    parts = [_part(member.path) for member in members]
    notes: list[Note] = []
    if len(members) == 1 and parts[0] is not None:
        return _lone(members[0], parts[0])
    for member, part in zip(members, parts):
        if part is not None and part.kind != "linear":
            _check_list(member, part, list(members))
    return list(members), notes


def inverse_beside(path: Path) -> Path | None:
    """The warp of the other direction that antsRegistration writes beside a warp, where it is there."""
    part = _part(path)
    if part is None or part.kind == "linear":
        return None
    stage = "" if part.stage < 0 else str(part.stage)
    kind = "InverseWarp" if part.kind == "Warp" else "Warp"
    files = (path.with_name(f"{part.prefix}{stage}{kind}{ending}") for ending in (".nii.gz", ".nii"))
    return next((file for file in files if file.is_file()), None)


def _lone(member: Member, part: _Part) -> tuple[list[Member], list[Note]]:
    name = member.path.name
    if part.kind == "linear":
        beside = [path.name for path in _neighbors(member.path, part.prefix) if _is_warp(path)]
        tail = sorted(name.removeprefix(part.prefix) for name in beside)
        text = f"only the linear part, though {' and '.join(tail)} lie{'s' * (len(tail) == 1)} beside it"
        return [member], [Note(name, text)] if tail else []
    stages = _stages(member.path, part)
    if not stages:
        if part.stage < 1:
            return [member], []
        text = "a later stage of ANTs by its name; no earlier one is beside it, so only the warp is read"
        return [member], [Note(name, text)]
    chain = _expected(member.path, part, stages)
    labels = [_label(other, part.prefix) for other in chain]
    added = ", ".join(label for label, other in zip(labels, chain) if other.path != member.path)
    order = " then ".join(labels)
    return chain, [Note(name, f"is one part of ANTs' transform: {added}, beside it, was added (points go {order})")]


def _label(member: Member, prefix: str) -> str:
    """A member without the prefix that a user chose, which may identify a patient."""
    return str(Member(Path(member.path.name.removeprefix(prefix)), member.inverted))


def _check_list(member: Member, part: _Part, members: list[Member]) -> None:
    stages = _stages(member.path, part)
    if not stages:
        return
    expected = _expected(member.path, part, stages)
    folder = member.path.resolve().parent
    own = [Member(other.path.resolve(), other.inverted) for other in members]
    own = [other for other in own if other.path.parent == folder and other.path.name.startswith(part.prefix)]
    if own != [Member(other.path.resolve(), other.inverted) for other in expected]:
        listed = " ".join(str(other) for other in expected)
        raise ValueError(
            f"{member.path}: expected the files of one registration of ANTs as {listed} (points go through the first"
            f" of them first, as in antsApplyTransforms), received {' '.join(map(str, members))}"
        )


def _expected(path: Path, part: _Part, stages: dict[int, Path]) -> list[Member]:
    """ANTs' list for a warp and the linear stages before it."""
    if part.kind == "Warp":
        return [Member(path), *(Member(stages[stage]) for stage in sorted(stages, reverse=True))]
    return [*(Member(stages[stage], True) for stage in sorted(stages)), Member(path)]


def _stages(path: Path, part: _Part) -> dict[int, Path]:
    """The linear files of the same registration before a warp, by stage."""
    stages: dict[int, Path] = {}
    for other in _neighbors(path, part.prefix):
        result = _part(other)
        if result is None or result.kind != "linear" or result.prefix != part.prefix:
            continue
        if part.stage >= 0 and not 0 <= result.stage < part.stage:
            continue
        if part.stage < 0 and result.stage >= 0:
            continue
        if result.stage in stages:
            raise ValueError(
                f"{path}: two files beside it may be the linear part, {stages[result.stage].name} and {other.name}"
                " (GenericAffine is what antsRegistration writes); name all files in ANTs' order in a separate"
                " folder"
            )
        stages[result.stage] = other
    early = path.with_name(f"{part.prefix}{part.stage}Affine.txt")  # of a prefix that ends in a digit
    if not stages and part.stage >= 0 and early.is_file():
        return {-1: early}
    return stages


def _neighbors(path: Path, prefix: str) -> list[Path]:
    if not path.parent.is_dir():
        return []
    return sorted(other for other in path.parent.iterdir() if other.name.startswith(prefix) and other.is_file())


def _is_warp(path: Path) -> bool:
    return _WARP.fullmatch(path.name) is not None


def _part(path: Path) -> _Part | None:
    """The information in a file name; the stage is -1 if it has no number, as in early versions of ANTs."""
    for pattern in (_WARP, _LINEAR):
        if result := pattern.fullmatch(path.name):
            kind = result["kind"] if pattern is _WARP else "linear"
            return _Part(result["prefix"], int(result["stage"]) if result["stage"] else -1, kind)
    return None
