"""DDIB: two unconditional models, joined at their noise."""

import sys

import pytest
import torch

from medtrace.engines import Trainer
from medtrace.methods.ddib.method import DDIBMethod
from medtrace.networks import NoiseEstimator, NoiseSchedule, ddim_invert, denoise


def estimator(spatial_dims=2, channels=1, seed=0):
    torch.manual_seed(seed)
    network = NoiseEstimator(
        spatial_dims, channels, 0, channels=(8, 16), residual_blocks=1, head_channels=8, norm_groups=8
    )
    torch.nn.init.normal_(network.unet.out[-1].conv.weight, std=0.05)
    return network


def make_method(spatial_dims=2, steps=6, **options):
    return DDIBMethod(estimator(spatial_dims), estimator(spatial_dims, seed=1), steps=steps, **options)


def batch(*shape, count=2):
    generator = torch.Generator().manual_seed(1)
    shape = shape or (20, 24)
    return {key: torch.rand(count, 1, *shape, generator=generator) * 2 - 1 for key in ("source", "target")}


def test_each_model_learns_its_own_domain():
    method, data = make_method(), batch()
    terms = method.terms("noise", data, {})
    assert set(terms) == {"source_noise_l1", "target_noise_l1"}
    terms["source_noise_l1"].backward()
    assert all(parameter.grad is None for parameter in method.networks["target"].parameters())
    assert any(parameter.grad is not None for parameter in method.networks["source"].parameters())


def test_terms_are_unconditional_noise():
    method, data = make_method(), batch()
    torch.manual_seed(3)
    terms = method.terms("noise", data, {})
    torch.manual_seed(3)
    for domain in ("source", "target"):
        gamma = NoiseSchedule().draw(2)
        noise = torch.randn_like(data[domain])
        level = gamma.reshape(2, 1, 1, 1)
        noisy = level.sqrt() * data[domain] + (1 - level).sqrt() * noise
        estimated = method.networks[domain](noisy, gamma)
        torch.testing.assert_close(terms[f"{domain}_noise_l1"], (noise - estimated).abs().mean())


def test_translation_goes_through_the_noise():
    method, data = make_method(), batch()
    gammas = NoiseSchedule().levels(6)
    source, target = (method.averages[domain].eval() for domain in ("source", "target"))
    noise = ddim_invert(source, data["source"], gammas)
    by_hand = denoise(target, noise, gammas, "ddim").image
    drawn = method.refinement(data, keep=(0,))
    torch.testing.assert_close(drawn.intermediates[0].image, noise)
    torch.testing.assert_close(drawn.image, by_hand)
    for item, trace in enumerate(method.trace(data)):
        torch.testing.assert_close(trace.image, by_hand[item].clamp(-1, 1))
        assert torch.count_nonzero(trace.ddf) == torch.count_nonzero(trace.inverse_ddf) == 0


def test_between_equal_models_the_image_comes_back():
    """Two copies of one model: the path up is the path down, the better the more steps."""
    model = estimator()
    data = batch()
    misses = []
    for steps in (5, 50):
        method = DDIBMethod(model, estimator(), steps=steps, start=0.5)
        misses.append((method.refinement(data).image - data["source"]).abs().max())
    assert misses[1] < 0.3 * misses[0]


def test_batch_size_does_not_matter():
    method, data = make_method(), batch()
    together = method.trace(data)[1].image
    torch.testing.assert_close(method.trace({"source": data["source"][1:]})[0].image, together, atol=1e-3, rtol=0)


def test_trains_volumes_and_averages_both():
    method, data = make_method(3), batch(12, 8, 9)
    before = {name: value.clone() for name, value in method.networks.named_parameters()}
    optimizers = {"noise": torch.optim.Adam(method.parameters_of("noise"), 1e-3)}
    Trainer("cpu", 1, [data] * 3, method, optimizers).run()  # what lies behind a layer of zeros waits for it
    assert all(not torch.equal(value, before[name]) for name, value in method.networks.named_parameters())
    assert [int(average.updates) for average in method.averages.values()] == [3, 3]
    assert method.trace(data)[0].image.shape == (1, 12, 8, 9)


def test_progress_names_bidirectional(capfd, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    make_method(progress=True).trace(batch())
    shown = capfd.readouterr().err
    assert "encoding" in shown
    assert "sampling" in shown


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="steps: expected a number above 0"):
        make_method(steps=0)
    with pytest.raises(ValueError, match="start: expected a fraction"):
        make_method(start=1.5)
    with pytest.raises(ValueError, match="target_estimator: expected the 1 channel"):
        DDIBMethod(estimator(), estimator(channels=2))
