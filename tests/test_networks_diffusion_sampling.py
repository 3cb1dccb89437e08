"""Samplers against what is known in closed form: for normally distributed data the best noise estimate, the path of the
deterministic samplers and the moments of the stochastic one are all known."""

import math
import sys
from itertools import pairwise

import pytest
import torch

from medtrace.networks import NoiseEstimator, NoiseSchedule, add_noise, ddim_invert, denoise, noisy_start

MEAN, SPREAD = 0.3, 0.5
SCHEDULE = NoiseSchedule()
DETERMINISTIC = ("ddim", "dpm_solver")


def predict(noisy, gamma):
    """E[ε | noisy] for data of mean MEAN and standard deviation SPREAD."""
    level = gamma.to(noisy.dtype).reshape(-1, *[1] * (noisy.ndim - 1))
    return (1 - level).sqrt() * (noisy - level.sqrt() * MEAN) / variance(level)


def variance(level):
    return level * SPREAD**2 + 1 - level


def flowed(image, level, other):
    """Where the probability-flow equation takes an image from a level to another: it keeps its standard score."""
    score = (image - math.sqrt(level) * MEAN) / math.sqrt(variance(level))
    return math.sqrt(other) * MEAN + math.sqrt(variance(other)) * score


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def error(sampler, levels):
    noisy = normal(2, 1, 8, 8)
    result = denoise(predict, noisy, levels, sampler).image
    return float((result - flowed(noisy, float(levels[0]), float(levels[-1]))).abs().max())


def even_levels(steps):
    """Levels evenly spaced in λ = log(√γ/σ), down to a little noise: what the solvers' orders are stated for."""
    return torch.sigmoid(2 * torch.linspace(-3, 2, steps + 1, dtype=torch.float64))


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("dpm_solver", 2)])
def test_deterministic_samplers_converge_with_their_order(sampler, order):
    errors = [error(sampler, even_levels(steps)) for steps in (40, 80, 160)]
    assert errors[-1] < (0.02 if order == 1 else 0.001)
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("start", [1.0, 0.5])
def test_on_the_schedules_own_levels_the_solver_needs_fewer_steps(start):
    ddim, solver = ({n: error(sampler, SCHEDULE.levels(n, start)) for n in (25, 100, 400)} for sampler in DETERMINISTIC)
    assert ddim[25] / ddim[100] == pytest.approx(4, rel=0.15)
    assert solver[400] < solver[100] < solver[25] < ddim[100]
    assert solver[400] < 1.5e-3


def test_first_step_of_the_solver_is_ddims_and_a_step_to_no_noise_lands_on_the_clean_image():
    noisy = normal(1, 1, 4, 4)
    for levels in ([0.2, 0.6], [0.2, 1.0]):
        ddim, solver = (denoise(predict, noisy, torch.tensor(levels).double(), name).image for name in DETERMINISTIC)
        torch.testing.assert_close(ddim, solver)
    level = 0.2
    clean = (noisy - math.sqrt(1 - level) * predict(noisy, torch.tensor([level]))) / math.sqrt(level)
    torch.testing.assert_close(solver, clean, rtol=1e-6, atol=1e-6)


def test_ancestral_steps_are_algorithm_1():
    """Two steps by hand, from the formula and the case's own noise."""
    noisy, levels = normal(1, 1, 3, 4, dtype=torch.float32), torch.tensor([0.3, 0.6, 1.0], dtype=torch.float64)
    z = torch.randn((1, 3, 4), generator=torch.Generator().manual_seed(5))
    image = noisy
    for gamma, alpha, drawn in ((0.3, 0.5, z), (0.6, 0.6, 0 * z)):
        estimate = predict(image, torch.tensor([gamma]))
        image = (image - (1 - alpha) / math.sqrt(1 - gamma) * estimate) / math.sqrt(alpha) + math.sqrt(
            1 - alpha
        ) * drawn
    result = denoise(predict, noisy, levels, "ancestral", generators(5)).image
    torch.testing.assert_close(result, image)


