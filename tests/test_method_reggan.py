"""The RegGAN method against its equations, in every mode, and the number of passes that a step takes."""

import itertools
from collections import Counter

import pytest
import torch
from monai.data import MetaTensor
from torch.nn import functional as F

from medtrace.data import TraceBench
from medtrace.engines import Trainer
from medtrace.fields import compose, warp
from medtrace.losses import velocity_smoothness
from medtrace.methods.common.image_pool import ImagePool
from medtrace.methods.common.two_domain import CycleConsistency, PairedL1, RegistrationCorrection, TwoDomainMethod
from medtrace.networks import RegistrationUNet
from medtrace.networks.backbone import Code, TranslationBackbone
from medtrace.networks.backbones import translation_backbone

SMALL = {
    "cyclegan": {"channels": 4, "num_blocks": 1, "discriminator_channels": 4, "discriminator_layers": 1},
    "munit": {
        "channels": 4,
        "num_blocks": 1,
        "mlp_channels": 8,
        "discriminator_channels": 4,
        "discriminator_layers": 1,
        "discriminator_scales": 2,
    },
    "unit": {
        "channels": 4,
        "num_blocks": 1,
        "discriminator_channels": 4,
        "discriminator_layers": 1,
        "discriminator_scales": 2,
    },
    "nice_gan": {"channels": 4, "num_blocks": 1, "discriminator_channels": 4},
}
# The registration networks here are random, and their fields may fold.
pytestmark = pytest.mark.filterwarnings("ignore:ddf. its inverse misses")


def build(mode="NC+R", backbone="cyclegan", spatial_dims=2, channels=(1, 1), mean_displacement_weight=0.0, **options):
    """The method of a mode, with a registration network that is not at rest."""
    torch.manual_seed(0)
    sizes = {**SMALL[backbone], "conditional": True} if mode == "pix2pix" else SMALL[backbone]
    networks = translation_backbone(
        backbone, spatial_dims, *channels, bidirectional=mode in ("C", "C+R"), options=sizes
    )
    correction = None
    if mode.endswith("+R"):
        network = RegistrationUNet(spatial_dims, channels[1], (4, 8, 8))
        correction = RegistrationCorrection(network, mean_displacement_weight=mean_displacement_weight)
        torch.nn.init.normal_(correction.network.head.weight, std=0.1)
    return TwoDomainMethod(
        networks,
        cycle=CycleConsistency() if mode in ("C", "C+R") else None,
        correction=correction,
        pairing=PairedL1() if mode == "pix2pix" else None,
        **options,
    )


def pair(*spatial, count=2, channels=(1, 1)):
    generator = torch.Generator().manual_seed(1)
    return {
        key: torch.rand((count, number, *(spatial or (24, 20))), generator=generator) * 1.8 - 0.9
        for key, number in zip(("source", "target"), channels)
    }


def least_squares(logits, goal):
    return (logits - goal).square().mean()


def l1(first, second):
    return (first - second).abs().mean()


def check_terms(result, expected):
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, msg=name)


# The equations


@pytest.mark.parametrize("mode", ["C", "C+R", "NC", "NC+R"])
def test_terms_are_equations_1_3_7_and_8(mode):
    channels = (1, 2)
    method, batch, context = build(mode, channels=channels), pair(channels=channels), {}
    terms = method.terms("generator", batch, context)
    x, y = batch["source"], batch["target"]
    to_target, assess = method.networks.decoders["target"], method.networks.discriminators["target"]
    fake = to_target(x)
    expected = {"target_adversarial": least_squares(assess(fake)[0], 1)}
    if mode in ("C", "C+R"):
        to_source = method.networks.decoders["source"]
        fake_source = to_source(y)
        assess_source = method.networks.discriminators["source"]
        expected["source_adversarial"] = least_squares(assess_source(fake_source)[0], 1)
        expected["cycle"] = l1(to_source(fake), x) + l1(to_target(fake_source), y)
    if mode.endswith("+R"):
        ddf = method.correction.network(fake, y)
        assert ddf.abs().max() > 0.3
        expected["correction"] = l1(warp(fake, ddf), y)
        expected["smoothness"] = velocity_smoothness(ddf)
    check_terms(terms, expected)

    assessed = {"target_discriminator": 0.5 * (least_squares(assess(y)[0], 1) + least_squares(assess(fake)[0], 0))}
    if mode in ("C", "C+R"):
        both = least_squares(assess_source(x)[0], 1) + least_squares(assess_source(fake_source)[0], 0)
        assessed["source_discriminator"] = 0.5 * both
    check_terms(method.terms("discriminator", batch, context), assessed)


