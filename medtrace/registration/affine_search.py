"""Local search for the best rigid or affine map near a start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from medtrace.kernels.point_information import Climb
from medtrace.registration.frames import Array
from medtrace.registration.levels import AlignmentLevel

_SCALE = 100.0  # of the information, so that a gradient per voxel is about 1


class Candidate(NamedTuple):
    """A map of the frame's points and its score."""

    name: str
    matrix: Array
    score: float


class Search(NamedTuple):
    """How to climb."""

    kind: str
    """"rigid" or "affine"."""
    iterations: int
    tolerance: float = 1e-6
    """Fraction of the information that an iteration must gain."""


def start_score(level: AlignmentLevel, name: str, matrix: Array) -> Candidate:
    """A start and its score at a level."""
    return Candidate(name, matrix, level.score(matrix))


def refine_all(level: AlignmentLevel, starts: Sequence[Candidate], search: Search) -> list[Candidate]:
    """Optimize from each of several starts; the parameters move the content by a voxel of the level per unit.

    Args:
        level: where to compare.
        starts: the starts, whose matrices are changed.
        search: the parameters that may change.
    """
    if not level.information.compiled:
        return [refine_by_torch(level, start, search) for start in starts]
    if not starts:
        return []
    center = level.fixed_center
    bases = [start.matrix[:-1, :-1] for start in starts]
    places = [(center, base @ center + start.matrix[:-1, -1]) for base, start in zip(bases, starts)]
    how = Climb(level.edge / level.radius, level.edge, search.iterations, search.tolerance, search.kind == "rigid")
    ends = level.information.climb(bases, np.array(places), (level.from_moving, level.to_fixed), how)
    return [Candidate(start.name, *end) for start, end in zip(starts, ends)]


def refine(level: AlignmentLevel, start: Candidate, search: Search) -> Candidate:
    """`refine_all` of one start."""
    return refine_all(level, [start], search)[0]


def refine_by_torch(level: AlignmentLevel, start: Candidate, search: Search) -> Candidate:
    """`refine_all` for one start if loops are not compiled: with SciPy's L-BFGS."""
    dims, center = level.dims, level.fixed_center
    lever = level.edge / level.radius
    count = dims * (dims - 1) // 2 if search.kind == "rigid" else dims * dims

    base, straight = start.matrix[:-1, :-1], np.eye(dims)
    anchor = base @ center + start.matrix[:-1, -1]
    rigid = search.kind == "rigid"

    def matrix_of(parameters: Array) -> tuple[Array, Array]:
        own = parameters[:count] * lever
        linear = _rotation(own, dims) if rigid else straight + own.reshape(dims, dims)
        matrix = np.zeros((dims + 1, dims + 1))
        matrix[:-1, :-1] = turned = base @ linear
        matrix[:-1, -1] = anchor + parameters[count:] * level.edge - turned @ center
        matrix[-1, -1] = 1
        return matrix, linear

    def objective(parameters: Array) -> tuple[float, Array]:
        matrix, linear = matrix_of(parameters)
        value, by_matrix = level.compare(matrix)
        # of M = [L, c' + t − L·c]: by L is by_matrix's left part minus its last column times c
        shift = by_matrix[:, -1]
        by_linear = (base.T @ (by_matrix[:, :-1] - shift[:, None] * center)).ravel()
        by_first = _slopes(parameters[:count] * lever, linear, dims) @ by_linear if rigid else by_linear
        gradient = np.concatenate([by_first * lever, shift * level.edge])
        return -_SCALE * value, -_SCALE * gradient

    options = {"maxiter": search.iterations, "maxfun": 2 * search.iterations, "ftol": search.tolerance, "gtol": 1e-5}
    result = minimize(objective, np.zeros(count + dims), jac=True, method="L-BFGS-B", options=options)
    return Candidate(start.name, matrix_of(result.x)[0], -float(result.fun) / _SCALE)


def _rotation(vector: Array, dims: int) -> Array:
    """Rotation matrix of one angle, or of a rotation vector (Rodrigues)."""
    if dims == 2:
        cosine, sine = math.cos(vector[0]), math.sin(vector[0])
        return np.array([[cosine, -sine], [sine, cosine]])
    angle = math.sqrt(vector @ vector)
    cross = (_CROSS @ vector).reshape(3, 3)
    first = 1 - angle**2 / 6 if angle < 1e-4 else math.sin(angle) / angle
    second = 0.5 - angle**2 / 24 if angle < 1e-4 else (1 - math.cos(angle)) / angle**2
    result = first * cross + second * cross @ cross
    result[_DIAGONAL] += 1
    return result


def _slopes(vector: Array, turn: Array, dims: int) -> Array:
    """Derivatives of a rotation by the entries of its vector, (count, D * D) (Gallego and Yezzi, 2015)."""
    if dims == 2:
        return np.array([[-turn[1, 0], -turn[0, 0], turn[0, 0], -turn[1, 0]]])
    squared = float(vector @ vector)
    if squared < 1e-12:
        return _CROSS.T
    cross = (_CROSS @ vector).reshape(3, 3)
    moved = cross - cross @ turn  # columns: the vector times what the rotation moves an axis by
    factors = (np.outer(vector, _CROSS @ vector) + (_CROSS @ moved).T).reshape(3, 3, 3)
    return (factors @ (turn / squared)).reshape(3, 9)


_DIAGONAL = np.arange(3), np.arange(3)
_CROSS = np.array(
    [[0, 0, 0], [0, 0, -1], [0, 1, 0], [0, 0, 1], [0, 0, 0], [-1, 0, 0], [0, -1, 0], [1, 0, 0], [0, 0, 0]], float
)
"""(9, 3): what a vector's entries add to the matrix of the cross product with it from the left."""
