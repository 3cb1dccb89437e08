"""DualGAN: its Wasserstein terms, its round trips, and critics that stay within their bound."""

import pytest
import torch
from torch import nn

from medtrace.methods import build_method, method_class, resolve
from medtrace.networks.dualgan import DualGAN, UShapedGenerator

SMOKE = ("tracebench", "smoke")


def built(**values):
    torch.manual_seed(0)
    return build_method("dualgan", resolve(method_class("dualgan").settings_type, SMOKE, values))


def batch():
    torch.manual_seed(1)
    return {name: torch.rand(2, 1, 16, 24) * 2 - 1 for name in ("source", "target")}


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, image):
        return self.factor * image


class Mean(nn.Module):
    def forward(self, image):
        return [image]


def test_terms_are_those_of_arithmetic():
    method, given = built(), batch()
    method.networks.decoders = nn.ModuleDict({"target": Times(0.5), "source": Times(0.25)})
    method.networks.discriminators = nn.ModuleDict({"target": Mean(), "source": Mean()})
    context = {}
    source, target = given["source"], given["target"]
    terms = method.generator_terms(method.phase("generator"), given, context)
    torch.testing.assert_close(terms["target_adversarial"], -0.5 * source.mean())
    torch.testing.assert_close(terms["source_adversarial"], -0.25 * target.mean())
    torch.testing.assert_close(terms["source_reconstruction"], 0.875 * source.abs().mean())
    torch.testing.assert_close(terms["target_reconstruction"], 0.875 * target.abs().mean())
    critics = method.critic_terms(method.phase("critic"), given, context)
    torch.testing.assert_close(critics["target_critic"], 0.5 * source.mean() - target.mean())


def test_critics_stay_within_their_bound_and_generators_do_not():
    method = built(clip=0.02, penalty_weight=0.0)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(0.5)
    method.after_step()
    for parameters, expected in ((method.networks.discriminators, 0.02), (method.networks.decoders, 0.5)):
        assert all(float(p.detach().max()) == pytest.approx(expected) for p in parameters.parameters())


@pytest.mark.parametrize("shape", [(5, 33), (9, 12, 7)])
def test_translations_lie_on_the_images_grid(shape):
    torch.manual_seed(0)
    generator = UShapedGenerator(len(shape), 1, 2, channels=(4, 8))
    image = torch.rand(2, 1, *shape)
    assert generator(image).shape == (2, 2, *shape)
    assert not torch.equal(generator(image), generator(image))  # dropout is its noise, in training
    assert torch.equal(generator.eval()(image), generator(image))


def test_papers_settings():
    settings = method_class("dualgan").settings_type()
    assert 100 <= settings.source_weight == settings.target_weight <= 1000
    assert (settings.optimizer.betas, settings.optimizer.learning_rate) == ((0.0, 0.99), 5e-5)
    for preset in ("full", "gpu"):
        wide = resolve(type(settings), ("tracebench", "default", preset))
        assert {one.learning_rate for one in wide.optimizers().values()} == {5e-5}
    with pytest.raises(ValueError, match="clip"):
        type(built())(DualGAN(2, 1, 1, channels=(4, 8), discriminator_channels=4), clip=0.0)


def test_the_penalty_takes_the_place_of_clipping():
    method, given = built(penalty_weight=10.0), batch()
    method.networks.discriminators = nn.ModuleDict({"target": Mean(), "source": Mean()})
    context = {"target": given["source"], "source": given["target"]}
    terms = method.critic_terms(method.phase("critic"), given, context)
    # The mean of N voxels has the slope 1 / √N.
    torch.testing.assert_close(terms["target_penalty"], torch.tensor((1 - (16 * 24) ** -0.5) ** 2))
    method = built(penalty_weight=10.0)
    before = [parameter.clone() for parameter in method.networks.discriminators.parameters()]
    method.after_step()
    assert all(map(torch.equal, before, method.networks.discriminators.parameters()))
    assert "target_penalty" not in built(penalty_weight=0.0).phase("critic").weights


def test_a_critic_without_normalization_sees_brightness():
    torch.manual_seed(0)
    image = torch.rand(1, 1, 32, 32)
    for normalized in (True, False):
        networks = DualGAN(2, 1, 1, channels=(4, 8), discriminator_channels=4, critic_norm=normalized)
        (marks,), (bright,) = (networks.discriminate(one, "target") for one in (image, 2 * image))
        change = (bright - marks).abs().max() / marks.abs().max()
        assert change < 0.1 if normalized else change > 0.5
