"""MONAI's DiffusionInferer over our noise estimator and schedule: the numbers of our own samplers, in float64."""

import pytest
import torch
from monai.inferers import DiffusionInferer

from medtrace.networks import InfererModel, NoiseEstimator, NoiseSchedule, add_noise, denoise, inferer_scheduler
from medtrace.networks import diffusion_sampling as sampling

SCHEDULE = NoiseSchedule(steps=12, first_beta=1e-3, last_beta=0.2)


def estimator(dims=2, condition=1, prediction="noise"):
    torch.manual_seed(0)
    sizes = {"channels": (4, 4), "head_channels": 2, "norm_groups": 2, "residual_blocks": 1}
    network = NoiseEstimator(dims, 1, condition_channels=condition, prediction=prediction, **sizes).double().eval()
    for parameter in network.parameters():
        if not parameter.any():  # the last convolution begins at zero and would estimate no noise
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def pair(dims=2, batch=2):
    torch.manual_seed(1)
    return torch.randn(2, batch, 1, *(8,) * dims, dtype=torch.float64)


@pytest.mark.parametrize(("dims", "steps", "prediction"), [(2, 4, "noise"), (2, 12, "velocity"), (3, 2, "noise")])
def test_ddim_takes_the_steps_of_our_sampler(dims, steps, prediction):
    network, (noise, source) = estimator(dims, prediction=prediction), pair(dims)
    ours = denoise(lambda y, gamma: network(y, gamma, source), noise, SCHEDULE.levels(steps), "ddim").image
    inferer = DiffusionInferer(inferer_scheduler(SCHEDULE, "ddim", steps))
    model = InfererModel(network, SCHEDULE)
    theirs = inferer.sample(noise, model, conditioning=source, mode="concat", verbose=False)
    assert theirs.dtype == torch.float64
    assert float((ours - noise).abs().max()) > 0.1
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10)


def test_ancestral_is_monais_ddpm_with_the_larger_variance(monkeypatch):
    network, (noise, source) = estimator(), pair()
    drawn = list(torch.randn(SCHEDULE.steps, *noise.shape, dtype=torch.float64))
    ours, theirs = iter(drawn), iter(drawn)
    monkeypatch.setattr(sampling, "draw_noise", lambda *_: next(ours))
    generators = [torch.Generator()] * len(noise)
    expected = denoise(
        lambda y, gamma: network(y, gamma, source), noise, SCHEDULE.levels(12), "ancestral", generators
    ).image
    monkeypatch.setattr(torch, "randn", lambda *_, **__: next(theirs))
    inferer = DiffusionInferer(inferer_scheduler(SCHEDULE, "ancestral"))
    model = InfererModel(network, SCHEDULE)
    got = inferer.sample(noise, model, conditioning=source, mode="concat", verbose=False)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


def test_a_step_of_training_is_ours_at_the_level_of_its_step():
    network, (noise, image) = estimator(condition=0), pair()
    steps = torch.tensor([0, 11])
    gamma = SCHEDULE.gammas[steps + 1]
    inferer = DiffusionInferer(inferer_scheduler(SCHEDULE))
    got = inferer(image, InfererModel(network, SCHEDULE), noise, steps)
    torch.testing.assert_close(got, network(add_noise(image, noise, gamma), gamma.float()), rtol=0, atol=1e-12)


def test_what_monai_means_otherwise_is_refused():
    network, (noise, source) = estimator(), pair()
    with pytest.raises(ValueError, match=r"steps: expected a divisor of 12 .* received 5; .*denoise takes any"):
        inferer_scheduler(SCHEDULE, "ddim", 5)
    with pytest.raises(ValueError, match=r"steps: expected 12, the schedule's own, .* received 6"):
        inferer_scheduler(SCHEDULE, "ancestral", 6)
    with pytest.raises(ValueError, match="sampler: expected one of"):
        inferer_scheduler(SCHEDULE, "dpm_solver")
    with pytest.raises(ValueError, match="context: expected None"):
        InfererModel(network, SCHEDULE)(noise, torch.tensor([3]), source)
    with pytest.raises(ValueError, match="timesteps: expected steps from 0 to 11, received 12 to 12"):
        InfererModel(network, SCHEDULE)(noise, torch.tensor([12]))