def ancestral_moments(levels, mean=0.0, spread=1.0):
    """Mean and standard deviation that Algorithm 1 leaves, its steps being linear for this estimate."""
    moments = (mean, spread**2)
    for gamma, cleaner in pairwise(levels):
        alpha = gamma / cleaner
        slope = (1 - (1 - alpha) / variance(gamma)) / math.sqrt(alpha)
        shift = (1 - alpha) / variance(gamma) * math.sqrt(gamma) * MEAN / math.sqrt(alpha)
        moments = slope * moments[0] + shift, slope**2 * moments[1] + (1 - alpha) * (cleaner < 1)
    return moments[0], math.sqrt(moments[1])


def test_ancestral_moments_tend_to_the_datas():
    """Few steps widen the distribution (the larger variance); all 2000 reproduce it."""
    means, spreads = zip(*(ancestral_moments(SCHEDULE.levels(steps).tolist()) for steps in (50, 250, 2000)))
    assert means == pytest.approx([MEAN] * 3, abs=1e-3)
    assert spreads[0] > spreads[1] > spreads[2] > SPREAD
    assert spreads[2] == pytest.approx(SPREAD, abs=1e-3)


@pytest.mark.parametrize("steps", [50, 250])
def test_ancestral_sampling_has_those_moments(steps):
    count = 4 * 64 * 64
    levels = SCHEDULE.levels(steps)
    result = denoise(predict, normal(4, 1, 64, 64), levels, "ancestral", generators(1, 2, 3, 4)).image
    mean, spread = ancestral_moments(levels.tolist())
    assert float(result.mean()) == pytest.approx(mean, abs=4 * spread / math.sqrt(count))
    assert float(result.std()) == pytest.approx(spread, abs=4 * spread / math.sqrt(2 * count))


def test_ancestral_sampling_from_a_noised_image_of_another_domain_forgets_it():
    source = torch.full((2, 1, 48, 48), -0.9)
    levels = SCHEDULE.levels(100)
    result = denoise(
        predict, noisy_start(source, levels, generators(1, 2)), levels, "ancestral", generators(3, 4)
    ).image
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.03)
    late = SCHEDULE.levels(100, 0.1)
    result = denoise(predict, noisy_start(source, late, generators(1, 2)), late, "ancestral", generators(3, 4)).image
    assert float(result.mean()) < -0.5


def test_inversion_and_back_returns_the_image_the_better_the_more_steps():
    image = MEAN + SPREAD * normal(2, 1, 8, 8)
    misses = []
    for steps in (50, 100, 200, 400):
        levels = SCHEDULE.levels(steps)
        back = denoise(predict, ddim_invert(predict, image, levels), levels, "ddim").image
        misses.append(float((back - image).abs().max()))
    assert misses[-1] < 0.025
    for coarse, fine in pairwise(misses):
        assert coarse / fine == pytest.approx(2, rel=0.1)


def test_inversion_reaches_the_flows_noise():
    image = MEAN + SPREAD * normal(2, 1, 8, 8)
    levels = SCHEDULE.levels(1000)
    torch.testing.assert_close(
        ddim_invert(predict, image, levels), flowed(image, 1.0, float(levels[0])), atol=0.01, rtol=0
    )


def test_refinements_make_the_inversion_exact_with_few_steps():
    image = MEAN + SPREAD * normal(2, 1, 8, 8)
    levels = SCHEDULE.levels(25)
    misses = []
    for refinements in (0, 1, 2, 8):
        noisy = ddim_invert(predict, image, levels, refinements=refinements)
        misses.append(float((denoise(predict, noisy, levels, "ddim").image - image).abs().max()))
    assert misses[0] > 4 * misses[1] > 16 * misses[2]
    assert misses[-1] < 1e-6


