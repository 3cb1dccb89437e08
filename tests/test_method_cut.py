"""CUT and FastCUT: places, features, and which terms there are."""

import math

import pytest
import torch
from torch.nn import functional as F

from medtrace.losses import patch_nce
from medtrace.methods import build_method, method_class, resolve
from medtrace.networks.cut import CUT, PatchHeads

SMOKE = ("tracebench", "smoke")


def built(name, **values):
    torch.manual_seed(0)
    return build_method(name, resolve(method_class(name).settings_type, SMOKE, values))


def test_patch_nce_is_cross_entropy_over_the_places_of_one_image():
    torch.manual_seed(0)
    queries, keys = (F.normalize(torch.randn(2, 5, 3), dim=-1).requires_grad_() for _ in range(2))
    expected = 0.0
    for image in range(2):
        for place in range(5):
            alike = [math.exp(float(queries[image, place] @ keys[image, other]) / 0.5) for other in range(5)]
            expected -= math.log(alike[place] / sum(alike)) / 10
    result = patch_nce(queries, keys, temperature=0.5)
    assert float(result.detach()) == pytest.approx(expected, rel=1e-5)
    result.backward()
    assert keys.grad is None
    assert queries.grad.abs().sum() > 0
    with pytest.raises(ValueError, match=r"expected \(B, P, C\)"):
        patch_nce(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="temperature"):
        patch_nce(queries, keys, temperature=0.0)


def test_published_features_are_of_five_layers():
    network = CUT(2, 1, 1, channels=2, head_features=4, discriminator_channels=2)
    assert network.places == (1, 2, 3, 7)  # two strided convolutions, the first and the fifth of nine blocks
    maps = network.features(torch.rand(1, 1, 32, 32))
    assert [tuple(each.shape[1:]) for each in maps] == [(1, 32, 32), (4, 16, 16), (8, 8, 8), (8, 8, 8), (8, 8, 8)]
    through = network.generator.layers[:8](maps[0])
    torch.testing.assert_close(maps[-1], through)


def test_places_are_different_and_all_of_a_small_map():
    maps = [torch.rand(1, 1, 4, 5), torch.rand(1, 2, 2, 3)]
    many, few = PatchHeads.drawn_places(maps, 10)
    assert len(set(many.tolist())) == 10
    assert sorted(few.tolist()) == list(range(6))


def test_terms_and_papers_weights():
    cut, fast = built("cut"), built("fastcut")
    assert dict(cut.phase("generator").weights) == {"target_adversarial": 1, "nce": 1, "identity_nce": 1}
    assert dict(fast.phase("generator").weights) == {"target_adversarial": 1, "nce": 10, "identity_nce": 0}
    assert (cut.temperature, cut.patches, fast.flip_equivariance) == (0.07, 256, True)
    with pytest.raises(ValueError, match="out_channels: expected in_channels=1"):
        built("cut", out_channels=2)


def test_mirrored_batches_are_compared_mirrored_back():
    """With a generator that copies, a place's features are its own again, mirrored or not."""
    method = built("fastcut")
    torch.nn.init.zeros_(method.networks.heads.heads[0][0].bias)
    source = torch.rand(1, 1, 32, 32) * 2 - 1
    maps = method.networks.features(source)
    torch.manual_seed(1)
    plain = method._nce(source, source)
    torch.manual_seed(1)
    wrong = method._nce(source, source, mirrored=True)
    assert float(plain) < float(wrong)
    assert len(maps) == 4
