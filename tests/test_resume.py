"""A training that was killed and resumed ends bit for bit as an uninterrupted one; test_signals.py has a short test."""

import random
import time

import pytest

from tests.interrupted_training import METHODS, differences, ending, finish, killed_and_resumed, start

MOMENTS = {
    "in a forward pass": ("forward", 9),
    "in a backward pass": ("backward", 8),
    "in the first epoch": ("forward", 2),
    "between epochs": ("epoch", 2),
    "at the first epoch": ("epoch", 1),
    "while writing a checkpoint": ("writing", 2),
    "while writing the first checkpoint": ("writing", 1),
    "while writing the last weights": ("writing", 4),
    "before a checkpoint has its name": ("renaming", 2),
    "when a checkpoint has its name": ("renamed", 3),
    "while writing the history": ("history", 2),
    "when the run has its preparation": ("preparation", 1),
    "when the run has its record": ("record", 1),
    "before the weights of the run have their name": ("weights", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_point(method, moment, uninterrupted, tmp_path):
    assert differences(uninterrupted(method), killed_and_resumed(method, tmp_path, MOMENTS[moment])) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_again_and_again_at_any_time(method, uninterrupted, tmp_path):
    """Real kills after random times, until a resumed training is quick enough to end; five trainings."""
    expected, patience, kills = uninterrupted(method), random.Random(7), 0
    begun = time.perf_counter()
    assert finish(method, tmp_path / "timed") == 0
    seconds = time.perf_counter() - begun
    for number in range(5):
        folder = tmp_path / str(number)
        while True:
            process = start(method, folder, resume=True)
            process.join(patience.uniform(0.0, seconds))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
        assert process.exitcode == 0
        assert differences(expected, ending(folder)) == []
    print(f"{method}: {kills} kills")
    assert kills >= 5


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_loader_workers_changes_nothing(method, uninterrupted, tmp_path):
    """Workers that live as long as the loader draw what the process itself draws, also after a resume."""
    workers = {"training.num_workers": 2}
    result = killed_and_resumed(method, tmp_path, ("epoch", 3), **workers)
    assert differences(uninterrupted(method), result) == ["record"]  # which says how many there were
