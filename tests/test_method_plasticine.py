"""The Plasticine method against its equations, its averaged weights, and how it draws images."""

import copy
import sys

import pytest
import torch
from monai.data import MetaTensor
from monai.utils import set_determinism
from torch.nn import functional as F

from medtrace.engines import Checkpoint, Trainer
from medtrace.fields import compose, warp
from medtrace.losses import ParzenDNMILoss, velocity_smoothness
from medtrace.methods.common.averaging import WeightAverage
from medtrace.methods.common.diffusion import Sampling, case_generators, estimate_noise
from medtrace.methods.plasticine.method import PlasticineMethod
from medtrace.networks import DeformationModule, DiffusionTranslator, NoiseEstimator, NoiseSchedule, add_noise

FEW = Sampling(steps=4)


def networks(spatial_dims=2, channels=1, seed=0, **options):
    """Small networks whose last layers are not at zero."""
    torch.manual_seed(seed)
    estimator = NoiseEstimator(
        spatial_dims, channels, channels=(8, 16), residual_blocks=1, head_channels=8, norm_groups=8
    )
    module = DeformationModule(spatial_dims, channels, channels=(8, 16), **options)
    for head in (module.head, module.inverse_head):
        if head is not None:
            torch.nn.init.normal_(head.conv.weight, std=0.05)
    torch.nn.init.normal_(estimator.unet.out[-1].conv.weight, std=0.05)
    return DiffusionTranslator(estimator, module)


