"""Rigid and affine alignment of two images by mutual information, from many orientations and shifts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from medtrace.checks import check_batched, check_choice, check_finite
from medtrace.kernels import threads
from medtrace.registration.affine_search import Candidate, Search, refine, refine_all, start_score
from medtrace.registration.frames import Frame
from medtrace.registration.levels import FIRST_POINTS, MOST_POINTS, AlignmentLevel, Side, make_levels, side
from medtrace.registration.plausibility import Plausibility, plausibility
from medtrace.registration.starts import orientations

KINDS = ("auto", "none", "rigid", "affine")
ORIENTATIONS = {2: 24, 3: 240}
"""Orientations that are tried, per number of axes."""

FOLLOWED = (12, 4, 2)
"""Number of starts that are followed at the coarsest resolution, at the next, and at all others."""

PROBES, PROBING = 4, 10
"""Number of rotated starts that are followed first, and number of steps of these and the others before they are
compared."""

CONVINCING, ELSEWHERE = 0.2, 3.0
"""Fraction of the information by which an unrotated start must beat all probes that end elsewhere, more voxels than
that away, so that no other rotated start is followed. For two heads of three contrasts, rotated and shifted in 26 ways,
the right position beat the others by 24 to 28 %, the best wrong one was worse by 19 % or more."""

MIRRORING = 20
"""Steps for which mirrored maps are followed."""

COARSE_TOLERANCE = 1e-5
"""Fraction of the information that a step must gain at the coarsest resolution; later, a tenth of it."""

AFFINE_MARGIN = 0.01
"""Fraction of the information above that of independent images by which an affine map must beat the rigid one."""

ALIGNED_MARGIN = 0.01
"""Likewise, by which another start must beat the one from the headers."""


class Start(NamedTuple):
    """A start that was followed, and its end."""

    name: str
    similarity: float
    """Normalized mutual information where it ended, in [1, 2]."""
    distance_mm: float
    """Mean distance between its mapping of the fixed content and that of the chosen alignment."""


class Content(NamedTuple):
    """Position of the fixed image's content, as moments of its intensity."""

    center: Tensor
    """(3,) float64, RAS mm."""
    spread: Tensor
    """(3, 3) float64: covariance in mm²."""

    @property
    def radius(self) -> float:
        """Root mean square distance from the center, in mm."""
        return float(self.spread.trace().sqrt())


class Alignment(NamedTuple):
    """An alignment and how it was estimated."""

    matrix: Tensor
    """(4, 4) float64: from RAS mm points of the fixed image to those of the same anatomy in the moving one."""
    kind: str
    """"none", "rigid" or "affine"."""
    reason: str
    """The reason for this kind, in a sentence."""
    similarity: float
    """Normalized mutual information at the finest resolution, in [1, 2]."""
    similarity_before: float
    """Likewise with the headers' alignment."""
    rigid: Tensor
    """(4, 4): the best rigid transform; the identity if none was estimated."""
    starts: tuple[Start, ...]
    """The best end of each group of starts that arrived at the same place, best first."""
    plausibility: Plausibility
    """Rotation, shift, scaling and shear of the matrix."""
    content: Content
    mirror_gain: float = 0.0
    """Fraction of the information by which the best map that mirrors the image beats the best near this one."""

    convincing: bool = False
    """Whether an unrotated start beat all rotated ones early, so that none was followed to its end."""

    def distance(self, matrix: Tensor) -> float:
        """Root mean square distance, in mm over the fixed content, of another map (4, 4) from this one."""
        change = matrix - self.matrix
        linear, shift = change[:3, :3], change[:3, 3]
        center = linear @ self.content.center + shift
        return float((center @ center + (linear @ self.content.spread @ linear.T).trace()).sqrt())


