"""A method's prediction for a batch, and the builder that makes traces from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from monai.data import MetaTensor
from torch import Tensor

from medtrace.geometry.grid import Grid
from medtrace.trace.record import Trace
from medtrace.trace.validation import as_tensor


class Prediction(NamedTuple):
    """A batch of predictions, all on the target's grid except `inverse_ddf`, which is on the source's."""

    image: Tensor
    """(B, C', *spatial) in [-1, 1]."""
    ddf: Tensor
    """(B, spatial_dims, *spatial) in voxels, pull."""
    inverse_ddf: Tensor | None = None
    """Likewise; None inverts `ddf`."""
    velocity: Tensor | None = None
    """Likewise, if the field is the exponential of one."""
    mask: Tensor | None = None
    """(B, 1, *spatial), boolean or in [0, 1]: where intensity may change."""
    appearance: Tensor | None = None
    """(B, C, *spatial), the change of intensity that the networks predict; a trace stores image − warped."""


def zero_field(image: Tensor) -> Tensor:
    """The zero displacement (B, spatial_dims, *spatial), for images aligned with their source.

    Example:
        >>> zero_field(torch.rand(2, 1, 4, 5)).shape
        torch.Size([2, 2, 4, 5])
    """
    return image.new_zeros(len(image), image.ndim - 2, *image.shape[2:])


def traces_of(source: Tensor, prediction: Prediction, target: Tensor | None = None) -> list[Trace]:
    """One trace per item of a prediction.

    Args:
        source: (B, C, *spatial), with its affines if it has any.
        prediction: prediction of the batch.
        target: target of a registration, the image whose grid the prediction is on, which must match the source's in
            space.

    Raises:
        ValueError: if source and target are not on one grid, to 1e-3 of a voxel.

    Example:
        >>> image = torch.rand(2, 1, 8, 8)
        >>> traces = traces_of(image, Prediction(image, zero_field(image)))
        >>> len(traces), traces[0].ddf.shape
        (2, torch.Size([2, 8, 8]))
    """
    images = as_tensor(source)
    affines = affines_of(source) if target is None else shared_affines(source, target)
    optional: dict[str, Any] = {
        "inverse_ddf": prediction.inverse_ddf,
        "velocity": prediction.velocity,
        "mask": prediction.mask,
    }
    return [
        Trace.build(
            source=images[item],
            image=prediction.image[item],
            ddf=prediction.ddf[item],
            affine=affine,
            source_affine=affine,
            **{name: None if value is None else value[item] for name, value in optional.items()},
        )
        for item, affine in enumerate(affines)
    ]


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
            " drop the axis with medtrace.data.dataset.DropSliceAxisd: SqueezeDimd loses the position of the slice"
        )
    return list(affine)


def shared_affines(source: Tensor, target: Tensor) -> list[Tensor]:
    """The affines of a batch of pairs; if one of the two images has no metadata, the other's.

    Raises:
        ValueError: if both have affines that put a voxel 1e-3 of its edge apart.
    """
    if isinstance(source, MetaTensor) and isinstance(target, MetaTensor):
        check_one_grid(source, target)
    return affines_of(target) if isinstance(target, MetaTensor) else affines_of(source)


def check_one_grid(source: Tensor, target: Tensor) -> None:
    """Check that the pairs of a batch are on one grid in space, to 1e-3 of a voxel's edge.

    Raises:
        ValueError: if they are not; images without metadata are on the grid of the identity.
    """
    shape = tuple(target.shape[2:])
    for affine, other in zip(affines_of(target), affines_of(source)):
        if not Grid(shape, affine).coincides(Grid(shape, other)):
            raise ValueError(
                f"source: expected the target's grid in space, received affines {other.tolist()} and"
                f" {affine.tolist()}; resample the source onto the target's grid first"
            )