def test_pix2pix_is_paired_l1_and_a_discriminator_that_sees_the_source():
    method, batch, context = build("pix2pix"), pair(), {}
    x, y = batch["source"], batch["target"]
    fake, assess = method.networks(x), method.networks.discriminators["target"]
    true, false = (assess(torch.cat([x, image], 1))[0] for image in (y, fake))
    check_terms(
        method.terms("generator", batch, context),
        {"target_adversarial": least_squares(false, 1), "paired_l1": l1(fake, y)},
    )
    expected = 0.5 * (least_squares(true, 1) + least_squares(false, 0))
    check_terms(method.terms("discriminator", batch, context), {"target_discriminator": expected})
    assert method.phase("generator").weights["paired_l1"] == 100


@pytest.mark.parametrize("mode", ["C", "pix2pix"])
def test_log_loss_is_binary_cross_entropy(mode):
    method, batch, context = build(mode, adversarial_loss="log"), pair(), {}
    terms = method.terms("generator", batch, context)
    assessed = method.terms("discriminator", batch, context)
    x, y = batch["source"], batch["target"]
    for domain, before, after in (("target", x, y), ("source", y, x))[: len(method.domains)]:
        fake = method.networks.decoders[domain](before)
        assess = method.networks.discriminators[domain]
        seen = [torch.cat([before, image], 1) if mode == "pix2pix" else image for image in (after, fake)]
        true, false = (assess(image)[0] for image in seen)
        cross_entropy = F.binary_cross_entropy_with_logits
        torch.testing.assert_close(terms[f"{domain}_adversarial"], cross_entropy(false, torch.ones_like(false)))
        half = 0.5 * (cross_entropy(true, torch.ones_like(true)) + cross_entropy(false, torch.zeros_like(false)))
        torch.testing.assert_close(assessed[f"{domain}_discriminator"], half)


def test_identity_loss_of_cyclegan_is_its_reconstruction_term():
    method, batch = build("C", internal_weights={"reconstruction": 5.0}), pair()
    terms = method.terms("generator", batch, {})
    to_source, to_target = (method.networks.decoders[domain] for domain in ("source", "target"))
    expected = l1(to_source(batch["source"]), batch["source"]) + l1(to_target(batch["target"]), batch["target"])
    torch.testing.assert_close(terms["reconstruction"], expected)
    assert method.phase("generator").weights["reconstruction"] == 5


def test_munits_terms_by_hand():
    """Styles are drawn for the target first, and the way back takes the style that the image came with."""
    method, batch = build("C+R", "munit"), pair()
    torch.manual_seed(3)
    terms = method.terms("generator", batch, {})
    backbone, x, y = method.networks, batch["source"], batch["target"]
    torch.manual_seed(3)
    of_x, of_y = backbone.encode(x, "source"), backbone.encode(y, "target")
    style_of_target, style_of_source = torch.randn(2, 8), torch.randn(2, 8)
    fake_target = backbone.decode(of_x._replace(style=style_of_target), "target")
    fake_source = backbone.decode(of_y._replace(style=style_of_source), "source")
    again_target, again_source = backbone.encode(fake_target, "target"), backbone.encode(fake_source, "source")
    back_to_x = backbone.decode(Code(again_target.content, of_x.style, again_target.shape), "source")
    back_to_y = backbone.decode(Code(again_source.content, of_y.style, again_source.shape), "target")
    ddf = method.correction.network(fake_target, y)
    expected = {
        "target_adversarial": sum(least_squares(one, 1) for one in backbone.discriminate(fake_target, "target")) / 2,
        "source_adversarial": sum(least_squares(one, 1) for one in backbone.discriminate(fake_source, "source")) / 2,
        "correction": l1(warp(fake_target, ddf), y),
        "smoothness": velocity_smoothness(ddf),
        "cycle": l1(back_to_x, x) + l1(back_to_y, y),
        "latent_cycle": l1(again_target.content, of_x.content)
        + l1(again_target.style, style_of_target)
        + l1(again_source.content, of_y.content)
        + l1(again_source.style, style_of_source),
        "reconstruction": l1(backbone.decode(of_x, "source"), x) + l1(backbone.decode(of_y, "target"), y),
    }
    check_terms(terms, expected)