@threads.own_pool()
def align(
    moving: Tensor,
    fixed: Tensor,
    moving_affine: Tensor,
    fixed_affine: Tensor,
    *,
    kind: str = "auto",
    mask: Tensor | None = None,
    moving_mask: Tensor | None = None,
    seed_matrix: Tensor | None = None,
    turns: bool = True,
    finest: int | None = None,
    mirrored: bool = True,
) -> Alignment:
    """Estimate the rigid or affine map that aligns a moving image with a fixed one.

    At the coarsest of several resolutions, the headers' own alignment and orientations from all of space about the
    contents' centers are scored by normalized mutual information (Studholme et al., 1999), of any two contrasts; the
    best are followed by L-BFGS, fewer and fewer of them as voxels shrink; only few rotated ones if the best unrotated
    start is convincing (see `CONVINCING`). "auto" continues to an affine map and uses it if it raises the information
    by more than 1 %, as it does between two people, but not between one person's scans. If neither map raises the
    information of the headers' own alignment by more than 1 %, that is kept. If the headers' start ends as well as
    another (to 1 %), it is used. The same images give identical bytes.

    Args:
        moving: (C, H, W) or (C, H, W, D), any range; channels are averaged.
        fixed: of as many axes, on any grid.
        moving_affine: (4, 4) voxel to RAS mm.
        fixed_affine: (4, 4) voxel to RAS mm.
        kind: "auto", "rigid", "affine", or "none" for the headers' alignment.
        mask: (1, *spatial) on the fixed grid, boolean or in [0, 1]: what is left out.
        moving_mask: likewise on the moving grid.
        seed_matrix: a further start, as `Alignment.matrix`.
        turns: whether to try orientations other than the headers'.
        finest: maximum number of resolutions to run, from the coarsest, with fewer points; None for all.
        mirrored: whether to check if the images share more when one is flipped (`Alignment.mirror_gain`, else 0).

    Returns:
        See `Alignment`.

    Raises:
        TypeError, ValueError: if a shape, a type or a number is wrong, or two slices are not parallel.

    Example:
        >>> import torch
        >>> fixed = torch.zeros(1, 40, 40)
        >>> fixed[:, 8:20, 10:28], fixed[:, 12:16, 12:18] = 1.0, 2.0
        >>> eye = torch.eye(4, dtype=torch.float64)
        >>> found = align(fixed.roll(5, 1), fixed, eye, eye, kind="rigid")
        >>> bool((found.matrix[0, 3] - 5).abs() < 0.5)
        True
    """
    check_choice("kind", kind, KINDS)
    check_pair(moving, fixed)
    frame = Frame(fixed_affine, moving_affine, fixed.ndim - 1)
    sides = side(moving, moving_mask), side(fixed, mask)
    return align_sides(*sides, frame, kind=kind, seed_matrix=seed_matrix, turns=turns, finest=finest, mirrored=mirrored)


def check_pair(moving: Tensor, fixed: Tensor) -> None:
    """Check that two images can be aligned.

    Args:
        moving: (C, *spatial).
        fixed: likewise.

    Raises:
        TypeError, ValueError: if one is not a finite image, or their numbers of axes differ.
    """
    images = {"moving": moving, "fixed": fixed}
    for name, image in images.items():
        check_batched(name, image[None] if isinstance(image, Tensor) else image)
        check_finite(name, image)
    if moving.ndim != fixed.ndim:
        raise ValueError(
            f"moving: expected {fixed.ndim - 1} axes as fixed, received {moving.ndim - 1}; give two slices or volumes"
        )