def batch(*shape, count=2, channels=1, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = shape or (24, 20)
    images = {key: torch.rand(count, channels, *shape, generator=generator) * 1.8 - 0.9 for key in ("source", "target")}
    maps = {f"{key}_structure": (image.mean(1, keepdim=True) > 0).float() for key, image in images.items()}
    return images | maps


def make_method(seed=0, sampling=FEW, **options):
    module = {key: options.pop(key) for key in ("inverse", "use_noise") if key in options}
    return PlasticineMethod(networks(seed=seed, **module), sampling=sampling, **options)


# Training


def test_noise_term_is_equation_1():
    method, data, context = make_method(), batch(), {}
    torch.manual_seed(3)
    terms = method.terms("noise", data, context)
    torch.manual_seed(3)
    gamma = method.networks.schedule.draw(2)
    noise = torch.randn_like(data["target"])
    estimated = method.networks.noise_estimator(
        gamma.sqrt().reshape(2, 1, 1, 1) * data["target"] + (1 - gamma).sqrt().reshape(2, 1, 1, 1) * noise,
        gamma,
        data["target_structure"],
    )
    torch.testing.assert_close(terms["noise_l1"], (noise - estimated).abs().mean())
    torch.testing.assert_close(context["noise"], estimated)
    assert not context["noise"].requires_grad


@pytest.mark.parametrize("inverse", ["negated", "predicted"])
def test_deformation_terms_are_equations_6_and_7(inverse):
    weights = {
        f"{name}_weight": 0.5 for name in ("surrogate_similarity", "surrogate_smoothness", "inverse_consistency")
    }
    method, data = make_method(inverse=inverse, smoothness_weight=0.1, **weights), batch()
    context = {"noise": torch.randn(2, 1, 24, 20)}
    terms = method.terms("deformation", data, context)
    x, y = data["source"], data["target"]
    pair = method.networks.deformation(x, y, context["noise"])
    alone = method.networks.deformation(x)
    nmi = ParzenDNMILoss(32)

    def smoothness(output):
        both = velocity_smoothness(output.velocity), velocity_smoothness(output.inverse_velocity)
        return sum(both) / 2

    there, back = pair.ddf, pair.inverse_ddf
    expected = {
        "forward_similarity": nmi(warp(x, pair.ddf), y),
        "inverse_similarity": nmi(x, warp(y, pair.inverse_ddf)),
        "smoothness": smoothness(pair),
        "alignment": (pair.surrogate - pair.features).square().mean(),
        "surrogate_similarity": nmi(warp(x, alone.ddf), y) + nmi(x, warp(y, alone.inverse_ddf)),
        "surrogate_smoothness": smoothness(alone),
        "inverse_consistency": (compose(there, back).square().mean() + compose(back, there).square().mean()) / 2,
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=name)
    assert dict(method.phase("deformation").weights) == {
        "forward_similarity": 1,
        "inverse_similarity": 1,
        "smoothness": 0.1,
        "alignment": 1,
        **dict.fromkeys(("surrogate_similarity", "surrogate_smoothness", "inverse_consistency"), 0.5),
    }


def test_the_papers_terms_are_the_default():
    method, context = make_method(), {}
    assert set(method.terms("noise", batch(), context)) == {"noise_l1"}
    terms = method.terms("deformation", batch(), context)
    assert set(terms) == {"forward_similarity", "inverse_similarity", "smoothness", "alignment"}
    assert all(method.phase("deformation").weights[name] == 1 for name in terms)
    assert terms["forward_similarity"] < -1  # minus NMI, which Eq. A.13 leaves out
    assert method.average.decay == 0.9999


def test_smoothness_as_a_sum():
    context = {"noise": torch.zeros(2, 1, 24, 20)}
    mean, total = (
        make_method(smoothness_reduction=name).terms("deformation", batch(), context) for name in ("mean", "sum")
    )
    assert total["smoothness"] > 100 * mean["smoothness"]


@pytest.mark.parametrize(("gradient", "moves"), [("surrogate", False), ("both", True)])
def test_alignment_gradient_says_what_is_taught(gradient, moves):
    method = make_method(alignment_gradient=gradient)
    terms = method.terms("deformation", batch(), {"noise": torch.zeros(2, 1, 24, 20)})
    terms["alignment"].backward()
    module = method.networks.deformation
    assert all(parameter.grad.abs().max() > 0 for parameter in module.alignment.parameters())
    stem = next(module.target_stem.parameters()).grad
    assert (stem is not None and bool(stem.abs().max() > 0)) == moves


def test_without_noise_the_module_sees_the_target_alone():
    method = make_method(use_noise=False)
    data, context = batch(), {}
    method.terms("noise", data, context)
    terms = method.terms("deformation", data, context)
    again = method.terms("deformation", data, {"noise": torch.randn(2, 1, 24, 20)})
    assert terms["forward_similarity"] == again["forward_similarity"]


def test_missing_structure_maps_are_made():
    seen = []

    def structure(image):
        seen.append(image)
        return (image > 0).float()

    method, data = make_method(structure=structure), batch()
    torch.manual_seed(0)
    given = method.terms("noise", data, {})["noise_l1"]
    assert seen == []
    torch.manual_seed(0)
    bare = {key: data[key] for key in ("source", "target")}
    torch.testing.assert_close(method.terms("noise", bare, {})["noise_l1"], given)
    assert [tuple(image.shape) for image in seen] == [(1, 24, 20)] * 2
    torch.testing.assert_close(method.trace(bare)[0].image, method.trace(data)[0].image)
    assert len(seen) == 4


def test_one_forward_of_the_estimator_serves_both_phases():
    method, calls = make_method(), []
    method.networks.noise_estimator.register_forward_hook(lambda *_: calls.append("noise"))
    method.networks.deformation.register_forward_hook(lambda *_: calls.append("deformation"))
    train(method, [batch()])
    assert calls == ["noise", "deformation"]


def train(method, batches, epochs=1, rate=1e-3, handlers=()):
    optimizers = {p.name: torch.optim.Adam(method.parameters_of(p.name), rate) for p in method.phases}
    trainer = Trainer("cpu", epochs, batches, method, optimizers, train_handlers=list(handlers))
    trainer.run()
    return trainer


@pytest.mark.parametrize(("shape", "spatial_dims"), [((24, 20), 2), ((16, 12, 9), 3)])
def test_a_step_moves_every_weight(shape, spatial_dims):
    method = PlasticineMethod(networks(spatial_dims, inverse="predicted"), sampling=FEW)
    before = {name: value.clone() for name, value in method.networks.named_parameters()}
    trainer = train(method, [batch(*shape)] * 3)  # what lies behind a layer of zeros waits for it
    still = {name for name, value in method.networks.named_parameters() if torch.equal(value, before[name])}
    assert still == set()
    assert {"noise_l1", "forward_similarity", "alignment"} <= set(trainer.state.output[0])
    traces = method.trace(batch(*shape))
    assert traces[0].ddf.shape == (spatial_dims, *shape)


@pytest.mark.slow
def test_both_losses_fall():
    torch.manual_seed(0)
    data = batch(32, 32)
    smooth = F.interpolate(torch.rand(2, 1, 4, 4), size=(32, 32), mode="bicubic").clamp(0, 1) * 1.8 - 0.9
    data |= {"target": smooth, "target_structure": (smooth > 0).float(), "source": smooth.roll(2, -1)}
    method = PlasticineMethod(networks(), smoothness_weight=0.01, sampling=FEW)
    first = train(method, [data]).state.output[0]
    last = train(method, [data] * 30, rate=3e-3).state.output[0]
    assert last["noise_l1"] < 0.9 * first["noise_l1"]
    assert last["forward_similarity"] < first["forward_similarity"] - 0.02


# Averaged weights


def test_average_follows_the_formula():
    network = torch.nn.Linear(2, 2)
    average = WeightAverage(network, 0.5)
    expected = network.weight.detach().clone()
    for count in range(12):
        with torch.no_grad():
            network.weight.add_(1.0)
        average.update_parameters(network)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.module.weight, expected)
    assert not average.module.weight.requires_grad
    assert int(average.updates) == 12
    follows = WeightAverage(network, 0.0)
    with torch.no_grad():
        network.weight.mul_(3)
    follows.update_parameters(network)
    assert torch.equal(follows.module.weight, network.weight)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_that_never_moves_is_refused(decay):
    with pytest.raises(ValueError, match="decay: expected a fraction in"):
        WeightAverage(torch.nn.Linear(1, 1), decay)


