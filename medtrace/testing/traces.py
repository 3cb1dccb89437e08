"""Promises about a method's traces: shapes, consistency, identity, masks, patches, weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from medtrace.fields import exponentiate, inverse_consistency, warp
from medtrace.methods import Method, MethodSettings, as_tensor
from medtrace.networks.patches import PatchInferer
from medtrace.testing.trial import (
    AFFINE,
    ContractError,
    batch_of,
    only,
    perturbed,
    promise,
    same,
    trainer_of,
    untrained,
)
from medtrace.testing.trial import prepared as prepared_items
from medtrace.trace import Trace


def check_traces(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """Traces have the right shapes on the source's grid, agree with themselves, and come of inputs left alone."""
    batch = batch_of(settings, shape)
    for method in (untrained(kind, settings).train(), perturbed(kind, settings).train()):
        before = copy.deepcopy({key: value for key, value in batch.items() if isinstance(value, Tensor)})
        for how, traces in _traces(method, batch):
            promise(len(traces) == len(batch["case"]), how, "one trace per item", len(traces))
            for item, trace in enumerate(traces):
                _check_shapes(how, trace, shape)
                _check_consistency(how, trace, as_tensor(batch["source"])[item])
                if how == "trace" and not method.abilities.moves:
                    still = not bool(trace.ddf.any()) and not bool(trace.inverse_ddf.any())
                    promise(still, "ddf of a method that moves nothing", "zero", "another field")
        promise(method.training, "tracing", "the mode of the networks as it was", "evaluation mode")
        promise(same({key: batch[key] for key in before}, before), "tracing", "its inputs as they were", "others")
        _check_batches(method, batch)


def _traces(method: Method, batch: Mapping[str, Any]) -> Iterator[tuple[str, list[Trace]]]:
    if "translate" in method.abilities.tasks:
        yield "trace", method.trace({"source": batch["source"]})
    if "register" in method.abilities.tasks:
        mask = batch["mask"] if method.abilities.masks else None
        yield "register", method.trace_pair(batch["source"], batch["target"], mask)


def _check_shapes(how: str, trace: Trace, shape: tuple[int, ...]) -> None:
    promise(tuple(trace.image.shape[1:]) == shape, f"{how}: image", shape, tuple(trace.image.shape[1:]))
    promise(bool(torch.isfinite(trace.image).all()), f"{how}: image", "finite numbers", "NaN or infinity")
    size = (len(shape), *shape)
    for name in ("ddf", "inverse_ddf"):
        field = getattr(trace, name)
        promise(tuple(field.shape) == size, f"{how}: {name}", size, tuple(field.shape))
        promise(bool(torch.isfinite(field).all()), f"{how}: {name}", "finite numbers", "NaN or infinity")
    promise(torch.equal(trace.affine, AFFINE), f"{how}: affine", "the source's", trace.affine.tolist())


def _check_consistency(how: str, trace: Trace, source: Tensor) -> None:
    """`warped` is the source at the field, the field the exponential of its velocity, the inverse undoes it."""
    pulled = warp(source[None], trace.ddf[None])[0]
    far = float((trace.warped - pulled).abs().max())
    promise(far < 1e-4, f"{how}: warped", "the source at the field, to 1e-4", far)
    if trace.velocity is not None:
        far = float((exponentiate(trace.velocity[None])[0] - trace.ddf).abs().max())
        promise(far < 0.05, f"{how}: ddf", "the exponential of the velocity, to .05 voxel", far)
    size = float(trace.ddf.norm(dim=0).mean())
    left = float(inverse_consistency(trace.ddf[None], trace.inverse_ddf[None]).mean())
    promise(left <= 0.5 * size, f"{how}: inverse_ddf", f"less than half of the field's {size:.3g} voxels left", left)


def _check_batches(method: Method, batch: Mapping[str, Any]) -> None:
    """An item's image does not depend on the batch; a method that registers no pairs says so."""
    if "translate" in method.abilities.tasks:
        together = method.trace({"source": batch["source"]})
        alone = method.trace({"source": only(batch["source"], 1)})
        far = float((together[1].image - alone[0].image).abs().max())
        promise(far < 1e-3, "trace", "the same image whatever the batch, to 1e-3", far)
    if "register" not in method.abilities.tasks:
        _refused(method, "register", batch["source"], batch["target"])


def _refused(method: Method, what: str, *arguments: Any) -> None:
    try:
        method.register(*arguments)
    except TypeError:
        return
    raise ContractError(f"{what}: expected TypeError, as the method declares no such ability, received a prediction")