def test_an_inversion_may_stop_at_any_level():
    image = MEAN + SPREAD * normal(1, 1, 6, 6)
    levels = SCHEDULE.levels(500, start=0.4)
    reached = ddim_invert(predict, image, levels)
    torch.testing.assert_close(reached, flowed(image, 1.0, float(levels[0])), atol=0.01, rtol=0)


@pytest.mark.parametrize("spatial", [(9, 10), (4, 5, 6)], ids=lambda shape: f"{len(shape)}d")
@pytest.mark.parametrize("sampler", ["ancestral", *DETERMINISTIC])
def test_a_case_does_not_depend_on_its_batch(sampler, spatial):
    image, levels = normal(3, 1, *spatial, dtype=torch.float32), SCHEDULE.levels(6)

    def sampled(cases):
        own = generators(*(10 + case for case in cases))
        return denoise(predict, noisy_start(image[cases], levels, own), levels, sampler, own).image

    together = sampled([0, 1, 2])
    assert torch.equal(together, torch.cat([sampled([case]) for case in range(3)]))
    assert torch.equal(together, sampled([2, 0, 1])[[1, 2, 0]])


@pytest.mark.parametrize("sampler", ["ancestral", *DETERMINISTIC])
def test_a_case_hardly_depends_on_its_batch_through_a_network(sampler):
    torch.manual_seed(0)
    network = NoiseEstimator(2, 1, 0, channels=(8, 16), norm_groups=8, head_channels=8, residual_blocks=1).eval()
    torch.nn.init.normal_(network.unet.out[2].conv.weight, std=0.05)
    levels = SCHEDULE.levels(8)
    noisy = normal(3, 1, 16, 16, dtype=torch.float32)
    together = denoise(network, noisy, levels, sampler, generators(1, 2, 3)).image
    assert together.std() > 0.1
    for case in range(3):
        alone = denoise(network, noisy[case : case + 1], levels, sampler, generators(case + 1)).image
        torch.testing.assert_close(alone, together[case : case + 1], atol=1e-3, rtol=0)


