"""The noise estimator: silent at first, told noise level and condition, any size, and learns to find noise."""

import pytest
import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

from medtrace.networks import NoiseEstimator, NoiseSchedule, add_noise

SMALL = {"channels": (8, 16), "norm_groups": 8, "head_channels": 8, "residual_blocks": 1}


def network(spatial_dims=2, condition_channels=1, speaking=True, **options):
    torch.manual_seed(0)
    built = NoiseEstimator(spatial_dims, 1, condition_channels, **{**SMALL, **options}).eval()
    if speaking:
        for name, parameter in built.named_parameters():
            if "conv2" in name or "unet.out" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return built


def images(*spatial, count=2, channels=1, seed=1):
    return torch.randn((count, channels, *spatial), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spatial", [(16, 16), (17, 23), (1, 5), (16, 16, 16), (5, 6, 7)], ids=lambda shape: f"{shape}")
def test_untrained_network_finds_no_noise_and_any_size_keeps_its_shape(spatial):
    noisy, condition, gamma = images(*spatial), images(*spatial, seed=2), torch.tensor([0.2, 0.9])
    silent = network(len(spatial), speaking=False)(noisy, gamma, condition)
    assert silent.shape == noisy.shape
    assert torch.count_nonzero(silent) == 0
    noise = network(len(spatial))(noisy, gamma, condition)
    assert noise.shape == noisy.shape
    assert noise.std() > 0.01


@torch.no_grad()
def test_it_is_monais_network_on_the_joined_channels_at_a_thousand_roots_of_gamma():
    built, noisy, condition = network(), images(8, 8), images(8, 8, seed=2)
    gamma = torch.tensor([0.25, 0.0625])
    expected = built.unet(torch.cat([noisy, condition], dim=1), timesteps=torch.tensor([500.0, 250.0]))
    assert isinstance(built.unet, DiffusionModelUNet)
    torch.testing.assert_close(built(noisy, gamma, condition), expected)


@torch.no_grad()
def test_a_velocity_is_turned_into_the_noise():
    built, noisy, condition = network(prediction="velocity"), images(8, 8), images(8, 8, seed=2)
    gamma = torch.tensor([0.25, 0.0625])
    velocity = built.unet(torch.cat([noisy, condition], dim=1), timesteps=torch.tensor([500.0, 250.0]))
    # The rotation (y, ε) -> (noisy, v) by the angle arccos √γ, undone.
    level = gamma.reshape(-1, 1, 1, 1)
    clean = level.sqrt() * noisy - (1 - level).sqrt() * velocity
    noise = built(noisy, gamma, condition)
    torch.testing.assert_close(add_noise(clean, noise, gamma), noisy)
    with pytest.raises(ValueError, match="prediction: expected one of"):
        network(prediction="score")


def test_monais_embedding_takes_fractions():
    """If it cast to integers, levels between the schedule's would be lost."""
    near = get_timestep_embedding(torch.tensor([500.0, 500.4]), 32)
    assert (near[0] - near[1]).abs().max() > 0.3


@torch.no_grad()
def test_neighboring_levels_and_conditions_are_told_apart():
    built, noisy, condition = network(), images(8, 8, count=1), images(8, 8, count=1, seed=2)
    gammas = NoiseSchedule().gammas
    reference = built(noisy, gammas[1000:1001], condition)
    for gamma, other in ((gammas[1010:1011], condition), (gammas[1000:1001], -condition)):
        assert (built(noisy, gamma, other) - reference).abs().max() > 1e-3


@torch.no_grad()
def test_unconditional_network():
    built = network(condition_channels=0)
    assert built.unet.in_channels == 1
    assert built(images(9, 9), torch.tensor([0.3, 0.4])).shape == (2, 1, 9, 9)


@torch.no_grad()
def test_padding_is_cropped_where_it_was_added():
    built, noisy, condition = network(), images(15, 16), images(15, 16, seed=2)
    gamma = torch.tensor([0.3, 0.4])
    padded = [torch.nn.functional.pad(image, (0, 0, 0, 1), mode="replicate") for image in (noisy, condition)]
    torch.testing.assert_close(built(noisy, gamma, condition), built(padded[0], gamma, padded[1])[..., :-1, :])


@torch.no_grad()
def test_a_case_hardly_depends_on_its_batch():
    built, noisy, condition = network(), images(16, 16, count=3), images(16, 16, count=3, seed=2)
    gamma = torch.tensor([0.1, 0.5, 0.9])
    together = built(noisy, gamma, condition)
    for case in range(3):
        own = slice(case, case + 1)
        torch.testing.assert_close(built(noisy[own], gamma[own], condition[own]), together[own], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter():
    built = network().train()
    built(images(8, 8), torch.tensor([0.2, 0.9]), images(8, 8, seed=2)).square().mean().backward()
    for name, parameter in built.named_parameters():
        # A constant added to every key changes no attention.
        if "to_k.bias" not in name:
            assert parameter.grad.abs().max() > 0, name


def test_autocast_and_half_precision_give_float32_noise():
    built, noisy, condition = network(), images(8, 8), images(8, 8, seed=2)
    gamma = torch.tensor([0.2, 0.9])
    exact = built(noisy, gamma, condition)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = built(noisy, gamma, condition)
    half = built.bfloat16()(noisy.bfloat16(), gamma, condition)
    for other in (rough, half):
        assert other.dtype == torch.float32
        assert 0 < (other - exact).abs().max() < 0.1 * exact.abs().max()


def test_attention_is_on_the_coarsest_level_unless_asked():
    def attending(**options):
        return [hasattr(block, "attentions") for block in network(**options).unet.down_blocks]

    assert attending(channels=(8, 8, 8)) == [False, False, True]
    assert attending(channels=(8, 8, 8), attention_levels=(False, True, False)) == [False, True, False]


def test_dropout_acts_in_every_residual_block_while_training_only():
    built = network(dropout=0.3)
    blocks = [module for module in built.modules() if type(module).__name__ == "DiffusionUNetResnetBlock"]
    assert (
        sum(isinstance(module, torch.nn.Dropout) and module.p == 0.3 for module in built.modules()) == len(blocks) > 4
    )
    arguments = images(8, 8), torch.tensor([0.2, 0.9]), images(8, 8, seed=2)
    torch.testing.assert_close(built(*arguments), built(*arguments), rtol=0, atol=0)
    built.train()
    assert not torch.allclose(built(*arguments), built(*arguments))


def test_default_is_palettes_size():
    with torch.device("meta"):
        built = NoiseEstimator(2, 1)
    assert built.unet.block_out_channels == (64, 128, 256, 512)
    assert sum(parameter.numel() for parameter in built.parameters()) / 1e6 == pytest.approx(62, abs=15)


def test_a_little_training_finds_noise_that_the_condition_reveals():
    """With the clean image as the condition, the noise is known; without it the error stays far above."""
    built = network(channels=(16,), speaking=False).train()
    optimizer, schedule = torch.optim.Adam(built.parameters(), 1e-2), NoiseSchedule()
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(25):
        image = 2 * torch.randint(0, 2, (8, 1, 8, 8), generator=generator).float() - 1
        noise, gamma = torch.randn(image.shape, generator=generator), schedule.draw(8, generator=generator)
        loss = (built(add_noise(image, noise, gamma), gamma, image) - noise).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx((2 / torch.pi) ** 0.5, abs=0.06)
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected 2 or 3, received 4"),
        ({"in_channels": 0}, "in_channels: expected a number above 0"),
        ({"condition_channels": -1}, "condition_channels: expected 0 or more, received -1"),
        ({"channels": ()}, "channels: expected at least one level"),
        ({"channels": (8, 12)}, r"channels: expected multiples of norm_groups=8, received \(8, 12\)"),
        ({"attention_levels": (True,)}, "attention_levels: expected 2 entries"),
        ({"head_channels": 5}, "head_channels: expected a divisor .* received 5 for 16 features"),
        ({"dropout": 1.0}, r"dropout: expected a fraction in \[0, 1\)"),
    ],
)
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NoiseEstimator(**{"spatial_dims": 2, "in_channels": 1, **SMALL, **options})


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"noisy": images(4, 4, 4)}, ValueError, "noisy: expected 2 spatial axes.*spatial_dims=3"),
        ({"noisy": images(8, 8, channels=2)}, ValueError, r"noisy: expected 1 channel\(s\)"),
        ({"noisy": images(8, 8).long()}, TypeError, "noisy: expected floating-point values"),
        ({"gamma": torch.tensor([0.5])}, ValueError, r"gamma: expected shape \(2,\)"),
        ({"gamma": torch.tensor([300.0, 500.0])}, ValueError, "gamma: expected noise levels"),
        ({"condition": None}, ValueError, r"condition: expected 1 channel\(s\), received None"),
        ({"condition": images(8, 8, channels=2)}, ValueError, r"condition: expected 1 channel\(s\)"),
        ({"condition": images(8, 9)}, ValueError, "condition: expected the batch and grid of noisy"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes, kind, message):
    arguments = {"noisy": images(8, 8), "gamma": torch.tensor([0.2, 0.9]), "condition": images(8, 8)}
    with pytest.raises(kind, match=message):
        network()(**{**arguments, **changes})


def test_an_unconditional_network_refuses_a_condition():
    with pytest.raises(ValueError, match="condition: expected None"):
        network(condition_channels=0)(images(8, 8), torch.tensor([0.2, 0.9]), images(8, 8))
