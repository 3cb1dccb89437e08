"""The term of structural dissimilarity beside an L1 between translation and target."""

from __future__ import annotations

STRUCTURE = "structure"


def structure_term(weight: float, of_l1: float = 1.0, name: str = STRUCTURE) -> dict[str, float]:
    """The entry of a phase's weights; none of weight 0, so that a training without it has no such column.

    Args:
        weight: of 1 − SSIM, as a multiple of the L1's.
        of_l1: the L1's weight.
        name: of the term.

    Raises:
        ValueError: if the weight is below 0.

    Example:
        >>> structure_term(0.25, 100.0), structure_term(0.0)
        ({'structure': 25.0}, {})
    """
    if weight < 0:
        raise ValueError(f"structure_weight: expected a weight of at least 0, received {weight!r}")
    return {name: weight * of_l1} if weight else {}
