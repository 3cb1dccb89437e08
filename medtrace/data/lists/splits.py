"""The split of subjects, never of their pairs, into training, validation and test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medtrace.data.lists.pair_list import SPLITS, Pair


def split_by_subject(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] = (0.7, 0.0, 0.3), seed: int = 0
) -> dict[str, list[Pair]]:
    """Divide pairs into training, validation and test so that no subject is in two of them.

    Subjects are shuffled by the seed and divided by largest remainder: 160 subjects at (0.7, 0, 0.3) give 112 and 48
    (TraceTrans, Datasets).

    Args:
        pairs: the pairs; their order within a split is kept.
        fractions: fractions of *subjects* for training, validation and test, or by name; they sum to 1.
        seed: seed of the shuffle. The result does not depend on the order of `pairs`.

    Returns:
        The pairs of each split; a fraction of 0 gives an empty list.

    Raises:
        ValueError: if fractions are negative, do not sum to 1, or leave a requested split without a subject.
    """
    shares = _shares(fractions)
    subjects = sorted({pair.subject for pair in pairs})
    counts = _deal(len(subjects), shares)
    empty = [name for name in SPLITS if shares[name] > 0 and counts[name] == 0]
    if empty:
        raise ValueError(
            f"fractions: {shares} of {len(subjects)} subject(s) leave {', '.join(empty)} empty; add subjects or set"
            " that fraction to 0"
        )
    order = np.random.default_rng(seed).permutation(len(subjects))
    split_of, start = {}, 0
    for name in SPLITS:
        for index in order[start : start + counts[name]]:
            split_of[subjects[index]] = name
        start += counts[name]
    return {name: [pair for pair in pairs if split_of[pair.subject] == name] for name in SPLITS}


def split_domains(
    pairs: Sequence[Pair], fractions: Sequence[float] | Mapping[str, float] = (0.7, 0.0, 0.3), seed: int = 0
) -> dict[str, list[Pair]]:
    """Divide the images of two domains so that no subject is in two splits, on whichever side.

    Subjects of only the sources, only the targets and both are each divided as by `split_by_subject`.

    Args:
        pairs: pairs of one side each, see `read_domains`.
        fractions, seed: see `split_by_subject`.

    Returns:
        The images of each split.

    Raises:
        ValueError: if fractions are wrong, or the training is left without a source or a target.
    """
    shares = _shares(fractions)
    sides: dict[str, set[str]] = {}
    for pair in pairs:
        sides.setdefault(pair.subject, set()).add(pair.first.side)
    split_of: dict[str, str] = {}
    generator = np.random.default_rng(seed)
    for group in ({"source"}, {"target"}, {"source", "target"}):
        subjects = sorted(subject for subject, on in sides.items() if on == group)
        counts = _deal(len(subjects), shares)
        order = [subjects[index] for index in generator.permutation(len(subjects))]
        for name in SPLITS:
            split_of |= dict.fromkeys(order[: counts[name]], name)
            order = order[counts[name] :]
    result = {name: [pair for pair in pairs if split_of[pair.subject] == name] for name in SPLITS}
    check_both_sides(result)
    return result


def check_both_sides(split: Mapping[str, Sequence[Pair]]) -> None:
    """Check that the training of unpaired domains has sources and targets.

    Raises:
        ValueError: if not.
    """
    sides = {pair.first.side for pair in split["training"]}
    for side in ("source", "target"):
        if side not in sides:
            raise ValueError(
                f"split: expected {side}s in training, received none; add subjects, or set the fractions of"
                f" validation and"
                " test to 0"
            )


def split_of_list(pairs: Sequence[Pair]) -> dict[str, list[Pair]] | None:
    """The split that the list itself gives; None where it gives none.

    Args:
        pairs: as `read_pairs` gives them: all of them have a split or none has.
    """
    if not any(pair.split for pair in pairs):
        return None
    return {name: [pair for pair in pairs if pair.split == name] for name in SPLITS}


def _shares(fractions: Sequence[float] | Mapping[str, float]) -> dict[str, float]:
    if isinstance(fractions, Mapping):
        unknown = sorted(set(fractions) - set(SPLITS))
        if unknown:
            raise ValueError(f"fractions: expected names among {', '.join(SPLITS)}, received {unknown}")
        shares = {name: float(fractions.get(name, 0)) for name in SPLITS}
    else:
        if len(fractions) != len(SPLITS):
            raise ValueError(f"fractions: expected three numbers ({', '.join(SPLITS)}), received {tuple(fractions)}")
        shares = dict(zip(SPLITS, map(float, fractions)))
    if min(shares.values()) < 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(f"fractions: expected fractions of at least 0 that sum to 1, received {shares}")
    return shares


def _deal(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    exact = {name: round(fraction * count, 9) for name, fraction in shares.items()}
    counts = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(SPLITS, key=lambda name: (counts[name] - exact[name], SPLITS.index(name)))
    for name in by_remainder[: count - sum(counts.values())]:
        counts[name] += 1
    return counts
