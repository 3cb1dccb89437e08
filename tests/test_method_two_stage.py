"""Registration and translation trained apart: nothing of one reaches the other, and both orders are what they say."""

import pytest
import torch

from medtrace.fields import warp
from medtrace.methods import method_class, resolve

KIND = method_class("two_stage")


def make():
    torch.manual_seed(0)
    method = KIND.build(resolve(KIND.settings_type, ("tracebench", "smoke")))
    with torch.no_grad():
        for parameter in method.networks.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    method.after_step()
    return method


def batch():
    generator = torch.Generator().manual_seed(1)
    return {name: torch.rand(2, 1, 16, 16, generator=generator) * 2 - 1 for name in ("source", "target")}


def test_no_phase_reaches_the_other_and_both_orders_share_the_field():
    method, data, context = make(), batch(), {}
    sum(method.terms("noise", data, context).values()).backward()
    assert context == {}
    assert all(parameter.grad is None for parameter in method.networks["registration"].parameters())
    given = [p.grad.clone() for p in method.networks["translation"].parameters() if p.grad is not None]
    terms = method.terms("deformation", data, {})
    assert set(terms) == {"forward_similarity", "inverse_similarity", "smoothness"}
    sum(terms.values()).backward()
    left = [p.grad for p in method.networks["translation"].parameters() if p.grad is not None]
    assert all(torch.equal(before, after) for before, after in zip(given, left, strict=True))

    first = method.trace(data)[0]
    method.set_sampling({"order": "translate_first"})
    second = method.trace(data)[0]
    torch.testing.assert_close(first.ddf, second.ddf)
    assert first.ddf.any()
    assert not torch.equal(first.image, second.image)
    # Translation first is the translation without a field, deformed.
    expected = method.refinement(data).image
    for parameter in method.networks["registration"].parameters():
        parameter.data.zero_()
    still = method.refinement(data).image
    torch.testing.assert_close(warp(still, torch.stack([first.ddf, method_ddf(data)])), expected)
    with pytest.raises(ValueError, match="order: expected one of"):
        method.set_sampling({"order": "both"})


def method_ddf(data):
    return make().trace(data)[1].ddf
