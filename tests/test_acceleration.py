"""Options of speed change no result: layout, compilation, fused optimizers; and no term waits for the device."""

from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from medtrace import checks
from medtrace.data import TraceBench, evaluation_loader, training_loader
from medtrace.engines import Acceleration, Checkpoint, Trainer, assembly, autocast_arguments, build_optimizers
from medtrace.methods import build_method, method_class, method_names, resolve
from medtrace.methods.common.two_domain import RegistrationCorrection, TwoDomainMethod
from medtrace.methods.tracetrans.method import TraceTransMethod
from medtrace.networks import CycleGAN, DualDecoderGAN, RegistrationUNet
from medtrace.workflows.bundle import BUNDLES


def tracetrans(spatial_dims=2, **options):
    torch.manual_seed(0)
    networks = DualDecoderGAN(spatial_dims, 1, 1, (4, 8), discriminator_channels=4, discriminator_layers=1)
    return TraceTransMethod(networks, adversarial_weight=1.0, **options)


def reggan():
    torch.manual_seed(0)
    host = CycleGAN(2, 1, 1, False, channels=4, num_blocks=1, discriminator_channels=4, discriminator_layers=1)
    correction = RegistrationCorrection(RegistrationUNet(2, 1, (4, 8)), mean_displacement_weight=1.0)
    return TwoDomainMethod(host, correction=correction, pool_size=0)


def optimizers(method, kind=torch.optim.Adam, rate=1e-3, **options):
    return {phase.name: kind(method.parameters_of(phase.name), rate, **options) for phase in method.phases}


def trained(method, *handlers, epochs=1, shape=(32, 32), **optimizer):
    generator = torch.Generator().manual_seed(1)
    items = [
        {key: torch.rand(1, *shape, generator=generator) * 2 - 1 for key in ("source", "target")} for _ in range(4)
    ]
    trainer = Trainer(
        "cpu",
        epochs,
        DataLoader(Dataset(items), batch_size=2),
        method,
        optimizers(method, **({"fused": True} | optimizer)),
        train_handlers=handlers,
    )
    trainer.run()
    return trainer


def distance(first, second):
    """Largest difference of two methods' weights, which must have the same names."""
    one, other = first.state_dict(), second.state_dict()
    assert list(one) == list(other)
    return max(float((one[name] - other[name]).abs().max()) for name in one if isinstance(one[name], torch.Tensor))


@pytest.fixture(scope="module")
def plain():
    method = tracetrans()
    untrained = {name: value.clone() for name, value in method.state_dict().items()}
    trained(method, fused=False)
    assert max(float((method.state_dict()[name] - untrained[name]).abs().max()) for name in untrained) > 1e-3
    return method


def test_channels_last_and_fused_train_alike(plain):
    method = tracetrans()
    trained(method, Acceleration(channels_last=True))
    convolutions = [layer for layer in method.modules() if isinstance(layer, nn.Conv2d)]
    wide = [layer for layer in convolutions if layer.in_channels > 1 and layer.kernel_size != (1, 1)]
    assert wide
    assert not any(layer.weight.is_contiguous() for layer in wide)
    assert distance(method, plain) < 1e-4


@pytest.mark.slow
def test_channels_last_in_three_dimensions():
    method = tracetrans(3)
    trained(method, Acceleration(channels_last=True), shape=(16, 16, 16))
    kernel = method.networks.generator.image_decoder.merges[0].conv.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)
    assert not kernel.is_contiguous()


def test_compiled_networks_train_alike(plain):
    method = tracetrans()
    seen = []

    def backend(graph, _inputs):
        seen.append(graph)
        return graph.forward

    trained(method, Acceleration(compile={"backend": backend}))
    assert seen
    assert distance(method, plain) < 1e-4


def test_shared_forwards_train_alike(plain):
    method = tracetrans(share_forwards=True)
    calls = []
    for stream in ("translation", "warp"):
        assess = getattr(method.networks, f"{stream}_discriminator")
        assess.register_forward_hook(lambda *_, stream=stream: calls.append(stream))
    gone_back = []

    def watch(_module, _inputs, output):
        output.image.register_hook(lambda _: gone_back.append("generator"))

    method.networks.generator.register_forward_hook(watch)
    trained(method)
    assert gone_back == ["generator"] * 2  # the discriminators' loss stops before it
    assert calls == ["translation", "warp", "translation", "warp"] * 2  # the generated images, the true ones; two steps
    assert distance(method, plain) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("build", [tracetrans, reggan])
def test_every_backend_trains_alike(build, backend):
    """By gradient descent: before a normalization a bias has a gradient of rounding, which Adam turns to steps."""
    first, expected, method = build(), build(), build()
    descent = {"kind": torch.optim.SGD, "rate": 0.1}
    trained(expected, **descent)
    trained(method, Acceleration(compile={"backend": backend}, channels_last=True), **descent)
    assert distance(method, expected) < 1e-4 * distance(first, expected)


