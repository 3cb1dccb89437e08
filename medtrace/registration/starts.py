"""Orientations and shifts from which an alignment starts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

Array = Any
_PSI = 1.533751168755204288118041


def orientations(dims: int, count: int) -> list[Array]:
    """Rotation matrices spread evenly over all orientations, the quarter turns about the axes first.

    In 3D a super-Fibonacci spiral of quaternions (Alexa, CVPR 2022) fills between the 24 turns of a cube.

    Args:
        dims: 2 or 3.
        count: number of matrices, at least 4 in 2D and 24 in 3D.
    """
    if dims == 2:
        quarters = [math.pi / 2 * k for k in range(4)]
        others = [2 * math.pi * k / count for k in range(count) if 4 * k % count]
        return [_turn(angle) for angle in (*quarters, *others)]
    cube = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), order] = signs
            if np.linalg.det(matrix) > 0:
                cube.append(matrix)
    cube.sort(key=lambda matrix: -np.trace(matrix))  # the identity first
    return cube + [_spiral(k, count - 24) for k in range(count - 24)]


def _turn(angle: float) -> Array:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def _spiral(number: int, count: int) -> Array:
    place = number + 0.5
    fraction = place / count
    inner, outer = math.sqrt(fraction), math.sqrt(1 - fraction)
    alpha, beta = 2 * math.pi * place / math.sqrt(2), 2 * math.pi * place / _PSI
    x, y, z, w = inner * math.sin(alpha), inner * math.cos(alpha), outer * math.sin(beta), outer * math.cos(beta)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