def test_seeds_decide_the_ancestral_result():
    noisy, levels = normal(1, 1, 8, 8), SCHEDULE.levels(10)
    first, same, other = (denoise(predict, noisy, levels, "ancestral", generators(seed)).image for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert (first - other).abs().mean() > 0.1


def test_noisy_start_is_the_image_at_the_first_level():
    image, levels = normal(2, 1, 4, 4, dtype=torch.float32), SCHEDULE.levels(5, 0.3)
    noise = torch.stack([torch.randn((1, 4, 4), generator=generator) for generator in generators(7, 8)])
    expected = add_noise(image, noise, levels[:1].expand(2))
    assert torch.equal(noisy_start(image, levels, generators(7, 8)), expected)


def test_clipping_keeps_the_clean_image_in_its_range_and_leaves_what_is_inside():
    levels = SCHEDULE.levels(30)
    noisy = 4 * normal(2, 1, 16, 16)
    for sampler in ("ancestral", *DETERMINISTIC):
        free = denoise(predict, noisy, levels, sampler, generators(0, 1)).image
        clipped = denoise(predict, noisy, levels, sampler, generators(0, 1), clip=(-0.5, 0.8)).image
        assert free.max() > 1.5
        assert clipped.min() >= -0.5 - 1e-9
        assert clipped.max() <= 0.8 + 1e-9
        wide = denoise(predict, noisy, levels, sampler, generators(0, 1), clip=(-1e6, 1e6)).image
        torch.testing.assert_close(wide, free)


@pytest.mark.parametrize("sampler", ["ancestral", *DETERMINISTIC])
def test_kept_steps_come_with_their_levels(sampler):
    noisy, levels = normal(2, 1, 5, 5, dtype=torch.float32), SCHEDULE.levels(6)
    result = denoise(predict, noisy, levels, sampler, generators(0, 1), keep=(6, 0, 3))
    assert [kept.step for kept in result.intermediates] == [0, 3, 6]
    assert [kept.gamma for kept in result.intermediates] == levels[[0, 3, 6]].tolist()
    assert torch.equal(result.intermediates[0].image, noisy)
    assert torch.equal(result.intermediates[2].image, result.image)
    if sampler != "ancestral":
        short = denoise(predict, noisy, levels[:4], sampler)
        assert torch.equal(result.intermediates[1].image, short.image)
    assert denoise(predict, noisy, levels, sampler, generators(0, 1)).intermediates == []


def test_progress_is_shown_on_request_alone(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    noisy, levels = normal(1, 1, 4, 4), SCHEDULE.levels(3)
    denoise(predict, noisy, levels, "ddim")
    assert capsys.readouterr().err == ""
    denoise(predict, noisy, levels, "ddim", progress="Denoising")
    assert "Denoising" in capsys.readouterr().err
    ddim_invert(predict, noisy, levels, progress="Inverting")
    assert "Inverting" in capsys.readouterr().err


def test_half_precision_networks_and_images_are_sampled_in_float32():
    noisy, levels = normal(1, 1, 4, 4, dtype=torch.float32), SCHEDULE.levels(20)
    exact = denoise(predict, noisy, levels, "dpm_solver").image
    rough = denoise(lambda image, gamma: predict(image, gamma).bfloat16(), noisy, levels, "dpm_solver").image
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0)
    assert denoise(predict, noisy.bfloat16(), levels, "ddim").image.dtype == torch.float32


def test_no_graph_is_kept():
    weight = torch.ones((), requires_grad=True)
    levels = SCHEDULE.levels(2)
    for result in (
        denoise(lambda image, _: weight * image, torch.ones(1, 1, 2, 2), levels, "ddim").image,
        ddim_invert(lambda image, _: weight * image, torch.ones(1, 1, 2, 2), levels),
    ):
        assert not result.requires_grad


LEVELS = torch.tensor([0.1, 0.5, 1.0])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"noisy": torch.zeros(3, 3)}, ValueError, "noisy: expected"),
        ({"sampler": "euler"}, ValueError, "sampler: expected one of 'ancestral', 'ddim', 'dpm_solver'"),
        ({"gammas": [0.1, 1.0]}, TypeError, "gammas: expected a floating-point tensor .* received list"),
        ({"gammas": torch.tensor([1, 0])}, TypeError, "gammas: expected a floating-point tensor"),
        ({"gammas": LEVELS.flip(0)}, ValueError, "start from the noisiest"),
        ({"gammas": torch.tensor([0.0, 1.0])}, ValueError, r"rising within \(0, 1\]"),
        ({"gammas": torch.tensor([0.5, math.nan])}, ValueError, r"rising within \(0, 1\]"),
        ({"gammas": torch.tensor([0.5])}, ValueError, r"gammas: expected shape \(steps \+ 1,\)"),
        ({"generators": None}, ValueError, "generators: expected 2, one torch.Generator per case, received None"),
        ({"generators": [torch.Generator()]}, ValueError, "generators: expected 2, .* received 1"),
        ({"clip": (1, -1)}, ValueError, "clip: expected"),
        ({"keep": (0, 3)}, ValueError, r"keep: expected steps from 0 to 2, received \[0, 3\]"),
        ({"predict": lambda image, _: image[:1]}, ValueError, r"predict\(noisy, gamma\): expected the shape"),
    ],
)
def test_what_does_not_fit_is_refused(changes, kind, message):
    arguments = {"predict": predict, "noisy": torch.zeros(2, 1, 3, 3), "gammas": LEVELS, "sampler": "ancestral"}
    with pytest.raises(kind, match=message):
        denoise(**{**arguments, "generators": generators(0, 1), **changes})


def test_an_inversion_refuses_less_than_no_refinement():
    with pytest.raises(ValueError, match="refinements: expected 0 or more, received -1"):
        ddim_invert(predict, torch.zeros(1, 1, 3, 3), LEVELS, refinements=-1)
