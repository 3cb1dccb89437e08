"""The TraceTrans method against its equations, and its reduction to Pix2Pix."""

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional as F

from medtrace.engines import Trainer
from medtrace.fields import inverse_consistency
from medtrace.losses import ParzenDNMILoss, velocity_smoothness
from medtrace.methods.base import Phase
from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import DualDecoderGAN
from medtrace.trace.prediction import affines_of


def networks(seed=0, channels=1, **options):
    torch.manual_seed(seed)
    gan = DualDecoderGAN(
        2, channels, channels, channels=(8, 16), discriminator_channels=8, discriminator_layers=2, **options
    )
    torch.nn.init.normal_(gan.generator.velocity_decoder.head.conv.weight, std=0.05)
    return gan


def pair(channels=1, size=32):
    generator = torch.Generator().manual_seed(1)
    return {key: torch.rand(2, channels, size, size, generator=generator) * 1.8 - 0.9 for key in ("source", "target")}


@pytest.mark.parametrize("channels", [1, 3])
def test_terms_are_the_equations(channels):
    gan, batch = networks(channels=channels), pair(channels)
    method, context = TraceTransMethod(gan), {}
    terms = method.terms("generator", batch, context)
    source, target = batch["source"], batch["target"]
    output = gan(source)
    expected = {
        "translation_l1": (output.image - target).abs().mean(),
        "warp_dnmi": ParzenDNMILoss(16)(output.warped, target),
        "cross_dnmi": ParzenDNMILoss(32)(output.image, output.warped),
        "translation_adversarial": (gan.translation_discriminator(source, output.image) - 1).square().mean(),
        "warp_adversarial": (gan.warp_discriminator(source, output.warped) - 1).square().mean(),
        "smoothness": velocity_smoothness(output.velocity),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)
    assessed = method.terms("discriminator", batch, context)
    fake = output.image.detach()
    half = 0.5 * (
        (gan.translation_discriminator(source, target) - 1).square().mean()
        + gan.translation_discriminator(source, fake).square().mean()
    )
    torch.testing.assert_close(assessed["translation_discriminator"], half)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.5, 1.0), (0.75, 0.5), (0.25, 1.0), (1.0, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_weights_are_equations_8_12_and_13(alpha, gamma):
    method = TraceTransMethod(networks(), alpha=alpha, gamma=gamma)
    assert dict(method.phase("generator").weights) == pytest.approx(
        {
            "translation_l1": alpha,
            "warp_dnmi": 1 - alpha,
            "cross_dnmi": min(alpha, 1 - alpha) * gamma,
            "translation_adversarial": 0.01 * alpha,
            "warp_adversarial": 0.01 * (1 - alpha),
            "smoothness": 0.2 * (1 - alpha),
        }
    )
    assert dict(method.phase("discriminator").weights) == pytest.approx(
        {"translation_discriminator": 0.01 * alpha, "warp_discriminator": 0.01 * (1 - alpha)}
    )
    terms = method.terms("generator", pair(), {})
    assert all(method.phase("generator").active(name) for name in terms)


def test_alpha_one_is_pix2pix():
    """Three steps of the trainer equal three steps of Pix2Pix written out by hand."""
    batch, rate = pair(), 1e-3
    ours, theirs = networks(), networks()
    method = TraceTransMethod(ours, alpha=1.0)
    optimizers = {p.name: torch.optim.Adam(method.parameters_of(p.name), rate) for p in method.phases}
    Trainer("cpu", 1, [batch] * 3, method, optimizers).run()

    generator, assess = theirs.generator, theirs.translation_discriminator
    image_stream = [*generator.encoder.parameters(), *generator.image_decoder.parameters()]
    for_generator, for_assess = torch.optim.Adam(image_stream, rate), torch.optim.Adam(assess.parameters(), rate)
    source, target = batch["source"], batch["target"]
    for _ in range(3):
        fake = torch.tanh(generator.image_decoder(generator.encoder(source)))
        for_generator.zero_grad()
        logits = assess(source, fake)
        (F.l1_loss(fake, target) + 0.01 * F.mse_loss(logits, torch.ones_like(logits))).backward()
        for_generator.step()
        for_assess.zero_grad()
        real, false = assess(source, target), assess(source, fake.detach())
        loss = F.mse_loss(real, torch.ones_like(real)) + F.mse_loss(false, torch.zeros_like(false))
        (0.01 * 0.5 * loss).backward()
        for_assess.step()

    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, msg=name, atol=1e-6, rtol=1e-5)


def test_smoothness_as_the_paper_prints_it():
    method = TraceTransMethod(networks(), smoothness_reduction="sum")
    mean = TraceTransMethod(networks())
    batch = pair()
    total = method.terms("generator", batch, {})["smoothness"]
    assert total > 100 * mean.terms("generator", batch, {})["smoothness"]