def test_units_own_terms_by_hand():
    method, batch = build("C", "unit").eval(), pair()  # no noise on the codes
    terms = method.terms("generator", batch, {})
    backbone, x, y = method.networks, batch["source"], batch["target"]
    of_x, of_y = backbone.encode(x, "source"), backbone.encode(y, "target")
    again = [
        backbone.encode(backbone.decode(of_x, "target"), "target"),
        backbone.encode(backbone.decode(of_y, "source"), "source"),
    ]
    back = l1(backbone.decode(again[0], "source"), x) + l1(backbone.decode(again[1], "target"), y)
    expected = {
        "prior": of_x.content.square().mean() + of_y.content.square().mean(),
        "latent_cycle": again[0].content.square().mean() + again[1].content.square().mean(),
        "reconstruction": l1(backbone.decode(of_x, "source"), x) + l1(backbone.decode(of_y, "target"), y),
        "cycle": back,
    }
    check_terms({name: terms[name] for name in expected}, expected)


@pytest.mark.parametrize("backbone", ["munit", "unit", "nice_gan"])
def test_without_a_cycle_the_own_terms_of_the_target_remain(backbone):
    method, batch = build("NC", backbone).eval(), pair()
    terms = method.terms("generator", batch, {})
    own = {"munit": {"reconstruction"}, "unit": {"reconstruction", "prior"}, "nice_gan": {"reconstruction"}}[backbone]
    assert set(terms) == {"target_adversarial", *own}
    code = method.networks.encode(batch["target"], "target")
    torch.testing.assert_close(terms["reconstruction"], l1(method.networks.decode(code, "target"), batch["target"]))
    weights = method.phase("generator").weights
    assert {name: weights[name] for name in own} == {name: type(method.networks).internal_weights[name] for name in own}
    assert weights["latent_cycle"] == weights["cycle"] == 0
    bare = build("NC", backbone, internal_weights={})
    assert set(bare.terms("generator", batch, {})) == {"target_adversarial"}


def test_weights_are_the_papers():
    weights = build("C+R").phase("generator").weights
    assert {name: weight for name, weight in weights.items() if weight} == {
        "target_adversarial": 1,
        "source_adversarial": 1,
        "correction": 20,
        "smoothness": 10,
        "cycle": 10,
    }
    assert dict(build("C+R").phase("discriminator").weights) == {"target_discriminator": 1, "source_discriminator": 1}


@pytest.mark.parametrize(
    ("backbone", "mode"), [*itertools.product(SMALL, ("C", "C+R", "NC", "NC+R")), ("cyclegan", "pix2pix")]
)
def test_terms_are_those_with_a_weight(backbone, mode):
    method, context = build(mode, backbone), {}
    for phase in method.phases:
        phase.total(method.terms(phase.name, pair(), context)).backward()
    assert all(not image.requires_grad for image in context.values())
    assert set(context) == set(method.domains) == set(method.pools)