def align_sides(
    moving: Side,
    fixed: Side,
    frame: Frame,
    *,
    kind: str = "auto",
    seed_matrix: Tensor | None = None,
    turns: bool = True,
    finest: int | None = None,
    mirrored: bool = True,
) -> Alignment:
    """`align` for images that are already checked and scaled.

    Args:
        moving: see `levels.side`.
        fixed: likewise.
        frame: their coordinate frame.
        kind, seed_matrix, turns, finest, mirrored: as in `align`.
    """
    most = MOST_POINTS if finest is None else FIRST_POINTS
    levels = make_levels(moving, fixed, frame, most)[:finest]
    still = np.eye(frame.dims + 1)
    before = levels[-1].score(still)
    answer = partial(_answer, before=before, frame=frame, levels=levels, mirrored=mirrored)
    if kind == "none":
        return answer(still, "none", "as the headers say, since no alignment was requested", before, still, [])
    seeds = [("the headers", still)]
    if seed_matrix is not None:
        seeds.append(("the given matrix", frame.from_ras(seed_matrix)))
    ends, early, convincing = _follow(levels, seeds, turns)
    answer = partial(answer, convincing=convincing)
    rigid = _preferred(ends, {name for name, _ in seeds})
    found = rigid.matrix, ends
    if kind == "rigid":
        return answer(rigid.matrix, "rigid", "as requested", rigid.score, *found)
    affine = _affine(levels, rigid, early, {name for name, _ in seeds})
    gain = (affine.score - rigid.score) / max(rigid.score - 1, 1e-9)
    result = f"the affine map raises the information that the images share by {100 * gain:.1f} %"
    if kind == "affine":
        return answer(affine.matrix, "affine", f"as requested; {result}", affine.score, *found)
    if gain > AFFINE_MARGIN:
        return answer(affine.matrix, "affine", f"{result}, more than {100 * AFFINE_MARGIN:g} %", affine.score, *found)
    moved = (rigid.score - before) / max(before - 1, 1e-9)
    if moved <= ALIGNED_MARGIN:
        text = f"as the headers say: the best rigid motion raises the shared information by only {100 * moved:.1f} %"
        return answer(still, "none", text, before, *found)
    return answer(rigid.matrix, "rigid", f"{result}, not more than {100 * AFFINE_MARGIN:g} %", rigid.score, *found)


def _follow(
    levels: Sequence[AlignmentLevel], seeds: Sequence[tuple[str, Any]], turns: bool
) -> tuple[list[Candidate], list[Candidate], bool]:
    """Rigid ends of the best starts, best first, at the finest resolution and the coarsest; whether one convinced."""
    coarse = levels[0]
    search = Search("rigid", 40, COARSE_TOLERANCE)
    straight = [start_score(coarse, name, matrix) for name, matrix in [*seeds, *_shifted(coarse)]]
    begun = _distinct(refine_all(coarse, straight, Search("rigid", PROBING)), coarse)
    followed = _distinct(refine_all(coarse, begun, search), coarse)
    convincing = False
    if turns:
        convincing, followed = _turned_too(coarse, followed, search)
    early = followed = followed[: FOLLOWED[1]]
    for number, level in enumerate(levels[1:], start=1):
        followed = followed[: FOLLOWED[min(number, len(FOLLOWED) - 1)]]
        followed = _distinct(refine_all(level, followed, Search("rigid", 25)), level)
    return followed, early, convincing


def _turned_too(level: AlignmentLevel, straight: list[Candidate], search: Search) -> tuple[bool, list[Candidate]]:
    """Whether the headers' start convinces, and the ends that are followed: its own, or of all turns, best first."""
    starts = _turned(level)
    scores = level.scores([matrix for _, matrix in starts])
    turned = [Candidate(*start, score) for start, score in zip(starts, scores)]
    turned.sort(key=lambda one: -one.score)
    probes = refine_all(level, turned[:PROBES], Search("rigid", PROBING))
    best = straight[0]
    elsewhere = [one for one in probes if level.distance(one.matrix, best.matrix) > ELSEWHERE * level.edge]
    rival = max((one.score for one in elsewhere), default=1.0)
    if elsewhere and best.score - 1 > (1 + CONVINCING) * (rival - 1):
        return True, straight
    followed = [*probes, *turned[PROBES : FOLLOWED[0]]]
    return False, _distinct([*straight, *refine_all(level, followed, search)], level)


def _shifted(level: AlignmentLevel) -> list[tuple[str, Any]]:
    """Unturned starts: the grids' centers together, and the contents'."""
    starts = []
    for name, fixed, moving in (
        ("the grids' centers", level.fixed_middle, level.moving_middle),
        ("the contents' centers", level.fixed_center, level.moving_center),
    ):
        matrix = np.eye(level.dims + 1)
        matrix[:-1, -1] = moving - fixed
        starts.append((name, matrix))
    return starts


