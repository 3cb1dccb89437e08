"""Warping, scaling and squaring, Jacobian, composition and inversion beside MONAI, voxelmorph and SimpleITK."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import monai.networks.blocks as monai
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from medtrace import fields, kernels

from .harness import Measurement, Settings, optional

TITLE = "Displacement fields"
TEXT = """\
Every field is smooth noise of a few voxels. `forward + backward` takes the gradient by every input. MONAI's blocks
are called with border padding, in which both agree; voxelmorph's pad with zeros. Composition, inversion and Jacobian
take no gradient; SimpleITK composes by `TransformToDisplacementField` of the two, and inverts by
`InvertDisplacementField` with at most 20 iterations and an error of 0.001 voxel. MONAI has none of the three.
"""


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """Groups of the operations in 2D and 3D."""
    flat, edge = (64, 32) if settings.quick else (256, 128)
    for shape, batch, channels, targets in [((flat, flat), 8, 2, (3, 2)), ((edge,) * 3, 1, 1, (5, 4))]:
        image = torch.rand(batch, channels, *shape, device=settings.device, requires_grad=True)
        field = smooth(batch, shape, settings.device).requires_grad_()
        size = f"{batch}×{channels}×" + (f"{flat}²" if len(shape) == 2 else f"{edge}³")
        yield warping(image, field, size, targets[0])
        size = f"{batch}×{len(shape)}×" + (f"{flat}²" if len(shape) == 2 else f"{edge}³")
        yield squaring(field, size, targets[1])
    ddf = fields.exponentiate(smooth(1, (edge,) * 3, settings.device))
    size = f"1×3×{edge}³"
    image, exact = as_itk(ddf, np.float32), as_itk(ddf, np.float64)
    transform = sitk.DisplacementFieldTransform(sitk.Image(exact))
    both = sitk.CompositeTransform([transform, transform])
    yield beside_simpleitk(
        "Jacobian determinant",
        size,
        lambda: fields.jacobian_determinant(ddf),
        lambda: sitk.DisplacementFieldJacobianDeterminant(image),
    )
    yield beside_simpleitk(
        "composition",
        size,
        lambda: fields.compose(ddf, ddf),
        lambda: sitk.TransformToDisplacementField(both, sitk.sitkVectorFloat32, exact.GetSize()),
    )
    yield beside_simpleitk(
        "inversion",
        size,
        lambda: fields.invert(ddf),
        lambda: sitk.InvertDisplacementField(image, 20, 1e-3, 1e-3),
        note=f"residual {float(fields.invert(ddf).residual):.1g} voxel",
    )


def warping(image: Tensor, field: Tensor, size: str, target: float) -> list[Measurement]:
    """Warp with both gradients."""
    theirs = monai.Warp("bilinear", "border")
    peers = {"MONAI": lambda: theirs(image, field)}
    if voxelmorph := _voxelmorph():
        spatial = voxelmorph.SpatialTransformer(image.shape[2:]).to(image.device)
        peers["voxelmorph"] = lambda: spatial(image, field)
    return with_gradients(
        "warp, forward + backward", size, lambda: fields.warp(image, field), peers, target, image, field
    )


def squaring(velocity: Tensor, size: str, target: float) -> list[Measurement]:
    """Seven squarings with the gradient."""
    theirs = monai.DVF2DDF(num_steps=7, mode="bilinear", padding_mode="border")
    peers = {"MONAI": lambda: theirs(velocity)}
    if voxelmorph := _voxelmorph():
        integrate = voxelmorph.VecInt(velocity.shape[2:], 7).to(velocity.device)
        peers["voxelmorph"] = lambda: integrate(velocity)
    name = "scaling and squaring, forward + backward"
    return with_gradients(name, size, lambda: fields.exponentiate(velocity), peers, target, velocity)


def with_gradients(
    name: str,
    size: str,
    ours: Callable[[], Tensor],
    peers: dict[str, Callable[[], Tensor]],
    target: float,
    *inputs: Tensor,
) -> list[Measurement]:
    """A group of calls that are differentiated by all their inputs."""
    weight = torch.randn_like(ours())
    outputs = sum(tensor.numel() * tensor.element_size() for tensor in inputs)

    def run(call: Callable[[], Tensor]) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(call(), inputs, weight)

    def plain() -> Tensor:
        with kernels.use("torch"):
            return ours()

    group = [
        Measurement(name, size, "medtrace (compiled)", run(ours), target=target, outputs=outputs),
        Measurement(name, size, "medtrace (plain torch)", run(plain), outputs=outputs),
    ]
    return group + [
        Measurement(name, size, peer, run(call), ours=False, outputs=outputs) for peer, call in peers.items()
    ]


def beside_simpleitk(
    name: str, size: str, ours: Callable[[], Any], theirs: Callable[[], Any], note: str = ""
) -> list[Measurement]:
    """A group of calls without a gradient."""

    def plain() -> Any:
        with kernels.use("torch"):
            return ours()

    return [
        Measurement(name, size, "medtrace (compiled)", ours, target=4, note=note),
        Measurement(name, size, "medtrace (plain torch)", plain),
        Measurement(name, size, "SimpleITK", theirs, ours=False),
    ]


def smooth(batch: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Smooth noise (batch, spatial_dims, *shape) of about two voxels."""
    coarse = torch.randn(batch, len(shape), *(max(2, size // 16) for size in shape), device=device)
    return F.interpolate(coarse, size=shape, mode="bilinear" if len(shape) == 2 else "trilinear") * 2


def as_itk(ddf: Tensor, kind: Any) -> sitk.Image:
    """A field (1, 3, ...) as SimpleITK has it: x fastest, vectors together."""
    return sitk.GetImageFromArray(np.ascontiguousarray(ddf[0].cpu().numpy().T.astype(kind)), isVector=True)


def _voxelmorph() -> Any:
    """voxelmorph's layers for torch, where they are installed."""
    os.environ.setdefault("VXM_BACKEND", "pytorch")
    return optional("voxelmorph.torch.layers")
