"""What every method promises: `check_method` tries it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from monai.data import DataLoader, Dataset, MetaTensor
from safetensors.torch import load, save
from torch import Tensor

from medtrace.engines import Checkpoint, Trainer, build_optimizers
from medtrace.fields import warp
from medtrace.methods import Method, MethodSettings, plain, resolve
from medtrace.networks.patches import PatchInferer
from medtrace.storage.files import scratch_directory
from medtrace.trace import Trace

SMOKE = "smoke"
"""Preset that every method has: so small that a step takes a fraction of a second."""
_AFFINE = torch.diag(torch.tensor([-1.5, 2.0, 2.5, 1.0], dtype=torch.float64))
_SHAPES = {2: (32, 24), 3: (16, 24, 16)}


class ContractError(AssertionError):
    """A method does not do what every method promises; the message says what, expected and received."""


def check_method(kind: type[Method], level: Literal["quick", "full"] = "quick") -> None:
    """Try what every method promises.

    Quick, in seconds: the class names itself; settings survive JSON and build the same weights from the same seed; a
    training step reaches every phase with finite, declared terms and changes no input; traces have the right shapes on
    the source's grid, `warped` is the source at the field, and do not depend on the batch; declared abilities are true;
    weights survive safetensors; the step also runs under autocast.

    Full, in addition: three dimensions, images of an odd size, several channels, and a training that is stopped and
    resumed ends in the same bits.

    Args:
        kind: a subclass of `Method`, whose settings have a preset "smoke".
        level: "quick" or "full".

    Raises:
        ContractError: at the first promise that is broken.

    Example:
        >>> from medtrace.methods import method_class
        >>> check_method(method_class("unet"))
    """
    _check_names(kind)
    for dims in kind.abilities.spatial_dims if level == "full" else kind.abilities.spatial_dims[:1]:
        settings = _settings(kind, {"spatial_dims": dims})
        shape = _SHAPES[dims]
        _check_settings(kind, settings)
        _check_step(kind, settings, _batch(settings, shape))
        _check_traces(kind, settings, _batch(settings, shape))
        _check_weights(kind, settings, _batch(settings, shape))
        _check_autocast(kind, settings, _batch(settings, shape))
    if level == "full":
        dims = kind.abilities.spatial_dims[0]
        odd = tuple(size - 3 for size in _SHAPES[dims])
        settings = _settings(kind, {"spatial_dims": dims})
        _check_traces(kind, settings, _batch(settings, odd))
        several = _settings(kind, {"spatial_dims": dims, "in_channels": 2, "out_channels": 2})
        _check_step(kind, several, _batch(several, _SHAPES[dims]))
        _check_traces(kind, several, _batch(several, _SHAPES[dims]))
        if kind.abilities.channels == "any":
            other = _settings(kind, {"spatial_dims": dims, "in_channels": 2, "out_channels": 1})
            _check_step(kind, other, _batch(other, _SHAPES[dims]))
        _check_resume(kind, settings, _SHAPES[dims])


def _promise(held: bool, what: str, expected: Any, received: Any) -> None:
    if not held:
        raise ContractError(f"{what}: expected {expected}, received {received}")


def _check_names(kind: type[Method]) -> None:
    for attribute in ("name", "title", "paper"):
        value = getattr(kind, attribute)
        _promise(isinstance(value, str) and bool(value), f"{kind.__name__}.{attribute}", "text", repr(value))
    _promise(issubclass(kind.settings_type, MethodSettings), "settings_type", "a MethodSettings", kind.settings_type)
    _promise(
        SMOKE in kind.settings_type.presets, "presets", f"one called {SMOKE!r}", sorted(kind.settings_type.presets)
    )
    tasks = set(kind.abilities.tasks)
    _promise(bool(tasks) and tasks <= {"translate", "register"}, "abilities.tasks", "translate, register", tasks)
    _promise(set(kind.abilities.spatial_dims) <= {2, 3}, "abilities.spatial_dims", "2, 3", kind.abilities.spatial_dims)


def _settings(kind: type[Method], values: Mapping[str, Any]) -> MethodSettings:
    """The method's smallest settings, on no data of its own."""
    presets = [preset for preset in ("tracebench", SMOKE) if preset in kind.settings_type.presets]
    return resolve(kind.settings_type, presets, {"data": {"kind": "prepared"}, **values})


