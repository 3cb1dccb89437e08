"""NAGAN: Gram matrices of shallow features, and content that is not contrast."""

import pytest
import torch
from torch import nn

from medtrace.methods import build_method, method_class, resolve
from medtrace.networks.nagan import NAGAN, LayeredDiscriminator, gram_matrix, without_style

SIZES = {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 3}


@pytest.fixture
def method():
    torch.manual_seed(0)
    return build_method("nagan", resolve(method_class("nagan").settings_type, ("tracebench", "smoke")))


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, image):
        return self.factor * image


def test_gram_matrices_do_not_know_places():
    features = torch.randn(2, 3, 4, 5)
    shuffled = features.flatten(2)[..., torch.randperm(20)].unflatten(2, (4, 5))
    torch.testing.assert_close(gram_matrix(features), gram_matrix(shuffled))
    torch.testing.assert_close(gram_matrix(2 * features), 4 * gram_matrix(features))
    volume = gram_matrix(torch.randn(1, 2, 3, 4, 5))
    assert volume.shape == (1, 2, 2)
    assert torch.equal(volume, volume.transpose(1, 2))


def test_style_of_the_target_itself_is_at_no_distance(method):
    torch.manual_seed(0)
    source = torch.rand(2, 1, 16, 24) * 2 - 1
    method.networks.generator = Times(1.0)
    phase = method.phase("generator")
    terms = method.generator_terms(phase, {"source": source, "target": source.flip(0)}, {})
    assert float(terms["style_gram"].detach()) < 1e-6  # the batch's Gram matrices, in another order
    assert float(terms["content_features"].detach()) == 0
    other = method.generator_terms(phase, {"source": source, "target": 0.3 * source}, {})
    assert float(other["style_gram"].detach()) > 1e-5


def test_content_is_not_contrast_but_place(method):
    source = torch.rand(2, 1, 16, 24) * 2 - 1
    torch.testing.assert_close(without_style(source), without_style(0.4 * source + 0.1), atol=1e-3, rtol=0)
    phase, batch = method.phase("generator"), {"source": source, "target": source}
    found = {}
    for name, generator in (("contrast", Times(0.4)), ("mirror", nn.Identity())):
        method.networks.generator = generator
        if name == "mirror":
            method.networks.generator.forward = lambda image: image.flip(3)
        found[name] = float(method.generator_terms(phase, batch, {})["content_features"].detach())
    assert found["contrast"] < 0.05 * found["mirror"]


def test_discriminators_judge_against_targets_and_sources(method):
    source = torch.rand(2, 1, 16, 24) * 2 - 1
    batch, context = {"source": source, "target": -source}, {"fake": source}
    method.pool.size = 0
    terms = method.discriminator_terms(method.phase("discriminator"), batch, context)
    networks = method.networks
    known = networks.content(without_style(source)).logits
    torch.testing.assert_close(
        terms["content_discriminator"], 0.5 * ((known - 1).square().mean() + known.square().mean())
    )
    real, made = networks.style(-source).logits, networks.style(source).logits
    torch.testing.assert_close(terms["style_discriminator"], 0.5 * ((real - 1).square().mean() + made.square().mean()))


def test_layers_and_what_is_refused():
    features, logits = LayeredDiscriminator(2, 1, channels=4, num_layers=3)(torch.zeros(1, 1, 32, 32))
    assert [tuple(each.shape[1:]) for each in features] == [(4, 16, 16), (8, 8, 8), (16, 4, 4)]
    assert logits.shape == (1, 1, 4, 4)
    with pytest.raises(ValueError, match="style_layers: expected 1 to discriminator_layers=3, received 4"):
        NAGAN(2, 1, 1, style_layers=4, **SIZES)
    with pytest.raises(ValueError, match="out_channels: expected in_channels=1"):
        NAGAN(2, 1, 2, **SIZES)
