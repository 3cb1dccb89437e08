"""The interface between a method and the engine: named phases, named loss terms, and the trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medtrace.networks.patches import PatchInferer
from medtrace.trace import Trace

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Phase:
    """One optimiser's turn within a training step.

    Attributes:
        name: the phase's name, and the key of its optimiser.
        networks: paths of the method's sub-modules whose parameters this phase steps.
        weights: weight of each loss term. A term of weight 0 is not computed.
        shared: paths of networks whose forward here a later phase of the step goes back through. They learn nothing
            in this phase; what it computed stays in memory until the step ends.
    """

    name: str
    networks: tuple[str, ...]
    weights: Mapping[str, float]
    shared: tuple[str, ...] = ()

    def active(self, term: str) -> bool:
        """Whether `term` has a weight other than 0."""
        return self.weights[term] != 0

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Sum the terms with their weights.

        Raises:
            ValueError: if a term has no weight or an active weight has no term.
        """
        expected = {name for name in self.weights if self.active(name)}
        if set(terms) != expected:
            raise ValueError(
                f"terms of phase {self.name!r}: expected {sorted(expected)}, received {sorted(terms)};"
                " return exactly the terms whose weight is not 0"
            )
        return torch.stack([self.weights[name] * value.float() for name, value in terms.items()]).sum()


class Method(nn.Module):
    """A method: its networks, its loss terms by phase, and how its networks turn an image into a `Trace`.

    A subclass sets `phases` in its constructor, has one method `<phase>_terms(phase, batch, carried)` per phase, and
    `trace`. `carried` is a dict that lives for one step: an earlier phase leaves there (detached) what a later
    one needs, so that no forward runs twice.
    """

    phases: tuple[Phase, ...]
    patchable: bool = False
    """Whether `trace` can take large images to the networks in patches."""
    inferer: PatchInferer | None = None
    """How it does; None takes them as a whole. May be set after the training; a training never uses it."""

    def phase(self, name: str) -> Phase:
        """Return the phase called `name`."""
        for phase in self.phases:
            if phase.name == name:
                return phase
        raise ValueError(f"phase: expected one of {[p.name for p in self.phases]}, received {name!r}")

    def parameters_of(self, name: str) -> Iterator[nn.Parameter]:
        """Iterate over the parameters that the phase called `name` steps, each once."""
        seen: set[int] = set()
        for path in self.phase(name).networks:
            for parameter in self.get_submodule(path).parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield parameter

    def terms(self, name: str, batch: Batch, carried: dict[str, Any]) -> dict[str, Tensor]:
        """Compute the active loss terms of a phase, unweighted."""
        phase = self.phase(name)
        if all(weight == 0 for weight in phase.weights.values()):
            return {}
        return getattr(self, f"{name}_terms")(phase, batch, carried)

    def after_step(self) -> None:
        """What follows a training step once every phase has stepped, such as moving averaged weights on."""

    @property
    def registers(self) -> bool:
        """Whether `register` finds the correspondence of a pair."""
        return False

    def trace(self, batch: Batch) -> list[Trace]:
        """Translate (or register) a batch without gradients and return one `Trace` per item.

        Args:
            batch: "source" (B, C, *spatial) in [-1, 1]; methods that register also read "target" and "mask".
        """
        raise NotImplementedError

    def register(self, moving: Tensor, fixed: Tensor, mask: Tensor | None = None) -> list[Trace]:
        """Find the correspondence of a pair; only methods that see two images can.

        Args:
            moving: (B, C, *spatial), the source.
            fixed: (B, C, *spatial), the target.
            mask: (B, 1, *spatial) on the grid of `fixed`, where intensity may change.
        """
        raise TypeError(
            f"{type(self).__name__}: predicts from the source alone and registers no pair; call trace(batch), or"
            " use a method that registers"
        )


def affines_of(image: Tensor) -> list[Tensor]:
    """The 4x4 voxel to RAS mm affine of every item of a batch; the identity for plain tensors.

    Raises:
        ValueError: if a `MetaTensor` carries an affine of another shape.
    """
    count = image.shape[0]
    if not isinstance(image, MetaTensor):
        return [torch.eye(4, dtype=torch.float64)] * count
    affine = torch.as_tensor(image.affine, dtype=torch.float64).cpu()
    affine = affine.expand(count, *affine.shape[-2:])
    if affine.shape[-2:] != (4, 4):
        raise ValueError(
            f"affine: expected 4x4 (a 2D image is slice k=0 of its plane), received {tuple(affine.shape[-2:])};"
            " extend it by the slice axis"
        )
    return list(affine)


def plain(tensor: Tensor) -> Tensor:
    """Drop MONAI's metadata: networks and losses then run as plain torch."""
    return tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor


def traces_on_own_grid(
    source: Tensor, image: Tensor, ddf: Tensor, inverse_ddf: Tensor | None = None, velocity: Tensor | None = None
) -> list[Trace]:
    """One trace per item of a batch whose translations lie on the grid of their sources.

    Args:
        source: (B, C, *spatial), with its affines where it has any.
        image: (B, C', *spatial).
        ddf: (B, spatial_dims, *spatial) in voxels.
        inverse_ddf: likewise; None inverts `ddf`.
        velocity: likewise, or None.
    """
    images = plain(source)
    return [
        Trace.build(
            source=images[item],
            image=image[item],
            ddf=ddf[item],
            inverse_ddf=None if inverse_ddf is None else inverse_ddf[item],
            velocity=None if velocity is None else velocity[item],
            affine=affine,
            source_affine=affine,
        )
        for item, affine in enumerate(affines_of(source))
    ]
