"""Normalized mutual information, forward and backward, beside MONAI, kornia and deepali."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from medtrace.kernels import use
from medtrace.losses import ParzenDNMILoss

from .harness import Measurement, Settings, optional

TITLE = "Mutual information"
TEXT = """
`ParzenDNMILoss` and its peers on a pair of related images, with the gradients of both. Each works in the range that it
is made for (MONAI, kornia: [0, 1]; medtrace: [−1, 1]). MONAI's loss is its Gaussian `GlobalMutualInformationLoss`.
Memory is beyond the images and their gradients.
"""

BINS = (16, 32, 64, 128, 256)


def measurements(settings: Settings) -> Iterator[list[Measurement]]:
    """Peers in 2D and 3D, then the cost by the number of bins."""
    edges = (64, 32) if settings.quick else (256, 128)
    for shape in ((8, 1, edges[0], edges[0]), (1, 1, edges[1], edges[1], edges[1])):
        yield beside_peers(shape, settings)
    for bins in BINS:
        yield by_bins((1, 1, edges[1], edges[1], edges[1]), bins, settings)


def beside_peers(shape: tuple[int, ...], settings: Settings) -> list[Measurement]:
    """32 bins in every library."""
    unit = related(shape, settings.device, low=0.0)
    words = {"operation": "NMI with both gradients, 32 bins", "size": name(shape)}
    outputs = 2 * unit[0].numel() * unit[0].element_size()
    group = ours(related(shape, settings.device, low=-1.0), 32, words, outputs)
    for peer, loss in peers(shape).items():
        group.append(Measurement(**words, peer=peer, run=bidirectional(loss, unit), ours=False, outputs=outputs))
    return group


def by_bins(shape: tuple[int, ...], bins: int, settings: Settings) -> list[Measurement]:
    """medtrace alone, for the curve of cost by bins."""
    words = {"operation": "NMI with both gradients, by bins", "size": f"{name(shape)}, {bins} bins"}
    pair = related(shape, settings.device, low=-1.0)
    group = ours(pair, bins, words, 2 * pair[0].numel() * pair[0].element_size(), x=bins)
    return group


def ours(
    pair: tuple[Tensor, Tensor], bins: int, words: dict[str, str], outputs: int, x: float | None = None
) -> list[Measurement]:
    """The versions that a device has; targets where there are peers."""
    loss = ParzenDNMILoss(num_bins=bins)
    targets = {"compiled": (60.0, 30), "torch": (30.0, 80)} if x is None else {}
    versions = ("compiled", "torch") if pair[0].device.type == "cpu" else ("torch",)
    group = []
    for version in versions:
        target, mebibytes = targets.get(version, (None, None))
        peer = "medtrace (compiled)" if version == "compiled" else "medtrace (plain torch)"
        group.append(
            Measurement(
                **words,
                peer=peer,
                run=chosen(version, bidirectional(loss, pair)),
                target=target,
                target_bytes=None if mebibytes is None else mebibytes * 2**20,
                outputs=outputs,
                x=x,
            )
        )
    return group


def peers(shape: tuple[int, ...]) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Losses of other libraries by name, MONAI's first."""
    result: dict[str, Callable[[Tensor, Tensor], Tensor]] = {}
    if monai := optional("monai.losses"):
        result["MONAI"] = monai.GlobalMutualInformationLoss(kernel_type="gaussian", num_bins=32)
    if (kornia := optional("kornia.losses")) and hasattr(kornia, "normalized_mutual_information_loss"):
        call = getattr(kornia, f"normalized_mutual_information_loss_{len(shape) - 2}d")
        result["kornia"] = lambda x, y: call(x, y, num_bins=32).mean()
    if deepali := optional("deepali.losses.functional"):
        result["deepali"] = lambda x, y: deepali.nmi_loss(x, y, vmin=0.0, vmax=1.0, num_bins=32)
    return result


def related(shape: tuple[int, ...], device: torch.device, low: float) -> tuple[Tensor, Tensor]:
    """Two images in [low, 1] that ask for gradients; the second is the first with noise."""
    generator = torch.Generator().manual_seed(0)
    x, noise = (low + (1 - low) * torch.rand(shape, generator=generator) for _ in range(2))
    return tuple(image.to(device).requires_grad_() for image in (x, 0.7 * x + 0.3 * noise))  # type: ignore[return-value]


def bidirectional(loss: Callable[[Tensor, Tensor], Tensor], pair: tuple[Tensor, Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(*pair), pair)


def chosen(version: str, run: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        with use(version):
            return run()

    return call


def name(shape: tuple[int, ...]) -> str:
    """8×1×256² for (8, 1, 256, 256)."""
    power = {2: "²", 3: "³"}[len(shape) - 2]
    return f"{shape[0]}×{shape[1]}×{shape[2]}{power}"