def test_a_weight_of_0_switches_a_term_off():
    method = build("NC+R", adversarial_weight=0.0)
    assert set(method.terms("generator", pair(), {})) == {"correction", "smoothness"}
    assert method.terms("discriminator", pair(), {}) == {}
    network = method.correction.network
    still = TwoDomainMethod(method.networks, correction=RegistrationCorrection(network, 0.0, 0.0))
    assert set(still.terms("generator", pair(), {})) == {"target_adversarial"}
    smooth = TwoDomainMethod(method.networks, correction=RegistrationCorrection(network, 0.0))
    assert set(smooth.terms("generator", pair(), {})) == {"target_adversarial", "smoothness"}


def test_correction_teaches_the_generator_and_the_registration():
    method = build("NC+R")
    method.terms("generator", pair(), {})["correction"].backward()
    for module in (method.networks.decoders, method.correction.network):
        assert all(parameter.grad.abs().max() > 0 for name, parameter in module.named_parameters() if "weight" in name)
    smooth = build("NC+R")
    smooth.terms("generator", pair(), {})["smoothness"].backward()
    assert smooth.correction.network.head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_mean_displacement_is_the_squared_running_mean_over_tissue(spatial_dims):
    method, batch = build(spatial_dims=spatial_dims, mean_displacement_weight=2.0), pair(*[8] * spatial_dims)
    correction, running = method.correction, torch.zeros(spatial_dims)
    assert method.phase("generator").weights["mean_displacement"] == 2
    for _ in range(3):
        terms = method.terms("generator", batch, {})
        ddf = correction.network(method.networks(batch["source"]), batch["target"])
        tissue = (batch["target"] + 1).double()
        mean = ((ddf * tissue).sum((0, *range(2, ddf.ndim))) / tissue.sum()).float()
        running = 0.99 * running + 0.01 * mean.detach()
        torch.testing.assert_close(correction.mean_displacement, running)
        torch.testing.assert_close(terms["mean_displacement"], running.square().sum())
        # The gradient is that of 2 · running · mean, whatever the momentum.
        weight = correction.network.head.bias
        (result,) = torch.autograd.grad(terms["mean_displacement"], weight)
        (expected,) = torch.autograd.grad((2 * running * mean).sum(), weight)
        torch.testing.assert_close(result, expected)


def test_mean_displacement_takes_a_constant_displacement_away():
    """Where nothing else speaks for a shift of R, it goes."""
    method, batch = build(mean_displacement_weight=1.0), pair()
    correction = method.correction
    torch.nn.init.zeros_(correction.network.head.weight)
    torch.nn.init.constant_(correction.network.head.bias, 3.0)
    optimizer = torch.optim.Adam([correction.network.head.bias], 0.3)
    correction.momentum = 0.5
    for _ in range(60):
        ddf = correction.network(batch["source"], batch["target"])
        optimizer.zero_grad()
        correction.mean_displacement_penalty(ddf, batch["target"]).backward()
        optimizer.step()
    assert correction.network.head.bias.abs().max() < 0.5


def test_discriminators_assess_the_pools_answer():
    method, batch = build("C", pool_size=1), pair(count=1)
    old = {domain: torch.full((1, 24, 20), 0.5) for domain in method.domains}
    for domain, image in old.items():
        method.pools[domain].images = [image.clone()]
    torch.manual_seed(0)
    swaps = set()
    for _ in range(12):
        context = {}
        method.terms("generator", batch, context)
        before = {domain: method.pools[domain].images[0].clone() for domain in method.domains}
        state = torch.get_rng_state()
        terms = method.terms("discriminator", batch, context)
        torch.set_rng_state(state)
        for domain in method.domains:
            pool = ImagePool(1)
            pool.images = [before[domain]]
            assessed = pool(context[domain])
            swaps.add(not torch.equal(assessed, context[domain]))
            assess = method.networks.discriminators[domain]
            half = 0.5 * (least_squares(assess(batch[domain])[0], 1) + least_squares(assess(assessed)[0], 0))
            torch.testing.assert_close(terms[f"{domain}_discriminator"], half)
    assert True in swaps


