"""Terms beside an L1 between translation and target: structural dissimilarity, and what is added to a curve."""

from __future__ import annotations

STRUCTURE, RESIDUAL = "structure", "residual"


def structure_term(weight: float, of_l1: float = 1.0, name: str = STRUCTURE) -> dict[str, float]:
    """The entry of a phase's weights; none of weight 0, so that a training without it has no such column.

    Args:
        weight: weight of 1 − SSIM, as a multiple of the L1's.
        of_l1: the L1's weight.
        name: name of the term.

    Raises:
        ValueError: if the weight is below 0.

    Example:
        >>> structure_term(0.25, 100.0), structure_term(0.0)
        ({'structure': 25.0}, {})
    """
    if weight < 0:
        raise ValueError(f"structure_weight: expected a weight of at least 0, received {weight!r}")
    return {name: weight * of_l1} if weight else {}


def residual_term(weight: float, of_l1: float = 1.0, curve: bool = True) -> dict[str, float]:
    """The entry of a phase's weights for what a network adds to its intensity curve; none of weight 0.

    Beside an L1 to the target of weight 1 it pulls the translation from the median of what a target may be towards the
    curve, further where that is less certain, and leaves it on the curve where the odds are below (1 + weight) / 2.

    Args:
        weight: as a multiple of the L1's.
        of_l1: the L1's weight.
        curve: whether the network has one.

    Raises:
        ValueError: if the weight is below 0, or above 0 without a curve.

    Example:
        >>> residual_term(0.2, 0.5), residual_term(0.0, curve=False)
        ({'residual': 0.1}, {})
    """
    if weight < 0:
        raise ValueError(f"residual_weight: expected a weight of at least 0, received {weight!r}")
    if weight and not curve:
        raise ValueError(f"residual_weight: expected 0 without an intensity curve, received {weight!r}; set curve=true")
    return {RESIDUAL: weight * of_l1} if weight else {}