def test_training_moves_the_average_and_tracing_uses_it():
    method, data = make_method(average_decay=0.9), batch()
    start = copy.deepcopy(method.networks.noise_estimator)
    train(method, [data] * 3)
    assert int(method.average.updates) == 3
    average = dict(method.average.module.named_parameters())
    for name, value in method.networks.noise_estimator.named_parameters():
        if not torch.equal(value, start.get_parameter(name)):
            assert not torch.equal(average[name], value)
    image = method.trace(data)[0].image
    for parameter in method.networks.noise_estimator.parameters():
        torch.nn.init.zeros_(parameter)
    assert torch.equal(method.trace(data)[0].image, image)
    for parameter in method.average.parameters():
        torch.nn.init.zeros_(parameter)
    assert not torch.equal(method.trace(data)[0].image, image)


def test_a_resumed_training_ends_with_the_same_bits(tmp_path):
    data = [batch(seed=seed) for seed in range(2)]

    def run(folder, *lengths):
        for epochs in lengths:
            set_determinism(seed=5)
            method = make_method(surrogate_similarity_weight=0.5)
            train(method, data, epochs, handlers=[Checkpoint(folder, resume=True)])
        return method.state_dict()

    whole, cut = run(tmp_path / "whole", 3), run(tmp_path / "cut", 1, 3)
    set_determinism(seed=None)
    assert whole.keys() == cut.keys()
    assert int(whole["average.n_averaged"]) == 7
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


# Traces


def test_trace_holds_the_field_of_the_source_alone():
    method, data = make_method(inverse="predicted"), batch()
    affine = torch.diag(torch.tensor([2.0, 2, 1, 1], dtype=torch.float64))
    traces = method.trace({"source": MetaTensor(data["source"], affine=affine)} | {"target": data["target"] * 0})
    output = method.eval().networks.deformation(data["source"])
    assert output.ddf.abs().max() > 0.01
    for item, trace in enumerate(traces):
        torch.testing.assert_close(trace.ddf, output.ddf[item])
        torch.testing.assert_close(trace.inverse_ddf, output.inverse_ddf[item])
        torch.testing.assert_close(trace.velocity, output.velocity[item])
        torch.testing.assert_close(trace.affine, affine)
        assert trace.image.abs().max() <= 1
        assert not trace.image.requires_grad


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "dpm_solver"])
def test_batch_size_and_order_do_not_matter(sampler):
    method, data = make_method(sampling=Sampling(sampler=sampler, steps=6)), batch(count=3)
    together = method.trace(data)
    again = method.trace(data)
    for item, trace in enumerate(together):
        assert torch.equal(trace.image, again[item].image)
        alone = method.trace({key: value[item : item + 1] for key, value in data.items()})[0]
        torch.testing.assert_close(alone.image, trace.image, atol=1e-3, rtol=0)
    backwards = method.trace({key: value.flip(0) for key, value in data.items()})
    torch.testing.assert_close(backwards[2].image, together[0].image, atol=1e-3, rtol=0)


def test_seed_and_draw_change_the_noise():
    image = batch()["source"]
    first = [torch.rand(3, generator=generator) for generator in case_generators(image, 0)]
    assert not torch.equal(first[0], first[1])
    for seed, draw in ((1, 0), (0, 1)):
        other = [torch.rand(3, generator=generator) for generator in case_generators(image, seed, draw)]
        assert not torch.equal(first[0], other[0])
    again = [torch.rand(3, generator=generator) for generator in case_generators(image.flip(0), 0)]
    assert torch.equal(first[0], again[1])


def test_sample_size_is_a_mean_over_draws():
    method, data = make_method(sampling=Sampling(steps=3, samples=3)), batch()
    mean = method.refinement(data)
    draws, translator = [], method.networks
    for number in range(3):
        generators = case_generators(data["source"], 0, number)
        draws.append(translator.eval()(data["source"], data["source_structure"], generators, steps=3).image)
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close(mean.image, torch.stack(draws).mean(0))


def test_steps_on_the_way_are_kept_on_request():
    method, data = make_method(), batch()
    translation = method.refinement(data, keep=(0, 2, 4))
    assert [kept.step for kept in translation.intermediates] == [0, 2, 4]
    torch.testing.assert_close(translation.intermediates[-1].image, translation.image)
    assert method.refinement(data).intermediates == []