def test_three_steps_are_those_written_out_by_hand():
    batch, rate = pair(), 1e-3
    ours, theirs = build("NC+R"), build("NC+R")
    # Adam divides by the gradient's size: without a floor, rounding would decide where gradients vanish.
    optimizers = {p.name: torch.optim.Adam(ours.parameters_of(p.name), rate, eps=1e-3) for p in ours.phases}
    Trainer("cpu", 1, [batch] * 3, ours, optimizers).run()

    x, y = batch["source"], batch["target"]
    generate, assess = theirs.networks.decoders["target"], theirs.networks.discriminators["target"]
    register = theirs.correction.network
    for_both = torch.optim.Adam([*generate.parameters(), *register.parameters()], rate, eps=1e-3)
    for_assess = torch.optim.Adam(assess.parameters(), rate, eps=1e-3)
    for _ in range(3):
        fake = generate(x)
        ddf = register(fake, y)
        loss = least_squares(assess(fake)[0], 1) + 20 * l1(warp(fake, ddf), y) + 10 * velocity_smoothness(ddf)
        for_both.zero_grad()
        loss.backward()
        for_both.step()
        for_assess.zero_grad()
        loss = 0.5 * (least_squares(assess(y)[0], 1) + least_squares(assess(fake.detach())[0], 0))
        loss.backward()
        for_assess.step()
    for name, value in theirs.state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name, atol=1e-5, rtol=1e-4)


# What a step costs


def counted_step(method, batch):
    """Forward passes of every network in one training step, and whether each input carried a gradient."""
    passes, gradients = Counter(), {}
    networks = {
        **{f"generator {domain}": module for domain, module in method.networks.decoders.items()},
        **{f"encoder {domain}": module for domain, module in method.networks.encoders.items()},
        **{f"discriminator {domain}": module for domain, module in method.networks.discriminators.items()},
        **({"registration": method.correction.network} if method.correction else {}),
    }
    for name, module in networks.items():
        gradients[name] = []

        def note(_module, inputs, _output, name=name):
            passes[name] += 1
            gradients[name].append(inputs[0].requires_grad)

        module.register_forward_hook(note)
    optimizers = {p.name: torch.optim.Adam(method.parameters_of(p.name), 1e-4) for p in method.phases}
    Trainer("cpu", 1, [batch], method, optimizers).run()
    return passes, gradients


def test_a_step_of_reggan_passes_no_image_twice():
    """NC+R, CycleGAN backbone, 256 x 256, batch 1: the paper's setting but for the width of the networks."""
    passes, gradients = counted_step(build("NC+R"), pair(256, 256, count=1))
    assert passes == {"generator target": 1, "registration": 1, "discriminator target": 3}
    # The generated image for the generator; then the true one, and the one that the pool answers.
    assert gradients["discriminator target"] == [True, False, False]
    assert gradients["registration"] == [True]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("C", {"generator": 2, "discriminator": 3}),
        ("C+R", {"generator": 2, "discriminator": 3, "registration": 1}),
    ],
)
def test_a_step_with_a_cycle_passes_bidirectional(mode, expected):
    passes, gradients = counted_step(build(mode), pair())
    per_domain = {
        f"{name} {domain}": count
        for name, count in expected.items()
        if name != "registration"
        for domain in ("target", "source")
    }
    alone = {"registration": 1} if "registration" in expected else {}
    assert passes == {**per_domain, **alone}
    assert gradients["generator target"] == gradients["generator source"] == [False, True]


def test_a_step_of_the_other_modes():
    assert counted_step(build("NC"), pair())[0] == {"generator target": 1, "discriminator target": 3}
    assert counted_step(build("pix2pix"), pair())[0] == {"generator target": 1, "discriminator target": 3}


def test_a_step_with_codes_encodes_each_image_once():
    """Two true and two generated images; decoded across, back and within the domain."""
    passes, _ = counted_step(build("C+R", "munit"), pair())
    for domain in ("source", "target"):
        assert passes[f"encoder {domain}"] == 2
        assert passes[f"generator {domain}"] == 3
        assert passes[f"discriminator {domain}"] == 3
    passes, _ = counted_step(build("NC+R", "munit"), pair())
    assert (passes["encoder source"], passes["encoder target"], passes["generator target"]) == (1, 1, 2)