def _turned(level: AlignmentLevel) -> list[tuple[str, Any]]:
    """Starts of every orientation about the contents' centers, which contrasts put a little elsewhere."""
    starts = []
    for rotation in orientations(level.dims, ORIENTATIONS[level.dims])[1:]:
        matrix = np.eye(level.dims + 1)
        matrix[:-1, :-1] = rotation
        matrix[:-1, -1] = level.moving_center - rotation @ level.fixed_center
        starts.append(("a turn", matrix))
    return starts


def _distinct(ends: list[Candidate], level: AlignmentLevel) -> list[Candidate]:
    """Best first, of those that end within a voxel of each other the best."""
    kept: list[Candidate] = []
    for end in sorted(ends, key=lambda one: -one.score):
        near = [k for k, other in enumerate(kept) if level.distance(end.matrix, other.matrix) < level.edge]
        if not near:
            kept.append(end)
        elif kept[near[0]].name == "a turn" and end.name != "a turn":
            kept[near[0]] = kept[near[0]]._replace(name=end.name)
    return kept


def _preferred(ends: Sequence[Candidate], trusted: set[str]) -> Candidate:
    best = ends[0]
    for end in ends:
        if end.name in trusted and best.score - end.score <= ALIGNED_MARGIN * max(best.score - 1, 0.0):
            return end
    return best


def _affine(
    levels: Sequence[AlignmentLevel], rigid: Candidate, early: Sequence[Candidate], trusted: set[str]
) -> Candidate:
    """The best affine map that the rigid one or another coarse end leads to: of other sizes, no rigid one is right."""
    coarse = levels[0]
    search = Search("affine", 40, COARSE_TOLERANCE)
    ends = _distinct(refine_all(coarse, _distinct([rigid, *early], coarse), search), coarse)
    for level in levels[1:2]:
        ends = _distinct(refine_all(level, ends[: FOLLOWED[2]], Search("affine", 40)), level)
    end = _preferred(ends, trusted)
    for level in levels[2:]:
        end = refine(level, end, Search("affine", 25))
    return end._replace(score=levels[-1].score(end.matrix))


def _answer(
    matrix: Any,
    kind: str,
    reason: str,
    score: float,
    rigid: Any,
    ends: Sequence[Candidate],
    *,
    before: float,
    frame: Frame,
    levels: Sequence[AlignmentLevel],
    mirrored: bool,
    convincing: bool = False,
) -> Alignment:
    finest = levels[-1]
    starts = tuple(Start(end.name, end.score, finest.distance(end.matrix, rigid)) for end in ends)
    whole = frame.to_ras(matrix)
    where = plausibility(matrix, finest.fixed_center)
    content = Content(*frame.moments_to_ras(finest.fixed_center, finest.spread))
    gain = _mirror_gain(levels[:2], matrix, "affine" if kind == "affine" else "rigid") if mirrored else 0.0
    return Alignment(whole, kind, reason, score, before, frame.to_ras(rigid), starts, where, content, gain, convincing)


def _mirror_gain(levels: Sequence[AlignmentLevel], matrix: Any, kind: str) -> float:
    """What mirroring the fixed content along one of its grid's axes adds to the information, as a fraction."""
    coarse = levels[0]
    search = Search(kind, MIRRORING, COARSE_TOLERANCE)
    probing = search._replace(iterations=PROBING)
    starts = []
    for axis in range(coarse.dims):
        normal = coarse.to_fixed[:-1, axis] / np.linalg.norm(coarse.to_fixed[:-1, axis])
        flip = np.eye(coarse.dims + 1)
        flip[:-1, :-1] -= 2 * np.outer(normal, normal)
        flip[:-1, -1] = 2 * normal * (normal @ coarse.fixed_center)
        starts.append(Candidate("mirrored", matrix @ flip, 0.0))
    best = max(refine_all(coarse, starts, probing), key=lambda one: one.score)
    ends = [best, Candidate("as found", matrix, 0.0)]
    for level in [coarse, *(one.thinned() for one in levels[1:])]:
        ends = refine_all(level, ends, search)
    best, own = ends
    return (best.score - own.score) / max(own.score - 1, 1e-9)
