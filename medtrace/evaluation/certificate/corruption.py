"""Ways to corrupt a true trace, for finding out what a certificate notices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medtrace.data import TraceBench
from medtrace.evaluation.certificate.figures import smooth_displacement
from medtrace.fields import identity_grid
from medtrace.trace import Trace
from medtrace.transforms.naming import detached

Case = Mapping[str, Any]


class Corruption(NamedTuple):
    """One way to corrupt a trace."""

    apply: Callable[[Trace, Case, np.random.Generator], Trace]
    """From the true trace, another case and randomness to the corrupted trace."""
    same_pair: bool
    """Whether source and image stay what they were but for linear contrast, to which a reference is blind."""


class ExchangeableCase(NamedTuple):
    """A case of TraceBench and what may be put in its place."""

    task: str
    number: int
    case: Case
    other: Case
    """Another subject's."""
    random: np.random.Generator


def exchangeable_cases(
    tasks: Sequence[str], cases: int, spatial_shape: Sequence[int], *, seed: int, split: str, progress: bool
) -> Iterator[ExchangeableCase]:
    """Cases of TraceBench's tasks, each with the next subject's and its own randomness, with a bar.

    Raises:
        ValueError: if there are fewer than two cases.
    """
    if cases < 2:
        raise ValueError(f"cases: expected at least 2, so that images can be exchanged, received {cases}")
    with tqdm(total=len(tasks) * cases, disable=None if progress else True, unit="case") as bar:
        for task in tasks:
            data = TraceBench(task, spatial_shape, cases=cases, seed=seed, split=split)
            for index in range(cases):
                random = np.random.default_rng([seed, index])
                yield ExchangeableCase(task, index, data[index], data[(index + 1) % cases], random)
                bar.update()


def true_trace(case: Case) -> Trace:
    """The trace that a case's truth makes: its target as the image, with the contrasts of a `crossed_case`."""
    names = ("source_contrasts", "contrasts")
    contrasts: dict[str, Any] = {name: (one,) for name, one in zip(names, case.get("contrasts", ()))}
    members = {name: detached(case[name]) for name in ("source", "target", "ddf", "inverse_ddf")}
    return Trace.build(
        members["source"],
        members["target"],
        members["ddf"],
        inverse_ddf=members["inverse_ddf"],
        mask=None if case.get("mask") is None else detached(case["mask"]).float(),
        affine=case["source"].affine,
        **contrasts,
    )


def rebuilt(trace: Trace, **changed: Tensor | None) -> Trace:
    """The trace of other members; warped and appearance, and the inverse unless given, are computed again."""
    given: dict[str, Any] = {
        "source": trace.source,
        "image": trace.image,
        "ddf": trace.ddf,
        "mask": trace.mask,
        "affine": trace.affine,
        "source_affine": trace.source_affine,
        **changed,
    }
    return Trace.build(**given, source_contrasts=trace.source_contrasts, contrasts=trace.contrasts)


def moved_voxel(trace: Trace, _: Case, random: np.random.Generator, voxels: float = 1.5) -> Trace:
    """One voxel of the foreground, somewhere inside, moved in a random direction."""
    candidates = (trace.image[0] > trace.image.min()).nonzero()
    shape = torch.tensor(trace.image.shape[1:])
    inside = ((candidates > 0) & (candidates < shape - 1)).all(1)
    place = candidates[inside][int(random.integers(int(inside.sum())))]
    direction = random.normal(size=trace.spatial_dims)
    ddf = trace.ddf.clone()
    ddf[(slice(None), *place.tolist())] += torch.as_tensor(
        voxels * direction / np.linalg.norm(direction), dtype=ddf.dtype
    )
    return rebuilt(trace, ddf=ddf)


def _fold(trace: Trace, _: Case, random: np.random.Generator) -> Trace:
    return rebuilt(trace, ddf=trace.ddf + _bump(trace, random, 6.0, 2.0))


def _shifted(trace: Trace, _: Case, random: np.random.Generator) -> Trace:
    shift = [int(8 * random.choice([-1, 1])) if size > 16 else 0 for size in trace.image.shape[1:]]
    axes = tuple(range(1, trace.ddf.ndim))
    return rebuilt(
        trace,
        ddf=torch.roll(trace.ddf, shift, axes),
        inverse_ddf=torch.roll(trace.inverse_ddf, shift, axes),
    )


