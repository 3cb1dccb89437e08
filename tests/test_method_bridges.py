"""Methods that go from the source to the target: the bridge's laws, Haar bands, terms, and that few steps suffice."""

import math

import pytest
import torch

from medtrace.methods import method_class, resolve
from medtrace.methods.common.bridge import started
from medtrace.methods.common.diffusion import Sampling
from medtrace.networks import NoiseEstimator
from medtrace.networks.blocks.haar import haar, inverse_haar
from medtrace.networks.brownian_bridge import bridge, bridge_state, euler, variance

BBDM, Flow = method_class("bbdm"), method_class("flow_matching")


def network(spatial_dims=2, channels=1, condition=1, **options):
    torch.manual_seed(0)
    result = NoiseEstimator(
        spatial_dims,
        channels,
        condition,
        channels=(8, 16),
        residual_blocks=1,
        head_channels=8,
        norm_groups=8,
        **options,
    )
    torch.nn.init.normal_(result.unet.out[-1].conv.weight, std=0.05)
    return result


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 6)])
def test_haar_is_orthonormal_and_gives_back_the_image(shape):
    image = torch.randn(2, 3, *shape, dtype=torch.float64)
    bands = haar(image)
    assert bands.shape == (2, 3 * 2 ** len(shape), *(extent // 2 for extent in shape))
    assert float(bands.square().sum()) == pytest.approx(float(image.square().sum()))
    torch.testing.assert_close(inverse_haar(bands), image)
    corner = image[0, 1][tuple(slice(0, 2) for _ in shape)]
    assert float(bands[0, 1].flatten()[0]) == pytest.approx(float(corner.sum()) / math.sqrt(2 ** len(shape)))
    with pytest.raises(ValueError, match="image: expected even extents"):
        haar(image[:, :, 1:])
    with pytest.raises(ValueError, match="bands: expected a multiple of"):
        inverse_haar(image)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_an_estimator_on_bands_takes_and_gives_images(spatial_dims):
    estimator = network(spatial_dims, wavelet=True)
    noisy = torch.randn(1, 1, *[9] * spatial_dims)
    assert estimator(noisy, torch.tensor([0.5]), noisy).shape == noisy.shape
    assert estimator.unet.conv_in.conv.in_channels == 2 * 2**spatial_dims
    assert estimator.stride == 4
    kind = method_class("palette").settings_type
    settings = resolve(kind, ("tracebench", "smoke"), {"estimator.wavelet": True})
    assert method_class("palette").build(settings).networks["noise_estimator"].wavelet


def test_the_variance_of_the_bridge():
    assert [variance(m, 2.0) for m in (0.0, 0.5, 1.0)] == [0.0, 1.0, 0.0]
    source, target = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    state = bridge_state(source, target, torch.tensor([0.5]), torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(state, torch.full((1, 1, 2, 2), 0.5 + math.sqrt(0.5)))


def test_the_walk_has_the_marginals_of_the_bridge():
    """Whatever the steps, a state at time m is normal about the line, of variance 2(m − m²)."""
    source, target = torch.zeros(1, 1, 200, 200), torch.ones(1, 1, 200, 200)
    generators = [torch.Generator().manual_seed(0)]
    walk = bridge(lambda state, _: state - target, source, 4, generators, keep=(0, 1, 2, 3, 4))
    for kept in walk.intermediates:
        assert float(kept.image.mean()) == pytest.approx(1 - kept.gamma, abs=0.02)
        assert float(kept.image.var()) == pytest.approx(2 * (kept.gamma - kept.gamma**2), abs=0.02)
    with pytest.raises(ValueError, match="keep: expected steps from 0 to 4"):
        bridge(lambda state, _: state, source, 4, keep=(5,))


def test_neighboring_states_of_the_walk_are_correlated_as_in_the_bridge():
    """Two states of a bridge to 0, at times m before m' on the walk: δ'·(1 − m)/(1 − m')."""
    source = torch.zeros(1, 1, 300, 300)
    walk = bridge(lambda state, _: state, source, 4, [torch.Generator().manual_seed(1)], keep=(1, 2))
    first, second = (kept.image.flatten() for kept in walk.intermediates)
    assert float((first * second).mean()) == pytest.approx(variance(0.5, 1.0) * 0.25 / 0.5, abs=0.02)


def test_eulers_steps_end_where_the_line_does():
    source, target = torch.rand(2, 1, 4, 4), torch.rand(2, 1, 4, 4)
    seen = []

    def velocity(_, time):
        seen.append(float(time[0]))
        return target - source

    torch.testing.assert_close(euler(velocity, source, 4).image, target)
    assert seen == [1.0, 0.75, 0.5, 0.25]
    with pytest.raises(ValueError, match="steps: expected at least 1"):
        euler(velocity, source, 0)


def test_the_term_of_flow_matching_is_the_velocity_of_the_line():
    method = Flow(network())
    batch = {name: torch.rand(2, 1, 16, 16) * 2 - 1 for name in ("source", "target")}
    torch.manual_seed(5)
    value = method.terms("bridge", batch, {})["velocity"]
    torch.manual_seed(5)
    time = torch.rand(2)
    t = time.reshape(2, 1, 1, 1)
    state = (1 - t) * batch["target"] + t * batch["source"]
    answer = method.networks(state, time.square(), batch["source"])
    torch.testing.assert_close(value, (answer - (batch["target"] - batch["source"])).square().mean())


def test_the_term_of_bbdm_is_the_residual_of_the_state():
    method = BBDM(network(), distance="l1")
    batch = {name: torch.rand(2, 1, 16, 16) * 2 - 1 for name in ("source", "target")}
    torch.manual_seed(5)
    value = method.terms("bridge", batch, {})["residual"]
    torch.manual_seed(5)
    time, noise = torch.rand(2), torch.randn_like(batch["target"])
    m = time.reshape(2, 1, 1, 1)
    away = m * (batch["source"] - batch["target"]) + (2 * (m - m * m)).sqrt() * noise
    answer = method.networks(batch["target"] + away, time.square(), batch["source"])
    torch.testing.assert_close(value, (answer - away).abs().mean())


def test_samples_and_steps_may_change_and_nothing_else():
    method = BBDM(network(), sampling=Sampling(steps=2))
    batch = {"source": torch.rand(2, 1, 16, 16) * 2 - 1}
    first = method.trace(batch)[0].image
    method.set_sampling({"steps": 3, "seed": 1})
    assert not torch.equal(method.trace(batch)[0].image, first)
    method = BBDM(network(), sampling=Sampling(steps=2), variance=0.0)
    method.set_sampling({"seed": 2})
    undrawn = method.trace(batch)[0].image
    method.set_sampling({"seed": 3})
    torch.testing.assert_close(method.trace(batch)[0].image, undrawn)
    assert (BBDM(network()).sampling.steps, Flow(network()).sampling.steps) == (10, 5)
    with pytest.raises(ValueError, match="variance: expected"):
        BBDM(network(), variance=-1.0)
    with pytest.raises(ValueError, match="sampling: expected one of 'steps', 'samples'"):
        method.set_sampling({"sampler": "ddim"})


def test_a_source_of_more_channels_starts_from_their_mean():
    source = torch.tensor([1.0, 3.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)
    assert float(started(source, 1).mean()) == 2
    assert started(source, 2) is source