def test_combination_translates_the_deformed_source():
    data, low = batch(), Sampling(sampler="ddim", steps=3, start=0.2)
    joint, combination = (make_method(mode=mode, sampling=low) for mode in ("joint", "combination"))
    begin = joint.refinement(data, keep=(0,)).intermediates[0].image
    deformed = combination.refinement(data, keep=(0,)).intermediates[0].image
    gamma = joint.networks.schedule.levels(3, 0.2)[0]
    warped = joint.trace(data)[0].warped
    difference = (deformed - begin)[0] / gamma.sqrt().float()
    torch.testing.assert_close(difference, warped - data["source"][0], atol=1e-4, rtol=0)
    assert not torch.equal(joint.trace(data)[0].image, combination.trace(data)[0].image)


def test_progress_shows_a_bar_on_a_terminal(capfd, monkeypatch):
    data, asked = batch(), make_method(sampling=Sampling(steps=3, progress=True))
    asked.trace(data)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    asked.trace(data)
    assert "sampling" in capfd.readouterr().err
    make_method().trace(data)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("use_noise", [True, False])
def test_registering_a_pair_shows_the_module_both_images(use_noise):
    method, data = make_method(use_noise=use_noise), batch()
    traces = method.trace_pair(data["source"], data["target"])
    assert method.registers
    other = method.trace_pair(data["source"], data["target"].flip(-1))
    assert not torch.equal(traces[0].ddf, other[0].ddf)
    assert torch.equal(traces[0].ddf, method.trace_pair(data["source"], data["target"])[0].ddf)
    torch.testing.assert_close(traces[0].image, traces[0].warped, atol=1e-5, rtol=0)
    with pytest.raises(TypeError, match="mask: expected none"):
        method.trace_pair(data["source"], data["target"], data["source_structure"])


def test_tracing_leaves_modes_and_weights_as_they_were():
    method = make_method().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.trace(batch())
    assert method.networks.noise_estimator.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())


def test_several_channels():
    data = batch(channels=2)
    method = PlasticineMethod(networks(channels=2), structure=lambda image: (image > 0).float(), sampling=FEW)
    train(method, [{key: data[key] for key in ("source", "target")}])
    assert method.trace({"source": data["source"]})[0].image.shape == (2, 24, 20)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "both"}, "mode: expected one of"),
        ({"smoothness_weight": -1.0}, "smoothness_weight: expected a weight of at least 0"),
        ({"alignment_gradient": "none"}, "alignment_gradient: expected one of"),
        ({"smoothness_reduction": "max"}, "smoothness_reduction: expected one of"),
    ],
)
def test_wrong_choices_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        make_method(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": 0}, "steps: expected a number above 0"),
        ({"samples": 0}, "samples: expected a number above 0"),
        ({"start": 0.0}, "start: expected a fraction"),
        ({"sampler": "euler"}, "sampler: expected one of"),
    ],
)
def test_wrong_sampling_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**values)


def test_intensities_and_maps_out_of_range_are_named():
    method, data = make_method(), batch()
    with pytest.raises(ValueError, match="target: expected intensities in"):
        method.terms("noise", data | {"target": data["target"] * 3}, {})
    with pytest.raises(ValueError, match="target_structure: expected intensities in"):
        method.terms("noise", data | {"target_structure": data["target_structure"] * 2}, {})
    with pytest.raises(ValueError, match="source: expected intensities in"):
        method.trace({"source": data["source"] * 3})


def test_a_known_noise_is_no_loss():
    schedule, image = NoiseSchedule(), batch()["target"]

    def oracle(noisy, gamma, _):
        level = gamma.reshape(-1, 1, 1, 1)
        return (noisy - level.sqrt() * image) / (1 - level).sqrt()

    torch.manual_seed(0)
    estimate = estimate_noise(oracle, schedule, image)
    assert estimate.loss < 1e-2
    torch.testing.assert_close(add_noise(image, torch.zeros_like(image), torch.ones(2)), image)


def test_weighting_by_velocity_is_the_l1_of_the_velocity():
    schedule, image = NoiseSchedule(), batch()["target"]
    seen = {}

    def estimator(noisy, gamma, _):
        seen.update(noisy=noisy, gamma=gamma.reshape(-1, 1, 1, 1))
        return 0.9 * noisy

    torch.manual_seed(0)
    loss = estimate_noise(estimator, schedule, image, weighting="velocity").loss
    noisy, level = seen["noisy"], seen["gamma"]
    noise = (noisy - level.sqrt() * image) / (1 - level).sqrt()
    true, result = ((eps - (1 - level).sqrt() * noisy) / level.sqrt() for eps in (noise, 0.9 * noisy))
    torch.testing.assert_close(loss, (true - result).abs().mean(), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="noise_weighting: expected one of"):
        make_method(noise_weighting="snr")