@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False)])
def test_a_training_goes_on_in_another_layout(tmp_path, before, after):
    through = tracetrans()
    trained(through, epochs=2)
    trained(tracetrans(), Checkpoint(tmp_path), Acceleration(channels_last=before))
    method = tracetrans()
    trainer = trained(method, Checkpoint(tmp_path, resume=True), Acceleration(channels_last=after), epochs=2)
    assert trainer.state.iteration == 4
    assert distance(method, through) < 1e-4


def test_what_to_compile_is_a_truth_value_or_arguments():
    with pytest.raises(TypeError, match=r"compile: expected true, false or a mapping .* received 'inductor'"):
        Acceleration(compile="inductor")


FAST = {
    "training.amp_dtype": "bfloat16",
    "training.channels_last": True,
    "training.compile": {"backend": "eager"},
    "training.num_workers": 2,
}


@pytest.mark.parametrize("name", method_names())
def test_trainings_pass_the_options_on(name, tmp_path, monkeypatch):
    monkeypatch.setattr(assembly, "Trainer", lambda **options: SimpleNamespace(**options))
    kind = method_class(name).settings_type
    assert autocast_arguments(resolve(kind, ("tracebench", "smoke"))) == {}
    settings = resolve(kind, ("tracebench", "smoke"), FAST)
    method, cases = build_method(name, settings), TraceBench(settings.data.task, (32, 32), cases=4)
    loader = training_loader(cases, settings, torch.device("cuda:1"))
    assert (loader.pin_memory, loader.persistent_workers, loader.num_workers) == (True, True, 2)
    assert not training_loader(cases, settings, torch.device("cpu")).pin_memory
    chosen = build_optimizers(method, settings)
    assert all(optimizer.defaults["fused"] for optimizer in chosen.values())
    place = torch.device("cpu")
    trainer = assembly.build_trainer(method, settings, loader, chosen, tmp_path, place)
    evaluator = assembly.build_evaluator(method, settings, evaluation_loader(cases, settings), place)
    assert trainer.amp_kwargs == evaluator.amp_kwargs == {"dtype": torch.bfloat16}
    (acceleration,) = [handler for handler in trainer.train_handlers if isinstance(handler, Acceleration)]
    assert (acceleration.compile, acceleration.channels_last) == ({"backend": "eager"}, True)


@pytest.mark.parametrize("name", ["tracetrans", "reggan", "metaregnet", "plasticine"])
def test_bundles_pass_the_options_on(name):
    parser = ConfigParser()
    parser.read_config(BUNDLES / name / "configs" / "train.yaml")
    assert parser.get_parsed_content("train#trainer#amp_kwargs") == {}
    parser.update({f"settings#{key.replace('.', '#')}": value for key, value in FAST.items()})
    parser.update({"device": "cuda:1"})
    parser.parse(True)
    for entry in ("train#trainer", "validate#evaluator"):
        assert parser.get_parsed_content(f"{entry}#amp_kwargs") == {"dtype": torch.bfloat16}
    (place,) = (place for place, handler in enumerate(parser["train#handlers"]) if "Acceleration" in str(handler))
    acceleration = parser.get_parsed_content(f"train#handlers#{place}")
    assert (acceleration.compile, acceleration.channels_last) == ({"backend": "eager"}, True)
    loader = parser["train#dataloader"].replace("::", "#")
    assert loader == "$medtrace.data.training_loader(@train#dataset, @resolved, @device)"
    assert parser["optimizers"] == "$medtrace.engines.build_optimizers(@network, @resolved)"
    resolved = parser.get_parsed_content("resolved")
    assert resolved == resolve(type(resolved), (), FAST)
    assert all(optimizer.fused for optimizer in resolved.optimizers().values())


class Looks(TorchDispatchMode):
    """Count what would make the host wait for an accelerator."""

    waits = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim")

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function.overloadpacket.__name__ in self.waits:
            self.seen.append(function)
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("build", [tracetrans, reggan])
def test_no_term_waits_for_the_device(build, monkeypatch):
    monkeypatch.setattr(checks, "_costs_a_wait", lambda _: True)
    method = build()
    batch = {"source": torch.rand(2, 1, 32, 32), "target": torch.rand(2, 1, 32, 32)}
    context = {}
    with checks.DeferredChecks() as deferred, Looks() as looks:
        for phase in method.phases:
            phase.total(method.terms(phase.name, batch, context)).backward()
        for optimizer in optimizers(method, fused=True).values():
            optimizer.step()
    assert looks.seen == []
    with Looks() as looks:
        float(batch["source"].sum())
    assert len(looks.seen) == 1  # it does see one
    deferred.look()


def test_checks_that_waited_are_made(monkeypatch):
    monkeypatch.setattr(checks, "_costs_a_wait", lambda _: True)
    good, bad = torch.rand(2, 1, 32, 32), torch.full((2, 1, 32, 32), 1.5)
    with checks.DeferredChecks() as deferred:
        tracetrans().terms("generator", {"source": good, "target": bad}, {})
    with pytest.raises(ValueError, match=r"target: expected intensities in \[-1, 1\], received 1.5 to 1.5"):
        deferred.look()
    deferred.look()  # each is made once