def _build(kind: type[Method], settings: MethodSettings) -> Method:
    torch.manual_seed(0)
    return kind.from_settings(settings)


def _batch(settings: MethodSettings, shape: tuple[int, ...], count: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)

    def image(channels: int) -> MetaTensor:
        coarse = torch.rand(count, channels, *(max(2, size // 4) for size in shape), generator=generator)
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        smooth = torch.nn.functional.interpolate(coarse, size=shape, mode=mode, align_corners=True)
        return MetaTensor(smooth * 2 - 1, affine=_AFFINE.expand(count, 4, 4).clone())

    mask = torch.zeros(count, 1, *shape)
    mask[(slice(None), slice(None), *(slice(4, 8) for _ in shape))] = 1.0
    return {
        "source": image(settings.in_channels),
        "target": image(settings.out_channels),
        "mask": mask.bool(),
        "case": [f"case-{item}" for item in range(count)],
        "subject": [f"subject-{item}" for item in range(count)],
    }


def _only(images: Tensor, item: int) -> MetaTensor:
    """One item of a batch, as a batch."""
    return MetaTensor(plain(images)[item : item + 1].clone(), affine=_AFFINE.clone())


def _check_settings(kind: type[Method], settings: MethodSettings) -> None:
    again = resolve(kind.settings_type, start=settings.model_dump(mode="json"))
    _promise(again == settings, "settings", "the same after JSON", "others")
    first, second = _build(kind, settings), _build(kind, again)
    _promise(
        _same(first.state_dict(), second.state_dict()), "from_settings", "the same weights from one seed", "others"
    )
    names = [phase.name for phase in first.phases]
    _promise(
        set(settings.optimizers()) == set(names), "settings.optimizers()", sorted(names), sorted(settings.optimizers())
    )
    terms = [term for phase in first.phases for term in phase.weights]
    _promise(len(set(terms)) == len(terms) and "loss" not in terms, "terms", "distinct names other than 'loss'", terms)


def _prepared(kind: type[Method], settings: MethodSettings, batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The items of a batch, with what the method makes of a training case."""
    transform = kind.case_transform(settings)
    count = len(batch["case"])
    items = [
        {key: _only(value, item)[0] if isinstance(value, MetaTensor) else value[item] for key, value in batch.items()}
        for item in range(count)
    ]
    return items if transform is None else [transform(item) for item in items]


def _trainer(
    kind: type[Method], settings: MethodSettings, items: list[dict[str, Any]], epochs: int, **more: Any
) -> Trainer:
    method = _build(kind, settings)
    return Trainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=DataLoader(Dataset(items), batch_size=2),
        method=method,
        optimizers=build_optimizers(method, settings),
        seed=0,
        **more,
    )


def _check_step(kind: type[Method], settings: MethodSettings, batch: dict[str, Any]) -> None:
    items = _prepared(kind, settings, batch)
    before = copy.deepcopy(items)
    trainer = _trainer(kind, settings, items, 1)
    start = copy.deepcopy(trainer.method.state_dict())
    trainer.run()
    _promise(all(_same(a, b) for a, b in zip(items, before)), "a training step", "its inputs as they were", "others")
    declared = {name for phase in trainer.method.phases for name in phase.weights if phase.active(name)}
    output = dict(trainer.state.output)
    _promise(set(output) == {"loss", *declared}, "terms of a step", sorted({"loss", *declared}), sorted(output))
    for name, value in output.items():
        _promise(bool(torch.isfinite(value)), f"term {name}", "a finite number", float(value))
    end = trainer.method.state_dict()
    for phase in trainer.method.phases:
        if not any(phase.active(term) for term in phase.weights):
            continue
        moved = [
            name
            for name in start
            if any(name.startswith(f"{path}.") for path in phase.networks)
            and isinstance(start[name], Tensor)
            and not torch.equal(start[name], end[name])
        ]
        _promise(bool(moved), f"phase {phase.name}", "a step that moves its networks", "none")


def _traces(method: Method, batch: Mapping[str, Any]) -> Iterator[tuple[str, list[Trace]]]:
    if "translate" in method.abilities.tasks:
        yield "trace", method.trace({"source": batch["source"]})
    if "register" in method.abilities.tasks:
        mask = batch["mask"] if method.abilities.masks else None
        yield "register", method.trace_pair(batch["source"], batch["target"], mask)


def _check_traces(kind: type[Method], settings: MethodSettings, batch: dict[str, Any]) -> None:
    method = _build(kind, settings).train()
    before = copy.deepcopy({key: value for key, value in batch.items() if isinstance(value, Tensor)})
    shape = tuple(batch["source"].shape[2:])
    for how, traces in _traces(method, batch):
        _promise(len(traces) == len(batch["case"]), how, "one trace per item", len(traces))
        for item, trace in enumerate(traces):
            _promise(tuple(trace.image.shape[1:]) == shape, f"{how}: image", shape, tuple(trace.image.shape[1:]))
            _promise(bool(torch.isfinite(trace.image).all()), f"{how}: image", "finite numbers", "NaN or infinity")
            size = (len(shape), *shape)
            _promise(tuple(trace.ddf.shape) == size, f"{how}: ddf", size, tuple(trace.ddf.shape))
            _promise(torch.equal(trace.affine, _AFFINE), f"{how}: affine", "the source's", trace.affine.tolist())
            pulled = warp(plain(batch["source"])[item][None], trace.ddf[None])[0]
            far = float((trace.warped - pulled).abs().max())
            _promise(far < 1e-4, f"{how}: warped", "the source at the field, to 1e-4", far)
            if how == "trace" and not method.abilities.moves:
                _promise(not bool(trace.ddf.any()), "ddf of a method that moves nothing", "zero", "another field")
    _promise(method.training, "tracing", "the mode of the networks as it was", "evaluation mode")
    same = all(torch.equal(plain(batch[key]), plain(value)) for key, value in before.items())
    _promise(same, "tracing", "its inputs as they were", "others")
    if "translate" in method.abilities.tasks:
        together = method.trace({"source": batch["source"]})
        alone = method.trace({"source": _only(batch["source"], 1)})
        far = float((together[1].image - alone[0].image).abs().max())
        _promise(far < 1e-3, "trace", "the same image whatever the batch, to 1e-3", far)
    else:
        _promise("target" in batch, "trace", "pairs", sorted(batch))
    if "register" not in method.abilities.tasks:
        try:
            method.register(batch["source"], batch["target"])
        except TypeError:
            pass
        else:
            raise ContractError(
                "register: expected TypeError from a method that registers no pairs, received an answer"
            )
    if method.abilities.patches and "translate" in method.abilities.tasks:
        method.inferer = PatchInferer(max(shape))
        patched = method.trace({"source": _only(batch["source"], 0)})[0]
        _promise(bool(torch.isfinite(patched.image).all()), "trace in patches", "finite numbers", "NaN or infinity")


def _check_weights(kind: type[Method], settings: MethodSettings, batch: dict[str, Any]) -> None:
    method, other = _build(kind, settings), kind.from_settings(settings)
    tensors = {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    other.load_state_dict(
        load(save({name: value.contiguous().clone() for name, value in tensors.items()})), strict=False
    )
    for (how, first), (_, second) in zip(_traces(method, batch), _traces(other, batch)):
        same = all(torch.equal(a.image, b.image) and torch.equal(a.ddf, b.ddf) for a, b in zip(first, second))
        _promise(same, f"{how} after safetensors", "the same bits", "others")


def _check_autocast(kind: type[Method], settings: MethodSettings, batch: dict[str, Any]) -> None:
    items = _prepared(kind, settings, batch)
    trainer = _trainer(kind, settings, items, 1, amp=True, amp_kwargs={"dtype": torch.bfloat16})
    trainer.run()
    for name, value in trainer.state.output.items():
        _promise(bool(torch.isfinite(value)), f"term {name} under autocast", "a finite number", float(value))


def _check_resume(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    items = _prepared(kind, settings, _batch(settings, shape, 4))

    def trained(*epochs: int) -> dict[str, Any]:
        with scratch_directory() as folder:
            for count in epochs:
                handlers = [Checkpoint(folder, interval=1, resume=True)]
                trainer = _trainer(kind, settings, items, count, train_handlers=handlers)
                trainer.run()
        return trainer.method.state_dict()

    _promise(_same(trained(2), trained(1, 2)), "a training that is stopped and resumed", "the same bits", "others")


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two mappings hold the same tensors; what are no tensors is not looked at."""
    return first.keys() == second.keys() and all(
        torch.equal(plain(value), plain(second[name])) for name, value in first.items() if isinstance(value, Tensor)
    )