@pytest.mark.parametrize("mode", ["NC+R", "C+R"])
def test_volumes(mode):
    method, batch = build(mode, spatial_dims=3), pair(12, 10, 9, count=1)
    before = {name: value.clone() for name, value in method.named_parameters()}
    optimizers = {p.name: torch.optim.Adam(method.parameters_of(p.name), 1e-3) for p in method.phases}
    trainer = Trainer("cpu", 1, [batch], method, optimizers)
    trainer.run()
    assert {"correction", "smoothness", "target_adversarial"} <= set(trainer.state.output[0])
    still = [name for name, value in method.named_parameters() if torch.equal(value, before[name])]
    assert still == []
    assert method.trace(batch)[0].ddf.shape == (3, 12, 10, 9)
    assert method.trace_pair(batch["source"], batch["target"])[0].ddf.shape == (3, 12, 10, 9)


# Traces


def with_affine(tensor, spacing=2.0):
    return MetaTensor(tensor, affine=torch.diag(torch.tensor([spacing, spacing, 1, 1], dtype=torch.float64)))


@pytest.mark.parametrize("backbone", list(SMALL))
def test_a_translation_stays_where_the_source_is(backbone):
    method, batch = build("NC+R", backbone), pair()
    traces = method.trace({"source": with_affine(batch["source"])})
    translated = method.eval().networks(batch["source"])
    assert len(traces) == 2
    for item, trace in enumerate(traces):
        source = batch["source"][item]
        torch.testing.assert_close(trace.image, translated[item])
        assert torch.count_nonzero(trace.ddf) == torch.count_nonzero(trace.inverse_ddf) == 0
        assert trace.ddf.shape == (2, 24, 20)
        torch.testing.assert_close(trace.warped, source, atol=1e-5, rtol=0)
        torch.testing.assert_close(trace.affine, torch.diag(torch.tensor([2.0, 2, 1, 1], dtype=torch.float64)))
        assert trace.same_grid
        ledger = trace.ledger()
        assert ledger.deformation.abs().max() < 1e-5
        torch.testing.assert_close(ledger.appearance + ledger.residual, trace.image - source, atol=1e-5, rtol=0)
        assert ledger.summary.appearance > 0
        assert not trace.image.requires_grad


def test_tracing_repeats_itself_and_leaves_the_objective_as_it_was():
    for backbone in SMALL:
        method = build("C+R", backbone).train()
        before = {name: value.clone() for name, value in method.named_buffers()}
        first, second = (method.trace(pair())[0].image for _ in range(2))
        assert torch.equal(first, second)
        method.trace_pair(moving=pair()["source"], fixed=pair()["target"])
        assert method.training
        assert all(torch.equal(value, before[name]) for name, value in method.named_buffers())


def test_registering_a_pair_gives_the_registration_networks_field():
    method, batch = build("NC+R"), pair()
    traces = method.trace_pair(with_affine(batch["source"], 3.0), with_affine(batch["target"], 3.0))
    translated = method.networks(batch["source"])
    ddf = method.correction.network(translated, batch["target"])
    assert ddf.abs().max() > 0.3
    for item, trace in enumerate(traces):
        torch.testing.assert_close(trace.ddf, ddf[item])
        torch.testing.assert_close(trace.image, warp(translated, ddf)[item])
        torch.testing.assert_close(trace.warped, warp(batch["source"], ddf)[item])
        torch.testing.assert_close(trace.affine, torch.diag(torch.tensor([3.0, 3, 1, 1], dtype=torch.float64)))
    assert method.registers


class Painted(TranslationBackbone):
    """A backbone whose translation is the image that it is shown."""

    def __init__(self):
        super().__init__(2, 1, 1, bidirectional=False)

    def encode(self, image, domain):
        return Code(image)

    def decode(self, code, domain):
        return code.content


