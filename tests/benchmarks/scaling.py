"""How the cost of the hot operations grows with the size of the images and of the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from medtrace.fields import compose, exponentiate, invert, jacobian_determinant, warp
from medtrace.losses import ParzenDNMILoss
from medtrace.transforms import HistogramStandardization, structure_map

from .harness import Measurement, Settings, optional

TITLE = "Growth with size and batch"
TEXT = """
Forward and backward, but for the structure map and the histogram. MONAI's information is measured where its memory is
small. The last row is one volume of 256³ through all that a trace needs of fields, with the gradient of the velocity,
for which 8 GiB are to suffice. Growth with the number of bins is plotted beside, from the part on mutual information.
"""
ROUNDS = 3


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """Operations, each at rising sizes."""
    quick, device = settings.quick, settings.device
    for edge in (16, 24) if quick else (32, 64, 128):
        yield information((1, 1, edge, edge, edge), edge, "NMI in 3D, by edge (voxels)", device)
        yield warped((1, 1, edge, edge, edge), edge, "Warp in 3D, by edge (voxels)", device)
        yield flow((1, 3, edge, edge, edge), edge, "Exponential in 3D, by edge (voxels)", device)
    edge = 32 if quick else 128
    for batch in (1, 2) if quick else (1, 4, 16):
        yield information((batch, 1, edge, edge), batch, f"NMI of {edge}², by batch", device)
        yield flow((batch, 2, edge, edge), batch, f"Exponential of {edge}², by batch", device)
    for edge in (32, 48) if quick else (64, 128, 256):
        yield alone("Structure map, by edge (voxels)", edge, map_of(edge))
    for edge in (16, 24) if quick else (32, 64, 128):
        yield alone("Histogram landmarks of a volume, by edge (voxels)", edge, landmarks_of(edge))
    yield [field_work(24 if quick else 256, device)]


def information(shape: tuple[int, ...], x: int, operation: str, device: torch.device) -> list[Measurement]:
    size = name(shape)
    generator = torch.Generator().manual_seed(0)
    image, noise = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
    unit = tuple(one.requires_grad_() for one in (image.clone(), 0.7 * image + 0.3 * noise))
    ours = tuple((2 * one.detach() - 1).requires_grad_() for one in unit)
    loss = ParzenDNMILoss()
    group = [point(operation, size, "medtrace", lambda: torch.autograd.grad(loss(*ours), ours), x)]
    monai = optional("monai.losses")
    if monai and image.numel() <= 1 << 18:
        theirs = monai.GlobalMutualInformationLoss(kernel_type="gaussian", num_bins=32)
        group.append(point(operation, size, "MONAI", lambda: torch.autograd.grad(theirs(*unit), unit), x))
    return group


def warped(shape: tuple[int, ...], x: int, operation: str, device: torch.device) -> list[Measurement]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(shape, generator=generator).to(device).requires_grad_()
    ddf = smooth((shape[0], len(shape) - 2, *shape[2:]), device).requires_grad_()
    group = [point(operation, name(shape), "medtrace", bidirectional(lambda: warp(image, ddf), image, ddf), x)]
    if monai := optional("monai.networks.blocks"):
        block = monai.Warp()
        group.append(point(operation, name(shape), "MONAI", bidirectional(lambda: block(image, ddf), image, ddf), x))
    return group


def flow(shape: tuple[int, ...], x: int, operation: str, device: torch.device) -> list[Measurement]:
    velocity = smooth(shape, device).requires_grad_()
    group = [point(operation, name(shape), "medtrace", bidirectional(lambda: exponentiate(velocity), velocity), x)]
    if monai := optional("monai.networks.blocks"):
        block = monai.DVF2DDF(num_steps=7)
        group.append(point(operation, name(shape), "MONAI", bidirectional(lambda: block(velocity), velocity), x))
    return group


def map_of(edge: int) -> Callable[[], Any]:
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-3, 3, edge)] * 2, indexing="ij"))
    generator = torch.Generator().manual_seed(0)
    waves = torch.sin(4 * grid[0]) * torch.cos(3 * grid[1] + grid[0])
    image = (waves[None] + 0.2 * torch.randn((1, edge, edge), generator=generator)).clamp(min=0)
    return lambda: structure_map(image)


def landmarks_of(edge: int) -> Callable[[], Any]:
    image = torch.randn((1, edge, edge, edge), generator=torch.Generator().manual_seed(0)).clamp(min=0)
    return lambda: HistogramStandardization.train([image])


def field_work(edge: int, device: torch.device) -> Measurement:
    """Velocity to displacement, warped image with gradient, composition, inverse and determinants."""
    shape = (1, 3, edge, edge, edge)
    velocity = smooth(shape, device).requires_grad_()
    image = torch.rand((1, 1, edge, edge, edge), generator=torch.Generator().manual_seed(1)).to(device)

    def run() -> None:
        ddf = exponentiate(velocity)
        moved = warp(image, ddf)
        torch.autograd.grad(moved.square().mean(), velocity)
        with torch.no_grad():
            ddf = ddf.detach()
            del moved
            inverse = invert(ddf).ddf
            compose(ddf, inverse)
            jacobian_determinant(ddf)

    operation = "Exponential and warp with gradient, inverse, composition, determinants"
    return Measurement(operation, name(shape), "medtrace", run, once=True, target_bytes=8 * 2**30)


def alone(operation: str, edge: int, run: Callable[[], Any]) -> list[Measurement]:
    return [point(operation, f"{edge}", "medtrace", run, edge)]


def point(operation: str, size: str, peer: str, run: Callable[[], Any], x: int) -> Measurement:
    return Measurement(operation, size, peer, run, ours=peer == "medtrace", x=x)


def bidirectional(forward: Callable[[], Tensor], *inputs: Tensor) -> Callable[[], Any]:
    weight: list[Tensor] = []

    def run() -> Any:
        out = forward()
        if not weight:
            weight.append(torch.ones_like(out))
        return torch.autograd.grad(out, inputs, weight[0])

    return run


def smooth(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """A field of some voxels that varies slowly; (B, spatial_dims, *spatial)."""
    generator = torch.Generator().manual_seed(0)
    coarse = 3 * torch.randn((*shape[:2], *[4] * (len(shape) - 2)), generator=generator)
    mode = "bilinear" if len(shape) == 4 else "trilinear"
    return torch.nn.functional.interpolate(coarse, shape[2:], mode=mode, align_corners=True).to(device)


def name(shape: tuple[int, ...]) -> str:
    """8×1×256² for (8, 1, 256, 256)."""
    return f"{shape[0]}×{shape[1]}×{shape[2]}{ {2: '²', 3: '³'}[len(shape) - 2] }"
