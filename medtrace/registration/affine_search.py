"""Climb from a start to the nearest best rigid or affine map."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

from medtrace.registration.frames import Array
from medtrace.registration.levels import AlignmentLevel

_SCALE = 100.0  # of the information, so that a gradient per voxel is about 1


class Candidate(NamedTuple):
    """A map of the frame's points and what it is worth."""

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
    """A start and what it is worth at a level."""
    return Candidate(name, matrix, level.score(matrix))


def refine(level: AlignmentLevel, start: Candidate, search: Search) -> Candidate:
    """Climb by L-BFGS; the parameters move the content by a voxel of the level per unit.

    Args:
        level: where to compare.
        start: whose matrix to change.
        search: what may change.
    """
    dims, center = level.dims, level.fixed_center
    lever = level.edge / level.radius
    count = dims * (dims - 1) // 2 if search.kind == "rigid" else dims * dims

    def linear(parameters: Array) -> Array:
        if search.kind == "rigid":
            return _rotation(parameters * lever, dims)
        return np.eye(dims) + parameters.reshape(dims, dims) * lever

    def matrix_of(parameters: Array) -> Array:
        matrix = np.eye(dims + 1)
        matrix[:-1, :-1] = start.matrix[:-1, :-1] @ linear(parameters[:count])
        moved = start.matrix[:-1, :-1] @ center + start.matrix[:-1, -1]
        matrix[:-1, -1] = moved + parameters[count:] * level.edge - matrix[:-1, :-1] @ center
        return matrix

    def objective(parameters: Array) -> tuple[float, Array]:
        value, by_matrix = level.compare(matrix_of(parameters))
        # of M = [L, c' + t − L·c]: by L is by_matrix's left part minus its last column times c
        by_linear = start.matrix[:-1, :-1].T @ (by_matrix[:, :-1] - np.outer(by_matrix[:, -1], center))
        if search.kind == "rigid":
            by_first = [np.sum(by_linear * slope) * lever for slope in _slopes(parameters[:count] * lever, dims)]
        else:
            by_first = list((by_linear * lever).ravel())
        gradient = np.array([*by_first, *(by_matrix[:, -1] * level.edge)])
        return -_SCALE * value, -_SCALE * gradient

    options = {"maxiter": search.iterations, "maxfun": 2 * search.iterations, "ftol": search.tolerance, "gtol": 1e-5}
    result = minimize(objective, np.zeros(count + dims), jac=True, method="L-BFGS-B", options=options)
    return Candidate(start.name, matrix_of(result.x), -float(result.fun) / _SCALE)


def _rotation(vector: Array, dims: int) -> Array:
    """Rotation matrix of one angle, or of a rotation vector (Rodrigues)."""
    if dims == 2:
        cosine, sine = np.cos(vector[0]), np.sin(vector[0])
        return np.array([[cosine, -sine], [sine, cosine]])
    angle = float(np.linalg.norm(vector))
    cross = _cross(vector)
    first = 1 - angle**2 / 6 if angle < 1e-4 else np.sin(angle) / angle
    second = 0.5 - angle**2 / 24 if angle < 1e-4 else (1 - np.cos(angle)) / angle**2
    return np.eye(3) + first * cross + second * cross @ cross


def _slopes(vector: Array, dims: int) -> list[Array]:
    """Derivatives of the rotation by the entries of its vector (Gallego and Yezzi, 2015)."""
    turn = _rotation(vector, dims)
    if dims == 2:
        return [np.array([[-turn[1, 0], -turn[0, 0]], [turn[0, 0], -turn[1, 0]]])]
    squared = float(vector @ vector)
    if squared < 1e-12:
        return [_cross(axis) for axis in np.eye(3)]
    result = []
    for number, axis in enumerate(np.eye(3)):
        moved = _cross(vector) @ (axis - turn[:, number])
        result.append((vector[number] * _cross(vector) + _cross(moved)) @ turn / squared)
    return result


def _cross(vector: Array) -> Array:
    """Matrix of the cross product with a vector from the left."""
    x, y, z = vector
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