@pytest.mark.parametrize(("cross_gradient", "moves"), [("both", True), ("image", False)])
def test_cross_gradient_says_which_stream_the_constraint_teaches(cross_gradient, moves):
    gan = networks()
    method = TraceTransMethod(gan, cross_gradient=cross_gradient)
    method.terms("generator", pair(), {})["cross_dnmi"].backward()
    head = gan.generator.velocity_decoder.head.conv.weight
    assert (head.grad is not None and bool(head.grad.abs().max() > 0)) == moves
    assert gan.generator.image_decoder.head.conv.weight.grad.abs().max() > 0


def test_trace_is_the_networks_answer_with_an_inverse():
    gan = networks()
    affine = torch.diag(torch.tensor([2.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    source = MetaTensor(pair()["source"], affine=affine)
    traces = TraceTransMethod(gan).eval().trace({"source": source})
    output = gan.eval()(source.as_tensor())
    assert len(traces) == 2
    for item, trace in enumerate(traces):
        torch.testing.assert_close(trace.image, output.image[item])
        torch.testing.assert_close(trace.ddf, output.ddf[item])
        torch.testing.assert_close(trace.warped, output.warped[item], atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.as_tensor(trace.affine), affine)
        assert not trace.image.requires_grad
    there_and_back = inverse_consistency(traces[0].ddf[None], traces[0].inverse_ddf[None])
    assert there_and_back.mean() < 0.02


def test_trace_changes_no_running_statistic():
    gan = networks(norm="batch")
    before = {name: value.clone() for name, value in gan.state_dict().items()}
    method = TraceTransMethod(gan).train()
    method.trace(pair())
    assert all(torch.equal(value, gan.state_dict()[name]) for name, value in before.items())
    assert method.training


def test_intensities_outside_the_range_are_refused():
    batch = pair()
    method = TraceTransMethod(networks(), alpha=1.0)
    with pytest.raises(ValueError, match=r"source: expected intensities in \[-1, 1\]"):
        method.trace({"source": batch["source"] * 1000})
    with pytest.raises(ValueError, match="target: expected intensities"):
        method.terms("generator", {**batch, "target": batch["target"] + 5}, {})
    with pytest.raises(ValueError, match="target: expected the shape of prediction"):
        method.terms("generator", {**batch, "target": batch["target"][..., 1:]}, {})


def test_trace_at_alpha_one_is_the_identity():
    trace = TraceTransMethod(networks(), alpha=1.0).trace(pair())[0]
    assert torch.count_nonzero(trace.ddf) == 0


def test_a_single_image_method_refuses_pairs():
    batch = pair()
    with pytest.raises(TypeError, match="registers no pair"):
        TraceTransMethod(networks()).register(batch["source"], batch["target"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.2}, "alpha"),
        ({"gamma": -1}, "gamma"),
        ({"smoothness_weight": -0.1}, "smoothness_weight"),
        ({"cross_gradient": "warp"}, "cross_gradient"),
    ],
)
def test_wrong_weights_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TraceTransMethod(networks(), **options)


def test_unequal_channels_are_each_compared_with_the_target():
    gan = DualDecoderGAN(2, 2, 1, channels=(8, 16), discriminator_channels=8)
    source = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"source": source, "target": source[:, :1]}  # the untrained network moves nothing
    first, second, both = (
        float(TraceTransMethod(gan, registered_channels=chosen).terms("generator", batch, {})["warp_dnmi"].detach())
        for chosen in ([0], [1], None)
    )
    assert first < second
    assert both == pytest.approx((first + second) / 2, abs=1e-5)
    with pytest.raises(ValueError, match="registered_channels: expected different numbers from 0 to 1"):
        TraceTransMethod(gan, registered_channels=[2])
    terms = TraceTransMethod(gan, alpha=1.0).terms("generator", batch, {})
    assert set(terms) == {"translation_l1", "translation_adversarial"}


def test_total_refuses_terms_without_weight():
    phase = Phase("generator", (), {"l1": 1.0, "off": 0.0})
    assert phase.total({"l1": torch.tensor(2.0)}) == 2
    with pytest.raises(ValueError, match="terms of phase"):
        phase.total({"l1": torch.tensor(2.0), "off": torch.tensor(1.0)})


def test_affines_of_plain_and_meta_tensors():
    assert torch.equal(affines_of(torch.zeros(2, 1, 4, 4))[1], torch.eye(4, dtype=torch.float64))
    with pytest.raises(ValueError, match="4x4"):
        affines_of(MetaTensor(torch.zeros(2, 1, 4, 4), affine=torch.eye(3)))
