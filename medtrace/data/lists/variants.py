"""Images of one contrast that a study has several of, such as runs: how they are called and asked for.

A variant is named like its BIDS file, without subject and date: `acq-mprage_run-01_T1w`. It is selected by its
contrast and as many of its entities as are needed: `run-01_T1w`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

ANY = "*"


def contrast_of(name: str) -> str:
    """The contrast of a variant: its name without entities.

    Example:
        >>> contrast_of("acq-mprage_run-01_T1w")
        'T1w'
    """
    return name.rpartition("_")[2] if asks_for_variant(name) else name


def asks_for_variant(name: str) -> bool:
    """Whether a name has entities before its contrast."""
    *entities, _ = name.split("_")
    return bool(entities) and all(len(part.split("-", 1)) == 2 and all(part.split("-", 1)) for part in entities)


def matching(variants: Iterable[str], asked: str) -> list[str]:
    """The variants that have the contrast and the entities that are asked for, whose values may hold `*`.

    Example:
        >>> matching(["run-01_T1w", "acq-fast_run-02_T1w", "run-01_T2w"], "run-02_T1w")
        ['acq-fast_run-02_T1w']
    """
    wanted = asked.split("_")[:-1] if asks_for_variant(asked) else []
    return [
        name
        for name in variants
        if contrast_of(name) == contrast_of(asked)
        and all(any(fnmatchcase(entity, want) for entity in name.split("_")[:-1]) for want in wanted)
    ]


def single(name: str) -> str:
    """The pattern of a variant's last entity, which asks for every one: `run-*_T1w`."""
    *entities, contrast = name.split("_")
    return f"{entities[-1].partition('-')[0]}-{ANY}_{contrast}" if entities else name


def spelled_out(select: str, variants: Sequence[str]) -> list[str]:
    """The selections that one with `*` stands for: one for every value that occurs, the same on both of its sides.

    Args:
        select: such as `run-*_T1w:T2w`.
        variants: variants of all studies.

    Example:
        >>> spelled_out("run-*_T1w:T2w", ["run-01_T1w", "run-02_T1w", "T2w"])
        ['run-01_T1w:T2w', 'run-02_T1w:T2w']
    """
    asked = [name.strip() for side in select.split(":") for name in side.split(",")]
    starred = next((name for name in asked if ANY in name), None)
    if starred is None:
        return [select]
    pattern = next((part for part in starred.split("_")[:-1] if ANY in part), None)
    if pattern is None or not pattern.endswith(f"-{ANY}"):
        return [select]
    key = pattern.removesuffix(ANY)
    values = sorted(
        {part for name in matching(variants, starred) for part in name.split("_")[:-1] if part.startswith(key)}
    )
    return [one for value in values for one in spelled_out(select.replace(pattern, value), variants)] or [select]
