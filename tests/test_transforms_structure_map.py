"""The structure map, its piecewise-constant image and the exact solver on lines."""

import itertools

import numpy as np
import pytest

from medtrace.transforms.potts_lines import solve_lines


def least_energy(values: np.ndarray, jump_cost: float) -> float:
    """The minimum over all partitions into segments."""
    n = len(values)
    energies = []
    for cuts in itertools.product((False, True), repeat=n - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), n]
        error = sum(np.square(values[a:b] - values[a:b].mean()).sum() for a, b in itertools.pairwise(edges))
        energies.append(error + jump_cost * sum(cuts))
    return min(energies)


@pytest.mark.parametrize("jump_cost", [0.0, 0.1, 0.5, 2.0, 50.0])
def test_lines_reach_the_least_energy_of_all_partitions(jump_cost):
    random = np.random.default_rng(0)
    lengths = [1, 2, 5, 8, 10, 10]
    values = random.normal(size=sum(lengths)).round(1)
    starts = np.cumsum([0, *lengths])
    solved = solve_lines(values, starts, jump_cost)
    for a, b in itertools.pairwise(starts):
        energy = np.square(solved[a:b] - values[a:b]).sum() + jump_cost * np.count_nonzero(np.diff(solved[a:b]))
        assert energy == pytest.approx(least_energy(values[a:b], jump_cost), abs=1e-9)
