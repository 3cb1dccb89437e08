"""NeMAR: both orders, the field that both share, and a field that may change at edges."""

import math

import pytest
import torch
from torch.nn import functional as F

from medtrace.fields import warp
from medtrace.methods import method_class
from medtrace.methods.nemar.method import edge_aware_smoothness
from medtrace.networks.nemar import NeMAR

Method = method_class("nemar")
SMALL = {"channels": 4, "num_blocks": 1, "registration_channels": (4, 8), "discriminator_channels": 4}


def make(channels=(1, 1), **options):
    torch.manual_seed(0)
    networks = NeMAR(2, *channels, **SMALL, discriminator_layers=1)
    torch.nn.init.normal_(networks.registration.head.weight, std=0.3)
    return Method(networks, **options)


def pair(channels=(1, 1)):
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(2, count, 16, 20, generator=generator) * 2 - 1
        for name, count in zip(("source", "target"), channels)
    }


def test_the_terms_are_of_both_orders_by_one_field():
    method, batch, context = make(), pair(), {}
    source, target = batch["source"], batch["target"]
    terms = method.terms("generator", batch, context)
    ddf = method.networks.registration(source, target)
    translator = method.networks.translator
    torch.testing.assert_close(terms["registered_translation_l1"], F.l1_loss(warp(translator(source), ddf), target))
    torch.testing.assert_close(terms["translated_registration_l1"], F.l1_loss(translator(warp(source, ddf)), target))
    terms["smoothness"].backward()
    assert method.networks.registration.head.weight.grad.any()
    assert not context["registered_translation"].requires_grad
    assert method.terms("discriminator", batch, context)["discriminator"] > 0
    (trace, _) = method.trace_pair(source, target)
    torch.testing.assert_close(trace.ddf, method.eval().networks.register(source, target)[0])
    assert not method.trace(batch)[0].ddf.any()


def test_smoothness_by_hand():
    ddf = torch.zeros(1, 2, 2, 2)
    ddf[0, 0, 1] = 3.0  # one component, one axis: mean over 2 components 1.5, over 2 axes .75
    image = torch.zeros(1, 1, 2, 2)
    assert float(edge_aware_smoothness(ddf, image)) == pytest.approx(0.75)
    image[0, 0, 1] = 1.0
    assert float(edge_aware_smoothness(ddf, image, 2.0)) == pytest.approx(0.75 * math.exp(-2))


def test_sources_of_other_channels_are_registered_too():
    method, batch = make((3, 1)), pair((3, 1))
    assert method.trace_pair(batch["source"], batch["target"])[0].warped.shape == (3, 16, 20)
    with pytest.raises(ValueError, match="smoothness: expected at least 0"):
        make(smoothness_weight=-1.0)