def _offset(trace: Trace, _: Case, random: np.random.Generator) -> Trace:
    direction = random.normal(size=trace.spatial_dims)
    vector = torch.as_tensor(3.0 * direction / np.linalg.norm(direction), dtype=trace.ddf.dtype)
    return rebuilt(trace, ddf=trace.ddf + vector.reshape(-1, *[1] * trace.spatial_dims))


def _scaled(factor: float) -> Callable[[Trace, Case, np.random.Generator], Trace]:
    return lambda trace, _, __: rebuilt(trace, ddf=trace.ddf * factor)


def _reversed(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return rebuilt(trace, ddf=trace.inverse_ddf, inverse_ddf=trace.ddf)


def _axes_swapped(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return rebuilt(trace, ddf=trace.ddf.flip(0), inverse_ddf=trace.inverse_ddf.flip(0))


def _foreign(trace: Trace, _: Case, random: np.random.Generator) -> Trace:
    shape = tuple(trace.image.shape[1:])
    return rebuilt(trace, ddf=trace.ddf + smooth_displacement(shape, 4.0, int(random.integers(1 << 30))))


def _wrong_image(trace: Trace, other: Case, _: np.random.Generator) -> Trace:
    return rebuilt(trace, image=detached(other["target"]), inverse_ddf=trace.inverse_ddf)


def _wrong_inverse(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return replace(trace, inverse_ddf=trace.ddf)


def _stale_warped(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return replace(trace, warped=trace.source)


def _invention(trace: Trace, _: Case, random: np.random.Generator) -> Trace:
    span = trace.image.max() - trace.image.min()
    blob = torch.linalg.vector_norm(_bump(trace, random, 1.0, 8.0), dim=0, keepdim=True)
    image = torch.lerp(trace.image, trace.image.min() + span, (2 * blob).clamp(0, 1))
    return rebuilt(trace, image=image, inverse_ddf=trace.inverse_ddf)


def _out_of_range(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return rebuilt(trace, image=trace.image * 2 + 0.5, inverse_ddf=trace.inverse_ddf)


def _faded(trace: Trace, _: Case, __: np.random.Generator) -> Trace:
    return rebuilt(trace, image=trace.image.mean() + 0.02 * trace.image, inverse_ddf=trace.inverse_ddf)


SPOILERS: dict[str, Corruption] = {
    "truth": Corruption(lambda trace, _, __: trace, True),
    "one voxel moved 1.5 voxels": Corruption(moved_voxel, True),
    "local fold": Corruption(_fold, True),
    "field shifted by 8 voxels": Corruption(_shifted, True),
    "constant 3 voxels added": Corruption(_offset, True),
    "smooth 4 voxels added": Corruption(_foreign, True),
    "field halved": Corruption(_scaled(0.5), True),
    "field doubled": Corruption(_scaled(2.0), True),
    "field zero": Corruption(_scaled(0.0), True),
    "direction reversed": Corruption(_reversed, True),
    "axes swapped": Corruption(_axes_swapped, True),
    "inverse wrong": Corruption(_wrong_inverse, True),
    "warped not of this field": Corruption(_stale_warped, True),
    "image of another case": Corruption(_wrong_image, False),
    "bright region invented": Corruption(_invention, False),
    "image out of range": Corruption(_out_of_range, True),
    "image without contrast": Corruption(_faded, True),
}


def _bump(trace: Trace, random: np.random.Generator, amplitude: float, width: float) -> Tensor:
    """A Gaussian displacement in a random direction about a random voxel of the foreground."""
    candidates = (trace.image[0] > trace.image.min()).nonzero()
    center = candidates[int(random.integers(len(candidates)))].reshape(-1, *[1] * trace.spatial_dims)
    grid = identity_grid(trace.image.shape[1:], dtype=torch.float32)
    squared = ((grid - center) ** 2).sum(0) / width**2
    direction = random.normal(size=trace.spatial_dims)
    vector = torch.as_tensor(amplitude * direction / np.linalg.norm(direction), dtype=torch.float32)
    return vector.reshape(-1, *[1] * trace.spatial_dims) * torch.exp(-squared / 2)
