"""Noise levels: the paper's schedule, kept exact; draws between its levels; levels of few steps; noise added."""

import copy
import math
import pickle

import pytest
import torch

from medtrace.networks import NoiseSchedule, add_noise


def test_the_papers_schedule_leaves_almost_nothing_of_the_image():
    gammas = NoiseSchedule().gammas
    assert gammas.shape == (2001,)
    assert gammas.dtype == torch.float64
    assert gammas[0] == 1
    assert float(gammas[1]) == 1 - 1e-6
    assert float(gammas[2000] / gammas[1999]) == pytest.approx(1 - 1e-2, abs=1e-12)
    assert math.sqrt(gammas[-1]) == pytest.approx(0.0066, abs=5e-5)
    expected = 1.0
    for k in range(1, 1001):
        expected *= 1 - (1e-6 + (k - 1) * (1e-2 - 1e-6) / 1999)
    assert float(gammas[1000]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("corrupt", ["half", "bfloat16", "double"])
def test_no_conversion_rounds_the_levels(corrupt):
    host = torch.nn.ModuleList([NoiseSchedule(50), torch.nn.Linear(1, 1)])
    corrupted = getattr(copy.deepcopy(host), corrupt)()
    assert torch.equal(corrupted[0].gammas, NoiseSchedule(50).gammas)


def test_a_checkpoint_holds_no_levels_and_a_pickle_all_of_them():
    schedule = NoiseSchedule(50)
    assert not schedule.state_dict()
    assert torch.equal(pickle.loads(pickle.dumps(schedule)).gammas, schedule.gammas)


def test_draws_fill_every_gap_between_neighbors_evenly():
    schedule = NoiseSchedule(10, 0.01, 0.3)
    drawn = schedule.draw(20000, generator=torch.Generator().manual_seed(0))
    assert drawn.shape == (20000,)
    assert drawn.dtype == torch.float32
    rising = schedule.gammas.flip(0)
    assert rising[0] <= drawn.min()
    assert drawn.max() <= 1
    index = torch.bucketize(drawn.double(), rising)
    counts = torch.bincount(index, minlength=11)[1:]
    assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)
    fraction = (drawn.double() - rising[index - 1]) / (rising[index] - rising[index - 1])
    torch.testing.assert_close(
        torch.histc(fraction, 4, 0, 1) / 20000, torch.full((4,), 0.25, dtype=torch.float64), atol=0.02, rtol=0
    )


def test_draws_repeat_with_their_generator_and_follow_the_global_seed():
    schedule = NoiseSchedule()
    first, second = (schedule.draw(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(schedule.draw(5), first)


@pytest.mark.parametrize(
    ("steps", "start", "indices"),
    [
        (4, 1.0, [2000, 1500, 1000, 500, 0]),
        (3, 1.0, [2000, 1333, 667, 0]),
        (1, 1.0, [2000, 0]),
        (4, 0.5, [1000, 750, 500, 250, 0]),
        (2, 0.001, [2, 1, 0]),
        (2000, 1.0, list(range(2000, -1, -1))),
    ],
)
def test_levels_are_the_schedules_at_even_indices_below_the_start(steps, start, indices):
    schedule = NoiseSchedule()
    levels = schedule.levels(steps, start)
    assert levels.dtype == torch.float64
    assert torch.equal(levels, schedule.gammas[indices])


@pytest.mark.parametrize("spacing", [1.0, 1.5, 3.0, 9.0])
@pytest.mark.parametrize("steps", [1, 7, 25, 999, 1999, 2000])
def test_levels_never_repeat(steps, spacing):
    levels = NoiseSchedule().levels(steps, spacing=spacing)
    assert (levels.diff() > 0).all()
    assert (len(levels), levels[0], levels[-1]) == (steps + 1, NoiseSchedule().gammas[-1], 1)


def test_spacing_puts_levels_where_there_is_little_noise():
    schedule = NoiseSchedule()
    assert torch.equal(schedule.levels(4, 0.5, spacing=2.0), schedule.gammas[[1000, 562, 250, 62, 0]])
    assert torch.equal(schedule.levels(4, 0.01, spacing=9.0), schedule.gammas[[20, 3, 2, 1, 0]])


@pytest.mark.parametrize("spatial", [(5, 6), (3, 4, 5)], ids=lambda shape: f"{len(shape)}d")
def test_noise_is_added_to_each_case_s_own_level(spatial):
    image, noise = (torch.randn(3, 2, *spatial, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    noisy = add_noise(image, noise, torch.tensor([1.0, 0.0, 0.36]))
    torch.testing.assert_close(noisy[0], image[0])
    torch.testing.assert_close(noisy[1], noise[1])
    torch.testing.assert_close(noisy[2], 0.6 * image[2] + 0.8 * noise[2])


def test_a_hair_of_noise_is_added_exactly():
    gamma = NoiseSchedule().gammas[1:2]
    noisy = add_noise(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), gamma)
    torch.testing.assert_close(noisy, torch.full((1, 1, 2, 2), 1e-3), rtol=1e-6, atol=0)


def test_noise_is_added_in_float32_inside_autocast():
    image = torch.full((1, 1, 2, 2), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        noisy = add_noise(image, -image, torch.tensor([0.5]))
        from_half = add_noise(image.bfloat16(), -image.bfloat16(), torch.tensor([0.75]))
    assert noisy.dtype == from_half.dtype == torch.float32
    torch.testing.assert_close(noisy, torch.zeros_like(noisy), atol=1e-7, rtol=0)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: NoiseSchedule(0), ValueError, "steps: expected a number above 0, received 0"),
        (lambda: NoiseSchedule(9, 0.2, 0.1), ValueError, "0 < first_beta <= last_beta < 1, received 0.2 and 0.1"),
        (lambda: NoiseSchedule().levels(5, 0.0), ValueError, r"start: expected a fraction of the schedule in \(0, 1\]"),
        (lambda: NoiseSchedule().levels(5, 0.001), ValueError, "steps: expected 1 to 2, .* received 5"),
        (lambda: NoiseSchedule().levels(5, spacing=0.5), ValueError, "spacing: expected an exponent of at least 1"),
        (lambda: NoiseSchedule().levels(0), ValueError, "steps: expected 1 to 2000"),
        (lambda: noisy(torch.tensor([3, 4])), TypeError, "gamma: expected a floating-point tensor"),
        (lambda: noisy(0.5), TypeError, "gamma: expected a floating-point tensor .* received float"),
        (lambda: noisy(torch.tensor([0.5])), ValueError, r"gamma: expected shape \(2,\)"),
        (lambda: noisy(torch.tensor([0.5, 1500.0])), ValueError, "not indices of steps"),
        (lambda: noisy(torch.tensor([0.5, math.nan])), ValueError, r"noise levels in \[0, 1\]"),
        (lambda: add_noise(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3), torch.ones(1)), ValueError, "noise:"),
    ],
)
def test_what_does_not_fit_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def noisy(gamma):
    return add_noise(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3), gamma)
