"""Palette: the source as condition, pure noise as the start."""

import pytest
import torch

from medtrace.engines import Trainer
from medtrace.methods.common.diffusion import Sampling, case_generators
from medtrace.methods.palette.method import PaletteMethod
from medtrace.networks import NoiseEstimator, NoiseSchedule, denoise, draw_noise


def make_method(spatial_dims=2, channels=1, condition=1, **options):
    torch.manual_seed(0)
    estimator = NoiseEstimator(
        spatial_dims, channels, condition, channels=(8, 16), residual_blocks=1, head_channels=8, norm_groups=8
    )
    torch.nn.init.normal_(estimator.unet.out[-1].conv.weight, std=0.05)
    return PaletteMethod(estimator, **{"sampling": Sampling(steps=4), **options})


def batch(*shape, source_channels=1, count=2):
    generator = torch.Generator().manual_seed(1)
    shape = shape or (20, 24)
    return {
        "source": torch.rand(count, source_channels, *shape, generator=generator) * 2 - 1,
        "target": torch.rand(count, 1, *shape, generator=generator) * 2 - 1,
    }


def test_the_term_is_the_noise_given_the_source():
    method, data = make_method(), batch()
    torch.manual_seed(3)
    value = method.terms("noise", data, {})["noise_l1"]
    torch.manual_seed(3)
    gamma = NoiseSchedule().draw(2)
    noise = torch.randn_like(data["target"])
    level = gamma.reshape(2, 1, 1, 1)
    noisy = level.sqrt() * data["target"] + (1 - level).sqrt() * noise
    estimated = method.networks["noise_estimator"](noisy, gamma, data["source"])
    torch.testing.assert_close(value, (noise - estimated).abs().mean())
    assert method.terms("noise", data | {"source": data["source"].flip(-1)}, {})["noise_l1"] != value


def test_drawing_starts_from_pure_noise_and_registers_nothing():
    method, data = make_method(), batch()
    drawn = method.refinement(data, keep=(0,))
    generators = case_generators(data["source"], 0)
    noise = draw_noise(data["source"], generators)
    torch.testing.assert_close(drawn.intermediates[0].image, noise)
    average = method.average.eval()
    by_hand = denoise(
        lambda noisy, gamma: average(noisy, gamma, data["source"]),
        noise,
        NoiseSchedule().levels(4),
        "ancestral",
        generators,
    ).image
    torch.testing.assert_close(drawn.image, by_hand)
    for item, trace in enumerate(method.trace(data)):
        torch.testing.assert_close(trace.image, by_hand[item].clamp(-1, 1))
        assert torch.count_nonzero(trace.ddf) == torch.count_nonzero(trace.inverse_ddf) == 0
    assert not method.registers


def test_batch_size_does_not_matter():
    method, data = make_method(), batch()
    together = method.trace(data)[1].image
    alone = method.trace({"source": data["source"][1:]})[0].image
    torch.testing.assert_close(alone, together, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("shape", "spatial_dims", "condition"), [((20, 24), 2, 2), ((12, 8, 9), 3, 1)])
def test_trains_with_other_channels_and_volumes(shape, spatial_dims, condition):
    method = make_method(spatial_dims, condition=condition)
    data = batch(*shape, source_channels=condition)
    before = {name: value.clone() for name, value in method.networks.named_parameters()}
    optimizers = {"noise": torch.optim.Adam(method.parameters_of("noise"), 1e-3)}
    Trainer("cpu", 1, [data] * 3, method, optimizers).run()  # what lies behind a layer of zeros waits for it
    assert all(not torch.equal(value, before[name]) for name, value in method.networks.named_parameters())
    assert int(method.average.updates) == 3
    assert method.trace(data)[0].image.shape == (1, *shape)


def test_a_start_from_the_source_is_refused():
    with pytest.raises(ValueError, match="start: expected 1, since Palette starts from pure noise"):
        make_method(sampling=Sampling(start=0.5))