class Knowing(RegistrationUNet):
    """A registration network that answers a field it was given."""

    def __init__(self, ddf):
        super().__init__(2, 1, (4,))
        self.ddf = ddf

    def forward(self, moving, fixed):
        return self.ddf


def test_registering_with_the_true_field_gives_the_target():
    case = TraceBench("misaligned", (48, 48), settings={"level": "5", "source_noise": 0, "target_noise": 0})[0]
    method = TwoDomainMethod(Painted(), correction=RegistrationCorrection(Knowing(case["ddf"][None])))
    moving, fixed = case["clean_target"][None], case["target"][None]
    (trace,) = method.trace_pair(moving, fixed)
    head = case["head"].as_tensor()[0]
    error = (trace.warped - fixed[0].as_tensor()).abs()[0, head].mean()
    assert error < 0.15 * (moving - fixed).as_tensor().abs()[0, 0, head].mean()
    assert torch.equal(trace.warped, trace.image)
    # The inverse undoes it: what the source shows at q, the target shows at q + inverse.
    round_trip = compose(trace.ddf[None], trace.inverse_ddf[None])[0]
    inside = case["source_head"].as_tensor()[0]
    assert round_trip[:, inside].abs().mean() < 0.05


@pytest.mark.parametrize("mode", ["C", "NC", "pix2pix"])
def test_without_a_correction_no_pair_is_registered(mode):
    method, batch = build(mode), pair()
    assert not method.registers
    with pytest.raises(TypeError, match="registers no pair"):
        method.trace_pair(batch["source"], batch["target"])


def test_a_mask_is_refused():
    batch = pair()
    with pytest.raises(TypeError, match="mask: expected none, received one"):
        build("NC+R").trace_pair(batch["source"], batch["target"], mask=torch.ones(2, 1, 24, 20))


def test_a_pair_on_two_grids_is_refused():
    method, batch = build("NC+R"), pair()
    with pytest.raises(ValueError, match=r"source: expected the target's grid in space.*resample"):
        method.trace_pair(with_affine(batch["source"], 1.0), with_affine(batch["target"], 3.0))
    traces = method.trace_pair(with_affine(batch["source"], 3.0), batch["target"])
    assert traces[0].affine[0, 0] == 3
    with pytest.raises(ValueError, match="target: expected the batch and grid of source"):
        method.trace_pair(batch["source"], batch["target"][..., 1:])


# What is refused


def test_intensities_outside_the_range_are_refused():
    method, batch = build("NC+R"), pair()
    wide = {**batch, "target": batch["target"] + 5}
    with pytest.raises(ValueError, match="target: expected intensities"):
        method.terms("generator", wide, {})
    with pytest.raises(ValueError, match="source: expected intensities"):
        method.trace({"source": batch["source"] * 100})
    with pytest.raises(ValueError, match="target: expected intensities"):
        method.trace_pair(batch["source"], wide["target"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"adversarial_loss": "hinge"}, "adversarial_loss: expected one of 'least_squares', 'log', received 'hinge'"),
        ({"adversarial_weight": -1}, "target_adversarial: expected a weight of at least 0, received -1"),
        ({"cycle": CycleConsistency()}, "networks: expected a backbone built with bidirectional=True, for a cycle"),
        ({"pairing": PairedL1(-1)}, "paired_l1: expected a weight of at least 0"),
        ({"internal_weights": {"identity": 1}}, "internal_weights: expected one of 'reconstruction'"),
        ({"internal_weights": {"prior": -1}}, "prior: expected a weight of at least 0"),
        ({"pool_size": -1}, "size: expected 0 or more images"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TwoDomainMethod(build("NC").networks, **options)


def test_terms_that_a_host_lacks_say_so():
    with pytest.raises(TypeError, match="CycleGAN: has no prior"):
        build("NC", internal_weights={"prior": 1.0}).terms("generator", pair(), {})
    with pytest.raises(TypeError, match="CycleGAN: has no latent cycle"):
        build("C", internal_weights={"latent_cycle": 1.0}).terms("generator", pair(), {})