def check_identity(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """A method that declares it starts at the identity does; one that declares motion moves after a step."""
    batch = batch_of(settings, shape)
    method = untrained(kind, settings)
    if method.abilities.identity_start:
        for how, traces in _traces(method, batch):
            far = max(float(trace.ddf.abs().max()) for trace in traces)
            promise(far < 1e-6, f"abilities.identity_start: {how} before the training", "a zero field", far)
    trainer = trainer_of(method, settings, prepared_items(kind, settings, batch), 1)
    trainer.run()
    for how, traces in _traces(method, batch):
        moved = any(bool(trace.ddf.any()) for trace in traces)
        if how == "register" or method.abilities.moves:
            promise(moved, f"{how} after a step", "a field, as abilities.moves declares", "zero")
        else:
            promise(not moved, f"{how} after a step", "zero, as abilities.moves declares", "a field")


def check_masks(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """Intensity changes within a mask only, an empty mask is not a mask, and a mask nobody takes is refused."""
    method, batch = perturbed(kind, settings), batch_of(settings, shape)
    if "register" not in method.abilities.tasks:
        promise(not method.abilities.masks, "abilities.masks", "False of a method that registers no pairs", True)
        return
    pair, mask = (batch["source"], batch["target"]), batch["mask"]
    if not method.abilities.masks:
        _refused(method, "a mask", *pair, mask)
        return
    for trace, inside in zip(method.trace_pair(*pair, mask), mask):
        if trace.mask is None:
            raise ContractError("register with a mask: expected a trace with one, received none")
        covered = trace.mask.bool() | ~inside
        promise(bool(covered.all()), "register: mask", "the given one within the trace's", "another")
        outside = float(((trace.image - trace.warped).abs() * (trace.mask == 0)).max())
        promise(outside < 1e-5, "register: change of intensity outside the mask", "0, to 1e-5", outside)
    without, empty = method.trace_pair(*pair), method.trace_pair(*pair, torch.zeros_like(mask))
    equal = all(torch.equal(a.image, b.image) and torch.equal(a.ddf, b.ddf) for a, b in zip(without, empty))
    promise(equal, "register with an empty mask", "the same as without", "another")


def check_patches(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """One patch that covers the image gives what the networks give; smaller ones are used, and give finite traces."""
    method = perturbed(kind, settings)
    if not method.abilities.patches or "translate" not in method.abilities.tasks:
        return
    batch = {"source": only(batch_of(settings, shape)["source"], 0)}
    entire = method.trace(batch)[0]
    method.inferer = PatchInferer(2 * max(shape))
    one = method.trace(batch)[0]
    for name in ("image", "ddf"):
        far = float((getattr(one, name) - getattr(entire, name)).abs().max())
        promise(far < 1e-4, f"abilities.patches: {name} of one patch", "that of the entire image, to 1e-4", far)
    calls: list[int] = []
    method.inferer = PatchInferer(max(shape) // 2, progress=lambda _, count: calls.append(count))
    trace = method.trace(batch)[0]
    promise(bool(calls) and max(calls) > 1, "abilities.patches", "a trace made in several patches", calls or "none")
    _check_shapes("trace in patches", trace, shape)
    _check_consistency("trace in patches", trace, as_tensor(batch["source"])[0])


def check_weights(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """Weights that went through safetensors give the same traces, bit for bit."""
    batch = batch_of(settings, shape)
    method, other = perturbed(kind, settings), kind.build(settings)
    tensors = {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    stored = save({name: value.contiguous().clone() for name, value in tensors.items()})
    other.load_state_dict(load(stored), strict=False)
    for (how, first), (_, second) in zip(_traces(method, batch), _traces(other, batch)):
        equal = all(torch.equal(a.image, b.image) and torch.equal(a.ddf, b.ddf) for a, b in zip(first, second))
        promise(equal, f"{how} after safetensors", "the same bits", "others")


def check_io_network(kind: type[Method], settings: MethodSettings, shape: tuple[int, ...]) -> None:
    """The network that bundles describe takes one tensor and gives one, on the same grid."""
    method, batch = untrained(kind, settings), batch_of(settings, shape)
    images = [as_tensor(batch["source"])] + (
        [] if "translate" in method.abilities.tasks else [as_tensor(batch["target"])]
    )
    network = method.io_network().eval()
    with torch.no_grad():
        output = network(torch.cat(images, dim=1))
    promise(isinstance(output, Tensor), "io_network", "one tensor out", type(output).__name__)
    promise(tuple(output.shape[2:]) == shape, "io_network: axes", shape, tuple(output.shape[2:]))
    promise(bool(torch.isfinite(output).all()), "io_network", "finite numbers", "NaN or infinity")
